"""A pool of threads for compiled loops that release the GIL."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

__all__ = ["run_parts"]


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="tsgu_func")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork, so the child starts anew
    os.register_at_fork(after_in_child=_pool.cache_clear)


def workers() -> int:
    """Return the number of threads to use: the one that PyTorch was told."""
    return torch.get_num_threads()


def run_parts(loop: Callable[[int, int], None], cuts: Sequence[int]) -> None:
    """Run ``loop(first, last)`` between consecutive cuts, at the same time.

    The loops must not depend on each other, nor enter the pool themselves.
    """
    spans = [(int(a), int(b)) for a, b in pairwise(cuts) if b > a]
    if len(spans) <= 1:
        for span in spans:
            loop(*span)
        return
    futures = [_pool(workers()).submit(loop, *span) for span in spans]
    for future in futures:
        future.result()
