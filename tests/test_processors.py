"""On a busy machine one thread works: when that is noticed, and what it holds for."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.preconditioning import poisson
from tsgu_func import sparse_mm, sparse_solve
from tsgu_func.kernels import openmp, processors, threads


@pytest.fixture
def clock(threads_of_torch, monkeypatch):
    """Give what a thread spends by the clock and on a processor, and who wants one, in numbers."""

    class Clock:
        clock = worked = 0.0
        wanted = 1

        def spend(self, clock, worked):
            self.clock, self.worked = self.clock + clock, self.worked + worked

    told = Clock()
    monkeypatch.setattr(
        processors._Spent, "now", lambda: processors._Spent(told.clock, told.worked)
    )
    monkeypatch.setattr(processors, "_wanted", lambda: told.wanted)
    monkeypatch.setattr(processors, "_BUSY", 0.1)
    monkeypatch.setattr(processors, "_until", 0.0)
    monkeypatch.setattr(processors, "_count_at", 0.0)
    monkeypatch.setattr(processors, "_here", processors._Thread())
    threads_of_torch(2)
    return told


@processors.considerate
def seen(*spent, clock):
    """Return how many threads there are after each time that was spent, and what PyTorch says."""
    told = [threads.workers()]
    for pair in spent:
        clock.spend(*pair)
        processors.look()
        told.append(threads.workers())
        assert openmp.runtime() is None or torch.get_num_threads() == told[-1]
    return told


def test_who_has_the_processor_uses_all_threads(clock):
    assert seen((1.0, 1.0), (1.0, 0.95), clock=clock) == [2, 2, 2]


def test_who_is_kept_waiting_goes_on_alone_and_looks_again(clock):
    # Too short a time tells nothing; what is short adds up.
    assert seen((0.001, 0.0), (0.001, 0.0), (0.003, 0.001), clock=clock) == [2, 2, 2, 1]
    assert torch.get_num_threads() == 2
    assert seen((0.1, 0.1), (0.3, 0.2), (0.2, 0.2), (0.4, 0.4), clock=clock) == [1, 1, 1, 1, 2]
    assert torch.get_num_threads() == 2


def test_where_more_threads_want_processors_than_there_are_one_begins(clock):
    clock.spend(1.0, 1.0)
    clock.wanted = 10_000
    assert seen(clock=clock) == [1]
    clock.wanted = 1
    assert seen((0.1, 0.1), clock=clock) == [1, 2]


def test_deterministic_algorithms_keep_their_threads(clock):
    torch.use_deterministic_algorithms(True)
    try:
        assert seen((1.0, 0.1), clock=clock) == [2, 2]
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_error_leaves_the_number_of_threads_as_it_was(clock):
    @processors.considerate
    def fail():
        clock.spend(1.0, 0.1)
        processors.look()
        assert threads.workers() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == threads.workers() == 2


def test_a_number_that_is_set_meanwhile_stays(clock):
    @processors.considerate
    def work():
        clock.spend(1.0, 0.1)
        processors.look()
        torch.set_num_threads(3)

    work()
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="only Linux counts who is ready")
def test_who_wants_processors_is_counted():
    assert processors._wanted() >= 1


# --------------------------------------------------------------------------- all that is of size

GRAIN = 32_768  # PyTorch shares what has more elements among threads


class Widths(TorchDispatchMode):
    """Notes in how many threads each operation works that has much to do."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # Not what is a view, nor our own, which find out by themselves.
        works = all(x.alias_info is None for x in function._schema.returns)
        works &= function.namespace == "aten" and "with_dims" not in function.__name__
        sizes = [x.numel() for x in (*args, result) if plain(x)]
        if works and any(plain(x) for x in (*args, result)) and max(sizes) > GRAIN:
            self.seen[str(function)] = openmp.runtime().omp_get_max_threads()
        return result


def plain(x):
    return isinstance(x, torch.Tensor) and x.layout == torch.strided


@pytest.mark.skipif(openmp.runtime() is None, reason="PyTorch works in other threads")
@pytest.mark.parametrize("layout", ["csr", "coo", "unsorted coo", "batch"])
@pytest.mark.parametrize("function", [sparse_mm, sparse_solve])
def test_on_a_busy_machine_all_of_a_call_works_in_one_thread(function, layout, clock):
    S = poisson(90)
    A = torch.sparse_csr_tensor(*(torch.from_numpy(x) for x in (S.indptr, S.indices, S.data)))
    if layout == "batch":
        A = torch.sparse_csr_tensor(
            *(torch.stack([x, x]) for x in (A.crow_indices(), A.col_indices(), A.values())),
            (2, *A.shape),
        )
    elif layout != "csr":
        A = A.to_sparse_coo()
        order = torch.arange(A._nnz()).flip(0) if layout == "unsorted coo" else slice(None)
        A = torch.sparse_coo_tensor(A.indices()[:, order], A.values()[order], A.shape)
    A, B = A.requires_grad_(), torch.ones(*A.shape[:-1], 8, dtype=A.dtype, requires_grad=True)
    clock.wanted = 10_000
    with Widths() as widths:
        X = function(A, B)
        torch.autograd.grad(X, (A, B), torch.ones(1).double().expand_as(X))
    assert widths.seen
    wide = {name for name, width in widths.seen.items() if width > 1}
    assert not wide
