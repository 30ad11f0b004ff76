"""Algebraic multigrid: symmetry, transposes, repeatability, and what pyamg says."""

import contextlib
import sys
import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, diags_array, eye_array, kron
from torch.testing import assert_close

from tests.preconditioning import close, dense_inverse, from_scipy, general, poisson
from tests.systems import FLAGS, randn, read_as, stored
from tsgu_func import SparseMatrix
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.preconditioners import AMG
from tsgu_func.solvers.protocol import SolveError

SMOOTHED = AMG("smoothed_aggregation")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("M", [AMG(), AMG(cycle="W"), SMOOTHED], ids=repr)
def test_amg_is_symmetric_positive_definite(M, dtype):
    S = from_scipy(poisson(10))
    state = M.init(StoredMatrix(S.structure, S.values.to(dtype)))
    inverse = dense_inverse(M, state, 100, dtype)
    assert_close(inverse, inverse.mT, **close(dtype))
    assert float(torch.linalg.eigvalsh(inverse).min()) > 0
    assert len(state.hierarchy.solver.levels) > 1


def convection(n):
    upwind = diags_array([-np.ones(n - 1), np.ones(n)], offsets=[-1, 0])
    return csr_array(poisson(n) + 3 * kron(upwind, eye_array(n)))


@pytest.mark.parametrize("M", [AMG(), AMG(cycle="W"), SMOOTHED], ids=repr)
def test_amg_transposes_the_cycle(M):
    S = from_scipy(convection(10))
    state = M.init(S)
    inverse = dense_inverse(M, state, 100)
    assert float((inverse - inverse.mT).abs().max()) > 1e-3
    assert "transposed" not in vars(state.hierarchy)
    assert_close(M.apply(state, torch.eye(100).double(), transpose=True), inverse.mT)
    levels = state.hierarchy.transposed
    M.apply(state, torch.eye(100).double(), transpose=True, conjugate=True)
    assert state.hierarchy.transposed is levels


def test_amg_complex_hierarchy():
    phase = torch.polar(torch.ones(100), torch.linspace(0, 6, 100)).to(torch.complex128)
    P = torch.from_numpy(poisson(10).toarray())
    general = torch.from_numpy(convection(10).toarray())
    for A, symmetric in ((P, True), (general, False)):
        A = phase[:, None] * A * phase.conj()
        state = SMOOTHED.init(stored(SparseMatrix.from_dense(A)))
        assert len(state.hierarchy.solver.levels) > 1
        inverse = dense_inverse(SMOOTHED, state, 100, A.dtype)
        if symmetric:
            assert_close(inverse, inverse.mH)
        for flags in FLAGS:
            M = SMOOTHED.apply(state, torch.eye(100).to(A.dtype), *flags)
            assert_close(M, read_as(inverse, *flags))


def test_ruge_stuben_is_for_real_matrices():
    with pytest.raises(TypeError, match="take AMG\\(method='smoothed_aggregation'\\)"):
        AMG().init(stored(SparseMatrix.from_dense(general(torch.complex128))))


@pytest.mark.parametrize("S", [poisson(30), convection(30)], ids=["symmetric", "general"])
@pytest.mark.parametrize("M", [AMG(), SMOOTHED], ids=repr)
def test_amg_is_repeatable_and_draws_nothing(M, S, monkeypatch):
    A = from_scipy(S)
    state = np.random.get_state()[1:]
    first = M.apply(M.init(A), randn(900, 2, dtype=torch.float64))

    def drawn(*_):
        raise AssertionError("a random number is drawn")

    for name in ("rand", "random", "randint", "permutation", "seed", "set_state"):
        monkeypatch.setattr(np.random, name, drawn)
    assert_close(M.apply(M.init(A), randn(900, 2, dtype=torch.float64)), first, rtol=0, atol=0)
    assert all(np.array_equal(x, y) for x, y in zip(np.random.get_state()[1:], state, strict=True))


@pytest.mark.parametrize("M", [AMG(), SMOOTHED], ids=repr)
def test_what_other_threads_warn_of_while_levels_are_made_stays_a_warning(M, monkeypatch):
    pyamg = pytest.importorskip("pyamg")
    name = f"{M.method}_solver"
    make, seen = getattr(pyamg, name), []

    def made(*args, **settings):
        before = warnings.filters[:], warnings.showwarning
        seen.append((before, make(*args, **settings)))
        assert (warnings.filters, warnings.showwarning) == before
        return seen[-1][1]

    monkeypatch.setattr(pyamg, name, made)
    filters, show = warnings.filters[:], warnings.showwarning
    M.init(from_scipy(poisson(12)))
    assert [before for before, _ in seen] == [(filters, show)]


@pytest.mark.parametrize("M", [AMG(), SMOOTHED], ids=repr)
@pytest.mark.parametrize("scale", [1e-320, 1e307])
def test_levels_that_overflow_are_refused(M, scale):
    with contextlib.suppress(SolveError):  # but for a hierarchy that is sound
        state = M.init(from_scipy(csr_array(poisson(20) * scale)))
        assert all(np.isfinite(level.A.data).all() for level in state.hierarchy.solver.levels)


def test_amg_explains_what_pyamg_cannot_do(monkeypatch):
    import pyamg

    def doubt(S, **settings):
        return np.array([1.0]) / np.array([0.0])

    monkeypatch.setattr(pyamg, "ruge_stuben_solver", doubt)
    with pytest.raises(SolveError, match="divide by zero"):
        AMG().init(from_scipy(poisson(3)))


def test_amg_without_pyamg(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyamg", None)
    with pytest.raises(ImportError, match=r'pip install "tsgu_func\[amg\]"'):
        AMG().init(from_scipy(poisson(3)))
