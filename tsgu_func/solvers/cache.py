"""What solves leave for others: factors, analyses of patterns, and where they ended.

Factors are kept as long as the values that they belong to, and found again by content.

A backward pass, a second right-hand side, a line search that returns to a point: all ask for a
factor of values seen before.  What they hand over need not be the same tensor (a compiled graph
may compute it anew), so a factor is looked up by a digest of the values, and what is found is
compared with them, O(nnz) and exact: values that were changed in place simply do not match.  A
batch is one entry.  A factor goes when the memory of its values goes, or its solver, or for the
limit that all that is kept shares.

What a factor leaves behind that may serve other values of its pattern, as a symbolic analysis does,
is kept until somebody takes it.  It goes with the pattern, and is the first to go for the limit.

What a user holds, by what `holding` collects, is his: it is found as long as he holds it, whatever
the limit, and is not counted when it is not kept here.

A solver that has others work for it keeps what these prepare as `Parts` of its own state.

Where a solve ended is kept for solvers that ask to start there.  A sequence of systems that change
little, as in an optimization, has solutions that change little.  So has the adjoint system of each
backward pass.  An end belongs to a pattern and goes with it.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tsgu_func.cache import Store, original_of
from tsgu_func.kernels import compiled
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.members import named
from tsgu_func.solvers.protocol import same_solver

__all__ = [
    "Held",
    "Parts",
    "holding",
    "keep_analysis",
    "keep_end",
    "last_end",
    "prepared",
    "prepared_each",
    "resizing",
    "take_analysis",
]

_factors = Store("factors")
_analyses = Store("analyses", rank=0)
_lock = threading.Lock()
# Factors that users hold, by their keys; and the last one for each place in memory.
_held: weakref.WeakValueDictionary[Hashable, _Factor] = weakref.WeakValueDictionary()
_at: weakref.WeakValueDictionary[Hashable, _Factor] = weakref.WeakValueDictionary()
# A lock for each factor that is looked for: of two threads that want one, one makes it.
_locks: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()


class _OfThread(threading.local):
    """What is collected in a thread, and by whom: the innermost is the last."""

    def __init__(self) -> None:
        self.collectors: list[list[_Factor]] = []
        self.parts: Parts | None = None


_of_thread = _OfThread()


class Prepares(Protocol):
    """A solver, or a preconditioner."""

    def init(self, A: StoredMatrix) -> Any:
        """Prepare a matrix."""
        ...


class Held(Protocol):
    """A factor, or a preconditioner, of given values."""

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        ...


@dataclass(frozen=True, eq=False)
class _Factor:
    key: Hashable
    solver: Callable[[], Any]
    values: Tensor  # a copy: the store does not keep the user's memory alive
    state: Any

    @property
    def bytes(self) -> int:
        return self.values.nbytes + _size(self.state, self.values)

    def matches(self, solver: Any, values: Tensor) -> bool:
        """Compare in full: a digest, or what names an object, may be met twice."""
        return same_solver(self.solver(), solver) and torch.equal(self.values, values)


# ------------------------------------------------------------------------------------ collecting


@contextmanager
def holding() -> Iterator[list[Held]]:
    """Collect what is prepared in this thread: who keeps the list holds it."""
    collected: list[Any] = []
    with _collecting(collected):
        yield collected
    for factor in collected:
        _held[factor.key] = factor


@contextmanager
def resizing() -> Iterator[None]:
    """Measure what is prepared in this thread once more at the end: use makes some states grow."""
    used: list[_Factor] = []
    try:
        with _collecting(used):
            yield
    finally:
        for factor in used:
            _factors.measure(factor.key)


@contextmanager
def _collecting(collector: list[_Factor]) -> Iterator[None]:
    _of_thread.collectors.append(collector)
    try:
        yield
    finally:
        _of_thread.collectors.pop()


# ------------------------------------------------------------------------------------- preparing


def prepared(solver: Prepares, A: StoredMatrix) -> Any:
    """Return ``solver.init`` of the stored matrix, kept from before if its values are the same."""
    return _prepared(solver, A, solver.init)


def prepared_each(solver: Prepares, A: StoredMatrix) -> tuple[Any, ...]:
    """Return what `prepared` does for a matrix, or for each member of a batch, kept as one."""
    if A.values.ndim == 1:
        return (prepared(solver, A),)

    def init(A: StoredMatrix) -> tuple[Any, ...]:
        return tuple(named(i, solver.init, member) for i, member in enumerate(A.members()))

    return _prepared(solver, A, init)


def _prepared(solver: Prepares, A: StoredMatrix, init: Callable[[StoredMatrix], Any]) -> Any:
    if (parts := _of_thread.parts) is not None:
        return parts.state(solver, A, init)
    named_as = _name(solver), A.structure.serial, A.dtype, A.values.device, tuple(A.values.shape)
    place = *named_as, *_place(A.values)
    factor = _found_at(place, solver, A.values)
    if factor is None:
        key = *named_as, _digest(A.values)
        with _lock_of(key):
            factor = _found(key, solver, A.values) or _made(key, place, solver, A, init)
    for collector in _of_thread.collectors:
        collector.append(factor)
    return factor.state


def _lock_of(key: Hashable) -> Any:
    with _lock:
        if (lock := _locks.get(key)) is None:
            _locks[key] = lock = threading.RLock()
        return lock


def _found_at(place: Hashable, solver: Prepares, values: Tensor) -> _Factor | None:
    """Find what was made last for values at a place in memory, without a digest of them."""
    last = _at.get(place)
    return None if last is None else _found(last.key, solver, values)


def _found(key: Hashable, solver: Prepares, values: Tensor) -> _Factor | None:
    for known in (_factors.get(key), _held.get(key)):
        if known is not None and known.matches(solver, values):
            _count(hits=1)
            return known
    return None


def _made(
    key: Hashable,
    place: Hashable,
    solver: Prepares,
    A: StoredMatrix,
    init: Callable[[StoredMatrix], Any],
) -> _Factor:
    copy = StoredMatrix(A.structure, A.values.clone())
    owners: list[Any] = [] if dataclasses.is_dataclass(solver) else [solver]
    factor = _Factor(key, _reference(solver), copy.values, init(copy))
    _count(misses=1)
    if (old := _at.get(place)) is not None:  # of values that were changed in place
        _factors.drop(old.key)
    _at[place] = factor
    # The owner is the storage, not the tensor: a kernel sees a tensor object of its own.
    _factors.keep(key, factor, A.values.untyped_storage(), *filter(_mortal, owners))
    return factor


def _place(values: Tensor) -> tuple[int, str]:
    """Return where values are in memory, or those that they are made of for one call, and how."""
    own = values.untyped_storage()
    original, changed = original_of(own)
    return (values.data_ptr() if original is own else original.data_ptr()), changed


def _count(hits: int = 0, misses: int = 0) -> None:
    with _lock:
        _factors.hits += hits
        _factors.misses += misses


class Parts:
    """What is prepared for the state of a solver that has others work for it: part of that state.

    All of it is for one matrix, or members of it, that nobody writes to.
    """

    def __init__(self) -> None:
        self._states: list[tuple[Any, int, Any]] = []

    @property
    def bytes(self) -> int:
        """Size of the states."""
        return sum(_size(state) for *_, state in self._states)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep here what is prepared in this thread, and look for it here."""
        before, _of_thread.parts = _of_thread.parts, self
        try:
            yield
        finally:
            _of_thread.parts = before

    def state(self, solver: Prepares, A: StoredMatrix, init: Callable[[StoredMatrix], Any]) -> Any:
        """Return what was prepared, or prepare it."""
        at = A.values.data_ptr()
        for known, place, state in self._states:
            if place == at and same_solver(known, solver):
                return state
        state = init(StoredMatrix(A.structure, A.values))
        self._states.append((solver, at, state))
        return state


