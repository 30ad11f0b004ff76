"""What counts as a solution: one judge for all solvers, with dense solutions as the oracle."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.preconditioning import as_it_is, poisson
from tests.systems import FLAGS, computed, numpy_solve, randn, read_as, stored
from tsgu_func import SparseMatrix, sparse_generic_solve, sparse_solve
from tsgu_func.solvers import (
    CG,
    GMRES,
    ICCG,
    MINRES,
    BiCGStab,
    DenseLU,
    IllConditionedWarning,
    Pardiso,
    Result,
    SolveError,
    Substitution,
    SuperLU,
    clear_cache,
)
from tsgu_func.solvers.judgement import measured

DIRECT = [DenseLU(), SuperLU(), Pardiso()]
DTYPES = [torch.float64, torch.complex128]
matrix = SparseMatrix.from_scipy


def line(m, ends=2.0):
    d = np.full(m, 2.0)
    d[0] = d[-1] = ends
    return sp.diags_array([-np.ones(m - 1), d, -np.ones(m - 1)], offsets=[-1, 0, 1])


def needs(solver):
    if isinstance(solver, Pardiso):
        pytest.importorskip("pypardiso")
    return solver


def chain(n):
    """Not symmetric, well-conditioned."""
    return 3 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)


def solved(A, b, solver=None, on_failure="ignore"):
    return sparse_solve(A, b, solver=solver, return_info=True, on_failure=on_failure)


# ------------------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("p", [1, 2])
def test_backward_errors_are_those_of_the_formulas(dtype, flags, batch, p):
    D = randn(9, 9, dtype=dtype) * (randn(9, 9, seed=1) > 0)
    D[:3, 6:], D[6:, :3] = 0, 0  # equations of what is next to nothing, below
    factor = randn(*batch, 1, seed=2).to(dtype)
    A = stored(SparseMatrix.from_dense(D))
    A = dataclasses.replace(read_as(A, *flags), values=A.values * factor)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    X, B = (randn(*batch, 9, p, dtype=dtype, seed=seed) for seed in (3, 4))
    X[..., :6, :] *= 1e-9
    B[..., :3, :] *= 1e-9
    told = measured(A, X, B)
    M = read_as(D * factor.unsqueeze(-1), *flags).to(wide).resolve_conj().numpy()
    x, b = X.to(wide).numpy(), B.to(wide).numpy()

    def size(y):
        return abs(y.real) + abs(y.imag)

    r = b - M @ x
    norm = np.linalg.norm(r, axis=-2) / np.linalg.norm(b, axis=-2)
    sums = size(M).sum(-1, keepdims=True)
    largest = abs(x).max(-2, keepdims=True)
    below = sums.max(-2, keepdims=True) * largest + abs(b).max(-2, keepdims=True)
    small = 1e-5 if dtype in DTYPES else 1e-5**0.5
    each, least = size(M) @ size(x) + size(b), small * sums * largest
    assert (each < least).any()
    assert (each > least).any()
    each = np.maximum(each, least)
    np.testing.assert_allclose(told.residual, norm, rtol=1e-6)
    np.testing.assert_allclose(told.normwise, (abs(r) / below).max(-2), rtol=1e-5)
    np.testing.assert_allclose(told.componentwise, (abs(r) / each).max(-2), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 1e-165, 1.0, 1e155, 1e300])
def test_a_residual_is_relative_at_every_scale(scale):
    A, B = stored(SparseMatrix.from_dense(torch.eye(4).double())), torch.ones(4, 1).double() * scale
    assert float(measured(A, B / 2, B).residual) == pytest.approx(0.5)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("row", [0, -1])
def test_what_is_largest_is_found_by_any_thread(threads_of_torch, p, row):
    threads_of_torch(2)
    S, X, B = poisson(200), randn(40_000, p), randn(40_000, p, seed=1)
    B[row] *= 1e6
    told, r = measured(as_it_is(S), X, B), B - torch.from_numpy(S @ X.numpy())
    below = 8 * X.abs().amax(0) + B.abs().amax(0)
    torch.testing.assert_close(told.residual, r.norm(dim=0) / B.norm(dim=0))
    torch.testing.assert_close(told.normwise, r.abs().amax(0) / below)
    X[row] = torch.nan
    told = measured(as_it_is(S), X, B)
    for number in told.numbers.values():
        assert bool(number.isnan().all())


@pytest.mark.parametrize("solver", [CG, ICCG, MINRES, GMRES, BiCGStab])
@pytest.mark.parametrize("rtol", [1e-6, 1e-15])
def test_what_is_said_is_of_what_is_returned(solver, rtol):
    """Also where columns and members differ in their passes, and the last pass was in vain."""
    A = as_it_is(poisson(12))
    A = dataclasses.replace(A, values=torch.stack((A.values, 3 * A.values)))
    B = randn(2, 144, 3) * torch.logspace(0, -8, 3, dtype=torch.float64)
    B[0, :, 1] = 0
    answer = computed(solver(rtol=rtol), A, B)
    told = measured(A, answer.value.clone(), B)
    for name, number in told.numbers.items():
        assert torch.equal(getattr(answer, name), number), name


# --------------------------------------------------------------------------- right-hand sides


@pytest.mark.parametrize("penalty", [1e6, 1e9, 1e12])
def test_rows_of_a_penalty_do_not_hide_the_others(penalty):
    """The residual relative to B is that of the rows of the penalty."""
    m = 50
    p = np.zeros(m * m)
    p[:m] = penalty
    K = (
        sp.kron(line(m), sp.eye_array(m)) + sp.kron(sp.eye_array(m), line(m)) + sp.diags_array(p)
    ).tocsr()
    x = sparse_solve(matrix(K), torch.from_numpy(p))
    expected = sp.linalg.spsolve(K.tocsc(), p)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-6)


def test_a_named_solver_tells_of_rows_that_are_not_solved():
    m = 20
    p = np.zeros(m * m)
    p[:m] = 1e12
    K = matrix((sp.kronsum(line(m), line(m)) + sp.diags_array(p)).tocsr())
    _, info = solved(K, torch.from_numpy(p), ICCG())
    assert info.result is Result.SOLVED  # as it was asked: relative to B
    assert float(info.normwise) < 1e-10 < 1e-3 < float(info.componentwise)


def test_a_sparse_right_hand_side_is_solved_for():
    """Where X decays, rows far from what moves it are not asked for."""
    m = 60
    K = sp.kronsum(line(m), line(m)).tocsr() + 4 * sp.eye_array(m * m)
    b = torch.zeros(m * m).double()
    b[0] = 1
    x, info = solved(matrix(K), b)
    assert info.iterations > 0
    np.testing.assert_allclose(x, sp.linalg.spsolve(K.tocsc(), b), rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [None, *DIRECT], ids=repr)
@pytest.mark.parametrize("unit", [1e12, 1e20])
def test_rows_in_other_units_are_no_reason_to_refuse(solver, unit):
    """Only the norm of A is large; X is as well determined as without the units."""
    M = chain(6).double()
    d = torch.ones(6).double()
    d[::3] = unit
    b = torch.eye(6).double()[1]
    x = sparse_solve(SparseMatrix.from_dense(d[:, None] * M), b, solver=solver and needs(solver))
    torch.testing.assert_close(x, numpy_solve(M, b[:, None])[:, 0])


# ----------------------------------------------------------------------------------- singularity


def dependent(dtype):
    """Return blocks of rank two, up to rounding, and what is not in their range."""
    S = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], dtype=dtype)
    b = torch.tensor([1, 2, 4], dtype=dtype).repeat(40)
    return SparseMatrix.from_dense(torch.kron(torch.eye(40, dtype=dtype), S)), b


@pytest.mark.parametrize("solver", [None, *DIRECT], ids=repr)
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-24), ("float64", 1e-165)])
def test_a_singular_matrix_has_no_solution_whatever_the_scale(solver, dtype, scale):
    A, b = dependent(getattr(torch, dtype))
    for factor in (1.0, scale):
        with pytest.raises(SolveError, match="singular"):
            sparse_solve(A, b * factor, solver=solver and needs(solver))


@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_a_cotangent_however_small_finds_a_singular_matrix(scale):
    A, outside = dependent(torch.float32)
    b = A.to_dense().sum(1)
    _, pull = torch.func.vjp(lambda b: sparse_solve(A, b, solver=DenseLU(), on_failure="ignore"), b)
    W = pull(outside * scale)[0]
    assert W.isnan().all()


@pytest.mark.parametrize("solver", [Pardiso(), None], ids=repr)
def test_pivots_that_were_replaced_do_not_hide_a_singular_matrix(solver):
    pytest.importorskip("pypardiso")
    n = 2200 if solver is None else 100
    D = sp.diags_array(
        [-np.ones(n - 1), 3 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]
    ).tolil()
    D[5] = D[6]
    b = randn(n)
    with pytest.raises(SolveError, match="singular"):
        sparse_solve(matrix(D.tocsr()), b, solver=solver)


def test_what_was_asked_before_does_not_change_the_verdict():
    pytest.importorskip("pypardiso")
    A = matrix(sp.kronsum(line(30, 1.0), line(30, 1.0)).tocsr())
    b = randn(900)
    for first in (False, True):
        clear_cache()
        if first:
            solved(A, b - b.mean(), Pardiso())
        with pytest.raises(SolveError, match="singular"):
            sparse_solve(A, b, solver=Pardiso())


def test_what_maps_constants_to_zero_is_told():
    A = matrix(sp.kronsum(line(30, 1.0), line(30, 1.0)).tocsr())
    b = randn(900)
    b -= b.mean()
    for solver in (None, ICCG(), CG(), SuperLU()):
        with pytest.warns(IllConditionedWarning, match="nullspace"):
            x = sparse_solve(A, b, solver=solver)
        assert torch.linalg.vector_norm(A @ x - b) < 1e-7


def nearly_singular():
    """Return a matrix that leaves half of the digits of X, and a residual that shows it."""
    U, V = (torch.linalg.qr(randn(12, 12, seed=seed)).Q for seed in (0, 1))
    s = torch.ones(12).double()
    s[-1] = 1e-12
    return SparseMatrix.from_dense(U @ torch.diag(s) @ V)


@pytest.mark.parametrize("solver", [None, SuperLU(), DenseLU()], ids=repr)
def test_few_digits_warn_by_default(solver):
    A, b = nearly_singular(), randn(12)
    with pytest.warns(IllConditionedWarning, match="close to singular"):
        sparse_solve(A, b, solver=solver)
    with pytest.warns(IllConditionedWarning):
        sparse_solve(A, b, solver=solver, on_failure="warn")
    with pytest.raises(SolveError, match="close to singular"):
        sparse_solve(A, b, solver=solver, on_failure="strict")
    assert solved(A, b, solver)[1].result is Result.ILL_CONDITIONED


@pytest.mark.parametrize("solver", [None, *DIRECT], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_singular_member_leaves_the_others(solver, dtype):
    if isinstance(solver, Pardiso) and dtype.is_complex:
        pytest.skip("PARDISO is for real matrices")
    A = SparseMatrix.from_dense(chain(70).to(dtype))
    V = A.values * torch.rand(4, 1, dtype=torch.float64).add(0.5).to(dtype)
    V[2, A.pattern.row.long() == 5] = 0
    b = randn(4, 70, 2, dtype=dtype)
    solver = solver and needs(solver)
    x, info = solved(A.with_values(V), b, solver)
    for i in (0, 1, 3):
        expected = numpy_solve(A.with_values(V[i]).to_dense(), b[i])
        torch.testing.assert_close(x[i], expected)
        assert (info.code[i] == Result.SOLVED).all()
    assert (info.code[2] == Result.SINGULAR).all()
    assert x[2].isnan().all()
    with pytest.raises(SolveError, match="member 2"):
        sparse_solve(A.with_values(V), b, solver=solver)
    mapped = torch.func.vmap(
        lambda v, b: sparse_solve(A.with_values(v), b, solver=solver, on_failure="ignore")
    )(V, b)
    torch.testing.assert_close(mapped, x, equal_nan=True)


@pytest.mark.parametrize("solver", [DenseLU(), Pardiso()], ids=repr)
def test_a_column_without_a_solution_leaves_the_others(solver):
    """By rounding, so that the factorization ends: B is in the range in the first column alone."""
    A, b = dependent(torch.float64)
    B = torch.stack([A.to_dense().sum(1), b], 1)
    x, info = solved(A, B, needs(solver))
    assert info.code[1] == Result.SINGULAR
    assert x[:, 1].isnan().all()
    torch.testing.assert_close(A @ x[:, :1], B[:, :1])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_substitution_that_overflows_has_failed(dtype):
    n = 400
    L = matrix(sp.diags_array([np.full(n, 1e-3), np.ones(n - 1)], offsets=[0, -1]).tocsr()).to(
        dtype
    )
    b = torch.ones(n, dtype=dtype)
    for solver in (None, Substitution()):
        with pytest.raises(SolveError, match="range"):
            sparse_solve(L, b, solver=solver)
        x, info = solved(L, torch.stack([b, 0 * b], 1), solver)
        assert info.code.tolist() == [Result.OVERFLOW, Result.SOLVED]
        assert not x[:, 1].any()


# ------------------------------------------------------------------------------------ one's own


class Careless:
    """A solver that takes whatever it has for a solution."""

    def __init__(self, factor):
        self.factor = factor

    def init(self, A):
        return A

    def compute(self, state, A, B, X0=None):
        from tsgu_func.solvers.protocol import solution

        D = A @ torch.eye(A.shape[0], dtype=B.dtype)
        X = self.factor * torch.linalg.solve(D, B)
        return solution(self, X, torch.zeros_like(X[0].abs()))

    def __repr__(self):
        return f"Careless({self.factor})"


def test_a_solver_of_ones_own_is_not_believed():
    A, b = SparseMatrix.from_dense(chain(8).double()), randn(8)
    assert solved(A, b, Careless(1.0))[1].result is Result.SOLVED
    for factor in (2.0, float("nan")):
        _, info = solved(A, b, Careless(factor))
        assert info.result is Result.INACCURATE
        with pytest.raises(SolveError, match="no solution"):
            sparse_solve(A, b, solver=Careless(factor))
    assert float(solved(A, b, Careless(2.0))[1].residual) == pytest.approx(1.0)


def test_a_function_that_returns_nan_is_an_error_everywhere():
    A, b = SparseMatrix.from_dense(chain(8).double()), randn(8)

    def lost(A, B):
        return B * torch.nan

    for solve in (sparse_generic_solve, lambda A, b, f: sparse_solve(A, b, solver=f)):
        with pytest.raises(SolveError, match="no solution"):
            solve(A, b, lost)
