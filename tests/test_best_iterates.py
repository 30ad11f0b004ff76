"""What an iterative solver hands back that has not converged: the best that it has seen."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.preconditioning import Diagonal, poisson
from tests.systems import N, computed, matrix_for, numpy_solve, randn, stored
from tsgu_func import SparseMatrix, sparse_solve
from tsgu_func.solvers import CG, GMRES, ICCG, MINRES, BiCGStab, Jacobi, Result
from tsgu_func.solvers.preconditioners import DIC, IC0, SSOR
from tsgu_func.utils.bicgstab import BICGSTABSettings, bicgstab
from tsgu_func.utils.linear_cg import linear_cg
from tsgu_func.utils.minres import minres

SIDE = 12


def turned(dtype):
    """Return the matrix of a grid, Hermitian and not symmetric if it is complex, and its rhs."""
    S = torch.from_numpy(poisson(SIDE).toarray()).to(dtype)
    if dtype.is_complex:
        phase = torch.polar(torch.ones(len(S)).double(), torch.linspace(0, 9, len(S)).double())
        S = phase[:, None] * S * phase.conj()
    return S, torch.ones(len(S), 1, dtype=dtype)


def numpy_cg(D, b, steps, inverse=None, start=None):
    """Return the iterates of conjugate gradients, as in the textbook."""
    A, M = D.numpy(), np.eye(len(D)) if inverse is None else inverse.numpy()
    x = np.zeros_like(b.numpy()) if start is None else start.numpy().copy()
    r = b.numpy() - A @ x
    z = p = M @ r
    seen = []
    for _ in range(steps):
        alpha = np.vdot(r, z).real / np.vdot(p, A @ p).real
        x, before = x + alpha * p, np.vdot(r, z).real
        r = r - alpha * (A @ p)
        z = M @ r
        p = z + np.vdot(r, z).real / before * p
        seen.append(torch.from_numpy(x))
    return seen


def energy(D, X, exact):
    return float(torch.linalg.vecdot((E := X - exact), D @ E, dim=0).real.sum()) ** 0.5


def residual(D, X, b):
    return float((b - D @ X).norm() / b.norm())


# ------------------------------------------------------------------------------------ truncated


@pytest.mark.parametrize("steps", [1, 3, 11])
@pytest.mark.parametrize("cls", [CG, ICCG, linear_cg])
@pytest.mark.parametrize("M", [None, IC0(relaxation=0.0), DIC()], ids=repr)
def test_truncated_cg_is_the_iterate_of_the_textbook(cls, M, steps, dtype):
    if (cls is ICCG) != isinstance(M, DIC) or (cls is linear_cg and M is not None):
        return
    D, b = turned(dtype)
    A = stored(SparseMatrix.from_dense(D))
    inverse = None if M is None else M.apply(M.init(A), torch.eye(len(D), dtype=dtype))
    expected = numpy_cg(D, b, steps, inverse)[-1]
    if cls is linear_cg:
        X = linear_cg(D, b, max_iter=steps, on_failure="ignore")
    else:
        solved = computed(cls(M, max_iterations=steps), A, b)
        assert solved.result is Result.ITERATIONS
        X = solved.value
        assert float(solved.residual) == pytest.approx(residual(D, X, b))
    assert_close(X, expected, rtol=1e-9, atol=1e-9)
    assert energy(D, X, numpy_solve(D, b)) < 0.95 * energy(D, 0 * b, numpy_solve(D, b))


def test_the_residual_rises_where_the_error_falls():
    """Else the tests above would not tell."""
    D, b = turned(torch.float64)
    rising = [residual(D, X, b) for X in numpy_cg(D, b, 3)]
    assert min(rising) > 1


@pytest.mark.parametrize("cls", [CG, ICCG])
def test_truncated_cg_goes_on_from_its_start(cls):
    D, b = turned(torch.float64)
    solver, exact = cls(max_iterations=3), numpy_solve(D, b)
    X, errors = torch.zeros_like(b), [energy(D, 0 * b, exact)]
    for _ in range(5):
        X = computed(solver, D, b, X).value
        errors.append(energy(D, X, exact))
    assert all(b < 0.95 * a for a, b in itertools.pairwise(errors))


def test_a_smoother_has_a_solution_for_each_column_and_member():
    D, b = turned(torch.float64)
    A = SparseMatrix.from_dense(torch.stack([D, 3 * D]))
    B = torch.stack([torch.cat([b, 0 * b, D @ b], 1)] * 2)
    X = sparse_solve(A, B, solver=CG(max_iterations=4), on_failure="ignore")
    for member, scale in zip(X, (1, 3), strict=True):
        assert_close(member[:, :1], numpy_cg(D, b, 4)[-1] / scale)
        assert not member[:, 1].any()
        assert_close(member[:, 2:], numpy_cg(D, D @ b, 4)[-1] / scale)


@pytest.mark.parametrize("kind", [MINRES, minres])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_truncated_minres_minimizes_in_the_norm_of_its_preconditioner(kind, steps, dtype):
    # The norm hardly sees the second half, which the first is coupled with.
    coupling = 10 * torch.eye(N).double() + randn(N, N)
    D = torch.block_diag(torch.diag(torch.linspace(1, 3, N).double()), torch.eye(N).double())
    D[:N, N:], D[N:, :N] = coupling, coupling.mT
    turn = torch.linalg.qr(randn(N, N, dtype=dtype))[0]
    D = D.to(dtype)
    D[:N, N:], D[N:, :N] = D[:N, N:] @ turn, turn.mH @ D[N:, :N]
    b, d = torch.ones(2 * N, 1, dtype=dtype), torch.ones(2 * N, 1).double()
    d[N:] = 1e6
    if kind is MINRES:
        X = computed(MINRES(Diagonal(*d[:, 0].tolist()), max_iterations=steps), D, b).value
    else:
        X = minres(D, b, preconditioner=lambda R: R / d, max_iter=steps, on_failure="ignore")
    krylov = [b / d]
    for _ in range(steps - 1):
        krylov.append((D @ krylov[-1]) / d)
    K, root = torch.linalg.qr(torch.cat(krylov, 1))[0], d**-0.5
    least = b - D @ K @ torch.linalg.lstsq(root * (D @ K), root * b).solution
    assert float((root * (b - D @ X)).norm()) == pytest.approx(float((root * least).norm()))
    assert residual(D, X, b) == pytest.approx(float(least.norm() / b.norm()), rel=1e-5)
    assert residual(D, X, b) > 2


def numpy_bicgstab(D, b, steps):
    """Return the true residuals of the iterates."""
    A, x, r = D.numpy(), np.zeros_like(b.numpy()), b.numpy()
    shadow, p, rho, seen = r.copy(), r.copy(), np.vdot(r, r), [1.0]
    for _ in range(steps):
        v = A @ p
        alpha = rho / np.vdot(shadow, v)
        s = r - alpha * v
        t = A @ s
        omega = np.vdot(t, s) / np.vdot(t, t)
        x, r = x + alpha * p + omega * s, s - omega * t
        rho, before = np.vdot(shadow, r), rho
        p = r + rho / before * alpha / omega * (p - omega * v)
        seen.append(float(np.linalg.norm(b.numpy() - A @ x) / np.linalg.norm(b.numpy())))
    return seen


@pytest.mark.parametrize("kind", [BiCGStab, bicgstab])
def test_bicgstab_keeps_the_best_of_a_pass(kind, dtype):
    D, b = randn(N, N, dtype=dtype, seed=3) + 3.5 * torch.eye(N), randn(N, 1, dtype=dtype, seed=1)
    expected = numpy_bicgstab(D, b, 10)
    assert any(b > 1.2 * a for a, b in itertools.pairwise(expected))
    for steps in range(1, 11):
        if kind is BiCGStab:
            X = computed(BiCGStab(max_iterations=steps), D, b).value
        else:
            few = BICGSTABSettings(matvec_max=2 * steps + 1)
            X = bicgstab(D, b, settings=few, on_failure="ignore")
        least = min(expected[: steps + 1])
        assert residual(D, X, b) == pytest.approx(least, rel=1e-4)


# --------------------------------------------------------------------------------------- failed


def growing(n=60, strength=2.5, dtype=torch.float64):
    """Return a matrix on which conjugate gradients grow without bounds, and a right-hand side.

    No direction that they take has a negative curvature, by which it would be noticed.
    """
    D = torch.eye(n).double() + strength * torch.diag(torch.ones(n - 1).double(), 1)
    return D.to(dtype), torch.linspace(1, 0.1, n).double()[:, None].to(dtype)


@pytest.fixture
def unchecked(monkeypatch):
    """Let CG have a matrix that it would refuse: one of which it sees the products alone."""
    monkeypatch.setattr(CG, "hermitian", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("M", [None, Jacobi()], ids=repr)
def test_divergence_is_noticed_and_the_best_is_kept(M, dtype):
    D, b = growing(dtype=dtype)
    seen = []
    solved = computed(CG(M, callback=lambda _, norm: seen.append(norm)), D, b)
    assert solved.result is Result.DIVERGED
    assert "grew instead of falling" in solved.message
    assert int(solved.iterations) < 60
    bound = torch.finfo(dtype).eps ** -0.5
    assert seen[-1] > bound
    assert max(seen[:-1]) <= bound
    least = min(residual(D, X, b) for X in numpy_cg(D, b, len(seen)))
    assert float(solved.residual) == pytest.approx(least, rel=1e-6)
    assert float(solved.residual) < 0.1


@pytest.mark.usefixtures("unchecked")
def test_a_column_that_diverges_is_none_of_the_others_business():
    bad, b = growing()
    good = matrix_for(linear_cg, torch.float64)
    D = torch.block_diag(bad, good)
    B = torch.zeros(len(D), 2).double()
    B[:60, :1], B[60:, 1:] = b, randn(N, 1)
    solved = computed(CG(), D, B)
    assert solved.code.tolist() == [Result.DIVERGED, Result.SOLVED]
    assert_close(solved.value[60:, 1:], numpy_solve(good, B[60:, 1:]))


def test_divergence_in_a_function_is_a_failure_too():
    D, b = growing()
    with pytest.warns(UserWarning, match="did not converge"):
        X, info = linear_cg(D, b, return_info=True)
    assert info.iterations < 60
    assert residual(D, X, b) < 0.1


def test_bicgstab_that_diverges_tries_another_shadow_vector():
    """What grows from one shadow vector may fall from another: the best of all is kept."""
    D = torch.diag(torch.logspace(0, 6, 200).double()) + 1e3 * randn(200, 200)
    solved = computed(BiCGStab(max_iterations=400), D, randn(200, 1))
    assert solved.result.failed
    assert float(solved.residual) <= 1
    # The sweeps of SSOR grow from row to row, and with them the residual of the first pass.
    D = 2 * torch.eye(88).double() + 0.8 * torch.ones(87).double().diag(1)
    D, b = D - 2.8 * torch.ones(87).double().diag(-1), torch.linspace(0, 1, 88).double()[:, None]
    seen = []
    solved = computed(BiCGStab(SSOR(), callback=lambda _, norm: seen.append(norm)), D, b)
    assert max(seen) > torch.finfo(torch.float64).eps ** -0.5
    assert solved.result is Result.SOLVED
    assert_close(solved.value, numpy_solve(D, b), rtol=1e-6, atol=1e-6)


def test_an_iterate_before_negative_curvature_is_kept():
    """It is what a truncated Newton method asks for: nearer in the quadratic model."""
    d = torch.cat([torch.linspace(1, 50, 30), torch.tensor([-1e-3])]).double()
    D, b = torch.diag(d), torch.ones(31, 1).double()
    b[-1] = 1e-2
    solved = computed(CG(), D, b)
    assert solved.result is Result.INDEFINITE
    model = 0.5 * (solved.value.mT @ D @ solved.value) - b.mT @ solved.value
    exact = -0.5 * float((b[:-1, 0] ** 2 / d[:-1]).sum())
    assert float(model) < 0.9 * exact


def test_a_singular_matrix_does_not_lead_astray():
    """Along what A maps to nearly zero the energy falls for ever, and the residual rises."""
    d = torch.cat([torch.linspace(1, 50, 30), torch.tensor([0.0])]).double()
    Q = torch.linalg.qr(randn(31, 31))[0]
    D, b = Q @ torch.diag(d) @ Q.mT, randn(31, 1)
    least = float((Q[:, -1] @ b).abs() / b.norm())
    solved = computed(CG(), (D + D.mT) / 2, b)
    assert solved.result.failed
    assert least <= float(solved.residual) < 4 * least
    assert float(solved.value.norm()) < 100


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_gain_leaves_the_start():
    """Conjugate gradients on a rotation: no iterate is better than none, in any norm."""
    K = randn(N, N)
    D, b = 10 * (K - K.mT) + torch.eye(N).double(), randn(N, 1)
    assert min(residual(D, X, b) for X in numpy_cg(D, b, 30)) > 1
    start = randn(N, 1, seed=9) * 1e-3
    for solver in (CG(max_iterations=30), GMRES(restart=1, max_iterations=2)):
        solved = computed(solver, D, b, start)
        assert residual(D, solved.value, b) <= residual(D, start, b)
