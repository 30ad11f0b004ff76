"""ICCG in two threads: they help each other, wait no longer than needed, can be interrupted."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.preconditioning import as_it_is, from_scipy, poisson
from tests.systems import DTYPES, computed, randn
from tsgu_func.kernels import threads
from tsgu_func.kernels.compiled import eisenstat, synchronization
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers import ICCG, cache_info, clear_cache
from tsgu_func.solvers.krylov import iccg, workspace


@pytest.fixture
def two_threads(threads_of_torch, monkeypatch):
    """Use two, however small a matrix is."""
    threads_of_torch(2)
    monkeypatch.setattr(iccg, "_WORTH_A_THREAD", 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "S", [poisson(30), sp.diags_array([2.1, -1, -1], offsets=[0, 1, -1], shape=(900, 900))]
)
def test_two_threads_find_what_one_finds(dtype, S, two_threads):
    n = S.shape[0]
    turn = sp.diags_array(np.exp(1j * np.arange(n)) if dtype.is_complex else np.ones(n))
    A = as_it_is(sp.csr_array(turn @ S @ turn.conj()).astype(str(dtype).split(".")[1]))
    B = randn(n, 1, dtype=dtype)
    two = computed(ICCG(), A, B)
    torch.set_num_threads(1)
    one = computed(ICCG(), A, B)
    assert torch.equal(one.value, two.value)
    assert torch.equal(one.iterations, two.iterations)


def test_a_helper_that_comes_late_or_never_is_not_waited_for(two_threads, monkeypatch):
    A, B = from_scipy(poisson(20)), randn(400, 1)
    expected = computed(ICCG(), A, B)
    for late in (lambda work, helper: (work(), helper()), lambda work, helper: work()):
        monkeypatch.setattr(threads, "run_all", lambda tasks, late=late: late(*tasks))
        assert torch.equal(computed(ICCG(), A, B).value, expected.value)


def test_vectors_are_used_again_and_leave_no_trace():
    spare = workspace._spare
    spare.clear()
    S, B = poisson(12), randn(144, 5)
    A = as_it_is(S)
    state = ICCG().init(A)
    first = ICCG().compute(state, A, B)
    kept = lambda: {id(x.vectors[0].base) for _, x in spare.items()}
    before = kept()
    assert 1 <= len(before) <= threads.workers()
    again = ICCG().compute(state, A, B)
    assert kept() == before
    assert torch.equal(first.value, again.value)
    assert cache_info().kinds["work vectors"].bytes == spare.bytes > 0
    single = StoredMatrix(A.structure, A.values.float())
    for vector in [vector for _, left in spare.items() for vector in left.vectors]:
        vector.fill(np.nan)
    found = computed(ICCG(), single, B.float()).value
    torch.testing.assert_close(found, first.value.float(), rtol=0, atol=1e-3)
    assert torch.equal(ICCG().compute(state, A, B).value, first.value)
    clear_cache()
    assert len(spare) == 0


def test_a_failure_leaves_no_helper_behind(two_threads, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(eisenstat, "iterate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        computed(ICCG(), from_scipy(poisson(20)), randn(400, 1))
    # Even a helper whose work never begins comes back.
    assert synchronization.following(synchronization.words(), 0) < 0


@pytest.mark.parametrize("helpers", [1, 3])
def test_each_half_is_done_once_and_waited_for(helpers):
    words, done = synchronization.words(), np.zeros(501, np.int64)

    def help_out():
        job = synchronization.following(words, 0)
        while job > 0:
            if synchronization.claim(words, job):
                done[job] += 1
                synchronization.finish(words, job)
            job = synchronization.following(words, job)

    def work():
        for _ in range(500):
            job = synchronization.offer(words)
            if synchronization.claim(words, job):
                done[job] += 1
            else:
                synchronization.wait(words, job, 10**9)  # never too late
            assert done[job] == 1
        synchronization.close(words)

    with ThreadPoolExecutor(helpers + 1) as pool:
        for future in [pool.submit(help_out) for _ in range(helpers)] + [pool.submit(work)]:
            future.result()
    assert done.sum() == 500


def test_a_helper_that_is_late_with_its_half_is_asked_no_more():
    words, order = synchronization.words(), []
    job = synchronization.offer(words)
    assert synchronization.claim(words, job)
    assert not synchronization.claim(words, job)

    def finish():
        end = time.monotonic() + 20
        while synchronization.following(words, 0) > 0 and time.monotonic() < end:
            time.sleep(0.001)  # until it is given up
        order.append("given up")
        synchronization.finish(words, job)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(finish)
        synchronization.wait(words, job, 10)
        order.append("done")
    assert order == ["given up", "done"]
    for _ in range(2):
        job = synchronization.offer(words)
        assert job < 0
        assert synchronization.claim(words, job)


def test_the_rest_of_a_solve_without_the_helper_is_the_same(two_threads, monkeypatch):
    A, B = from_scipy(poisson(20)), randn(400, 1)
    expected = computed(ICCG(), A, B)
    shared_state = eisenstat.shared_state

    def given_up():
        state = shared_state()
        synchronization.close(state[0])
        return state

    monkeypatch.setattr(eisenstat, "shared_state", given_up)
    found = computed(ICCG(), A, B)
    assert torch.equal(found.value, expected.value)
    assert torch.equal(found.iterations, expected.iterations)


LONG = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
from tsgu_func import SparseMatrix, sparse_solve
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.solvers import ICCG

torch.set_num_threads(int(sys.argv[1]))
A, few = (SparseMatrix.from_scipy(PROBLEMS["plane"].build(m)) for m in (400, 20))
b = torch.ones(few.shape[0], int(sys.argv[2]), dtype=torch.float64)
expected = sparse_solve(few, b, solver=ICCG())
sent = []

def send():
    time.sleep(2)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

B = torch.randn(A.shape[0], int(sys.argv[2]), dtype=torch.float64)
endless = ICCG(rtol=1e-300, max_iterations=10**9)
threading.Thread(target=send).start()
try:
    sparse_solve(A, B, solver=endless, on_failure="ignore")
    print("not interrupted")
except KeyboardInterrupt:
    print(time.monotonic() - sent[0])
assert torch.equal(sparse_solve(few, b, solver=ICCG()), expected)
assert torch.get_num_threads() == int(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself an interrupt")
@pytest.mark.parametrize(("number", "columns"), [(1, 1), (2, 1), (2, 9)])
def test_a_long_pass_ends_soon_after_an_interrupt(number, columns):
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(number), str(columns)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert float(done.stdout) < 10  # of minutes that the pass would take


@pytest.mark.parametrize("columns", [1, 3])
def test_iterations_do_not_depend_on_how_many_are_made_at_once(columns, monkeypatch, two_threads):
    A, B = from_scipy(poisson(40)), randn(1600, columns)
    found = []
    for stride in (1, 100_000, 1 << 23):
        monkeypatch.setattr(iccg, "_STRIDE", stride)
        found.append(computed(ICCG(), A, B))
    for other in found[1:]:
        assert torch.equal(other.iterations, found[0].iterations)
        assert torch.equal(other.value, found[0].value)
