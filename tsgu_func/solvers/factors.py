"""Factors are kept as long as the values that they belong to, and found again by content.

A backward pass, a second right-hand side, a line search that returns to a point: all ask for a
factor of values seen before.  What they hand over need not be the same tensor (a compiled graph
may compute it anew), so a factor is found by comparing values, O(nnz) and exact: values that were
changed in place simply do not match.  A factor goes when the memory of its values goes, or for the
limit that all that is kept shares.

What a factor leaves behind that may serve other values of its pattern, as a symbolic analysis does,
is kept until somebody takes it.  It goes with the pattern, and is the first to go for the limit.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.protocol import same_solver
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["keep_analysis", "prepared", "take_analysis"]

_factors = Store("factors")
_analyses = Store("analyses", rank=0)
_numbers = itertools.count()
_lock = threading.Lock()


@dataclass(frozen=True)
class _Factor:
    solver: Any
    structure: weakref.ref[Structure]
    source: int  # address of the user's values
    values: Tensor  # a copy of them: the store does not keep the user's memory alive
    state: Any

    @property
    def bytes(self) -> int:
        return self.values.nbytes + getattr(self.state, "bytes", 0)

    def belongs(self, solver: Any, A: StoredMatrix) -> bool:
        return self.structure() is A.structure and same_solver(self.solver, solver)

    def matches(self, solver: Any, A: StoredMatrix) -> bool:
        same = self.belongs(solver, A) and self.values.dtype == A.dtype
        return same and torch.equal(self.values, A.values)


class Prepares(Protocol):
    """A solver, or a preconditioner."""

    def init(self, A: StoredMatrix) -> Any:
        """Prepare a matrix."""
        ...


def prepared(solver: Prepares, A: StoredMatrix) -> Any:
    """Return ``solver.init`` of the stored matrix, kept from before if its values are the same."""
    stored, kept = StoredMatrix(A.structure, A.values), _factors.items()
    for key, factor in reversed(kept):
        if factor.matches(solver, stored):
            _factors.hits += 1
            _factors.get(key)
            return factor.state
    copy = StoredMatrix(A.structure, A.values.clone())
    state = solver.init(copy)
    source = A.values.data_ptr()
    factor = _Factor(solver, weakref.ref(A.structure), source, copy.values, state)
    _factors.misses += 1
    for key, old in kept:  # of values that were changed in place
        if old.belongs(solver, A) and old.source == source:
            _factors.drop(key)
    # The owner is the storage, not the tensor: a kernel sees a tensor object of its own.
    _factors.keep(next(_numbers), factor, owner=A.values.untyped_storage())
    return state


@dataclass(frozen=True)
class _Analysis:
    key: Hashable
    state: Any

    @property
    def bytes(self) -> int:
        return getattr(self.state, "bytes", 0)


def keep_analysis(structure: weakref.ref[Structure], key: Hashable, state: Any) -> None:
    """Keep what may serve other values of a pattern, if that lives, in the place of what was."""
    if (pattern := structure()) is not None:
        _analyses.keep(id(pattern), _Analysis(key, state), owner=pattern)


def take_analysis(structure: Structure, key: Hashable) -> Any:
    """Take what was kept for a pattern under a key, or None: nobody else gets it."""
    with _lock:
        kept = _analyses.get(id(structure))
        if kept is None or kept.key != key:
            return None
        _analyses.drop(id(structure))
        return kept.state