# --------------------------------------------------------------------------------- names and sizes


def _name(x: Any) -> Hashable:
    """Return what is equal for the same solvers (see `same_solver`), and keeps no object alive."""
    if isinstance(x, (bool, int, float, complex, str, type(None), torch.dtype)):
        return type(x), x
    if isinstance(x, tuple):
        return tuple(map(_name, x))
    if not dataclasses.is_dataclass(x):
        return id(x)
    return type(x), *(_name(getattr(x, f.name)) for f in dataclasses.fields(x))


def _reference(solver: Any) -> Callable[[], Any]:
    """Refer to a solver: those that are equal only to themselves are not kept alive."""
    if not dataclasses.is_dataclass(solver) and _mortal(solver):
        return weakref.ref(solver)
    return lambda: solver


def _mortal(x: Any) -> bool:
    return type(x).__weakrefoffset__ != 0


_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _digest(values: Tensor) -> int:
    """Return a number that is another for other values, as good as surely.  O(nnz) time."""
    values = values.detach().resolve_conj().resolve_neg()
    # Not viewed as real by its dtype: the stride of a single number may be anything.
    real = torch.view_as_real(values) if values.is_complex() else values
    real = real.contiguous().flatten()
    if values.device.type == "cpu":
        words = real.numpy()
        return int(compiled.inspection.digest(words.view(f"u{words.itemsize}")))
    words = real.view(_WORDS[real.itemsize]).long()
    weights = torch.arange(1, len(words) + 1, device=words.device) * 0x1E3779B97F4A7C15
    return int(((words ^ (words >> 32)) * (weights | 1)).sum())


