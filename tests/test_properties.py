"""Laws that hold for every pattern, every batch and every layout in memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.testing import assert_close

from tests.calls import LSMR, MATRIX_OPS, PRIMITIVES, PUBLIC, SIZES, SUPERLU, calls, indices
from tsgu_func import (
    SparseMatrix,
    gather_mm,
    segment_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_triangular_solve,
)
from tsgu_func.ops.least_squares import least_norm, least_squares
from tsgu_func.ops.products import sddmm, spmm
from tsgu_func.testing.checker.problem import inner
from tsgu_func.testing.strategies import (
    LAYOUTS,
    entries,
    index_vectors,
    magnitudes,
    numbers,
    right_hand_sides,
    segments,
    sparse_matrices,
)

SEEDS = st.integers(0, 999)
MAPPED = st.just(True)
STRIDES = st.sampled_from(["contiguous", "transposed", "sliced", "offset", "lazy"])
OURS = st.sampled_from(["matrix", "transposed"])
primitives = pytest.mark.parametrize(
    "primitive", PRIMITIVES, ids=lambda p: p.name.partition("::")[2]
)
public_ops = pytest.mark.parametrize("name", PUBLIC)


def right(data, rows, e, columns=(0, 20)):
    """Draw a dense tensor of the dtype of entries, of any layout in memory."""
    return data.draw(right_hand_sides(rows, columns, dtype=e.values.dtype))


# ------------------------------------------------------------------------------------- products


@given(entries(), st.data())
def test_product_is_the_dense_one(e, data):
    D, A = e.dense(), e.stored(data.draw(OURS))
    B, G = right(data, e.shape[1], e), right(data, e.shape[0], e)
    assert_close(A.to_dense(), D)
    assert_close(sparse_mm(A, B), D @ B)
    assert_close(sparse_mm(A.T, G), D.mT @ G)
    assert_close(sparse_mm(A.mH, G), D.mH @ G)
    for layout in ("coo", "coalesced", "csr"):
        assert_close(sparse_mm(e.stored(layout), B), D @ B)


@given(
    sparse_matrices(
        layout=st.sampled_from(LAYOUTS),
        batch=st.sampled_from([(0,), (1,), (3,)]),
        dtype=torch.float64,
    ),
    st.data(),
)
def test_product_of_batches_is_the_dense_one(A, data):
    B = data.draw(right_hand_sides(A.shape[-1], batch=tuple(A.shape[:-2]), dtype=A.dtype))
    assert_close(sparse_mm(A, B), A.to_dense() @ B)


@given(entries(), st.booleans(), st.data())
def test_adjoint(e, transpose, data):
    A = e.matrix()
    rows, cols = e.shape[::-1] if transpose else e.shape
    B, G = right(data, cols, e, 2), right(data, rows, e, 2)
    C = spmm(A.values, B, *indices(A), transpose)
    back = spmm(A.values.conj(), G, *indices(A), not transpose)
    assert_close(inner([G], [C]), inner([back], [B]))
    assert_close(inner([G], [sparse_mm(A.T if transpose else A, B)]), inner([back], [B]))


@given(entries(), st.integers(0, 9), st.data())
def test_sampled_product_is_the_dense_one_at_the_pattern(e, p, data):
    A = e.matrix()
    X, Y = (right(data, n, e, p) for n in e.shape)
    row, col = e.places.mask().nonzero().T
    assert_close(sddmm(X, Y, *indices(A)), (X @ Y.mT)[row, col])


@given(entries(), st.data())
def test_permuted_rows_of_the_product(e, data):
    B = right(data, e.shape[1], e)
    order = torch.tensor(data.draw(st.permutations(range(e.shape[0])))).long()
    moved = e._replace(row=order.to(e.row.dtype)[e.row])
    assert_close(sparse_mm(moved.matrix(), B)[order], sparse_mm(e.matrix(), B))


@given(entries(), SEEDS)
def test_order_of_entries_changes_nothing(e, seed):
    order = torch.randperm(len(e.row), generator=torch.Generator().manual_seed(seed))
    shuffled = e._replace(row=e.row[order], col=e.col[order], values=e.values[order])
    A, B = e.matrix(), shuffled.matrix()
    assert A.pattern.same_pattern(B.pattern)
    assert_close(A.values, B.values)


@given(entries())
def test_conversions_return(e):
    A, D = e.matrix(), e.dense()
    # SciPy and PyTorch disagree with nothing here but the order of what is stored.
    assert_close(torch.from_numpy(A.to_scipy().toarray()), D)
    for again in (
        SparseMatrix.from_torch(A.to_coo()),
        SparseMatrix.from_torch(A.to_csr()),
        SparseMatrix.from_torch(A.to_coo().to_sparse_csc()),
        SparseMatrix.from_scipy(A.to_scipy()),
        SparseMatrix.from_scipy(A.T.to_scipy()).T,
        A.T.T,
    ):
        assert again.nnz == A.nnz
        assert_close(again.to_dense(), D)
    if D.numel():
        assert_close(SparseMatrix.from_dense(D).to_dense(), D)


# --------------------------------------------------------------------------------------- solves


@given(sparse_matrices("dominant", layout=OURS), st.data())
def test_solve_undoes_the_product(A, data):
    X = data.draw(right_hand_sides(A))
    for M in (A, A.T, A.mH, A.conj()):
        assert_close(sparse_generic_solve(M, sparse_mm(M, X), solve=SUPERLU), X)


@pytest.mark.slow
@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("strictly", [True, False])
@given(data=st.data())
def test_triangular_solve_undoes_the_product(upper, strictly, data):
    kind = ("strictly " if strictly else "") + ("upper" if upper else "lower")
    A = data.draw(sparse_matrices(kind, layout=OURS))
    X = data.draw(right_hand_sides(A))
    one = X if strictly else 0
    assert_close(sparse_triangular_solve(A, sparse_mm(A, X) + one, upper, strictly), X)
    assert_close(sparse_triangular_solve(A, sparse_mm(A.T, X) + one, upper, strictly, True), X)
    assert_close(sparse_triangular_solve(A.T, sparse_mm(A.T, X) + one, not upper, strictly), X)


@given(sparse_matrices("tall", layout=OURS), st.data())
def test_least_squares_undo_the_product(A, data):
    X = data.draw(right_hand_sides(A.shape[1], dtype=A.dtype))
    assert_close(sparse_generic_lstsq(A, sparse_mm(A, X)), X)


@given(entries("tall"), st.data())
def test_least_squares_and_least_norm_are_the_pseudo_inverse(e, data):
    A, inverse = e.matrix(), torch.linalg.pinv(e.dense())
    B, G = right(data, e.shape[0], e), right(data, e.shape[1], e)
    flags = False, *LSMR
    assert_close(least_squares(A.values, B, *indices(A), *flags)[0], inverse @ B)
    assert_close(least_norm(A.values, G, *indices(A), *flags)[0], inverse.mH @ G)


@given(entries("tall"), st.data())
def test_permuted_equations_of_least_squares(e, data):
    B = right(data, e.shape[0], e)
    order = torch.tensor(data.draw(st.permutations(range(e.shape[0])))).long()
    moved = e._replace(row=order.to(e.row.dtype)[e.row])
    right_of_moved = torch.empty_like(B.contiguous()).index_copy(0, order, B.contiguous())
    found = sparse_generic_lstsq(moved.matrix(), right_of_moved)
    assert_close(found, sparse_generic_lstsq(e.matrix(), B))


# --------------------------------------------------------------------- products by index, segment


@given(segments((0, 6), longest=6), st.data())
def test_sorted_gather_is_the_segment_product(lengths, data):
    a = data.draw(right_hand_sides(int(lengths.sum())))
    b = data.draw(right_hand_sides(a.shape[1], batch=(len(lengths),), dtype=a.dtype))
    idx = torch.repeat_interleave(torch.arange(len(lengths)), lengths.long())
    assert torch.equal(gather_mm(a, b, idx), segment_mm(a, b, lengths))


@given(index_vectors((0, 12), 5), st.data())
def test_permuted_rows_of_the_gather(idx, data):
    a = data.draw(right_hand_sides(len(idx)))
    b = data.draw(right_hand_sides(a.shape[1], batch=(5,), dtype=a.dtype))
    order = torch.tensor(data.draw(st.permutations(range(len(idx))))).long()
    moved = gather_mm(a[order], b, idx[order])
    assert_close(moved[order.argsort()], gather_mm(a, b, idx))


# -------------------------------------------------------------------------- laws of every function


@primitives
@given(data=st.data(), seed=SEEDS)
def test_linear(primitive, data, seed):
    call = data.draw(calls(PRIMITIVES[primitive], strides=STRIDES))
    for i in call.linear:
        x = call.args[i]
        y, of = numbers(tuple(x.shape), x.dtype, seed), list(call.args)
        factor = 2.5 - 0.5j if x.is_complex() else 2.5
        of[i] = factor * x - y
        found = call.whole(*of)
        of[i] = y
        assert_close(found, factor * call.whole(*call.args) - call.whole(*of))


def stack_of_members(call):
    return torch.stack([call.function(*args) for args in call.members()])


@primitives
@given(data=st.data())
def test_map_of_a_primitive_is_the_stack(primitive, data):
    call = data.draw(calls(PRIMITIVES[primitive], mapped=MAPPED, strides=STRIDES))
    if any(call.mapped):
        assert_close(call.whole(*call.args), stack_of_members(call))


@public_ops
@given(data=st.data())
def test_map_is_the_stack(name, data):
    call = data.draw(calls(PUBLIC[name], mapped=MAPPED, strides=STRIDES))
    assert_close(call.whole(*call.args), stack_of_members(call))


def loss(function):
    return lambda *args: function(*args).abs().square().sum()


def gradients(function, args):
    return grad(loss(function), tuple(range(len(args))))(*args)


@public_ops
@given(data=st.data())
def test_gradient_of_a_sum_over_a_batch(name, data):
    """It is the sum of the gradients where an argument is shared, and their stack elsewhere."""
    call = data.draw(calls(PUBLIC[name], mapped=MAPPED, strides=STRIDES))
    each = zip(*(gradients(call.function, args) for args in call.members()), strict=True)
    found = gradients(call.whole, call.args)
    for whole, parts, mapped in zip(found, map(torch.stack, each), call.mapped, strict=True):
        assert_close(whole, parts if mapped else parts.sum(0))


@public_ops
@given(data=st.data())
def test_map_of_the_gradient_is_the_stack(name, data):
    call = data.draw(calls(PUBLIC[name], mapped=MAPPED, strides=STRIDES))
    each = zip(*(gradients(call.function, args) for args in call.members()), strict=True)
    found = vmap(lambda *args: gradients(call.function, args), call.dims)(*call.args)
    assert_close(found, tuple(map(torch.stack, each)))


@pytest.mark.parametrize("name", MATRIX_OPS)
@given(data=st.data(), scale=magnitudes(), size=magnitudes())
def test_magnitudes_pass_through(name, data, scale, size):
    """No sum of squares overflows or vanishes on the way."""
    op, kind, rows = MATRIX_OPS[name]
    e = data.draw(entries(kind, **SIZES))
    B = data.draw(right_hand_sides(rows(e), dtype=e.values.dtype))
    found = op(e._replace(values=e.values * scale).matrix(), B * size) / size
    found = found / scale if name == "sparse_mm" else found * scale
    assert_close(found, op(e.matrix(), B))


@pytest.mark.parametrize("name", MATRIX_OPS)
@given(data=st.data())
def test_map_over_matrices_is_the_batch(name, data):
    """``vmap`` maps over a SparseMatrix itself, and the op takes its batch without."""
    op, kind, rows = MATRIX_OPS[name]
    e = data.draw(entries(kind, batch=(3,), **SIZES))
    A = e.stored(data.draw(OURS))
    B = data.draw(right_hand_sides(rows(e), batch=(3,), dtype=A.dtype))
    expected = torch.stack([op(a, b) for a, b in zip(A, B, strict=True)])
    assert_close(op(A, B), expected)
    assert_close(vmap(op)(A, B), expected)
    assert_close(vmap(op, (None, 0))(A[1], B), torch.stack([op(A[1], b) for b in B]))
    assert_close(vmap(op, (0, None))(A, B[1]), torch.stack([op(a, B[1]) for a in A]))
    vector = data.draw(right_hand_sides(rows(e), None, dtype=A.dtype))
    assert_close(op(A, vector), op(A, vector.unsqueeze(-1)).squeeze(-1))
