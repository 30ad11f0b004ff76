"""The OpenMP runtime of GNU, if PyTorch runs in it: its regions, and how many threads they have.

MKL, where it is built into PyTorch, goes by that number until it has been told one of its own, as
``torch.set_num_threads`` does.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tsgu_func.kernels import mkl

__all__ = ["narrow", "run_in_region", "runtime", "widen"]

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def runtime() -> Any:
    """Return the runtime if it is loaded, else None."""
    bundled = Path(torch.__file__).parent.glob("lib/libgomp*.so*")
    for name in (*map(str, bundled), "libgomp.so.1"):
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
            library.GOMP_parallel_start.argtypes = [_Body, ctypes.c_void_p, ctypes.c_uint]
            library.GOMP_parallel_end.argtypes = []
            library.omp_set_num_threads.argtypes = [ctypes.c_int]
        except (OSError, AttributeError):  # not loaded, or no such system
            continue
        return library
    return None


def narrow() -> tuple[int, int]:
    """Have operations use one thread that are called from this one; return what `widen` needs."""
    before = 0, 0
    if (library := runtime()) is not None:
        before = library.omp_get_max_threads(), _told_to_mkl(1)
        library.omp_set_num_threads(1)
    return before


def widen(before: tuple[int, int]) -> None:
    """Have operations use as many threads as before, unless another number was set meanwhile."""
    library = runtime()
    if library is not None and library.omp_get_max_threads() == 1:
        threads, own = before
        library.omp_set_num_threads(threads)
        _told_to_mkl(own)


def _told_to_mkl(number: int) -> int:
    """Tell the MKL in PyTorch a number of its own, 0 for none; return the one before."""
    library = mkl.library()
    return 0 if library is None else library.MKL_Set_Num_Threads_Local(number)


def run_in_region(library: Any, work: Callable[[], None], threads: int) -> None:
    """Run `work` in the calling thread and in others, as many as there are, until all are done.

    The runtime calls it in the others alone: in a function that the runtime calls, what a signal
    handler raises would be lost.
    """
    body, level = _Body(lambda _: work()), library.omp_get_level()

    def end() -> None:
        # Not by a flag, which an interrupt right after the start would leave unset.
        if library.omp_get_level() > level:
            library.GOMP_parallel_end()

    try:
        try:
            library.GOMP_parallel_start(body, None, threads)
            work()
        finally:
            end()
    finally:
        end()  # where the interrupt came in between
