"""Laws that hold for every pattern, and every rule against finite differences."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.differences import assert_derivatives, inner
from tests.strategies import entries, numbers, systems
from tsgu_func import SparseMatrix, sparse_generic_solve, sparse_mm
from tsgu_func.solvers import SuperLU
from tsgu_func.sparse_matmul import sddmm

SEEDS = st.integers(0, 999)
COLUMNS = st.integers(0, 20)


@given(entries(), COLUMNS, SEEDS)
def test_product_is_the_dense_one(e, p, seed):
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    D, B = e.dense(), numbers((e.shape[1], p), e.values.dtype, seed)
    G = numbers((e.shape[0], p), e.values.dtype, seed + 1)
    assert_close(A.to_dense(), D)
    assert_close(sparse_mm(A, B), D @ B)
    assert_close(sparse_mm(A.T, G), D.mT @ G)
    assert_close(sparse_mm(A.mH, G), D.mH @ G)


@given(entries(), st.integers(1, 3), SEEDS)
def test_adjoint(e, p, seed):
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    B, G = (numbers((n, p), e.values.dtype, seed + n) for n in reversed(e.shape))
    assert_close(inner(G, sparse_mm(A, B)), inner(sparse_mm(A.mH, G), B))


@given(entries(), st.integers(0, 9), SEEDS)
def test_sampled_product_is_the_dense_one_at_the_pattern(e, p, seed):
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    X, Y = (numbers((n, p), e.values.dtype, seed + n) for n in e.shape)
    s = A.pattern.structure
    expected = (X @ Y.mT)[A.pattern.row.long(), A.pattern.col.long()]
    assert_close(sddmm(X, Y, s.crow, s.col, s.cols), expected)


@given(entries(), st.integers(1, 3), SEEDS)
def test_derivatives_of_the_product(e, p, seed):
    B = numbers((e.shape[1], p), e.values.dtype, seed)

    def f(values, B):
        return torch.sin(SparseMatrix.from_coo(e.row, e.col, values, e.shape) @ B)

    assert_derivatives(f, (e.values, B), seed)


@given(entries(), st.integers(1, 3), SEEDS)
def test_derivatives_of_the_sampled_product(e, p, seed):
    s = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape).pattern.structure
    X, Y = (numbers((n, p), e.values.dtype, seed + n) for n in e.shape)
    assert_derivatives(lambda X, Y: torch.sin(sddmm(X, Y, s.crow, s.col, s.cols)), (X, Y), seed)


@given(systems(), st.integers(1, 3), SEEDS)
def test_solve_undoes_the_product(e, p, seed):
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    X = numbers((e.shape[1], p), e.values.dtype, seed)
    for M in (A, A.T, A.mH):
        assert_close(sparse_generic_solve(M, sparse_mm(M, X), solve=SuperLU()), X)


@given(systems(), st.integers(1, 2), st.booleans(), SEEDS)
def test_derivatives_of_the_solve(e, p, transpose, seed):
    scale = float(e.values.abs().max())
    B = numbers((e.shape[1], p), e.values.dtype, seed)

    def f(values, B):
        A = SparseMatrix.from_coo(e.row, e.col, values * scale, e.shape)
        return torch.sin(sparse_generic_solve(A.T if transpose else A, B * scale, solve=SuperLU()))

    assert_derivatives(f, (e.values / scale, B), seed)


@given(entries(), st.integers(1, 3), SEEDS)
def test_map_is_the_stack(e, p, seed):
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    B = numbers((3, e.shape[1], p), e.values.dtype, seed)
    batch = A.with_values(torch.stack([A.values * k for k in range(3)]))
    expected = torch.stack([sparse_mm(A * float(k), b) for k, b in enumerate(B)])
    assert_close(sparse_mm(batch, B), expected)
    assert_close(torch.func.vmap(sparse_mm)(batch, B), expected)
    assert_close(torch.func.vmap(sparse_mm, (None, 0))(A, B), A.to_dense() @ B)
    assert_close(torch.func.vmap(sparse_mm, (0, None))(batch, B[0]), batch.to_dense() @ B[0])


@given(entries(), SEEDS)
def test_gradient_of_a_sum_over_a_batch(e, seed):
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    B = numbers((3, e.shape[1], 2), e.values.dtype, seed)
    loss = lambda A, B: sparse_mm(A, B).abs().square().sum()
    each = [torch.func.grad(loss)(A, b).values for b in B]
    assert_close(torch.func.grad(loss)(A, B).values, torch.stack(each).sum(0))


@given(entries(), SEEDS)
def test_order_of_entries_changes_nothing(e, seed):
    order = torch.randperm(len(e.row), generator=torch.Generator().manual_seed(seed))
    row, col = torch.tensor(e.row).long()[order], torch.tensor(e.col).long()[order]
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    B = SparseMatrix.from_coo(row, col, e.values[order], e.shape)
    assert A.pattern.same_pattern(B.pattern)
    assert_close(A.values, B.values)


@given(entries())
def test_conversions_return(e):
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    D = e.dense()
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
