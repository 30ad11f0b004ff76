"""How iterative solvers end: what they refuse, where they stop, and what they return then."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.systems import numpy_solve, randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_solve
from tsgu_func.solvers import (
    CG,
    GMRES,
    IC0,
    ICCG,
    ILU0,
    MINRES,
    BiCGStab,
    Custom,
    Jacobi,
    Result,
    SolveError,
    Stale,
    SuperLU,
    cache_info,
)

HERMITIAN = [CG(), ICCG(), MINRES(), CG(Jacobi())]
matrix = SparseMatrix.from_scipy


def line(m, ends=2.0):
    d = np.full(m, 2.0)
    d[0] = d[-1] = ends
    return sp.diags_array([-np.ones(m - 1), d, -np.ones(m - 1)], offsets=[-1, 0, 1])


def plane(m, ends=2.0):
    return sp.kronsum(line(m, ends), line(m, ends)).tocsr()


def solved(A, b, solver):
    return sparse_solve(A, b, solver=solver, return_info=True, on_failure="ignore")


# ---------------------------------------------------------------------------------------- symmetry


def convection(m, strength):
    across = sp.diags_array([-np.ones(m - 1), np.ones(m - 1)], offsets=[-1, 1])
    return matrix((plane(m) + strength * sp.kron(sp.eye_array(m), across)).tocsr())


@pytest.mark.parametrize("solver", HERMITIAN, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_what_is_far_from_hermitian_is_refused_at_once(solver, dtype):
    A = convection(8, 0.5).to(dtype)
    for M in (A, A.T, A.mH):
        with pytest.raises(SolveError, match="not Hermitian"):
            sparse_solve(M, randn(64, dtype=dtype), solver=solver)
    skew = (A + 1j * A.to(torch.complex128)) if dtype.is_complex else A
    with pytest.raises(SolveError, match="not Hermitian"):
        sparse_solve(skew, randn(64, dtype=dtype), solver=solver)


@pytest.mark.parametrize("solver", HERMITIAN, ids=repr)
def test_what_is_nearly_hermitian_is_solved(solver):
    A, b = convection(8, 1e-6), randn(64)
    torch.testing.assert_close(
        sparse_solve(A, b, solver=solver), numpy_solve(A.to_dense(), b[:, None])[:, 0]
    )


def test_one_member_that_is_not_hermitian_is_named():
    A = matrix(plane(4))
    V = A.values.repeat(3, 1)
    V[1, 1] = 7
    with pytest.raises(SolveError, match=r"member 1.*not Hermitian"):
        sparse_solve(A.with_values(V), randn(16), solver=CG())


@pytest.mark.slow
@pytest.mark.parametrize("solver", [CG(), MINRES()], ids=repr)
def test_a_failure_names_what_is_not_hermitian(solver):
    """Of products alone it shows at the end."""
    A = convection(12, 0.9)
    operator = LinearOperator(lambda A, x: A @ x, A)
    assert solved(operator, randn(144), solver)[1].result is Result.NOT_HERMITIAN
    symmetric = LinearOperator(lambda A, x: A @ x, matrix(plane(12)))
    few = type(solver)(max_iterations=3)
    assert solved(symmetric, randn(144), few)[1].result is Result.ITERATIONS


# ---------------------------------------------------------------------------------- least squares


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("solver", [MINRES(), MINRES(Jacobi())], ids=repr)
def test_minres_ends_where_the_residual_is_least(solver, dtype):
    A = matrix(plane(30, 1.0)).to(dtype)
    b = randn(900, dtype=dtype)
    x, info = solved(A, torch.stack([b, b - b.mean()], 1), solver)
    least = abs(b.mean()) * 30 / torch.linalg.vector_norm(b)
    assert info.code.tolist() == [Result.LEAST_SQUARES, Result.ILL_CONDITIONED]
    # With a preconditioner it is the least in another norm.
    assert float(info.residual[0]) == pytest.approx(float(least), rel=1e-2)
    assert int(info.iterations.max()) < 300
    if solver.preconditioner is None:
        torch.testing.assert_close(
            x[:, 0] - x[:, 0].mean(), x[:, 1] - x[:, 1].mean(), rtol=1e-3, atol=1e-3
        )


def test_minres_goes_on_where_the_matrix_is_only_ill_conditioned():
    for dtype, rows in ((torch.float32, 60), (torch.float64, 60)):
        A = matrix(plane(rows)).to(dtype)
        assert solved(A, randn(rows**2, dtype=dtype), MINRES())[1].result is Result.SOLVED


# ------------------------------------------------------------------------------------- each row


@pytest.mark.parametrize(
    "solver", [CG(IC0()), CG(Jacobi()), ICCG(), GMRES(ILU0()), BiCGStab(ILU0())], ids=repr
)
def test_each_row_is_solved_if_that_is_asked(solver):
    m = 12
    p = np.zeros(m * m)
    p[:m] = 1e6
    K, b = (plane(m) + sp.diags_array(p)).tocsr(), torch.from_numpy(p)
    expected = sp.linalg.spsolve(K.tocsc(), p)
    plain = solved(matrix(K), b, solver)[0]
    assert abs(plain.numpy() - expected).max() > 1e-6
    asked = type(solver)(solver.preconditioner, componentwise=1e-8)
    x, info = solved(matrix(K), b, asked)
    assert info.result is Result.SOLVED
    assert float(info.componentwise) < 1e-8
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-7)


def test_where_rounding_does_not_allow_it_that_is_said():
    m = 8
    p = np.zeros(m * m)
    p[:m] = 1e14
    K = matrix((plane(m) + sp.diags_array(p)).tocsr())
    info = solved(K, torch.from_numpy(p), CG(Jacobi(), componentwise=1e-8))[1]
    assert info.result is Result.STAGNATED


# ------------------------------------------------------------------------------- preconditioners


def test_a_function_is_a_preconditioner():
    d = torch.linspace(1, 100, 50).double()
    A = SparseMatrix.from_dense(torch.diag(d))
    operator = LinearOperator(lambda d, x: d * x, d)
    for M in (A, operator):
        for given in (lambda R: R / d[:, None], Custom(lambda R: R / d[:, None])):
            x, info = solved(M, torch.ones(50).double(), CG(given))
            assert int(info.iterations) == 1
            torch.testing.assert_close(x, 1 / d)
    with pytest.raises(TypeError, match="or a function"):
        CG(3)


def test_a_preconditioner_of_ones_own_is_ten_lines():
    class Diagonal:
        def init(self, A):
            return A @ torch.ones(A.shape[1], 1, dtype=A.dtype)

        def apply(self, state, R, transpose=False, conjugate=False):
            return R / (state.conj() if conjugate else state)

        def __repr__(self):
            return "Diagonal()"

    d = torch.linspace(1, 100, 50).to(torch.complex128) * (1 + 1j)
    for A in (
        SparseMatrix.from_dense(torch.diag(d)),
        LinearOperator(lambda d, x: d * x, d),
    ):
        x, info = solved(A, torch.ones(50, dtype=d.dtype), GMRES(Diagonal()))
        assert int(info.iterations) == 1
        torch.testing.assert_close(x, 1 / d)


def test_what_reads_entries_says_so_to_an_operator():
    operator = LinearOperator(lambda d, x: d * x, torch.ones(5))
    with pytest.raises(TypeError, match="shows none"):
        sparse_solve(operator, torch.ones(5), solver=CG(IC0()))


# ------------------------------------------------------------------------------- stale factors


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_factor_of_other_values_preconditions(dtype, monkeypatch):
    made = []
    init = SuperLU.init
    monkeypatch.setattr(SuperLU, "init", lambda self, A: made.append(1) or init(self, A))
    A, b = convection(8, 0.4).to(dtype), randn(64, dtype=dtype)
    solver = GMRES(Stale(SuperLU(), most=8))
    steps = []
    for t in (0.0, 1e-3, 1e-2, 0.1, 1.0, 1.0):
        V = (A.values * (1 + t * torch.linspace(0, 1, A.nnz))).requires_grad_()
        M = A.with_values(V)
        x, info = sparse_solve(M, b, solver=solver, return_info=True)
        steps.append(int(info.iterations))
        torch.testing.assert_close(x, numpy_solve(M.to_dense().detach(), b[:, None])[:, 0])
        (g,) = torch.autograd.grad(x.real.sum(), V)
        w = numpy_solve(M.to_dense().detach().mH, torch.ones(64, 1, dtype=dtype))[:, 0]
        row, col = A.pattern.row.long(), A.pattern.col.long()
        torch.testing.assert_close(g, -w[row] * x.detach()[col].conj(), rtol=1e-6, atol=1e-6)
    assert steps[:3] == sorted(steps[:3])
    assert steps[0] == 1 < steps[2] <= 8 < steps[4]
    assert steps[5] == 1  # the fifth solve took too long
    assert len(made) == 2


def test_a_factor_that_is_too_far_away_is_made_anew_at_once():
    A, b = convection(8, 0.4), randn(64)
    solver = GMRES(Stale(SuperLU()), restart=4, max_iterations=4)
    assert solved(A, b, solver)[1].result is Result.SOLVED
    far = A.with_values(A.values * torch.linspace(1, 50, A.nnz))
    info = solved(far, b, solver)[1]
    assert info.result is Result.SOLVED
    assert int(info.iterations) == 1


def test_stale_factors_belong_to_patterns(limit):
    A = matrix(plane(8)).with_values(matrix(plane(8)).values)
    sparse_solve(A, randn(64), solver=CG(Stale()))
    kept = cache_info().kinds["stale factors"]
    assert kept.entries == 1
    assert kept.bytes > 64 * 8
    with pytest.raises(TypeError, match="direct solver"):
        Stale(CG())
