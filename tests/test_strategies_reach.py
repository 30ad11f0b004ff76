"""The public strategies reach every corner, and what they find shrinks to a handful of entries."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from tests.test_strategies import counts, in_order, is_layout
from tsgu_func.testing.strategies import (
    KINDS,
    LAYOUTS,
    STRIDES,
    Entries,
    entries,
    index_vectors,
    magnitudes,
    patterns,
    right_hand_sides,
    segments,
    sparse_matrices,
)

SQUARE = [kind for kind in KINDS if kind not in ("general", "tall", "wide")]
# Nothing of an earlier run helps, or hinders, what is looked for here.
SEARCH = settings(max_examples=3000, database=None, derandomize=True)


def reached(strategy, condition):
    """Return an example of a condition; raise where none is found."""
    return find(strategy, condition, settings=settings(SEARCH, phases=[Phase.generate]))


def smallest(strategy, condition):
    """Return what an example of a condition shrinks to."""
    return find(strategy, condition, settings=SEARCH)


# -------------------------------------------------------------------------------------- corners

CORNERS = {
    "nothing stored": lambda e: not len(e.row) and all(e.shape),
    "no row": lambda e: e.shape[0] == 0 and e.shape[1] > 1,
    "no column": lambda e: e.shape[1] == 0 and e.shape[0] > 1,
    "an empty row": lambda e: len(e.row) > 0 and bool((counts(e).sum(1) == 0).any()),
    "an empty column": lambda e: len(e.row) > 0 and bool((counts(e).sum(0) == 0).any()),
    "a full row": lambda e: (
        e.shape[1] == 6 and e.shape[0] > 2 and bool((counts(e) > 0).all(1).any())
    ),
    "a full column": lambda e: e.shape[0] >= 4 and bool((counts(e) > 0).all(0).any()),
    "full": lambda e: e.shape == (3, 3) and bool((counts(e) > 0).all()),
    "one row": lambda e: e.shape[0] == 1 and e.shape[1] > 3 and len(e.row) > 1,
    "one column": lambda e: e.shape[1] == 1 and e.shape[0] > 3 and len(e.row) > 1,
    "a duplicate": lambda e: min(e.shape) > 2 and bool((counts(e) > 1).any()),
    "five at one place": lambda e: bool((counts(e) > 4).any()),
    "unsorted": lambda e: not in_order(e),
    "sorted": lambda e: in_order(e) and len(e.row) > 3,
    "int32": lambda e: e.row.dtype == e.col.dtype == torch.int32,
    "int64": lambda e: e.row.dtype == e.col.dtype == torch.int64,
}
OF_VALUES = {
    "explicit zeros": lambda e: bool((e.values == 0).any()) and not bool((e.values == 0).all()),
    "only zeros": lambda e: len(e.row) > 0 and not bool(e.values.any()),
    "cancelling": lambda e: bool((e.values < 0).any()) and bool((e.values > 0).any()),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_patterns_reach(corner):
    reached(patterns(), CORNERS[corner])


@pytest.mark.parametrize("corner", CORNERS)
def test_entries_reach(corner):
    reached(entries(), CORNERS[corner])


@pytest.mark.parametrize("corner", OF_VALUES)
def test_values_reach(corner):
    reached(entries(dtype=torch.float64), OF_VALUES[corner])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_dtypes_reached(dtype):
    assert reached(entries(), lambda e: e.values.dtype == dtype).values.dtype == dtype
    assert reached(right_hand_sides(2), lambda B: B.dtype == dtype).dtype == dtype


@pytest.mark.parametrize("kind", SQUARE)
@pytest.mark.parametrize("corner", ["a duplicate", "unsorted", "an empty row", "int32"])
def test_kinds_reach(kind, corner):
    if corner == "an empty row" and not kind.startswith("strictly"):
        corner = "unsorted"
    reached(entries(kind), CORNERS[corner])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["general", "dominant", "definite", "strictly upper", "tall"])
def test_magnitudes_reached(kind):
    drawn = entries(kind, dtype=torch.float64, magnitudes=magnitudes())
    huge = reached(drawn, lambda e: bool((e.values.abs() > 1e149).any()))
    assert bool(huge.dense().isfinite().all())
    tiny = smallest(drawn, lambda e: bool(((e.values.abs() < 1e-148) & (e.values != 0)).any()))
    assert len(tiny.row) <= 2
    most = reached(drawn, lambda e: bool((e.values.abs() > 0.1).any() & (e.values.abs() < 9).all()))
    assert most.values.isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_reached(layout):
    def several(A):
        return is_layout(A, layout) and bool(A.to_dense().any())

    reached(sparse_matrices(layout=st.sampled_from(LAYOUTS)), several)


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_csr_has_the_index_dtype(index_dtype):
    found = reached(sparse_matrices(layout="csr"), lambda A: A.col_indices().dtype == index_dtype)
    assert found.crow_indices().dtype == index_dtype
    batch = reached(
        sparse_matrices(layout="csr", batch=(2,)), lambda A: A.col_indices().dtype == index_dtype
    )
    assert batch.crow_indices().dtype == index_dtype


@pytest.mark.parametrize("layout", ["coo", "coalesced", "csr"])
def test_members_of_a_torch_batch_differ(layout):
    def differ(A):
        one, other = (d != 0 for d in A.to_dense())
        return bool((one & ~other).any() & (other & ~one).any())

    reached(sparse_matrices(layout=layout, batch=(2,)), differ)


LAYS = {
    "contiguous": lambda B: B.is_contiguous() and not B.storage_offset(),
    "transposed": lambda B: B.mT.is_contiguous() and not B.is_contiguous(),
    "sliced": lambda B: B.stride(-1) == 2,
    "offset": lambda B: B.storage_offset() == 1,
    "lazy": lambda B: B.is_conj() or B.is_neg(),
    "expanded": lambda B: B.stride(-1) == 0 and B.shape[-1] > 1,
}


def test_every_way_is_looked_at():
    assert set(LAYS) == set(STRIDES)


@pytest.mark.parametrize("strides", STRIDES)
def test_strides_reached(strides):
    reached(right_hand_sides(3, (2, 3)), LAYS[strides])
    B = reached(right_hand_sides(3, (2, 3), strides=strides), lambda B: True)
    assert LAYS[strides](B)


def test_huge_right_hand_sides():
    B = smallest(right_hand_sides(2, magnitudes=1e150), lambda B: bool((B.abs() > 1e149).any()))
    assert B.numel() == 2


def test_corners_of_integers():
    for strategy in (segments(), segments((0, 14), total=9)):
        reached(strategy, lambda x: int((x == 0).sum()) >= 3 and int((x > 0).sum()) >= 2)
    assert reached(segments(), lambda x: int(x.sum()) == 0).tolist() == []
    idx = index_vectors()
    reached(idx, lambda x: len(x) > 4 and bool((x.diff() < 0).any()) and len(x.unique()) < len(x))
    reached(idx, lambda x: len(x) > 4 and bool((x.diff() >= 0).all()) and len(x.unique()) > 2)
    reached(idx, lambda x: len(x) > 4 and len(x.unique()) == 1 and int(x[0]) > 0)
    reached(idx, lambda x: len(x) > 4 and 0 not in x)
    assert reached(index_vectors(bound=0), lambda x: True).tolist() == []
    for dtype in (torch.int32, torch.int64):
        reached(idx, lambda x: x.dtype == dtype)  # noqa: B023 - called before the next one
        reached(segments(), lambda x: x.dtype == dtype)  # noqa: B023


# ------------------------------------------------------------------------------------ shrinking


def test_a_matrix_of_two_entries_has_two():
    A = smallest(sparse_matrices(), lambda A: A.nnz >= 2)
    assert A.nnz == 2
    assert sorted(A.shape) == [1, 2]
    assert A.values.tolist() == [1.0, 1.0]
    assert smallest(sparse_matrices(layout="coo"), lambda A: A._nnz() >= 2)._nnz() == 2


def product(e, B):
    """Multiply entry by entry."""
    C = e.values.new_zeros(e.shape[0], B.shape[1])
    for i, j, v in zip(e.row.tolist(), e.col.tolist(), e.values, strict=True):
        C[i] += v * B[j]
    return C


def losing_duplicates(e, B):
    """Keep the last of several entries at one place."""
    last = {(i, j): k for k, (i, j) in enumerate(zip(e.row.tolist(), e.col.tolist(), strict=True))}
    k = torch.tensor(sorted(last.values()), dtype=torch.int64)
    return product(Entries(e.row[k], e.col[k], e.values[k], e.shape), B)


def transposing(e, B):
    n = max(e.shape)
    B = torch.cat([B, B.new_zeros(n - B.shape[0], B.shape[1])])
    return product(Entries(e.col, e.row, e.values, (n, n)), B)[: e.shape[0]]


def trusting_the_order(e, B):
    """Take rows to come one after the other, as compressed rows do."""
    counts = torch.bincount(e.row, minlength=e.shape[0])
    row = torch.repeat_interleave(torch.arange(e.shape[0]), counts)
    return product(e._replace(row=row), B)


def forgetting_the_last_row(e, B):
    C = product(e, B)
    C[-1:] = 0
    return C


def conjugating(e, B):
    return product(e._replace(values=e.values.conj()), B)


def dropping_zeros(e, B):
    """Divide by what is stored, which is sometimes zero."""
    return product(e._replace(values=e.values**2 / e.values), B)


BUGS = {
    losing_duplicates: 2,
    transposing: 1,
    trusting_the_order: 2,
    forgetting_the_last_row: 1,
    conjugating: 1,
    dropping_zeros: 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_shrinks_to_a_handful(bug):
    @st.composite
    def problems(draw):
        e = draw(entries())
        return e, draw(right_hand_sides(e.shape[1], dtype=e.values.dtype))

    def wrong(problem):
        e, B = problem
        return not torch.equal(bug(e, B), product(e, B))

    e, B = smallest(problems(), wrong)
    assert len(e.row) <= BUGS[bug] + 1
    assert max(e.shape) <= 3
    assert B.shape[1] == 1


def test_a_failure_prints_the_entries():
    @settings(database=None, suppress_health_check=list(HealthCheck))
    @given(sparse_matrices("lower", layout="csr"))
    def fails(A):
        assert A.shape[0] < 2

    with pytest.raises(AssertionError) as raised:
        fails()
    assert "sparse_matrices drew, as 'csr', Entries(row=tensor([0, 1])" in str(
        raised.value.__notes__
    )
