"""Factors are kept as long as the values that they belong to, and found again by content.

A backward pass, a second right-hand side, a line search that returns to a point: all ask for a
factor of values seen before.  What they hand over need not be the same tensor (a compiled graph
may compute it anew), so a factor is found by comparing values, O(nnz) and exact: values that were
changed in place simply do not match.  A factor goes when the memory of its values goes, or for the
limit that all that is kept shares.

What a factor leaves behind that may serve other values of its pattern, as a symbolic analysis does,
is kept until somebody takes it.  It goes with the pattern, and is the first to go for the limit.

What a user holds, by what `holding` collects, is his: it is found as long as he holds it, whatever
the limit, and is not counted when it is not kept here.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.protocol import same_solver
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["Held", "holding", "keep_analysis", "prepared", "take_analysis"]

_factors = Store("factors")
_analyses = Store("analyses", rank=0)
_numbers = itertools.count()
_lock = threading.Lock()
_held: weakref.WeakValueDictionary[int, _Factor] = weakref.WeakValueDictionary()
_holder = threading.local()


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


class Held(Protocol):
    """A factor, or a preconditioner, of given values."""

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        ...


@contextmanager
def holding() -> Iterator[list[Held]]:
    """Collect what is prepared in this thread: who keeps the list holds it."""
    before = getattr(_holder, "collected", None)
    _holder.collected = collected = []
    try:
        yield collected
    finally:
        _holder.collected = before


class Prepares(Protocol):
    """A solver, or a preconditioner."""

    def init(self, A: StoredMatrix) -> Any:
        """Prepare a matrix."""
        ...


def prepared(solver: Prepares, A: StoredMatrix) -> Any:
    """Return ``solver.init`` of the stored matrix, kept from before if its values are the same."""
    factor = _found(solver, A) or _made(solver, A)
    if (collected := getattr(_holder, "collected", None)) is not None:
        collected.append(factor)
        _held[id(factor)] = factor
    return factor.state


def _found(solver: Prepares, A: StoredMatrix) -> _Factor | None:
    stored = StoredMatrix(A.structure, A.values)
    for key, factor in reversed(_factors.items()):
        if factor.matches(solver, stored):
            _factors.hits += 1
            _factors.get(key)
            return factor
    for ref in _held.valuerefs():
        if (factor := ref()) is not None and factor.matches(solver, stored):
            _factors.hits += 1
            return factor
    return None


def _made(solver: Prepares, A: StoredMatrix) -> _Factor:
    copy = StoredMatrix(A.structure, A.values.clone())
    state = solver.init(copy)
    source = A.values.data_ptr()
    factor = _Factor(solver, weakref.ref(A.structure), source, copy.values, state)
    _factors.misses += 1
    for key, old in _factors.items():  # of values that were changed in place
        if old.belongs(solver, A) and old.source == source:
            _factors.drop(key)
    # The owner is the storage, not the tensor: a kernel sees a tensor object of its own.
    _factors.keep(next(_numbers), factor, owner=A.values.untyped_storage())
    return factor


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
