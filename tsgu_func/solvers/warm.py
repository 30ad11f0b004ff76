"""Where the last solves ended, for solvers that ask to start there.

A sequence of systems that change little, as in an optimization, has solutions that change little.
So has the adjoint system of each backward pass.  What is kept belongs to a pattern and goes with
it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Any

from torch import Tensor

from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["keep", "last"]

_SHAPES = 8  # solutions of a pattern at most: of A and its adjoint, for a few shapes
_ends: weakref.WeakKeyDictionary[Structure, OrderedDict[Any, Tensor]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def last(solver: Any, A: StoredMatrix, B: Tensor) -> Tensor | None:
    """Return the last solution with this solver, pattern and shape, if the solver wants it."""
    if not getattr(solver, "warm_start", False):
        return None
    with _lock:
        return _ends.get(A.structure, {}).get(_key(solver, A, B))


def keep(solver: Any, A: StoredMatrix, X: Tensor) -> None:
    """Keep a solution for the next time."""
    if not getattr(solver, "warm_start", False) or not bool(X.isfinite().all()):
        return
    with _lock:
        ends = _ends.setdefault(A.structure, OrderedDict())
        key = _key(solver, A, X)
        ends[key] = X.clone()  # what is handed out may be changed in place
        ends.move_to_end(key)
        while len(ends) > _SHAPES:
            ends.popitem(last=False)


def _key(solver: Any, A: StoredMatrix, X: Tensor) -> tuple[Any, ...]:
    return solver, A.transpose, A.conjugate, X.shape, X.dtype, X.device