def _size(state: Any, known: Tensor | None = None) -> int:
    """Return the bytes that a state says it takes, or else those of the arrays seen in it."""
    seen = set() if known is None else {known.untyped_storage().data_ptr()}
    return _size_of(state, seen, _DEPTH)


_DEPTH = 4


def _size_of(x: Any, seen: set[int], depth: int) -> int:
    if isinstance(x, Structure) or not depth:
        return 0
    if isinstance(x, (Tensor, np.ndarray)):
        return _size_of_array(x, seen)
    if (said := getattr(x, "bytes", None)) is not None:
        return said
    if isinstance(x, (tuple, list)):
        inside = x
    else:
        inside = (x if isinstance(x, dict) else getattr(x, "__dict__", {})).values()
    return sum(_size_of(part, seen, depth - 1) for part in list(inside))


def _size_of_array(x: Any, seen: set[int]) -> int:
    dense = isinstance(x, np.ndarray) or x.layout == torch.strided
    at = (x.untyped_storage().data_ptr() if isinstance(x, Tensor) else id(x)) if dense else 0
    if not dense or at in seen:
        return 0
    seen.add(at)
    return x.nbytes


# ---------------------------------------------------------------------------------------- analyses


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
        _analyses.keep(id(pattern), _Analysis(key, state), pattern)


def take_analysis(structure: Structure, key: Hashable) -> Any:
    """Take what was kept for a pattern under a key, or None: nobody else gets it."""
    with _lock:
        kept = _analyses.get(id(structure))
        if kept is None or kept.key != key:
            return None
        _analyses.drop(id(structure))
        return kept.state


# -------------------------------------------------------------------------------------------- ends

_ENDS = 8  # solutions of a pattern: of A and its adjoint, for a few shapes
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
        end.solutions = [*others, (solver, kind, X)][-_ENDS:]
        return end


def last_end(solver: Any, A: StoredMatrix, B: Tensor) -> Tensor | None:
    """Return the last solution with this solver, pattern and shape, if the solver wants it."""
    if not getattr(solver, "warm_start", False):
        return None
    end = _ends.get(id(A.structure))
    return None if end is None else end.find(solver, _kind(A, B))


def keep_end(solver: Any, A: StoredMatrix, X: Tensor) -> None:
    """Keep a solution for the next time."""
    if not getattr(solver, "warm_start", False) or not bool(X.isfinite().all()):
        return
    end = _ends.get(id(A.structure)) or _End()
    # A copy: what is handed out may be changed in place.
    end = end.with_solution(solver, _kind(A, X), X.clone())
    _ends.keep(id(A.structure), end, A.structure)


def _kind(A: StoredMatrix, X: Tensor) -> tuple[Any, ...]:
    return A.transpose, A.conjugate, X.shape, X.dtype, X.device
