"""Threads for compiled loops that release the GIL: those in which PyTorch's operations run.

Threads of OpenMP stay awake for milliseconds after each parallel operation, on the look-out for the
next, and threads of our own would have to share processors with them.  So where the runtime is that
of GNU, loops are parallel regions of it; elsewhere, and after a fork, which no region survives,
they run in a pool.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from tsgu_func.kernels import openmp
from tsgu_func.kernels.processors import workers

__all__ = ["run_all", "run_parts", "workers"]

Task = Callable[[], object]
_PROCESS = os.getpid()  # threads do not survive a fork


def run_parts(loop: Callable[[int, int], None], cuts: Sequence[int]) -> None:
    """Run ``loop(first, last)`` between consecutive cuts, at the same time."""
    spans = [(int(a), int(b)) for a, b in pairwise(cuts) if b > a]
    run_all([functools.partial(loop, *span) for span in spans])


def run_all(tasks: Sequence[Task]) -> None:
    """Run tasks, at the same time as far as there are threads.

    They start in order, maybe one after the other: none may wait for one behind it, nor run others
    itself.
    """
    if len(tasks) <= 1:
        for task in tasks:
            task()
    elif os.getpid() == _PROCESS and (library := openmp.runtime()) is not None:
        _run_in_region(library, tasks)
    else:
        pool = _pool(workers(), os.getpid())
        futures = [pool.submit(task) for task in tasks]
        for future in futures:
            future.result()


def _run_in_region(library: Any, tasks: Sequence[Task]) -> None:
    left, failed = deque(tasks), []  # popped from by all members: that is safe without a GIL too

    def work() -> None:
        """Do tasks until none is left: a region may have fewer threads than asked for."""
        try:
            while True:
                try:
                    task = left.popleft()
                except IndexError:
                    return
                task()
        except BaseException as error:
            failed.append(error)
            left.clear()

    openmp.run_in_region(library, work, len(tasks))
    if failed:
        raise failed[0]


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="tsgu_func")
