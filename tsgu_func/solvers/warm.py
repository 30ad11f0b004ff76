"""Where the last solves ended, for solvers that ask to start there.

A sequence of systems that change little, as in an optimization, has solutions that change little.
So has the adjoint system of each backward pass.  What is kept belongs to a pattern and goes with
it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.solvers.protocol import same_solver
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["keep", "last"]

_MOST = 8  # solutions of a pattern: of A and its adjoint, for a few shapes
_ends = Store("warm starts", most=64)


class _End:
    """Solutions of a pattern, the last of each kind of system."""

    def __init__(self) -> None:
        self.solutions: list[tuple[Any, tuple[Any, ...], Tensor]] = []

    @property
    def bytes(self) -> int:
        return sum(X.nbytes for _, _, X in self.solutions)

    def find(self, solver: Any, kind: tuple[Any, ...]) -> Tensor | None:
        for known, of, X in self.solutions:
            if of == kind and same_solver(known, solver):
                return X
        return None

    def with_solution(self, solver: Any, kind: tuple[Any, ...], X: Tensor) -> _End:
        """Return these with another, the oldest left out: an `_End` is never changed."""
        end = _End()
        others = [s for s in self.solutions if s[1] != kind or not same_solver(s[0], solver)]
        end.solutions = [*others, (solver, kind, X)][-_MOST:]
        return end


def last(solver: Any, A: StoredMatrix, B: Tensor) -> Tensor | None:
    """Return the last solution with this solver, pattern and shape, if the solver wants it."""
    if not getattr(solver, "warm_start", False):
        return None
    end = _ends.get(id(A.structure))
    return None if end is None else end.find(solver, _kind(A, B))


def keep(solver: Any, A: StoredMatrix, X: Tensor) -> None:
    """Keep a solution for the next time."""
    if not getattr(solver, "warm_start", False) or not bool(X.isfinite().all()):
        return
    end = _ends.get(id(A.structure)) or _End()
    # A copy: what is handed out may be changed in place.
    end = end.with_solution(solver, _kind(A, X), X.clone())
    _ends.keep(id(A.structure), end, A.structure)


def _kind(A: StoredMatrix, X: Tensor) -> tuple[Any, ...]:
    return A.transpose, A.conjugate, X.shape, X.dtype, X.device
