"""What solvers keep: found at once, sized truly, within one limit, and gone with its owners."""

import gc
import threading
import weakref

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.testing import assert_close

from tests.systems import matrix_for, numpy_solve, randn, stored
from tsgu_func import SparseMatrix, factorize, sparse_mm, sparse_solve
from tsgu_func.solvers import (
    AMG,
    CG,
    DIC,
    IC0,
    ICCG,
    ILU0,
    ILUT,
    SSOR,
    Auto,
    BiCGStab,
    BlockJacobi,
    DenseLU,
    Jacobi,
    SolveError,
    Substitution,
    SuperLU,
    cache,
    cache_info,
    cache_limit,
    choice,
)
from tsgu_func.solvers.protocol import solution
from tsgu_func.utils import bicgstab, linear_cg

pytestmark = pytest.mark.usefixtures("limit")
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
N = 70


def ring(dtype=torch.float64):
    """Return a matrix that the default factors sparsely."""
    i = torch.arange(N)
    row, col = torch.cat([i, i, i]), torch.cat([i, i.roll(1), i.roll(-1)])
    values = torch.cat([torch.full((N,), 3.0), -torch.ones(2 * N)]).to(dtype)
    return SparseMatrix.from_coo(row, col, values, (N, N))


def scaled(A, count):
    """Return a batch of different values."""
    return A.with_values(A.values * torch.linspace(1, 2, count, dtype=torch.float64)[:, None])


# ------------------------------------------------------------------------------------ looking up


class Counting:
    """A solver without a class of ours, that counts what it prepares."""

    def __init__(self):
        self.made = 0

    def init(self, A):
        self.made += 1
        return A

    def compute(self, state, A, B, X0=None):
        D = A.to_csr().to_dense()
        X = torch.linalg.solve(D, B)
        return solution(self, X, torch.linalg.vector_norm(B - D @ X, dim=0))


@pytest.fixture
def compared(monkeypatch):
    """Give the list of what was compared in full."""
    seen, matches = [], cache._Factor.matches

    def counted(self, solver, values):
        seen.append(values.numel())
        return matches(self, solver, values)

    monkeypatch.setattr(cache._Factor, "matches", counted)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("solver", [SuperLU(), None, BiCGStab(ILU0())], ids=repr)
def test_a_batch_is_one_entry_that_is_compared_once(compared, solver):
    A = scaled(ring(), 800)
    B = torch.ones(800, N, 1, dtype=torch.float64)
    first = sparse_solve(A, B, solver=solver)
    assert cache_info()[:2] == (0, 1)
    assert cache_info().kinds["factors"].entries == 1
    assert compared == []
    assert torch.equal(sparse_solve(A, B, solver=solver), first)
    assert cache_info()[:2] == (1, 1)
    assert compared == [A.values.numel()]


def test_looking_up_compares_with_none_of_the_others(compared):
    A = ring()
    kept = [A.with_values(A.values * (1 + i)) for i in range(100)]
    held = [factorize(A.with_values(A.values * (0.1 + i)), SuperLU()) for i in range(20)]
    for M in kept:
        sparse_solve(M, torch.ones(N).double(), solver=SuperLU())
    assert compared == []
    for M in (*kept, *held):
        M = getattr(M, "matrix", M)
        sparse_solve(M, torch.ones(N).double(), solver=SuperLU())
    assert len(compared) == 120
    assert cache_info().hits == 120


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_digest_tells_values_apart(dtype):
    x = torch.zeros(11, dtype=dtype)
    x[[2, 5]] = 1
    swapped, once = x.clone(), x.clone()
    swapped[[2, 3]] = swapped[[3, 2]]
    once[10] = torch.finfo(dtype).tiny
    digests = {cache._digest(y) for y in (x, swapped, once, x[:10], 2 * x, x.flip(0))}
    assert len(digests) == 6
    assert cache._digest(x[::2].contiguous()) == cache._digest(x[::2])
    if dtype.is_complex:
        assert cache._digest((x * 1j).conj()) != cache._digest(x * 1j)


