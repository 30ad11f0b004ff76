"""The public strategies: they reach every corner, keep their promises, and shrink to little."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st
from torch.testing import assert_close

from tsgu_func import SparseMatrix, gather_mm, segment_mm, sparse_mm
from tsgu_func.testing.strategies import (
    KINDS,
    LAYOUTS,
    STRIDES,
    Entries,
    Places,
    entries,
    index_vectors,
    magnitudes,
    numbers,
    patterns,
    restrided,
    right_hand_sides,
    segments,
    sparse_matrices,
)

# Kinds with a condition number of at most 5.
MILD = [kind for kind in KINDS[1:] if kind not in ("laplacian", "graded", "penalty", "dependent")]
OF_DIAGONALS = ("dominant", "definite", "indefinite", "lower", "upper", "arrow")


def wide(x):
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def counts(e):
    """Count the entries at each place."""
    return torch.zeros(e.shape, dtype=int).index_put(
        (e.row.long(), e.col.long()), torch.ones(len(e.row), dtype=int), accumulate=True
    )


def in_order(e):
    place = (e.row.long() * max(e.shape[1], 1) + e.col).tolist()
    return place == sorted(place)


# ------------------------------------------------------------------------------------- promises

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "rows": st.sampled_from([3, (1, 4), (2, 9)]),
        "nnz": st.sampled_from([0, 2, (1, 3), (0, 40)]),
        "unique": st.booleans(),
        "ordered": st.booleans(),
        "index_dtype": st.sampled_from([torch.int32, torch.int64]),
    },
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(data=st.data())
def test_magnitudes_leave_room_for_products(dtype, data):
    x = torch.tensor(data.draw(magnitudes(dtype)), dtype=dtype)
    assert bool((x * x).isfinite())
    assert float(x * x) >= torch.finfo(dtype).tiny


def is_layout(A, layout):
    if layout in ("matrix", "transposed"):
        return isinstance(A, SparseMatrix) and A.pattern.transposed == (layout == "transposed")
    if isinstance(A, SparseMatrix) or layout == "csr":
        return not isinstance(A, SparseMatrix) and A.layout == torch.sparse_csr
    return A.layout == torch.sparse_coo and A.is_coalesced() == (layout == "coalesced")


def least_and_most(bounds):
    return (bounds, bounds) if isinstance(bounds, int) else bounds


@given(st.data(), OPTIONS, st.sampled_from([None, "lower", "upper"]))
def test_options_of_patterns(data, options, triangle):
    if triangle is not None:
        options = {**options, "form": "square", "triangle": triangle}
    places = data.draw(patterns(**options))
    low, high = least_and_most(options.get("rows", (0, 6)))
    assert low <= places.shape[0] <= high
    low, high = least_and_most(options.get("nnz", (0, 12)))
    assert low <= len(places.row) <= high
    assert not options.get("unique", False) or bool((counts(places) <= 1).all())
    assert not options.get("ordered", False) or in_order(places)
    assert places.row.dtype == options.get("index_dtype", places.col.dtype)
    assert torch.equal(places.mask(), counts(places) > 0)
    assert places.pattern().nnz == int(places.mask().sum())
    if triangle == "lower":
        assert not bool(places.mask().triu(1).any())
    if triangle == "upper":
        assert not bool(places.mask().tril(-1).any())


@given(st.data(), st.sampled_from([(0.0, 0.0), (0.3, 0.5), (1.0, 1.0), (0.5, 1.0)]))
def test_density(data, density):
    places = data.draw(patterns(density=density, unique=True))
    cells = places.shape[0] * places.shape[1]
    assert density[0] * cells <= len(places.row) <= density[1] * cells + 1
    assert density != (1.0, 1.0) or bool(places.mask().all())


@given(patterns(form="tall"), patterns(form="square"))
def test_forms(tall, square):
    assert tall.shape[0] >= tall.shape[1]
    assert square.shape[0] == square.shape[1]


def check_kind(D, kind):
    """Check a dense matrix for what a kind promises."""
    n, m = D.shape
    D = D + torch.eye(n) if kind.startswith("strictly") else D
    singular = torch.linalg.svdvals(D)
    # 1/2 to 5/2, and what 30 additions may round.
    assert n == m or (n > m if kind == "tall" else kind == "wide")
    assert (
        not m
        or not n
        or (float(singular.max()) < 2.5 + 1e-12 and float(singular.min()) > 0.5 - 1e-12)
    )
    if kind.endswith("lower"):
        assert not bool(D.triu(1).any())
    if kind.endswith("upper"):
        assert not bool(D.tril(-1).any())
    # PyTorch adds duplicates up in an order of its own.
    if kind in ("definite", "indefinite"):
        assert_close(D, D.mH, rtol=0, atol=1e-15)
        signs = set(torch.linalg.eigvalsh(D).sign().tolist())
        assert signs == (set() if not n else {1} if kind == "definite" or n == 1 else {1, -1})
    if kind == "skew":
        assert_close(D, -D.mH, rtol=0, atol=1e-15)
        assert n % 2 == 0
    if kind in OF_DIAGONALS:
        size = D.abs()
        rest = size - size.diag().diag()
        assert bool((rest.sum(0) <= 0.5 + 1e-12).all() & (rest.sum(1) <= 0.5 + 1e-12).all())
        assert bool((size.diag() >= 1 - 1e-12).all() & (size.diag() < 2 + 1e-12).all())
    if kind in ("tall", "wide") and m and n:
        assert int(torch.linalg.matrix_rank(D)) == min(n, m)


@given(st.sampled_from(MILD), OPTIONS, st.sampled_from([(), (0,), (3,), (2, 1)]), st.data())
def test_kinds_are_what_they_promise(kind, options, batch, data):
    options.pop("nnz", None)
    if kind == "skew":  # of even size, and there may be an odd one among the options
        options.pop("rows", None)
    e = data.draw(entries(kind, batch=batch, **options))
    assert e.values.shape[:-1] == batch
    assert e.dense().shape == (*batch, *e.shape)
    for D in e.dense().reshape(math.prod(batch), *e.shape):
        check_kind(D, kind)
        assert kind not in ("definite", "indefinite") or torch.equal(D, D.mH)
    assert not options.get("unique", False) or bool((counts(e) <= 1).all())
    assert not options.get("ordered", False) or in_order(e)
    assert e.row.dtype == e.col.dtype == options.get("index_dtype", e.row.dtype)
    if kind.startswith("strictly"):
        assert not bool((e.row == e.col).any())
    elif kind in OF_DIAGONALS:
        assert bool(e.places.mask().diagonal().all())


@given(st.sampled_from(MILD), st.sampled_from(LAYOUTS), st.data())
def test_a_batch_is_of_the_kind(kind, layout, data):
    A = data.draw(sparse_matrices(kind, layout=layout, batch=(2,)))
    assert is_layout(A, layout) or (layout == "coo" and A.is_coalesced())
    for D in A.to_dense():
        check_kind(D, kind)
    if kind.startswith("strictly") and layout == "csr":  # what is stored, zeros among it
        for crow, col in zip(A.crow_indices(), A.col_indices(), strict=True):
            row = torch.repeat_interleave(torch.arange(len(crow) - 1), crow.diff())
            assert bool(((row > col) if kind.endswith("lower") else (row < col)).all())


@given(entries(batch=st.sampled_from([(), (2,)])))
def test_layouts_hold_the_same_numbers(e):
    D = e.dense()
    for layout in LAYOUTS:
        if layout in ("matrix", "transposed") or e.values.ndim == 1:
            assert_close(e.stored(layout).to_dense(), D)
            assert is_layout(e.stored(layout), layout) or len(e.row) < 2


@given(
    sparse_matrices(
        layout=st.sampled_from(LAYOUTS),
        batch=st.sampled_from([(), (0,), (3,)]),
        dtype=torch.float64,
    ),
    st.data(),
)
def test_what_is_drawn_is_what_a_product_takes(A, data):
    """The strategies of a matrix and of a dense tensor fit, whatever layout and batch."""
    B = data.draw(right_hand_sides(A.shape[-1], batch=tuple(A.shape[:-2]), dtype=A.dtype))
    assert_close(sparse_mm(A, B), A.to_dense() @ B)
    G = data.draw(right_hand_sides(A))
    assert G.shape[:-1] == A.shape[:-1]
    assert G.dtype == A.dtype


@given(st.data(), st.sampled_from([s for s in STRIDES if s != "expanded"]))
def test_strides_of_values(data, strides):
    A = data.draw(sparse_matrices(strides=strides, batch=(2,)))
    plain = SparseMatrix(A.pattern, A.values.resolve_conj().resolve_neg().clone())
    assert torch.equal(A.to_dense(), plain.to_dense())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
@given(data=st.data())
def test_other_dtypes(dtype, data):
    A = data.draw(sparse_matrices("dominant", dtype=dtype))
    B = data.draw(right_hand_sides(A))
    assert A.dtype == B.dtype == dtype
    if A.shape[0]:
        assert float(wide(A.to_dense()).diagonal().abs().min()) > 0.99


# --------------------------------------------------------------------------------- dense tensors


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3), (0, 2), (2, 0), ()])
def test_restrided_keeps_the_numbers(dtype, shape):
    x = numbers(shape, dtype, 5)
    for strides in STRIDES:
        y = restrided(x, strides)
        assert y.shape == x.shape
        assert y.dtype == dtype
        expected = x[..., :1].expand(shape) if strides == "expanded" and shape else x
        assert torch.equal(y, expected)


@given(entries("tall", batch=st.sampled_from([(), (2,)])), st.data())
def test_shapes_of_right_hand_sides(e, data):
    for A in (e, e.matrix()):
        assert data.draw(right_hand_sides(A, 2)).shape == (*A.values.shape[:-1], e.shape[0], 2)
        assert data.draw(right_hand_sides(A, None)).shape == (*A.values.shape[:-1], e.shape[0])
        assert data.draw(right_hand_sides(A, batch=(5,))).shape[:2] == (5, e.shape[0])
    assert data.draw(right_hand_sides(e.places, (1, 2))).shape[0] == e.shape[0]


# ------------------------------------------------------------------------------------- integers


@given(st.data())
def test_segments(data):
    lengths = data.draw(segments((2, 5), longest=3))
    assert 2 <= len(lengths) <= 5
    assert bool(((lengths >= 0) & (lengths <= 3)).all())
    whole = data.draw(segments((0, 5), total=7))
    assert len(whole) <= 5
    assert int(whole.sum()) == 7
    assert bool((whole >= 0).all())
    assert int(data.draw(segments(total=0)).sum()) == 0


@given(index_vectors((1, 8), 5), index_vectors((0, 8), 5, ordered=True))
def test_index_vectors(idx, ordered):
    assert 1 <= len(idx) <= 8
    for x in (idx, ordered):
        assert bool(((x >= 0) & (x < 5)).all())
    assert bool((ordered.diff() >= 0).all())


@given(st.data(), segments())
def test_integers_are_what_products_take(data, lengths):
    n, number = int(lengths.sum()), len(lengths)
    a = data.draw(right_hand_sides(n, 2, dtype=torch.float64))
    b = data.draw(right_hand_sides(2, 3, batch=(number,), dtype=torch.float64))
    assert segment_mm(a, b, lengths).shape == (n, 3)
    idx = data.draw(index_vectors(n, number))
    assert gather_mm(a, b, idx).shape == (n, 3)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (TypeError, "rows is a number, or a pair", lambda: patterns(rows="3")),
        (TypeError, "nnz is a number, or a pair", lambda: entries(nnz=(1, 2, 3))),
        (TypeError, "density is a pair", lambda: patterns(density=0.5)),
        (TypeError, "rows is a number, or a matrix", lambda: right_hand_sides("A")),
        (TypeError, "columns is a number", lambda: right_hand_sides(2, 1.5)),
        (TypeError, "batch is a tuple of sizes", lambda: entries(batch=3)),
        (TypeError, "batch is a tuple of sizes", lambda: right_hand_sides(2, batch=[3])),
        (TypeError, "unexpected keyword", lambda: entries(row=3)),
        (ValueError, r"0 <= least <= most; got \(3, 1\)", lambda: patterns(rows=(3, 1))),
        (ValueError, "0 <= least <= most; got -1", lambda: right_hand_sides(-1)),
        (ValueError, "a share of all places", lambda: patterns(density=(0, 2))),
        (ValueError, "give one", lambda: patterns(nnz=3, density=(0, 1))),
        (ValueError, "leave cols out", lambda: patterns(form="square", cols=3)),
        (ValueError, "leave cols out", lambda: sparse_matrices("lower", cols=3)),
        (ValueError, "form is one of 'any', 'square', 'even'", lambda: patterns(form="round")),
        (ValueError, "triangle is one of None, 'lower'", lambda: patterns(triangle="left")),
        (ValueError, "a triangle has form 'square' or 'even'", lambda: patterns(triangle="lower")),
        (ValueError, "no shape has room", lambda: patterns(rows=2, cols=2, nnz=5, unique=True)),
        (ValueError, "no shape has room", lambda: patterns(rows=0, nnz=1)),
        (ValueError, "no shape has room", lambda: patterns(rows=2, cols=3, form="tall")),
        (ValueError, "kind is one of 'general'", lambda: entries("sparse")),
        (ValueError, "'tall' decides on form", lambda: entries("tall", form="tall")),
        (
            ValueError,
            "'lower' decides on triangle",
            lambda: sparse_matrices("lower", triangle=None),
        ),
        (ValueError, "leave cols out", lambda: patterns(form="even", cols=3)),
        (ValueError, "no shape has room", lambda: patterns(form="even", rows=3)),
        (ValueError, "no shape has room", lambda: patterns(form="wide", rows=3, cols=2)),
        (ValueError, "values is one of 'random', 'special'", lambda: entries(values="odd")),
        (ValueError, "values is one of", lambda: sparse_matrices(values="odd")),
        (TypeError, "condition is a pair", lambda: entries("definite", condition=1e3)),
        (TypeError, "condition is a pair", lambda: entries("definite", condition=("1", 1e3))),
        (ValueError, "5 <= most <= 1e14", lambda: entries("definite", condition=(1, 4))),
        (ValueError, "5 <= most <= 1e14", lambda: entries("definite", condition=(1, 1e15))),
        (ValueError, "1 <= least <= most", lambda: entries("definite", condition=(9, 8))),
        (ValueError, "'graded' does not reach", lambda: entries("graded", condition=(1, 9))),
        (ValueError, "'general' does not reach", lambda: sparse_matrices(condition=(1, 9))),
        (ValueError, "less than 2 rows is 1", lambda: entries("lower", condition=(9, 9), rows=1)),
        (ValueError, "less than 4 rows is 1", lambda: entries("skew", condition=(9, 9), rows=2)),
        (ValueError, "less than 2 cols is 1", lambda: entries("tall", condition=(9, 9), cols=1)),
        (ValueError, "takes a matrix with values", lambda: right_hand_sides(3, units_of_rows=True)),
        (
            ValueError,
            "leave batch out",
            lambda: right_hand_sides(BATCH, batch=(2,), units_of_rows=True),
        ),
        (ValueError, "layout is one of 'matrix'", lambda: sparse_matrices(layout="bsr")),
        (ValueError, "strides is one of", lambda: sparse_matrices(strides="expanded")),
        (ValueError, "strides is one of", lambda: right_hand_sides(2, strides="diagonal")),
        (ValueError, "strides is one of", lambda: restrided(torch.ones(2), "none")),
        (ValueError, "give one", lambda: segments(longest=3, total=3)),
        (ValueError, "3 rows need a segment", lambda: segments(0, total=3)),
        (ValueError, "there are no indices", lambda: index_vectors(2, 0)),
        (ValueError, r"these have a batch of shape \(2,\)", lambda: BATCH.coo()),
        (ValueError, "layout is one of", lambda: BATCH.stored("dense")),
    ],
)
def test_refuses(error, match, make):
    with pytest.raises(error, match=match):
        make()


BATCH = Entries(torch.tensor([0]), torch.tensor([0]), torch.ones(2, 1), (1, 1))


@pytest.mark.parametrize(
    ("match", "strategy"),
    [
        ("kind is one of", entries(st.just("sparse"))),
        ("layout is one of", sparse_matrices(layout=st.just("bsr"))),
        ("values is one of", entries(values=st.just("odd"))),
        ("does not reach", entries(st.just("penalty"), condition=(1, 9))),
        ("strides is one of", sparse_matrices(strides=st.just("expanded"))),
        ("one axis of a batch", sparse_matrices(layout="csr", batch=(2, 2))),
    ],
)
def test_refuses_what_a_strategy_draws(match, strategy):
    with pytest.raises(ValueError, match=match):
        find(strategy, lambda A: True)


def test_places_print_as_they_are_made():
    places = Places(torch.tensor([1]), torch.tensor([0]), (2, 1))
    assert eval(repr(places), {"Places": Places, "tensor": torch.tensor}).shape == (2, 1)


# --------------------------------------------------------------------------- without Hypothesis


@pytest.mark.slow
def test_without_hypothesis_the_import_says_what_to_install():
    program = "import sys; sys.modules['hypothesis'] = None; import tsgu_func.testing.strategies"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: tsgu_func.testing.strategies needs" in done.stderr
    assert 'pip install "tsgu_func[testing]"' in done.stderr
