"""The one way to measure time: contenders in turn, over and over, in blocks of calls.

A machine whose speed drifts slows all of them alike.  One thread is measured by its CPU time, which
others on the machine do not spend; several by the clock on the wall.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsgu_func import SparseMatrix
from tsgu_func.bench.results import OURS, Comparison

__all__ = ["Contender", "block", "call", "clock", "compare", "in_threads", "in_turn"]

Contender = Callable[[], object]
Key = TypeVar("Key")
Result = TypeVar("Result")
_MUCH = 50  # times of ours
_BLOCK = 5e-3  # seconds that a measurement takes at least: short calls are repeated in it


def clock() -> Callable[[], float]:
    """Return what tells the time: of this process in one thread, of the wall in several."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


@contextlib.contextmanager
def in_threads(number: int) -> Iterator[None]:
    """Have this process, its children, and packages imported from now on use so many threads.

    NumPy's OpenBLAS reads the environment when it is loaded, which was before, and a norm in two
    threads of it can take ten times as long as in one.  MKL follows PyTorch, until it is told a
    number: from then on it would keep to that.
    """
    from threadpoolctl import ThreadpoolController

    flags = f"--xla_cpu_multi_thread_eigen={str(number > 1).lower()}"
    asked = {"OMP_NUM_THREADS": str(number), "MKL_NUM_THREADS": str(number), "XLA_FLAGS": flags}
    before = {name: os.environ.get(name) for name in asked}
    threads = torch.get_num_threads()
    os.environ.update(asked)
    torch.set_num_threads(number)
    try:
        with ThreadpoolController().select(internal_api="openblas").limit(limits=number):
            yield
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def in_turn(
    contenders: Mapping[Key, Callable[[int], Result]], repeats: int
) -> dict[Key, list[Result]]:
    """Ask each contender in turn, over and over, with the number of the turn."""
    taken: dict[Key, list[Result]] = {key: [] for key in contenders}
    for turn in range(repeats):
        for key, contender in contenders.items():
            taken[key].append(contender(turn))
    return taken


def compare(
    case: Mapping[str, str | int],
    ours: Mapping[str, Contender],
    peers: Mapping[str, Contender],
    repeats: int,
) -> Iterator[Comparison]:
    """Measure all in turn, and compare each of ours with all peers.

    A peer that raises is reported with what it says; one of ours that raises ends the run.  One
    that takes much longer than ours is measured once.
    """
    blocks = {(OURS, label): block(contender) for label, contender in ours.items()}
    longest = _MUCH * max(first(0) for first in blocks.values())
    failures: dict[str, dict[str, Any]] = {}
    for name, contender in peers.items():
        try:
            blocks[name, ""] = block(contender, longest)
        except Exception as error:
            text = f"{type(error).__name__}: {error}".partition("\n")[0]
            failures[name] = {"failure": text[:120]}
    taken = in_turn(blocks, repeats)
    others = {name: seconds for (name, _), seconds in taken.items() if name != OURS}
    for label in ours:
        measured = {OURS: taken[OURS, label], **others}
        where = {**case, "by": label} if label else case
        yield Comparison(where, measured, more=failures)


def block(contender: Contender, longest: float = math.inf) -> Callable[[int], float]:
    """Return what measures a call, by a block of as many as take long enough.

    What takes longer than the longest time is not called again: its time is told again.
    """
    now = clock()
    contender()  # compiles, and finds patterns
    number = 1
    while (seconds := _seconds(contender, number, now)) < _BLOCK:
        number *= 2
    if seconds / number > longest:
        return lambda _: seconds / number
    return lambda _: _seconds(contender, number, now) / number


def _seconds(contender: Contender, number: int, now: Callable[[], float]) -> float:
    began = now()
    for _ in range(number):
        contender()
    return now() - began


def call(f: Callable[..., Any], *inputs: SparseMatrix | Tensor, backward: bool) -> Contender:
    """Return the call of f, or that and the gradients of what is floating point among its inputs.

    A sparse result counts by its values.
    """
    if not backward:
        return lambda: _value(f, *inputs)
    own = [_leaf(x) for x in inputs]
    leaves = [x for x in map(_tensor, own) if x.requires_grad]
    cotangent = functools.cache(lambda: torch.randn_like(_tensor(_value(f, *inputs))))
    return lambda: torch.autograd.grad(_tensor(f(*own)), leaves, cotangent())


def _value(f: Callable[..., Any], *inputs: SparseMatrix | Tensor) -> Any:
    with torch.no_grad():
        return f(*inputs)


def _tensor(x: Any) -> Tensor:
    return x.values if isinstance(x, SparseMatrix) else x


def _leaf(x: SparseMatrix | Tensor) -> SparseMatrix | Tensor:
    if isinstance(x, SparseMatrix):
        return x.with_values(x.values.detach().clone().requires_grad_())
    x = x.detach().clone()
    return x.requires_grad_() if x.is_floating_point() else x
