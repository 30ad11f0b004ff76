"""How fast this machine is at dense arithmetic, measured once, or given.

What solvers cost is counted in one unit, an entry of a matrix that a product or a sweep goes over.
Factorizations are dense arithmetic for the most part, whose speed relative to that differs from
machine to machine.  So that a choice does not depend on what else the machine is doing, what is
measured is rounded to a power of four, around the machine on which operations were counted.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable

import numpy as np

__all__ = ["dense_speed"]

_SETTING = "TSGU_FUNC_DENSE_SPEED"
# Dense multiplications in the time of one entry, where operations were counted.
_USUAL = 25.0
# A dense product that no library makes in several threads, and a sparse one of as many operations.
_ROWS, _ENTRIES = 64, 50_000
_REPEATS = 15


@functools.cache
def dense_speed() -> float:
    """Return the speed of dense arithmetic relative to sparse, 1 for a usual machine.

    The environment variable ``TSGU_FUNC_DENSE_SPEED`` gives it; without, two products are timed,
    which takes some milliseconds, once for a process.
    """
    if (given := os.environ.get(_SETTING)) is None:
        return rounded(_measured() / _USUAL)
    try:
        speed = float(given)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise ValueError(f"{_SETTING} is a positive number, 1 for a usual machine; got {given!r}")
    return speed


def rounded(speed: float) -> float:
    """Round to a power of four: anything from a half to two is one."""
    return 4.0 ** round(math.log(speed, 4))


def _measured() -> float:
    """Return how many dense multiplications are made in the time of one entry."""
    from scipy.sparse import csr_array

    n = _ENTRIES // 5
    col = (np.arange(n)[:, None] + np.array([0, 1, 2, 100, 200])) % n
    S = csr_array((np.ones(5 * n), col.ravel(), np.arange(0, 5 * n + 1, 5)), shape=(n, n))
    D, x = np.ones((_ROWS, _ROWS)), np.ones(n)
    out = np.empty_like(D)
    dense, sparse = _seconds(lambda: np.matmul(D, D, out=out)), _seconds(lambda: S @ x)
    return (_ROWS**3 / dense) / (S.nnz / sparse)


def _seconds(function: Callable[[], object]) -> float:
    """Return the least of some times: whatever else the machine does can only add to it."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
