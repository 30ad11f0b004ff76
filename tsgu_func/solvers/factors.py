"""Factors are kept as long as the values that they belong to, and found again by content.

A backward pass, a second right-hand side, a line search that returns to a point: all ask for a
factor of values seen before.  What they hand over need not be the same tensor (a compiled graph
may compute it anew), so a factor is found by comparing values, O(nnz) and exact: values that were
changed in place simply do not match.  A factor goes when the memory of its values goes, or when
the store exceeds its limit, oldest first.  One that exceeds the limit by itself is not kept: it
would push out all others, and be factored again for each solve, which is what was asked for.

What a factor leaves behind that may serve other values of its pattern, such as a symbolic analysis,
can be put by until somebody takes it.  It goes with the pattern, and is the first to go for the
limit.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.stored import StoredMatrix

__all__ = [
    "CacheInfo",
    "cache_info",
    "cache_limit",
    "clear_cache",
    "prepared",
    "put_by",
    "spare",
]


class CacheInfo(NamedTuple):
    """What the store of factors holds and has done.

    Attributes
    ----------
    hits, misses : int
        How often a factor was found, and how often it had to be made.
    entries, bytes : int
        How many there are, and their size, with what is put by for other values.
    limit : int
        Bytes that they may take.
    """

    hits: int
    misses: int
    entries: int
    bytes: int
    limit: int


@dataclass(frozen=True)
class _Entry:
    solver: Any
    structure: weakref.ref[Any]
    source: int  # address of the user's values
    values: Tensor  # a copy of them: the store does not keep the user's memory alive
    state: Any

    @property
    def bytes(self) -> int:
        return self.values.nbytes + getattr(self.state, "bytes", 0)

    def matches(self, solver: Any, A: StoredMatrix) -> bool:
        same = self.belongs(solver, A) and self.values.dtype == A.dtype
        return same and torch.equal(self.values, A.values)

    def belongs(self, solver: Any, A: StoredMatrix) -> bool:
        return self.solver == solver and self.structure() is A.structure


class Prepares(Protocol):
    """A solver, or a preconditioner."""

    def init(self, A: StoredMatrix) -> Any:
        """Prepare a matrix."""
        ...


_entries: OrderedDict[int, _Entry] = OrderedDict()
_spares: weakref.WeakKeyDictionary[Structure, tuple[Hashable, Any]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()
_counts = {"hits": 0, "misses": 0, "key": 0}
_limit = 2**31  # bytes


def prepared(solver: Prepares, A: StoredMatrix) -> Any:
    """Return ``solver.init`` of the stored matrix, kept from before if its values are the same."""
    stored = StoredMatrix(A.structure, A.values)
    with _lock:
        candidates = list(_entries.items())
    for key, entry in reversed(candidates):
        if entry.matches(solver, stored):
            with _lock:
                _counts["hits"] += 1
                if key in _entries:
                    _entries.move_to_end(key)
            return entry.state
    copy = StoredMatrix(A.structure, A.values.clone())
    state = solver.init(copy)
    source = A.values.data_ptr()
    entry = _Entry(solver, weakref.ref(A.structure), source, copy.values, state)
    stale = [k for k, e in candidates if e.belongs(solver, A) and e.source == source]
    _keep(A.values, entry, stale)
    return state


def _keep(values: Tensor, entry: _Entry, stale: list[int]) -> None:
    """Store an entry in the place of those whose values were changed in place."""
    with _lock:
        _counts["misses"] += 1
        _counts["key"] += 1
        key = _counts["key"]
        for old in stale:
            _entries.pop(old, None)
        if entry.bytes > _limit:
            return
        _entries[key] = entry
        _shrink()
    # The storage, not the tensor: a kernel sees a tensor object of its own.
    weakref.finalize(values.untyped_storage(), _entries.pop, key, None).atexit = False


def put_by(structure: weakref.ref[Structure], key: Hashable, state: Any) -> None:
    """Leave what may serve other values of a pattern, if that lives, in the place of what was."""
    if (pattern := structure()) is not None:
        with _lock:
            _spares.pop(pattern, None)
            _spares[pattern] = key, state
            _shrink_spares()


def spare(structure: Structure, key: Hashable) -> Any:
    """Take what was put by for a pattern under a key, or None: nobody else gets it."""
    with _lock:
        kept, state = _spares.get(structure, (None, None))
        if kept != key:
            return None
        del _spares[structure]
        return state


def _size() -> int:
    # Over copies: a finalizer may remove an entry at any time.
    states = [state for _, state in list(_spares.values())]
    return sum(getattr(kept, "bytes", 0) for kept in [*_entries.values(), *states])


def _shrink() -> None:
    _shrink_spares()
    while len(_entries) and _size() > _limit:
        _entries.popitem(last=False)  # what it leaves is put by, or goes as well


def _shrink_spares() -> None:
    for pattern in list(_spares):
        if _size() <= _limit:
            return
        _spares.pop(pattern, None)


def cache_info() -> CacheInfo:
    """Return how many factors are kept, their size in bytes, and how often one was found."""
    with _lock:
        return CacheInfo(_counts["hits"], _counts["misses"], len(_entries), _size(), _limit)


def cache_limit(limit: int | None = None) -> int:
    """Return how many bytes factors may take; with an argument, set it first.

    Beyond it the oldest go.  0 keeps none: each solve factors anew.

    Examples
    --------
    >>> from tsgu_func.solvers import cache_limit
    >>> before = cache_limit()
    >>> cache_limit(10**9)
    1000000000
    >>> cache_limit(before) == before
    True
    """
    global _limit
    if limit is not None:
        if not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit is a number of bytes, 0 or more; got {limit!r}")
        with _lock:
            _limit = limit
            _shrink()
    return _limit


def clear_cache() -> None:
    """Forget all factors, what they left to others, and the counts of `cache_info`."""
    with _lock:
        while len(_entries):
            _entries.popitem()  # one by one: it may put something by
        _spares.clear()
        _counts.update(hits=0, misses=0)
