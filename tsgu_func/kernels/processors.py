"""How many threads to use: those that PyTorch was told, or one where the processors are busy.

Threads that share a loop wait for each other, and on a busy machine for one that has lost its
processor to another process: milliseconds each time.  There a sum of two vectors takes ten times as
long in two threads as in one.  So a thread looks, before it begins, whether more threads want
processors than there are, and then it watches itself: if for a tenth of the time it was not on a
processor, the machine is busy.  There it works alone: OpenMP is told so, which holds for the
operations of PyTorch and of MKL, PARDISO's too, and for the loops here.  And then it looks again.

With ``torch.use_deterministic_algorithms(True)`` the number of threads stays what it is: sums that
PyTorch takes in several threads differ from those that it takes in one, by roundings.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import torch

from tsgu_func.kernels import openmp

__all__ = ["considerate", "look", "most_workers", "workers"]

P = ParamSpec("P")
T = TypeVar("T")

# Seconds over which a thread watches itself, and for which it works alone after that.
_WINDOW, _ALONE = 0.004, 0.5
# Seconds between two counts: each is a file that the system makes up, a tenth of a millisecond.
_INTERVAL = 0.05
# Share of that time without a processor from which a machine is busy.
_BUSY = 0.1


class _Spent(NamedTuple):
    """Seconds by the clock, and seconds of a thread on a processor."""

    clock: float = 0.0
    worked: float = 0.0

    @classmethod
    def now(cls) -> _Spent:
        """Return what was spent since some time."""
        return cls(time.perf_counter(), time.thread_time())


class _Thread(threading.local):
    """What a thread knows of itself."""

    watched = False  # it is at work here
    before: tuple[int, int] | None = None  # what `openmp.widen` needs, if it works alone
    begun, spent = _Spent(), _Spent()


_here = _Thread()
# By the clock: until when to work alone, and when to count again who wants processors.
_until = _count_at = 0.0


def workers() -> int:
    """Return the number of threads to use."""
    return 1 if _here.before else torch.get_num_threads()


def most_workers() -> int:
    """Return the number of threads that PyTorch was told, also where one works alone."""
    return _here.before[0] if _here.before else torch.get_num_threads()


def considerate(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function work in one thread while others want the processors."""

    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():  # what is traced does no work yet
            return function(*args, **kwargs)
        if _here.watched:
            look()
            return function(*args, **kwargs)
        _work_together()  # an interrupt may have left it alone
        if torch.get_num_threads() == 1:
            return function(*args, **kwargs)
        try:
            _here.watched, _here.begun = True, _Spent.now()
            _begin(_here.begun.clock)
            return function(*args, **kwargs)
        finally:
            try:
                look()
            finally:
                _here.watched = False
                _work_together()

    return watched


def look() -> None:
    """Look, within a function that is considerate, whether the machine is busy by now."""
    global _until
    if not _here.watched:
        return
    now, (clock, worked), begun = _Spent.now(), _here.spent, _here.begun
    clock, worked = clock + now.clock - begun.clock, worked + now.worked - begun.worked
    if clock > _WINDOW:
        if worked < (1 - _BUSY) * clock:
            _until = now.clock + _ALONE
        _work_as_advised(now.clock)
        clock = worked = 0.0
    _here.spent, _here.begun = _Spent(clock, worked), now


def _begin(clock: float) -> None:
    global _until, _count_at
    if clock >= max(_until, _count_at):
        _count_at = clock + _INTERVAL
        if _wanted() > (os.cpu_count() or 1):
            _until = _count_at  # if that is so all the time, it will be noticed
    _work_as_advised(clock)


def _wanted() -> int:
    """Return how many threads on this machine want a processor; 0 where nobody counts them."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            return int(file.read().split()[3].partition("/")[0])
    except (OSError, IndexError, ValueError):
        return 0


def _work_as_advised(clock: float) -> None:
    if clock < _until and not torch.are_deterministic_algorithms_enabled():
        _work_alone()
    else:
        _work_together()


def _work_alone() -> None:
    if _here.before is None:
        _here.before = openmp.narrow()


def _work_together() -> None:
    if _here.before is not None:
        openmp.widen(_here.before)
        _here.before = None
