"""Threads for compiled loops that release the GIL: those in which PyTorch's operations run.

Threads of OpenMP stay awake for milliseconds after each parallel operation, on the look-out for the
next, and threads of our own would have to share processors with them.  So where the runtime is that
of GNU, loops are parallel regions of it; elsewhere, and after a fork, which no region survives,
they run in a pool.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch

__all__ = ["run_all", "run_parts", "workers"]

Task = Callable[[], object]
_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()  # threads do not survive a fork


def workers() -> int:
    """Return the number of threads to use: the one that PyTorch was told."""
    return torch.get_num_threads()


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
    elif os.getpid() == _PROCESS and (region := _region()) is not None:
        _run_in_region(region, tasks)
    else:
        pool = _pool(workers(), os.getpid())
        futures = [pool.submit(task) for task in tasks]
        for future in futures:
            future.result()


def _run_in_region(region: Callable[..., None], tasks: Sequence[Task]) -> None:
    left, failed = deque(tasks), []  # popped from by all members: that is safe without a GIL too

    def member(_: int | None) -> None:
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

    region(_Region(member), None, len(tasks), 0)
    if failed:
        raise failed[0]


@functools.cache
def _region() -> Callable[..., None] | None:
    """Return what runs a function in several threads of the OpenMP runtime of GNU, if loaded."""
    bundled = Path(torch.__file__).parent.glob("lib/libgomp*.so*")
    for name in (*map(str, bundled), "libgomp.so.1"):
        try:
            run = ctypes.CDLL(name, mode=os.RTLD_NOW | os.RTLD_NOLOAD).GOMP_parallel
        except (OSError, AttributeError):  # not loaded, or no such system
            continue
        run.argtypes = [_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        run.restype = None
        return run
    return None


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="tsgu_func")