def test_what_a_digest_takes_for_equal_is_compared(monkeypatch):
    monkeypatch.setattr(cache, "_digest", lambda values: 0)
    A, held = ring(), []  # whose factors are kept as long as they are
    for scale in (1.0, 2.0, 1.0):
        held.append(A * scale)
        x = sparse_solve(held[-1], torch.ones(N).double(), solver=SuperLU())
        assert_close(x, torch.full((N,), 1 / scale).double())


# --------------------------------------------------------------------------------------- sizes


def arrays(x, depth=6, seen=None):
    """Return the bytes of all arrays that can be reached, but those of patterns and matrices."""
    seen = {} if seen is None else seen
    if id(x) in seen or depth < 0:
        return 0
    seen[id(x)] = x
    if isinstance(x, torch.Tensor | np.ndarray):
        return x.nbytes
    if type(x).__name__ in ("StoredMatrix", "Structure", "TwistedRows", "UpperRows", "Halves"):
        return 0
    if type(x).__name__ == "SuperLU":
        parts = [y for t in (x.L, x.U) for y in (t.data, t.indices, t.indptr)]
        return arrays([*parts, x.perm_r, x.perm_c], depth, seen)
    inside = x if isinstance(x, list | tuple) else getattr(x, "__dict__", {}).values()
    return sum(arrays(part, depth - 1, seen) for part in list(inside))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "solver",
    [SuperLU(), DenseLU(), IC0(), DIC(), ILU0(), ILUT(), SSOR(), Jacobi(), BlockJacobi(size=7),
     AMG(method="smoothed_aggregation")],
    ids=repr,
)  # fmt: skip
def test_sizes_are_those_of_the_arrays(solver, dtype):
    D = matrix_for(linear_cg, dtype, 150)
    if isinstance(solver, AMG):
        line = sp.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(150, 150)).toarray()
        D = torch.from_numpy(line).to(dtype)
    state = solver.init(stored(SparseMatrix.from_dense(D)))
    real = arrays(getattr(state, "factor", state))
    assert 0.8 * real <= state.bytes <= 1.25 * real


def test_a_size_of_a_state_that_says_none_is_that_of_what_it_is_seen_to_hold():
    class Diagonal(Counting):
        def init(self, A):
            return {"A": A, "large": [torch.zeros(1000, dtype=torch.float64)]}

        def compute(self, state, A, B, X0=None):
            return super().compute(state, state["A"], B)

    A = ring()
    sparse_solve(A, torch.ones(N).double(), solver=Diagonal())
    assert cache_info().kinds["factors"].entries == 0  # the solver has gone
    solver = Diagonal()
    sparse_solve(A, torch.ones(N).double(), solver=solver)
    assert cache_info().kinds["factors"].bytes == A.values.nbytes + 8000


# --------------------------------------------------------------------------------------- the limit


def total(states):
    return sum(arrays(state) for state in states)


@pytest.mark.parametrize("solver", [None, SuperLU()], ids=repr)
def test_the_default_keeps_to_the_limit(solver):
    A, kept = ring(), []
    b = torch.ones(N, dtype=torch.float64)
    cache_limit(60_000)
    for i in range(40):
        kept.append(A.with_values(A.values * (1 + i)))
        sparse_solve(kept[-1], b, solver=solver)
        held = [factor for _, factor in cache._factors.items()]
        assert 0 < cache_info().bytes <= 60_000
        each = [max(arrays(s) for s in states_of(factor.state)) for factor in held]
        assert sum(each) <= 1.25 * 60_000
    assert 1 < len(held) < 40


def states_of(state):
    """Return the states of direct solvers in that of any."""
    if isinstance(state, tuple):
        return [s for work in state for s in work._states.values()]
    return [state.factor]


def test_a_batch_of_the_default_is_one_size_and_too_large_for_the_limit():
    A = scaled(ring(), 100)
    cache_limit(200_000)
    sparse_solve(A, torch.ones(100, N, 1).double())
    assert cache_info().kinds["factors"] == (0, 0)
    cache_limit(10_000_000)
    sparse_solve(A, torch.ones(100, N, 1).double())
    assert cache_info().kinds["factors"].entries == 1
    assert cache_info().bytes > 200_000


