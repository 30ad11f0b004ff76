"""`Augmented`: one factor for a matrix, its adjoint and its batch, and what it says of rank."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from tests.systems import DTYPES, close, numpy_lstsq, randn, stored
from tsgu_func import SparseMatrix, sparse_generic_lstsq, sparse_lstsq
from tsgu_func.kernels import products
from tsgu_func.solvers import Augmented, Result, SuperLU, cache_info, clear_cache
from tsgu_func.solvers.lstsq import saddle

SHAPES = [(30, 12), (12, 30), (15, 15)]


def some(shape, dtype=torch.float64, seed=0):
    D = randn(*shape, dtype=dtype, seed=seed) * (randn(*shape, seed=seed + 1).abs() > 0.8)
    return D + 2 * torch.eye(*shape, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_factor_reads_the_matrix_in_four_ways(dtype, shape):
    solver, D = Augmented(), some(shape, dtype)
    A = stored(SparseMatrix.from_dense(D))
    state = solver.init(A)
    for read, M in ((A, D), (A.T, D.mT), (A.conj(), D.conj()), (A.mH, D.mH)):
        B = randn(M.shape[0], 3, dtype=dtype, seed=5)
        solved = solver.compute(state, read, B)
        torch.testing.assert_close(solved.value, numpy_lstsq(M, B).to(dtype), **close(dtype))
        assert solved.value.dtype == dtype
        assert solved.result is Result.SOLVED
        left = torch.linalg.vector_norm(B - M @ solved.value, dim=0)
        left = left / torch.linalg.vector_norm(B, dim=0)
        torch.testing.assert_close(solved.residual, left, **close(dtype))


@pytest.mark.parametrize("rows", [20_000, 60, 1])
def test_a_batch_is_factored_in_blocks(monkeypatch, rows):
    monkeypatch.setattr(saddle, "_ROWS", rows)
    D = torch.stack([some((30, 12)), some((30, 12)).roll(1, -1), some((30, 12), seed=3)])
    D[1, :, 2] = 2 * D[1, :, 3]  # exactly
    B, solver = randn(3, 30, 2), Augmented()
    A = stored(SparseMatrix.from_dense(D))
    solved = solver.compute(solver.init(A), A, B)
    assert solved.code.tolist() == [[0, 0], [int(Result.SINGULAR)] * 2, [0, 0]]
    assert bool(solved.value[1].isnan().all())
    for i in (0, 2):
        torch.testing.assert_close(solved.value[i], numpy_lstsq(D[i], B[i]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_no_solution_is_made_up_where_rank_is_lost_by_rounding(dtype):
    D = some((30, 12), dtype)
    D[:, 2] = D[:, 3] / 3 + D[:, 4] / 7
    A = stored(SparseMatrix.from_dense(D))
    solved = Augmented().compute(Augmented().init(A), A, randn(30, 2, dtype=dtype))
    assert solved.code.tolist() == [int(Result.SINGULAR)] * 2
    assert bool(solved.value.isnan().all())


def test_derivatives_find_the_factor(monkeypatch):
    made = []
    factor = SuperLU.factor
    monkeypatch.setattr(SuperLU, "factor", lambda s, A: made.append(A) or factor(s, A))
    clear_cache()
    values = SparseMatrix.from_dense(some((30, 12))).values.clone().requires_grad_()
    A = SparseMatrix.from_dense(some((30, 12)))
    x = sparse_generic_lstsq(A.with_values(values), randn(30), lstsq=Augmented())
    x.square().sum().backward()
    assert len(made) == 1
    factors = cache_info().kinds["factors"]
    assert factors.entries == 1
    assert factors.bytes > values.nbytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_derivatives_are_finite_differences(dtype):
    A, B = SparseMatrix.from_dense(some((9, 4), dtype)), randn(9, 2, dtype=dtype)

    def f(values, B):
        return sparse_generic_lstsq(A.with_values(values), B, lstsq=Augmented())

    args = (A.values.clone().requires_grad_(), B.requires_grad_())
    assert gradcheck(f, args, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize(("columns", "digits"), [(6, 10), (10, 8), (13, 5)])
def test_ill_conditioned_polynomials(columns, digits):
    # Condition numbers of 2e3, 4e6 and 4e8 after scaling: normal equations would lose them squared.
    D = torch.from_numpy(np.vander(np.linspace(0, 1, 100), columns))
    size = D.norm(dim=0)
    b = randn(100)
    x, info = sparse_lstsq(SparseMatrix.from_dense(D), b, solver=Augmented(), return_info=True)
    assert info.result is Result.SOLVED
    expected = numpy_lstsq(D / size, b) / size
    assert float((x - expected).norm() / expected.norm()) < 10.0**-digits
    s = torch.linalg.svdvals(D / size)
    assert 0.3 < float(info.condition) / float(s[0] / s[-1]) < 3


@pytest.mark.slow
def test_a_derivative_through_an_ill_conditioned_matrix():
    D = torch.from_numpy(np.vander(np.linspace(0, 1, 40), 8))
    A, b = SparseMatrix.from_dense(D), randn(40)
    gradient = torch.func.grad(lambda b: sparse_lstsq(A, b).sum())(b)
    size = D.norm(dim=0)
    expected = numpy_lstsq((D / size).mT, 1 / size)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("power", [-150, 0, 140])
@pytest.mark.parametrize("right", [-150, 0, 150])
def test_scale_does_not_matter(power, right):
    D, b = some((30, 12)), randn(30)
    A = SparseMatrix.from_dense(D * 10.0**power)
    x, info = sparse_lstsq(A, b * 10.0**right, solver=Augmented(), return_info=True)
    assert info.result is Result.SOLVED
    expected = numpy_lstsq(D, b) * 10.0 ** (right - power)
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=0)


def test_nothing_dense_is_made(monkeypatch):
    n, most = 3000, []
    spmm = products.spmm
    monkeypatch.setattr(
        products, "spmm", lambda s, v, B, **kw: most.append(B.numel()) or spmm(s, v, B, **kw)
    )
    i = torch.arange(n)
    row, col = torch.cat([i, i[1:], n + i]), torch.cat([i, i[:-1], i])
    A = SparseMatrix.from_coo(row, col, torch.rand(len(row)).double() + 1, (2 * n, n))
    _, info = sparse_lstsq(A, randn(2 * n), return_info=True)
    assert info.solver == "Augmented()"
    assert max(most) <= 3 * n
