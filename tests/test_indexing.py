"""``A[...]`` is what it is for the dense matrix; triangles, zeros, and shapes of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, hessian, jacfwd, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from tsgu_func import SparseMatrix
from tsgu_func.cache import cache_info, clear_cache
from tsgu_func.testing import check_rules
from tsgu_func.testing.strategies import entries

BATCHES = st.sampled_from([(), (2,), (2, 3)])
WHOLE = slice(None)


def example(dtype, transposed=False):
    dense = torch.tensor([[1, 0, 2], [0, 3, 0], [4, 5, 0], [0, 0, 0]], dtype=dtype)
    return SparseMatrix.from_dense(dense.mT).T if transposed else SparseMatrix.from_dense(dense)


def picks(n):
    """Draw any index of an axis of n, but for an integer."""
    several = st.lists(st.integers(-n, n - 1) if n else st.nothing(), max_size=2 * n)
    mask = st.lists(st.booleans(), min_size=n, max_size=n)
    return st.one_of(
        st.slices(n),
        several,
        several.map(tuple),
        several.map(lambda k: torch.tensor(k, dtype=torch.int32)),
        several.map(lambda k: np.array(k, dtype=np.int64)),
        mask,
        mask.map(lambda k: torch.tensor(k, dtype=torch.bool)),
        mask.map(lambda k: np.array(k, dtype=np.bool_)),
    )


def dense_index(index):
    """Return what NumPy takes for the same."""
    if isinstance(index, (slice, int)):
        return index
    return np.asarray(index, dtype=None if len(index) else np.int64)


def drawn(data, batch=BATCHES):
    """Draw a matrix, compressed by rows or by columns, and a dense one beside it."""
    e = data.draw(entries(batch=batch))
    A = e.transposed() if data.draw(st.booleans()) else e.matrix()
    return A, e.dense().numpy()


@given(st.data())
def test_rows_and_columns_are_those_of_the_dense_matrix(data):
    A, D = drawn(data)
    n, m = A.shape[-2:]
    rows, cols = data.draw(picks(n)), data.draw(picks(m))
    B = A[..., rows, :][..., cols]
    expected = D[..., dense_index(rows), :][..., dense_index(cols)]
    assert_close(B.to_dense(), torch.from_numpy(expected.copy()))
    assert B.pattern.transposed == A.pattern.transposed
    stored = A.with_values(torch.ones(A.nnz)).to_dense().numpy()
    assert B.nnz == stored[dense_index(rows)][:, dense_index(cols)].sum()
    if isinstance(rows, slice) or isinstance(cols, slice):
        assert_close(A[..., rows, cols].to_dense(), B.to_dense())


@given(st.data())
def test_an_integer_picks_a_dense_vector(data):
    e = data.draw(entries(batch=BATCHES, rows=(1, 4), cols=(1, 4)))
    A = e.transposed() if data.draw(st.booleans()) else e.matrix()
    D, (n, m) = e.dense(), e.shape
    i, j = data.draw(st.integers(-n, n - 1)), data.draw(st.integers(-m, m - 1))
    assert_close(A[..., i, :], D[..., i, :])
    assert_close(A[..., j], D[..., j])
    assert_close(A[..., i, j], D[..., i, j])
    assert_close(A[..., torch.tensor(i), np.int64(j)], D[..., i, j])
    rows, cols = data.draw(picks(n)), data.draw(picks(m))
    for vector, line, index in (
        (A[..., i, cols], D[..., i, :], cols),
        (A[..., rows, j], D[..., j], rows),
    ):
        assert_close(vector, torch.from_numpy(line.numpy()[..., dense_index(index)].copy()))


def test_the_first_axes_are_those_of_the_batch(dtype):
    A = example(dtype)
    batch = A.with_values(torch.randn(2, 3, A.nnz, dtype=dtype))
    D = batch.to_dense()
    mask = torch.tensor([True, False])
    for index in (
        0,
        -1,
        (0, 1),
        slice(1),
        mask,
        [1, 0],
        (0, [2, 1]),
        (mask, 1),
        None,
        (0, None, 2),
    ):
        assert_close(batch[index].to_dense(), D[index])
    for index in ((0, 1, 2), (0, 1, 2, 1), (WHOLE, 1, WHOLE, 2), (0, ..., 2), (mask, WHOLE, 3)):
        assert_close(batch[index], D[index])
    for index in (
        (0, WHOLE, [3, 0]),
        (..., slice(1, 3), WHOLE),
        (0, 1, slice(2)),
        (None, ..., [2]),
    ):
        assert_close(batch[index].to_dense(), D[index])
    assert_close(A[None, 1:].to_dense(), A.to_dense()[None, 1:])
    assert batch[...].pattern == A[:, :].pattern == A.pattern
    assert [member.shape for member in batch] == [(3, 4, 3)] * 2


def test_permutations_have_an_inverse(dtype):
    for A in (example(dtype), example(dtype, transposed=True)):
        p, q = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
        B = A[p][:, q]
        assert_close(B.to_dense(), A.to_dense()[p][:, q])
        back = B[p.argsort()][:, q.argsort()]
        assert back.pattern == A.pattern
        assert torch.equal(back.values, A.values)


# -------------------------------------------------------------------------------- derivatives


SELECTIONS = {
    "rows, some twice": (lambda A: A[[2, 0, 2]], lambda D: D[[2, 0, 2]]),
    "columns, backwards": (lambda A: A[:, ::-1], lambda D: D.flip(1)),
    "both": (lambda A: A[1:][:, torch.tensor([1, 0])], lambda D: D[1:][:, [1, 0]]),
    "triangle": (lambda A: A.tril(), lambda D: D.tril()),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("select", "dense"), SELECTIONS.values(), ids=SELECTIONS)
def test_derivatives_are_those_of_the_dense_matrix(select, dense, transposed, dtype):
    A = example(dtype, transposed)
    loss = lambda D: torch.sin(D).abs().square().sum()
    found = grad(lambda A: loss(select(A).to_dense()))(A)
    expected = grad(lambda D: loss(dense(D)))(A.to_dense())
    assert found.pattern == A.pattern
    row, col = (x.long() for x in A.pattern.places())
    assert_close(found.values, expected[row, col])


def test_every_rule(dtype):
    A = example(dtype)

    def f(A):
        B = A[[2, 0, 2]][:, ::-1]
        return B.values, A[2], A[:, 1], A[0, 2]

    check_rules(f, (A,), dtypes=(dtype,), transforms=["first", "higher", "vmap"]).raise_if_failed()


def test_an_index_tensor_may_be_closed_over_under_any_transform():
    A = example(torch.float64)
    rows, v = torch.tensor([2, 0]), A.values
    f = lambda v: A.with_values(v)[rows].values.pow(3).sum()
    expected = grad(f)(v)
    assert_close(vmap(grad(f))(torch.stack([v, 2 * v])), torch.stack([expected, 4 * expected]))
    assert_close(jvp(f, (v,), (v,))[1], expected @ v)
    assert_close(hessian(f)(v), jacfwd(grad(f))(v))
    assert_close(make_fx(grad(f))(v)(2 * v), 4 * expected)
    # One that is made inside of a transform carries its wrappers.
    inside = lambda v: A.with_values(v)[torch.tensor([2, 0])].values.pow(3).sum()
    assert_close(grad(lambda v: grad(inside)(v).sum())(v), grad(lambda v: grad(f)(v).sum())(v))
    with pytest.raises(ValueError, match="vmap maps over an index of rows"):
        vmap(lambda k: A[k].values)(torch.tensor([[0], [1]]))
    with pytest.raises(RuntimeError, match="numbers in an index are not known"):
        make_fx(lambda v, k: A.with_values(v)[:, k].values)(v, rows)


# ----------------------------------------------------------------------------------- compiled


def several(A, rows):
    B = A[rows, :][:, ::2]
    return (
        B.values,
        A[1:, 1].abs(),
        A[-2],
        A[0, 2],
        A[2, 1:],
        A.triu(1).mT.values,
        B.reshape(1, -1, 2),
    )


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
def test_it_compiles(transposed):
    A = example(torch.float64, transposed)
    f = lambda A: several(A, [2, 0])[:-1]
    assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(A), f(A))
    loss = lambda A: several(A, (1, 1, 2))[0].abs().square().sum()
    run = torch.compile(grad(loss), fullgraph=True, backend="aot_eager")
    assert_close(run(A).values, grad(loss)(A).values)


@pytest.mark.slow
def test_a_compiled_function_follows_its_index():
    A = example(torch.float64)
    run = torch.compile(lambda A, k: A[k].to_dense(), fullgraph=True, backend="eager")
    rows = [0, 1]
    for _ in range(3):
        assert_close(run(A, rows), A[rows].to_dense())
        rows[0] += 1
    for stop in (1, 2, 3):
        assert_close(run(A, slice(stop)), A[:stop].to_dense())
    one = torch.compile(lambda A, i: A[i, i - 1], fullgraph=True, backend="eager")
    for i in range(3):
        assert_close(one(A, i), A[i, i - 1])
    other = SparseMatrix.from_dense(A.to_dense().flip(0))
    assert_close(run(other, [0, 1]), other[:2].to_dense())


@pytest.mark.slow
def test_compiled_with_dynamic_sizes():
    A = example(torch.float64)
    f = lambda A, B: A[[2, 0]][:, 1:].matmul(B)
    run = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for p in (2, 3, 5):
        B = torch.randn(2, p, dtype=torch.float64, requires_grad=True)
        run(A, B).sum().backward()
        assert_close(B.grad, A[[2, 0]][:, 1:].to_dense().mT @ torch.ones(2, p, dtype=torch.float64))
    assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(A, B), f(A, B))


def test_what_is_not_known_while_compiling():
    A, k = example(torch.float64), torch.tensor([1, 0])
    for index in (k, k.numpy(), k.bool()):
        with pytest.raises(Exception, match=r"as index\.tolist\(\) makes outside"):
            torch.compile(lambda A, k: A[:, k].values, fullgraph=True, backend="eager")(A, index)
    with pytest.raises(Exception, match="eliminate_zeros depends on which values are zero"):
        torch.compile(lambda A: A.eliminate_zeros(), fullgraph=True, backend="eager")(A)


def test_export():
    class Module(torch.nn.Module):
        def forward(self, A):
            return several(A, [2, 0])[:-1]

    A = example(torch.float64)
    program = torch.export.export(Module(), (A,))
    assert_close(program.module()(2 * A), several(2 * A, [2, 0])[:-1])


# ---------------------------------------------------------------------------------- made once


def test_a_pattern_is_made_once():
    clear_cache()
    A = example(torch.float64)
    first = A[torch.tensor([2, 0])].pattern
    kept = cache_info().kinds["derived patterns"]
    assert kept.entries == 1
    assert kept.bytes > 0
    for same in ([2, 0], (-2, -4), np.array([2, 0]), torch.tensor([2, 0], dtype=torch.int16)):
        assert A[same, :].pattern is first
    A[::2], A[[True, False, True, False]], A[:, :], A.tril(), A.tril(0)
    assert cache_info().kinds["derived patterns"].entries == 4
    [A[i] for i in range(4)], [A[i, j] for i in range(4) for j in range(3)]
    assert cache_info().kinds["derived patterns"].entries == 4


def test_few_entries_of_a_large_matrix(dtype):
    n = 10**6
    place = torch.arange(10) * 10**5
    A = SparseMatrix.from_coo(place, place.flip(0), torch.arange(10).to(dtype), (n, n))
    rows = torch.arange(n - 1, -1, -1)
    B = A[rows][:, 500_000:]
    assert B.shape == (n, n // 2)
    assert B.nnz == 5
    assert_close(A[rows][rows].values, A.values)
    assert_close(A[300_000, 600_000], torch.tensor(3, dtype=dtype))
    assert_close(A[:, 600_000].nonzero().flatten(), torch.tensor([300_000]))
    assert (A[rows].tril().nnz, A.tril().nnz, A.T.triu(1).nnz) == (10, 5, 5)


# -------------------------------------------------------------------------------------- wrong


@pytest.mark.parametrize(
    ("error", "index", "message"),
    [
        (IndexError, 4, "row 4 is out of range: rows run from -4 to 3"),
        (IndexError, (0, -4), "column -4 is out of range: columns run from -3 to 2"),
        (IndexError, [0, 9], r"rows\[1\] = 9 is out of range"),
        (IndexError, (WHOLE, torch.tensor([0, 1, -7])), r"columns\[2\] = -7 is out of range"),
        (IndexError, [True, False], "a mask of rows has one entry for each of them, 4; got 2"),
        (IndexError, torch.ones(4, 3).bool(), r"A \* mask keeps"),
        (IndexError, np.ones((4, 3), dtype=bool), r"A\.to_dense\(\)\[mask\]"),
        (IndexError, torch.zeros(2, 2).long(), r"a vector; got shape \(2, 2\)"),
        (IndexError, (0, 0, 0), "has 2 axes to index; got 3"),
        (IndexError, (..., 0, ...), "one ellipsis"),
        (IndexError, (WHOLE, None), r"A\.unsqueeze\(0\), or A\[None\]"),
        (IndexError, (..., None), "None adds an axis to the batch"),
        (ValueError, ([0, 1], [0, 1]), r"write A\[rows\]\[:, cols\]"),
        (ValueError, (torch.tensor([0]), [True, False, True]), "NumPy pairs two index arrays"),
        (TypeError, 1.5, "rows are selected by .*; got float"),
        (TypeError, (0, "a"), "columns are selected by .*; got str"),
        (TypeError, True, "got bool"),
        (TypeError, torch.ones(2), "got float32"),
        (TypeError, [[0, 1], [1, 0]], "got list"),
        (TypeError, torch.tensor(True), "got"),
    ],
)
def test_an_index_that_is_none_explains_itself(error, index, message):
    with pytest.raises(error, match=message):
        example(torch.float64)[index]


def test_more_that_is_wrong():
    A = example(torch.float64)
    batch = A.expand(2, 4, 3)
    with pytest.raises(ValueError, match="NumPy pairs"):
        batch[[0, 1], [0, 1]]
    with pytest.raises(IndexError, match="over several axes"):
        batch[torch.ones(2, 4, dtype=torch.bool)]
    empty = A[:0]
    for wrong in (lambda: empty[0], lambda: empty.T[:, [0]]):
        with pytest.raises(IndexError, match="that axis is empty"):
            wrong()
    for select in (lambda A: A[1:], lambda A: A[0], lambda A: A.tril()):
        with pytest.raises(ValueError, match="meta device keeps no numbers"):
            select(A.to("meta"))
    with pytest.raises(TypeError, match=r"A\.values .*A\[i\] a row"):
        iter(A)
    with pytest.raises(TypeError, match="no length"):
        len(A)


# ------------------------------------------------------------------- triangles, zeros, batches


@given(st.data())
def test_triangles_are_those_of_the_dense_matrix(data):
    A, D = drawn(data)
    D, k = torch.from_numpy(D), data.draw(st.integers(-4, 4))
    assert_close(A.tril(k).to_dense(), D.tril(k))
    assert_close(A.triu(k).to_dense(), D.triu(k))
    assert A.tril(k).nnz + A.triu(k + 1).nnz == A.nnz
    assert A.tril(k).pattern.transposed == A.pattern.transposed


@pytest.mark.parametrize("transposed", [False, True])
def test_zeros_that_are_stored_go(transposed, dtype):
    A = example(dtype, transposed)
    values = A.values.clone()
    values[1] = values[3] = 0
    B = A.with_values(values).eliminate_zeros()
    assert B.nnz == A.nnz - 2
    assert_close(B.to_dense(), A.with_values(values).to_dense())
    batch = A.with_values(torch.stack([values, A.values, torch.zeros_like(values)]))
    assert batch.eliminate_zeros().pattern == A.pattern
    assert batch[::2].eliminate_zeros().pattern == B.pattern
    loss = lambda v: A.with_values(v).eliminate_zeros().values.abs().square().sum()
    assert_close(grad(loss)(values), 2 * values)
    values.requires_grad_()
    loss(values).backward()
    assert_close(values.grad, 2 * values.detach())
    for f in (vmap(loss), make_fx(loss)):
        with pytest.raises(RuntimeError, match="call it outside"):
            f(batch.values)


def test_shapes_of_a_batch(dtype):
    for A in (example(dtype), example(dtype)[3:, :2]):
        batch = A.expand(6, 1, -1, -1)
        D, size = batch.to_dense(), tuple(A.shape)
        for shape in ((2, 3, *size), (-1, *size), (3, -1, *size), (6, 1, 1, *size)):
            assert_close(batch.reshape(*shape).to_dense(), D.reshape(shape))
            assert_close(batch.reshape(shape).to_dense(), D.reshape(shape))
        assert_close(A.expand((5, *size)).to_dense(), A.to_dense().expand(5, *size))
        for dim in (0, 1, 2, -3):
            assert_close(batch.unsqueeze(dim).to_dense(), D.unsqueeze(dim))
        for dim in (0, 1, -3):
            assert_close(batch.squeeze(dim).to_dense(), D.squeeze(dim))
        for wrong in ((3, 6, 4), (6, *size[::-1]), size[:1], ()):
            for function in (batch.reshape, batch.expand):
                with pytest.raises(ValueError, match="rows and columns stay"):
                    function(*wrong)
        for wrong in (3, -1, -2, -6):
            with pytest.raises(IndexError, match="dim is an axis of the batch"):
                batch.unsqueeze(wrong)
        for wrong in (2, -1, -2, -5):
            with pytest.raises(IndexError, match="dim is an axis of the batch"):
                batch.squeeze(wrong)
