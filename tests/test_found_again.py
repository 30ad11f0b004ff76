"""What is made of copies of values, conjugated or scaled for one call, is found at the next."""

import gc

import pytest
import torch
from torch.func import grad, vmap

from tests.systems import close, numpy_lstsq, numpy_solve, randn
from tsgu_func import SparseMatrix, sparse_lstsq, sparse_solve
from tsgu_func.solvers import (
    CG,
    IC0,
    ILU0,
    LSMR,
    Augmented,
    AutoLeastSquares,
    BiCGStab,
    cache_info,
    clear_cache,
)

N = 12
FORMS = {
    "matrix": lambda D: SparseMatrix.from_dense(D),
    "csr": lambda D: D.to_sparse_csr(),
    "coo": lambda D: D.to_sparse_coo(),
}


@pytest.fixture(autouse=True)
def nothing_kept():
    clear_cache()


def kept():
    gc.collect()
    return cache_info().kinds["factors"].entries


# ------------------------------------------------------------------------- complex wide matrices


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, Augmented()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_wide_matrix_is_factored_once(form, dtype, solver):
    D = randn(N, 30, dtype=dtype)
    A = FORMS[form](D)
    for seed in range(3):
        b = randn(N, dtype=dtype, seed=seed)
        x = sparse_lstsq(A, b, solver=solver)
        torch.testing.assert_close(x, numpy_lstsq(D, b).to(dtype), **close(dtype))
    made = 1 if solver else 2  # the choice is kept as well
    assert cache_info()[:2] == (2 * made, made)
    assert kept() == made
    del A
    assert kept() == 0


def test_a_derivative_of_a_wide_solution_finds_the_factor():
    D, b = randn(N, 30, dtype=torch.complex128), randn(N, dtype=torch.complex128)
    A, solver = SparseMatrix.from_dense(D), Augmented()

    def size(values):
        return sparse_lstsq(A.with_values(values), b, solver=solver).abs().square().sum()

    grad(size)(A.values)
    grad(size)(A.values)
    assert cache_info().misses == 1
    right = vmap(lambda b: sparse_lstsq(A, b, solver=solver))(randn(3, N, dtype=torch.complex128))
    assert right.shape == (3, 30)
    assert cache_info().misses == 1


def test_a_matrix_and_its_adjoint_are_both_kept():
    """The values of the transpose are those of A, and what a wide A is solved by has others."""
    A, solver = SparseMatrix.from_dense(randn(N, 30, dtype=torch.complex128)), Augmented()
    for _ in range(3):
        sparse_lstsq(A, randn(N, dtype=torch.complex128), solver=solver)
        sparse_lstsq(A.T, randn(30, dtype=torch.complex128), solver=solver)
    assert cache_info()[:2] == (4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [AutoLeastSquares(), LSMR()], ids=repr)
def test_a_wide_matrix_that_is_changed_in_place_is_solved_anew(solver):
    D, b = randn(N, 30, dtype=torch.complex128), randn(N, dtype=torch.complex128)
    A = SparseMatrix.from_dense(D)
    x = sparse_lstsq(A, b, solver=solver)
    entries = kept()
    A.values.mul_(2j)
    torch.testing.assert_close(sparse_lstsq(A, b, solver=solver), x / 2j)
    assert kept() == entries


# ------------------------------------------------------------------------------- extreme scales


def definite(dtype):
    D = randn(N, N, dtype=dtype) * (randn(N, N, seed=1).abs() > 1)
    return D @ D.mH + 4 * torch.eye(N, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [CG(IC0()), BiCGStab(ILU0())], ids=repr)
@pytest.mark.parametrize("form", ["matrix", "csr"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 2.0**40), (torch.float64, 2.0**-300), (torch.complex128, 2.0**300)],
    ids=str,
)
def test_a_preconditioner_is_made_once_at_any_scale(dtype, size, form, solver):
    D = definite(dtype)
    A = FORMS[form](size * D)
    for seed in range(3):
        b = randn(N, dtype=dtype, seed=seed)
        x = sparse_solve(A, b, solver=solver)
        torch.testing.assert_close(size * x, numpy_solve(D, b).to(dtype), **close(dtype))
    assert cache_info()[:2] == (2, 1)
    assert kept() == 1
    del A
    assert kept() == 0


def test_a_batch_of_any_scale_is_one_entry():
    D, solver = definite(torch.float64), CG(IC0())
    A = SparseMatrix.from_dense(torch.stack([2.0**300 * D, D, 2.0**-300 * D]))
    b = randn(3, N, 2)
    for _ in range(2):
        x = sparse_solve(A, b, solver=solver)
    torch.testing.assert_close(x[1], numpy_solve(D, b[1]))
    assert cache_info()[:2] == (1, 1)


def test_what_is_scaled_and_changed_in_place_is_preconditioned_anew():
    D, b, solver = definite(torch.float64), randn(N), CG(IC0())
    A = SparseMatrix.from_dense(2.0**300 * D)
    sparse_solve(A, b, solver=solver)
    A.values[0] *= 3  # of the diagonal
    D = A.to_dense() * 2.0**-300
    torch.testing.assert_close(2.0**300 * sparse_solve(A, b, solver=solver), numpy_solve(D, b))
    assert cache_info()[:2] == (0, 2)
    assert kept() == 1