def test_what_grows_while_it_is_used_is_measured_again():
    A = ring()
    F = factorize(A, SuperLU())
    before = cache_info().kinds["factors"].bytes
    assert F.logabsdet > 0  # SciPy keeps copies of the triangles
    assert cache._factors.bytes > 1.5 * before
    assert cache_info().kinds["factors"].bytes == cache._factors.bytes
    cache_limit(cache._factors.bytes - 1)
    assert cache_info().kinds["factors"].entries == 0


@pytest.mark.slow
def test_warm_starts_work_vectors_and_patterns_count():
    A = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64, 80))
    b = randn(80, dtype=torch.float64)
    sparse_solve(A, b, solver=ICCG(warm_start=True))
    kinds = cache_info().kinds
    assert kinds["warm starts"].bytes == b.nbytes
    assert kinds["work vectors"].bytes >= 3 * b.nbytes
    before = kinds["patterns"].bytes
    sparse_solve(A.T, b, solver=BiCGStab())
    assert cache_info().kinds["patterns"].bytes > before  # the transpose was made
    cache_limit(0)
    assert cache_info().bytes == 0


@pytest.mark.slow
def test_a_factor_that_is_seen_to_grow_is_not_counted_twice():
    A = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64, 80))
    sparse_solve(A, randn(80, dtype=torch.float64), solver=CG(IC0()))
    sparse_solve(A, randn(80, dtype=torch.float64), solver=CG(IC0(), rtol=1e-3))
    assert cache_info().kinds["factors"].entries == 1


# --------------------------------------------------------------------------------- owners and ends


def test_in_place_updates_leave_one_entry_and_no_objects():
    A = ring()
    values, b = A.values.clone(), torch.ones(N, dtype=torch.float64)

    def steps(count, solver=None):
        for _ in range(count):
            values.mul_(1.001)
            sparse_solve(A.with_values(values), b, solver=solver)
        gc.collect()
        return len(gc.get_objects())

    before, finalizers = steps(10), len(weakref.finalize._registry)
    # What was there before may go meanwhile.
    assert steps(300) - before < 100
    assert len(weakref.finalize._registry) <= finalizers
    assert cache_info().kinds["factors"].entries == 1


def test_objects_of_a_users_class_end_with_what_they_made():
    A, b, ended = ring(), torch.ones(N, dtype=torch.float64), []
    for _ in range(20):
        solver = Counting()
        weakref.finalize(solver, ended.append, 1)
        for _ in range(2):
            sparse_solve(A, b, solver=solver)
        assert solver.made == 1
    del solver
    gc.collect()
    assert len(ended) == 20
    assert cache_info().kinds["factors"].entries == 0


def layouts():
    D = ring().to_dense()
    plain = {"csr": D.to_sparse_csr(), "coo": D.to_sparse_coo(), "batch": D.to_sparse_csr()}
    i, j = D.nonzero().T
    twice = torch.stack([torch.cat([i, i]), torch.cat([j, j])])
    plain["uncoalesced"] = torch.sparse_coo_tensor(
        twice, torch.cat([D[i, j] / 2] * 2), D.shape, check_invariants=True
    )
    plain["batched csr"] = torch.stack([D, 2 * D]).to_sparse_csr()
    plain["batched coo"] = torch.stack([D, 2 * D]).to_sparse_coo()
    return plain


@pytest.mark.parametrize("solver", [None, SuperLU(), CG(IC0()), BiCGStab(ILU0())], ids=repr)
@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("layout", layouts())
def test_a_torch_tensor_finds_its_factor_in_a_time_loop(layout, differentiated, solver):
    A = layouts()[layout].requires_grad_(differentiated)
    u = torch.ones(*A.shape[:-1], 1, dtype=torch.float64)
    for _ in range(5):
        u = sparse_solve(A, u.detach(), solver=solver)
    assert cache_info()[:2] == (4, 1)
    assert cache_info().kinds["factors"].entries == 1
    expected = torch.ones_like(u)
    D = A.detach().to_dense()
    for _ in range(5):
        expected = torch.linalg.solve(D, expected)
    assert_close(u.detach(), expected, rtol=1e-6, atol=1e-6)
    del A
    u = None
    gc.collect()
    assert cache_info().kinds["factors"].entries == 0


