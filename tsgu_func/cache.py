"""What is kept from one call to the next: factors, patterns, names.  One limit for all of it.

Whatever is kept has *owners*, and ends with the first of them; a *size*, which counts against the
limit that all stores share; and an *end* of its own, when the limit is exceeded: then the least
recently used goes first, of the stores of the lowest rank first.  Each kind of thing has a `Store`;
nothing in this library is kept anywhere else, but what is derived from a pattern, and lives in it.

Keeping, finding and dropping cost the same however much is kept: sizes are summed up as they come
and go.  So one that changes has to be measured again (`Store.measure`).
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "CacheInfo",
    "Kind",
    "Store",
    "cache_info",
    "cache_limit",
    "clear_cache",
    "original_of",
    "stands_for",
]


class Kind(NamedTuple):
    """How many things of one kind are kept, and their size in bytes."""

    entries: int
    bytes: int


class CacheInfo(NamedTuple):
    """What is kept, and how often a factor was found.

    Attributes
    ----------
    hits, misses : int
        How often a factor was found, and how often it had to be made.
    entries, bytes : int
        How many things are kept, and their size.
    limit : int
        Bytes that they may take.
    kinds : dict of str to Kind
        Entries and bytes of each kind.
    """

    hits: int
    misses: int
    entries: int
    bytes: int
    limit: int
    kinds: dict[str, Kind]


@dataclass(eq=False, slots=True)
class _Kept:
    value: Any
    bytes: int
    finalizers: list[weakref.finalize[Any, Any]]
    used: int = 0


# A finalizer may take an entry out at any time, in any thread, while the lock is held by another:
# it pops, which is atomic, and leaves the sum of sizes to whoever holds the lock next.
_lock = threading.RLock()
_stores: list[Store] = []
_limit = 2**31  # bytes
_clock = 0  # counts uses: the order in which things go
# What copies stand for, and what they make of it: values that are read off a tensor at each call,
# for those of the tensor.
_originals: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Any], str]] = (
    weakref.WeakKeyDictionary()
)


class Store:
    """A store of one kind of thing.

    Parameters
    ----------
    kind : str
        What is kept, as `cache_info` calls it.
    most : int, optional
        Entries that are kept at most, whatever their size.
    rank : int
        Stores of a lower rank are emptied first, where the limit is exceeded.
    """

    def __init__(self, kind: str, *, most: int | None = None, rank: int = 1) -> None:
        self.kind, self.most, self.rank = kind, most, rank
        self.hits = self.misses = 0
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._bytes = 0  # of what is kept, and of what has ended
        self._ended: deque[_Kept] = deque()
        _stores.append(self)

    def get(self, key: Hashable) -> Any:
        """Return what is kept under a key, which counts as a use; None if nothing is."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        with _lock:
            self._use(key, kept)
        return kept.value

    def items(self) -> list[tuple[Hashable, Any]]:
        """Return keys and what is kept, from the least to the most recently used."""
        with _lock:
            # Keys first: to make pairs of them may collect garbage, and a finalizer take one out.
            pairs = [(key, self._kept.get(key)) for key in list(self._kept)]
            return [(key, kept.value) for key, kept in pairs if kept is not None]

    def keep(self, key: Hashable, value: Any, *owners: Any) -> None:
        """Keep a value, whose `bytes` are counted, until an owner ends, or the limit is exceeded.

        One that exceeds the limit by itself is not kept: it would push out all others.
        """
        with _lock:
            self.drop(key)
            kept = _Kept(value, getattr(value, "bytes", 0), [])
            if kept.bytes > _limit:
                return
            for owner in (x for x in owners if x is not None):
                finalizer = weakref.finalize(original_of(owner)[0], _pop, weakref.ref(self), key)
                finalizer.atexit = False
                kept.finalizers.append(finalizer)
            self._kept[key] = kept
            self._bytes += kept.bytes
            self._use(key, kept)
            while self.most is not None and len(self._kept) > self.most:
                self._drop_oldest()
            _shrink()

    def measure(self, key: Hashable) -> None:
        """Ask what is kept under a key, if anything is, for its `bytes` again."""
        with _lock:
            kept = self._kept.get(key)
            if kept is None:
                return
            before, kept.bytes = kept.bytes, getattr(kept.value, "bytes", 0)
            self._bytes += kept.bytes - before
            if kept.bytes > _limit:
                self.drop(key)
            _shrink()

    def drop(self, key: Hashable) -> Any:
        """Take out and return what is kept under a key; None if nothing is."""
        with _lock:
            kept = self._kept.pop(key, None)
            if kept is None:
                return None
            for finalizer in kept.finalizers:
                finalizer.detach()
            self._bytes -= kept.bytes
            return kept.value

    def clear(self) -> None:
        """Forget all, and the counts."""
        with _lock:
            for key in list(self._kept):
                self.drop(key)
            self.hits = self.misses = 0

    @property
    def bytes(self) -> int:
        """Size of what is kept, as it was when it was kept, or measured the last time."""
        with _lock:
            while self._ended:
                self._bytes -= self._ended.popleft().bytes
            return self._bytes

    def __len__(self) -> int:
        return len(self._kept)

    def _use(self, key: Hashable, kept: _Kept) -> None:
        global _clock
        _clock += 1
        kept.used = _clock
        with suppress(KeyError):  # it has just ended
            self._kept.move_to_end(key)

    def _oldest(self) -> tuple[Hashable, int] | None:
        """Return the key of what goes next, and when it was used."""
        while True:
            try:
                key, kept = next(iter(self._kept.items()))
            except StopIteration:
                return None
            except RuntimeError:  # something has ended meanwhile
                continue
            return key, kept.used

    def _drop_oldest(self) -> None:
        if (oldest := self._oldest()) is not None:
            self.drop(oldest[0])


