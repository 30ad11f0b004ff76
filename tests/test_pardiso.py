"""What PARDISO found out about a pattern serves other values of it."""

import gc

import pytest
import torch

from tests.systems import N, matrix_for, numpy_solve, randn, stored
from tsgu_func import SparseMatrix, sparse_solve
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.bench.timing import in_threads
from tsgu_func.kernels import processors
from tsgu_func.kernels.structure import patterns
from tsgu_func.solvers import Pardiso, SolveError, cache_info, cache_limit, clear_cache
from tsgu_func.solvers.direct import pardiso
from tsgu_func.utils import bicgstab, linear_cg


def pypardiso_type():
    return pytest.importorskip("pypardiso").PyPardisoSolver


@pytest.fixture
def phases(limit, monkeypatch):
    """Give the list of phases that PARDISO runs: 12 begins with the analysis, 22 after it."""
    solver_type = pypardiso_type()
    run: list[int] = []
    set_phase = solver_type.set_phase

    def recorded(self, phase):
        run.append(phase)
        set_phase(self, phase)

    monkeypatch.setattr(solver_type, "set_phase", recorded)
    return run


def solve_by_pardiso(A, kind="auto"):
    """Solve and judge; the factor lives as long as the values."""
    b = randn(A.shape[-1], dtype=torch.float64)
    solved = sparse_solve(A, b, solver=Pardiso(kind=kind))
    torch.testing.assert_close(solved, numpy_solve(A.to_dense(), b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["definite", "symmetric", "general"])
def test_values_share_the_analysis_of_their_pattern(phases, kind):
    A = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64))
    for scale in (1.0, 2.0, 3.0):
        solve_by_pardiso(A.with_values(A.values * scale), kind)
    assert [phases.count(phase) for phase in (12, 22)] == [1, 2]
    solve_by_pardiso(SparseMatrix.from_dense(torch.eye(N).double() * 2), kind)
    assert phases.count(12) == 2


def test_living_factors_have_an_analysis_each(phases):
    A = SparseMatrix.from_dense(matrix_for(bicgstab, torch.float64))
    solver, B = Pardiso(), randn(N, 2, dtype=torch.float64)
    matrices = [A.with_values(A.values * scale) for scale in (1.0, -2.0, 3.0)]
    states = [solver.init(stored(M)) for M in matrices]
    for M, state in zip(matrices, states, strict=True):
        X = solver.compute(state, stored(M), B).value
        torch.testing.assert_close(X, numpy_solve(M.to_dense(), B), rtol=1e-9, atol=1e-9)
    assert phases.count(12) == 3
    del state, states  # of three analyses one is put by, and -1 frees the others
    assert phases.count(-1) == 2
    solve_by_pardiso(A)
    assert [phases.count(phase) for phase in (12, 22)] == [3, 1]


def test_values_that_an_analysis_does_not_suit(phases):
    # Large entries on a diagonal, then on another, where the first are zero.
    n = 40
    row = torch.arange(n).repeat(3)
    shift = torch.tensor([0, 7, 19]).repeat_interleave(n)
    A = SparseMatrix.from_coo(row, (row + shift) % n, torch.rand(3 * n).double(), (n, n))
    distance = (A.pattern.col - A.pattern.row).long() % n
    for sizes in ((1.0, 1e-3, 1e-3), (0.0, 1e6, 1e-3), (0.0, 1e-9, 1.0)):
        size = torch.zeros(n).double()
        size[[0, 7, 19]] = torch.tensor(sizes).double()
        solve_by_pardiso(A.with_values((1 + A.values) * size[distance]), "general")
    # The analysis is that of the first; what the others lose by it, refinement gains.
    assert [phase for phase in phases if phase in (12, 22)] == [12, 22, 22]


def test_an_analysis_that_fails_is_made_anew(phases):
    A = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64))
    solve_by_pardiso(A.with_values(3 * A.values), "definite")
    with pytest.raises(SolveError, match="definite"):
        solve_by_pardiso(A.with_values(-A.values), "definite")
    solve_by_pardiso(A.with_values(2 * A.values), "definite")
    assert [phase for phase in phases if phase in (12, 22)] == [12, 22, 12, 12]


def test_fewer_threads_than_at_the_analysis(phases, threads_of_torch):
    # PARDISO crashes if an analysis of more threads is taken.
    A = SparseMatrix.from_scipy(PROBLEMS["plane"].build(60))
    b = randn(A.shape[0], dtype=torch.float64)
    for turn, number in enumerate((2, 1, 2, 1)):
        threads_of_torch(number)
        x = sparse_solve(A.with_values(A.values * (1 + turn)), b, solver=Pardiso())
        torch.testing.assert_close((1 + turn) * (A @ x), b)
    assert [phases.count(phase) for phase in (12, 22)] == [4, 0]