def test_a_torch_tensor_that_is_changed_in_place_is_factored_anew():
    A = ring().to_dense().to_sparse_csr()
    b = torch.ones(N, dtype=torch.float64)
    first = sparse_solve(A, b)
    A.values().mul_(2)
    assert_close(sparse_solve(A, b), first / 2)
    assert cache_info()[:2] == (0, 2)
    assert cache_info().kinds["factors"].entries == 1


def test_a_matrix_made_of_a_torch_tensor_outlives_it():
    C = ring().to_dense().to_sparse_csr()
    A = SparseMatrix.from_torch(C)
    b = torch.ones(N, dtype=torch.float64)
    sparse_solve(A, b)
    sparse_mm(C, b[:, None])
    del C
    sparse_solve(A, b)
    assert cache_info()[:2] == (1, 1)


# --------------------------------------------------------------------------------------- threads


def in_threads(count, work):
    failed, barrier = [], threading.Barrier(count)

    def run(number):
        barrier.wait()
        try:
            work(number)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_of_threads_that_want_one_factor_one_makes_it():
    A, solver = ring(), Counting()
    slow, init = threading.Event(), solver.init

    def waiting(A):
        slow.wait(0.05)
        return init(A)

    solver.init = waiting
    in_threads(4, lambda _: sparse_solve(A, torch.ones(N).double(), solver=solver))
    assert solver.made == 1
    assert cache_info()[:2] == (3, 1)


def test_the_default_serves_threads_while_a_solver_fails(monkeypatch):
    monkeypatch.setattr(choice, "_LONG", 0.0)
    monkeypatch.setattr(choice, "_PATIENCE", 1)
    monkeypatch.setattr(choice, "_SMALL", 10)
    D = matrix_for(bicgstab, torch.float64, N)
    A, B = SparseMatrix.from_dense(D), randn(N, 8, dtype=torch.float64)
    X = numpy_solve(D, B)

    def work(number):
        for _ in range(3):
            assert_close(sparse_solve(A, B[:, number]), X[:, number], rtol=1e-7, atol=1e-7)

    in_threads(8, work)
    assert cache_info().misses == 1


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "solver", [None, SuperLU(), CG(IC0()), BiCGStab(Jacobi()), Auto()], ids=repr
)
def test_errors_out_of_a_batch_name_the_member(solver):
    A = ring()
    values = torch.stack([A.values] * 4)
    either = (A.pattern.row == 1) | (A.pattern.col == 1)
    values[2] = torch.where(either, 0, values[2])
    with pytest.raises(SolveError, match=r"member 2 of the batch.* row 1"):
        sparse_solve(A.with_values(values), torch.ones(N).double(), solver=solver)


@pytest.mark.parametrize("solver", [None, DenseLU(), Substitution()], ids=repr)
def test_errors_out_of_a_batch_that_is_solved_whole_name_the_member(solver):
    values = torch.ones(4, 3)
    values[2, 1] = 0
    with pytest.raises(SolveError, match=r"member 2 of the batch.* row 1"):
        sparse_solve(SparseMatrix.eye(3).with_values(values), torch.ones(3), solver=solver)


def test_a_single_number_may_have_any_stride():
    A = SparseMatrix.from_dense(torch.eye(1, dtype=torch.complex128))
    values = torch.full((3, 2), 2 + 1j, dtype=torch.complex128)[:1, 0].as_strided((1,), (2,))
    x = sparse_solve(A.with_values(values), torch.ones(1, dtype=torch.complex128))
    assert_close(x * values, torch.ones(1, dtype=torch.complex128))