def _pop(store: weakref.ref[Store], key: Hashable) -> None:
    if (living := store()) is not None and (kept := living._kept.pop(key, None)) is not None:
        for finalizer in kept.finalizers:
            finalizer.detach()
        kept.value = None
        living._ended.append(kept)


def stands_for(copy: Any, original: Any, changed: str = "") -> None:
    """Let what is kept with a copy for its owner end with the original, and not with the copy.

    `changed` tells in a word what was done to it, where the copy is not equal.
    """
    source, before = original_of(original)
    _originals[copy] = weakref.ref(source), f"{before} {changed}".strip()


def original_of(owner: Any) -> tuple[Any, str]:
    """Return what an owner stands for, which is itself as a rule, and what was changed."""
    reference, changed = _originals.get(owner, (None, ""))
    original = None if reference is None else reference()
    return (owner, "") if original is None else (original, changed)


def _shrink() -> None:
    while sum(store.bytes for store in _stores) > _limit:
        ends = [(s.rank, end[1], s) for s in _stores if s.bytes and (end := s._oldest())]
        if not ends:
            return
        *_, store = min(ends, key=lambda end: end[:2])
        store._drop_oldest()  # what it leaves may be kept in another store


def cache_info() -> CacheInfo:
    """Return what is kept between calls, by kind, and how often a kept factor was used.

    Examples
    --------
    >>> from tsgu_func.solvers import cache_info, clear_cache
    >>> clear_cache()
    >>> cache_info().kinds["factors"]
    Kind(entries=0, bytes=0)
    """
    with _lock:
        for store in _stores:
            for key in list(store._kept):
                store.measure(key)
        kinds = {store.kind: Kind(len(store), store.bytes) for store in _stores}
        hits, misses = (sum(getattr(s, n) for s in _stores) for n in ("hits", "misses"))
        entries, size = (sum(numbers) for numbers in zip(*kinds.values(), strict=True))
        return CacheInfo(hits, misses, entries, size, _limit, kinds)


def cache_limit(limit: int | None = None) -> int:
    """Return how many bytes everything that is kept between calls may take.

    With an argument, set this limit first.  If it is exceeded, what was not used for the longest
    time is dropped.  With 0 nothing is kept, and each solve factors its matrix again.  What a
    `Factorization` holds is not dropped.

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
    """Drop everything that is kept between calls, and the counts of `cache_info`.

    Later calls take longer, but their results are the same.
    """
    # By falling rank: what a factor leaves to others is kept in a store of a lower one.
    for store in sorted(_stores, key=lambda store: -store.rank):
        store.clear()