def test_on_a_busy_machine_an_analysis_is_made_anew_only_if_it_stays_so(
    phases, threads_of_torch, monkeypatch
):
    A = SparseMatrix.from_scipy(PROBLEMS["plane"].build(60))
    b = randn(A.shape[0], dtype=torch.float64)
    threads_of_torch(2)
    busy = (0, torch.inf, torch.inf, 0, torch.inf, torch.inf, torch.inf, torch.inf)
    for turn, until in enumerate(busy):
        monkeypatch.setattr(processors, "_until", until)
        x = sparse_solve(A.with_values(A.values * (1 + turn)), b, solver=Pardiso())
        torch.testing.assert_close((1 + turn) * (A @ x), b)
    factored = [phase for phase in phases if phase in (12, 22)]
    assert factored == [12, 22, 22, 22, 22, 22, 12, 22]


def test_one_analysis_works_in_one_number_of_threads(phases, threads_of_torch, monkeypatch):
    # PARDISO crashes where a factor of more threads was solved with, or freed, in fewer.
    numbers: dict[object, set[int]] = {}
    solver_type, threads = pypardiso_type(), pardiso._mkl().MKL_Get_Max_Threads
    set_phase = solver_type.set_phase

    def recorded(self, phase):
        numbers.setdefault(self, set()).add(threads())
        set_phase(self, phase)

    monkeypatch.setattr(solver_type, "set_phase", recorded)
    A = SparseMatrix.from_scipy(PROBLEMS["convection"].build(60))
    b = randn(A.shape[0], dtype=torch.float64)
    for turn in range(4):
        M = A.with_values(A.values * (1 + turn))
        for number in (2, 1, 2):
            threads_of_torch(number)
            x = sparse_solve(M, b, solver=Pardiso())
            torch.testing.assert_close(M @ x, b)
            assert threads() == number  # it is set back
        threads_of_torch(1)  # for the end of the factor
        del M
    assert set(map(len, numbers.values())) == {1}
    assert phases.count(22)


def test_mkl_follows_pytorch_after_a_bench(threads_of_torch):
    pytest.importorskip("threadpoolctl")
    threads = pardiso._mkl().MKL_Get_Max_Threads
    with in_threads(1):
        assert threads() == 1
    for number in (2, 1):
        threads_of_torch(number)
        assert threads() == number


def test_a_limit_holds_for_analyses(phases):
    A = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64))
    solve_by_pardiso(A.with_values(A.values * 2))
    assert cache_info().kinds["factors"].entries == 0
    assert cache_info().kinds["analyses"].bytes > 0
    clear_cache()
    assert cache_info().bytes == 0
    solve_by_pardiso(A.with_values(A.values * 3))
    cache_limit(0)
    assert cache_info().bytes == 0
    solve_by_pardiso(A.with_values(A.values * 4))
    solve_by_pardiso(A.with_values(A.values * 5))
    assert cache_info().bytes == 0
    assert [phases.count(phase) for phase in (12, 22)] == [4, 0]


def test_an_analysis_goes_with_its_pattern(phases):
    A = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64))
    solve_by_pardiso(A.with_values(A.values * 2))
    assert cache_info().bytes > 0
    del A
    patterns.clear()
    gc.collect()
    assert cache_info().bytes == 0


def with_null_vectors(count):
    """Return a symmetric matrix with a null space of that dimension, in integers."""
    line = torch.diag(torch.tensor([1.0, 2, 2, 2, 1])) - torch.diag(torch.ones(4), 1)
    part = line - torch.diag(torch.ones(4), -1)
    regular = torch.eye(3) + 1
    return SparseMatrix.from_dense(torch.block_diag(*[part] * count, regular).double())


@pytest.mark.parametrize("kind", ["auto", "symmetric", "general"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_pivots_that_were_put_for_zeros_are_counted(phases, kind, count):
    A = with_null_vectors(count)
    solver = Pardiso(kind=kind)
    assert solver.init(stored(A)).factor.perturbed == count
    again = solver.init(stored(A.with_values(3 * A.values)))
    assert again.factor.perturbed == count
    assert 22 in phases  # by the analysis before


@pytest.mark.parametrize("kind", ["auto", "definite", "symmetric", "general"])
def test_memory_that_does_not_suffice_is_no_property_of_the_matrix(phases, kind, monkeypatch):
    wrapper = pytest.importorskip("pypardiso").pardiso_wrapper
    A = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64))

    def exhausted(self, matrix):
        raise wrapper.PyPardisoError(-2)

    with monkeypatch.context() as patch:
        patch.setattr(wrapper.PyPardisoSolver, "factorize", exhausted)
        with pytest.raises(MemoryError, match=r"PARDISO found no memory .* CG\(IC0\(\)\)"):
            sparse_solve(A, randn(N, dtype=torch.float64), solver=Pardiso(kind=kind))
    solve_by_pardiso(A, kind)
