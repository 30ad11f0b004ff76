"""What each of linear_cg, bicgstab, minres and lsmr has of its own."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import lsmr as scipy_lsmr
from torch.testing import assert_close

from tests.systems import (
    DTYPES,
    KINDS,
    N,
    counted,
    matrix_for,
    numpy_lstsq,
    numpy_solve,
    randn,
    stored,
)
from tsgu_func import SparseMatrix
from tsgu_func.solvers.protocol import ConvergenceError, SolveError
from tsgu_func.utils.bicgstab import BICGSTABSettings, bicgstab
from tsgu_func.utils.linear_cg import LinearCGSettings, linear_cg
from tsgu_func.utils.lsmr import lsmr
from tsgu_func.utils.minres import MINRESSettings, minres

# --------------------------------------------------------------------------- MINRES, its shifts


@pytest.mark.parametrize("value", [None, -2.0])
@pytest.mark.parametrize("shape", [(N,), (N, 3), (2, N, 3)])
def test_shifts(shape, value, dtype):
    A, B = matrix_for(minres, dtype), randn(*shape, dtype=dtype)
    eye = torch.eye(N, dtype=dtype)
    factor = 1.0 if value is None else value
    shifts = torch.tensor([0.0, 0.7, -1.2])
    for given in (A, lambda X: A @ X):
        X = minres(given, B, shifts=shifts, value=value)
        assert X.shape == (3, *B.shape)
        for s, x in zip(shifts.double().tolist(), X, strict=True):
            assert_close(x, numpy_solve(factor * A + s * eye, B))
        for one in (0.5, torch.tensor(0.5)):
            x = minres(given, B, shifts=one, value=value)
            assert_close(x, numpy_solve(factor * A + 0.5 * eye, B))
    assert minres(A, B, shifts=torch.tensor([0.5])).shape == (1, *B.shape)


def test_shifts_share_a_krylov_space():
    A, B = matrix_for(minres, torch.float64), randn(N, 2)
    multiply, calls = counted(A)
    minres(multiply, B, shifts=torch.linspace(0, 1, 5))
    assert calls[:-1] == [(N, 2)] * (len(calls) - 1)
    assert calls[-1] == (N, 10)  # the true residuals


def test_shifts_with_a_preconditioner(dtype):
    A, b = matrix_for(minres, dtype), randn(N, dtype=dtype)
    eye, d = torch.eye(N, dtype=dtype), torch.linspace(1, 3, N, dtype=torch.float64)
    X = minres(A, b, shifts=torch.tensor([0.0, 0.7]), preconditioner=lambda r: r / d)
    for s, x in zip((0.0, 0.7), X, strict=True):
        assert_close(x, numpy_solve(A + float(torch.tensor(s)) * eye, b), rtol=1e-7, atol=1e-7)


def test_minres_on_a_singular_system():
    A = torch.diag(torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64))
    b = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    assert_close(A @ minres(A, b), b)
    with pytest.raises(ConvergenceError, match="singular"):
        minres(A, b + 1)


def test_minres_says_that_a_matrix_is_not_hermitian(dtype):
    A, B = matrix_for(bicgstab, dtype), randn(N, 2, dtype=dtype)
    with pytest.raises(ConvergenceError, match=r"for Hermitian A: bicgstab and SuperLU\(\)"):
        minres(A, B, max_iter=100)


def test_minres_settings_and_errors():
    A, b = matrix_for(minres, torch.float64), randn(N)
    for shifts in (torch.zeros(2, 2), torch.tensor(1j), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="shifts is a real, finite number"):
            minres(A, b, shifts=shifts)
    with pytest.raises(ValueError, match="eps must be finite"):
        minres(A, b, eps=-1.0)
    with pytest.raises(SolveError, match="preconditioner is not Hermitian positive definite"):
        minres(A, b, preconditioner=lambda r: -r)
    with pytest.raises(ConvergenceError, match="after 2 iterations"):
        minres(A, b, settings=MINRESSettings(max_cg_iterations=2))


# ------------------------------------------------------------------------- CG, its extra results


def test_tridiagonal_matrices(dtype):
    A = matrix_for(linear_cg, dtype, n=8)
    D = torch.stack([A, A @ A])
    B = randn(2, 8, 3, dtype=dtype)
    X, T, info = linear_cg(D, B, n_tridiag=2, tolerance=0, max_iter=8, return_info=True)
    assert T.shape == (2, 2, 8, 8)
    assert info.iterations == 8
    assert_close(X, numpy_solve(D, B), rtol=1e-6, atol=1e-6)
    for i in range(2):
        for j in range(2):
            expected = np.linalg.eigvalsh(D[j].numpy())
            assert_close(np.linalg.eigvalsh(T[i, j].numpy()), expected, rtol=1e-6, atol=1e-6)


def test_tridiagonal_matrices_of_short_krylov_spaces():
    A = torch.diag(torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64))
    e = torch.eye(4, dtype=torch.float64)[:, :1]
    B = torch.cat([e, torch.ones_like(e), 0 * e], 1)
    T = linear_cg(A, B, n_tridiag=3)[1]
    assert_close(T[0], torch.eye(4, dtype=torch.float64))
    assert_close(torch.linalg.eigvalsh(T[1]), A.diagonal())
    assert_close(T[2], torch.eye(4, dtype=torch.float64))
    # Quadrature: |b|² e1ᵀ log(T) e1 = bᵀ log(A) b.
    lam, Q = torch.linalg.eigh(T[1])
    assert_close(4 * (Q[0] ** 2 * lam.log()).sum(), A.diagonal().log().sum())
    assert linear_cg(A, B, n_tridiag=1, max_tridiag_iter=2)[1].shape == (1, 2, 2)
    assert linear_cg(A, 0 * B, n_tridiag=1)[1].shape == (1, 1, 1)


def test_cg_rules_for_stopping():
    A, b = torch.diag(torch.linspace(1, 100, 40, dtype=torch.float64)), torch.ones(40).double()
    B = torch.cat([torch.zeros(40, 100), b[:, None]], 1)
    info = linear_cg(A, B, tolerance=1e-4, convergence_reduction="mean", return_info=True)[1]
    assert info.reason == "mean_converged"
    assert not bool(info.converged[-1])
    linear_cg(A, B, tolerance=1e-4, convergence_reduction="mean")  # what was asked for is reached
    info = linear_cg(A, b, min_iter=30, tolerance=0.1, return_info=True)[1]
    assert (info.iterations, info.reason) == (30, "converged")
    told = {"return_info": True, "on_failure": "ignore"}
    info = linear_cg(A, b, tolerance=1e-3, stop_updating_after=0.1, **told)[1]
    assert info.reason == "stopped_updating"
    with pytest.warns(UserWarning, match="after 3 iterations"):
        info = linear_cg(A, b, max_iter=3, return_info=True)[1]
    assert (info.reason, info.iterations, info.matvecs) == ("max_iter", 3, 4)
    sized = LinearCGSettings(terminate_cg_by_size=True)
    info = linear_cg(A, b, tolerance=1e-30, settings=sized, **told)[1]
    assert info.iterations <= 40
    x = linear_cg(A, b, max_iter=3, on_failure="ignore")
    assert torch.equal(linear_cg(A, b, tolerance=0, max_iter=3), x)


def test_cg_goes_on_from_the_true_residual():
    A, b, calls = matrix_for(linear_cg, torch.float64), randn(N), []

    def drifting(x):
        calls.append(1)
        return A @ x * (1.001 if len(calls) == 5 else 1)

    x, info = linear_cg(drifting, b, tolerance=1e-10, return_info=True)
    assert info.reason == "converged"
    assert float((A @ x - b).norm() / b.norm()) <= 1e-10


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tolerance": torch.nan}, "tolerance must be finite"),
        ({"eps": 0.0}, "eps must be finite and positive"),
        ({"eps": 1e-320}, "eps must be representable"),
        ({"stop_updating_after": -1.0}, "stop_updating_after"),
        ({"convergence_reduction": "median"}, "'all' or 'mean'; got 'median'"),
        ({"min_iter": -1}, "min_iter"),
        ({"n_tridiag": 2}, "of which there are 1; got 2"),
        ({"n_tridiag": 1, "max_iter": 3, "max_tridiag_iter": 4}, "at most max_iter, 3; got 4"),
    ],
)
def test_cg_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        linear_cg(torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), **kwargs)


def test_cg_breakdown(dtype):
    b = torch.tensor([0.0, 1.0, 0.0], dtype=dtype)
    for D in ([1.0, -1.0, 2.0], [1.0, 0.0, 1.0]):
        with pytest.raises(
            SolveError, match=r"p\^T A p is .* A is not Hermitian positive definite"
        ):
            linear_cg(torch.diag(torch.tensor(D, dtype=dtype)), b)
    with pytest.raises(SolveError, match=r"r\^T M\^-1 r is .* the preconditioner is not"):
        linear_cg(torch.eye(3, dtype=dtype), b, preconditioner=lambda r: -r)
    with pytest.raises(SolveError, match=r"at least eps = 1\.0e-10"):
        linear_cg(torch.eye(3, dtype=dtype), b, initial_guess=(1 - 1e-6) * b, eps=1e-10)


# ------------------------------------------------------------------------------------- BiCGSTAB


def test_bicgstab_tolerances():
    A, B = matrix_for(bicgstab, torch.float64), randn(N, 2)
    B[:, 1] *= 1e-12
    X = bicgstab(A, B)  # by default a small right-hand side is as good as any other
    assert_close(X[:, 1] * 1e12, numpy_solve(A, B[:, 1] * 1e12), rtol=1e-4, atol=1e-4)
    X = bicgstab(A, B, settings=BICGSTABSettings(abstol=1e-8))
    assert torch.equal(X[:, 1], 0 * X[:, 1])
    for settings in (BICGSTABSettings(abstol=-1.0), BICGSTABSettings(reltol=float("nan"))):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            bicgstab(A, B, settings=settings)


def test_bicgstab_budget():
    A, b = matrix_for(bicgstab, torch.float64), randn(N)
    for limit in range(8):
        for start in (None, torch.ones(N).double()):
            multiply, calls = counted(A)
            settings = BICGSTABSettings(matvec_max=limit)
            x = bicgstab(multiply, b, start, settings, on_failure="ignore")
            assert len(calls) <= limit
            assert torch.isfinite(x).all()
    with pytest.raises(ValueError, match="matvec_max must be nonnegative; got -1"):
        bicgstab(A, b, settings=BICGSTABSettings(matvec_max=-1))
    with pytest.raises(ConvergenceError, match=r"matvec_max=0 .* without evaluating the operator"):
        bicgstab(A, b, settings=BICGSTABSettings(matvec_max=0))
    assert torch.equal(bicgstab(A, 0 * b, settings=BICGSTABSettings(matvec_max=0)), 0 * b)


def test_bicgstab_breakdown(dtype):
    K = randn(6, 6)
    for A in (K - K.mT, torch.zeros(6, 6, dtype=dtype)):
        with pytest.raises(ConvergenceError, match="the recurrence broke down"):
            bicgstab(A, torch.ones(6, dtype=A.dtype))
    # Orthogonal to its first shadow vector at once, but solvable with another.
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=dtype)
    B = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=dtype)
    assert_close(bicgstab(swap, B), swap @ B)


# ----------------------------------------------------------------------------------------- LSMR


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=["vector", "columns", "batch"])
@pytest.mark.parametrize("kind", ["dense", "coo", "csr", "matrix", "transposed", "function"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(16, 6), (6, 16), (8, 8)], ids=["tall", "wide", "square"])
def test_least_squares(size, dtype, kind, shape):
    A = randn(*size, dtype=dtype, seed=5) * (randn(*size, seed=6).abs() > 0.3)
    B = randn(*shape[:-1], size[0], *shape[-1:], dtype=dtype)
    more = {"Armat": lambda Y: A.mH @ Y, "n": size[1]} if kind == "function" else {}
    X, iterations = lsmr(KINDS[kind](A), B, **more)
    assert X.dtype == dtype
    assert iterations > 0
    assert_close(X, numpy_lstsq(A, B).to(dtype), rtol=1e-3, atol=1e-3)
    if dtype in (torch.float64, torch.complex128):
        X = lsmr(KINDS[kind](A), B, atol=1e-14, btol=1e-14, **more)[0]
        assert_close(X, numpy_lstsq(A, B), rtol=1e-10, atol=1e-10)


def test_least_squares_with_all_digits(dtype):
    A, B = randn(30, 10, dtype=dtype), randn(30, 3, dtype=dtype)
    A = A * torch.logspace(0, 2, 10, dtype=torch.float64)
    for tolerance in (1e-14, 1e-30, 0.0):
        X, iterations = lsmr(A, B, atol=tolerance, btol=tolerance, conlim=0)
        gradient = (A.mH @ (B - A @ X)).norm(dim=0)
        assert float((gradient / (A.norm() * (B - A @ X).norm(dim=0))).max()) < 1e-13
        assert iterations < 60


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_stops_when_scipy_does(tolerance, dtype):
    A = randn(60, 30, dtype=dtype) * torch.logspace(0, 2, 30, dtype=torch.float64)
    for b in (randn(60, dtype=dtype, seed=2), A @ randn(30, dtype=dtype)):
        rules = {"atol": tolerance, "btol": tolerance, "maxiter": 1000}
        expected = scipy_lsmr(A.numpy(), b.numpy(), **rules)[2]
        assert abs(lsmr(A, b, **rules)[1] - expected) <= 3


def test_least_squares_of_low_rank(dtype):
    for m, n in ((20, 8), (8, 20)):
        A, B = randn(m, 4, dtype=dtype) @ randn(4, n, dtype=dtype, seed=1), randn(m, 2, dtype=dtype)
        expected = numpy_lstsq(A, B, rcond=1e-10)
        for tolerance in (1e-6, 1e-14, 0.0):
            X = lsmr(A, B, atol=tolerance, btol=tolerance)[0]
            assert_close(X, expected, rtol=1e-5, atol=1e-5)


def test_damping_means_the_same_from_every_start(dtype):
    A, B = randn(12, 7, dtype=dtype), randn(12, 2, dtype=dtype)
    normal = A.mH @ A + 0.49 * torch.eye(7, dtype=dtype)
    expected = numpy_solve(normal, (A.mH @ B))
    for start in (None, randn(7, 2, dtype=dtype)):
        X = lsmr(A, B, damp=0.7, atol=1e-13, btol=1e-13, x0=start)[0]
        assert_close(X, expected, rtol=1e-10, atol=1e-10)


def test_lsmr_columns_starts_and_counts(dtype):
    A, B = randn(12, 7, dtype=dtype), randn(12, 3, dtype=dtype)
    B[:, 2] = 0
    close = {"atol": 1e-12, "btol": 1e-12}
    X = lsmr(A, B, **close)[0]
    assert torch.equal(X[:, 2], 0 * X[:, 2])
    for i in range(2):
        assert_close(X[:, i], lsmr(A, B[:, i], **close)[0])
    b = A @ X[:, :1]
    forward, calls = counted(A)
    adjoint, others = counted(A.mH)
    assert torch.equal(lsmr(forward, b, adjoint, 7, x0=X[:, :1], **close)[0], X[:, :1])
    assert lsmr(A, b, x0=X[:, :1], **close)[1] == 0
    calls.clear()
    others.clear()
    iterations = lsmr(forward, B, adjoint, 7, **close)[1]
    # One of each an iteration; one more of each for the true residual, and one to begin with.
    assert (len(calls), len(others)) == (iterations + 1, iterations + 2)


def test_ill_conditioned():
    A = torch.diag(torch.logspace(0, -10, 12, dtype=torch.float64))
    b = torch.ones(12, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match=r"condition number of A is estimated as 1\.\de\+08"):
        lsmr(A, b, atol=1e-14, btol=1e-14, maxiter=1000)
    x = lsmr(A, b, atol=1e-14, btol=1e-14, maxiter=1000, conlim=0)[0]
    assert float((A @ x - b).norm() / x.norm()) < 1e-13
    with pytest.raises(ConvergenceError, match="raise maxiter"):
        lsmr(A, b, atol=1e-14, btol=1e-14, maxiter=3)


def test_lsmr_batches_of_stored_matrices(dtype):
    D = randn(3, 9, 5, dtype=dtype)
    M, B, G = SparseMatrix.from_dense(D), randn(3, 9, 2, dtype=dtype), randn(3, 5, 2, dtype=dtype)
    tight = {"atol": 1e-14, "btol": 1e-14}
    assert_close(lsmr(stored(M), B, **tight)[0], numpy_lstsq(D, B))
    adjoint = stored(M, transpose=True, conjugate=True)
    assert_close(lsmr(adjoint, G, **tight)[0], numpy_lstsq(D.mH, G))
    assert_close(lsmr(M.mH, G, **tight)[0], numpy_lstsq(D.mH, G))


def test_lsmr_arguments():
    A, b = randn(5, 3), randn(5)
    for kwargs, message in (
        ({"damp": -1.0}, "damp must be"),
        ({"atol": torch.nan}, "atol must be"),
        ({"conlim": -1.0}, "conlim must not be negative"),
        ({"n": 4}, "n is the number of columns of A, 3; got 4"),
        ({"maxiter": -1}, "maxiter must be"),
    ):
        with pytest.raises(ValueError, match=message):
            lsmr(A, b, **kwargs)
    with pytest.raises(SolveError, match="n, the number of columns of A, must be given"):
        lsmr(lambda x: A @ x, b)
    with pytest.raises(SolveError, match="Armat, which multiplies with the adjoint of A"):
        lsmr(lambda x: A @ x, b, n=3)
    assert_close(lsmr(A, b, Armat=A.T)[0], lsmr(A, b)[0])
