"""What is kept from one call to the next: factors, patterns, names.  One limit for all of it.

Whatever is kept has an *owner*, whose end is its end; a *size*, which counts against the limit that
all stores share; and an *end* of its own, when the limit is exceeded: then the least recently used
goes first, of the stores of the lowest rank first.  Each kind of thing has a `Store`; nothing in
this library is kept anywhere else, but what is derived from a pattern, and lives in it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

__all__ = ["CacheInfo", "Kind", "Store", "cache_info", "cache_limit", "clear_cache"]


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


class _Kept(NamedTuple):
    value: Any
    finalizer: weakref.finalize[Any, Any] | None

    @property
    def bytes(self) -> int:
        return getattr(self.value, "bytes", 0)


# A finalizer may take an entry out at any time, in any thread, while the lock is held by another:
# it pops, which is atomic, and whoever goes through entries goes through a copy.
_lock = threading.RLock()
_stores: list[Store] = []
_limit = 2**31  # bytes
_clock = 0  # counts uses: the order in which things go


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
        self._used: dict[Hashable, int] = {}
        _stores.append(self)

    def get(self, key: Hashable) -> Any:
        """Return what is kept under a key, which counts as a use; None if nothing is."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        with _lock:
            self._use(key)
        return kept.value

    def items(self) -> list[tuple[Hashable, Any]]:
        """Return keys and what is kept, from the least to the most recently used."""
        with _lock:
            return [(key, kept.value) for key, kept in list(self._kept.items())]

    def keep(self, key: Hashable, value: Any, owner: Any = None) -> None:
        """Keep a value, whose `bytes` are counted, until its owner ends, or the limit is exceeded.

        One that exceeds the limit by itself is not kept: it would push out all others.
        """
        finalizer = None
        with _lock:
            self.drop(key)
            if getattr(value, "bytes", 0) > _limit:
                return
            if owner is not None:
                finalizer = weakref.finalize(owner, _pop, weakref.ref(self), key)
                finalizer.atexit = False
            self._kept[key] = _Kept(value, finalizer)
            self._use(key)
            while self.most is not None and len(self._kept) > self.most:
                self.drop(next(iter(self._kept)))
            _shrink()

    def drop(self, key: Hashable) -> Any:
        """Take out and return what is kept under a key; None if nothing is."""
        kept = self._kept.pop(key, None)
        self._used.pop(key, None)
        if kept is None:
            return None
        if kept.finalizer is not None:
            kept.finalizer.detach()
        return kept.value

    def clear(self) -> None:
        """Forget all, and the counts."""
        with _lock:
            for key in list(self._kept):
                self.drop(key)
            self.hits = self.misses = 0

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        return sum(kept.bytes for kept in list(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)

    def _use(self, key: Hashable) -> None:
        global _clock
        _clock += 1
        if key in self._kept:
            self._kept.move_to_end(key)
            self._used[key] = _clock


def _pop(store: weakref.ref[Store], key: Hashable) -> None:
    if (living := store()) is not None:
        living._kept.pop(key, None)
        living._used.pop(key, None)


def _shrink() -> None:
    excess = sum(store.bytes for store in _stores) - _limit
    if excess <= 0:
        return
    order = [
        (store.rank, store._used.get(key, 0), store, key)
        for store in _stores
        for key in list(store._kept)
    ]
    for _, _, store, key in sorted(order, key=lambda entry: entry[:2]):
        store.drop(key)  # what it leaves may be kept in another store
        if sum(store.bytes for store in _stores) <= _limit:
            return


def cache_info() -> CacheInfo:
    """Return what is kept from one call to the next, by kind, and how often a factor was found.

    Examples
    --------
    >>> from tsgu_func.solvers import cache_info, clear_cache
    >>> clear_cache()
    >>> cache_info().kinds["factors"]
    Kind(entries=0, bytes=0)
    """
    with _lock:
        kinds = {store.kind: Kind(len(store), store.bytes) for store in _stores}
        hits, misses = (sum(getattr(s, n) for s in _stores) for n in ("hits", "misses"))
        entries, size = (sum(numbers) for numbers in zip(*kinds.values(), strict=True))
        return CacheInfo(hits, misses, entries, size, _limit, kinds)


def cache_limit(limit: int | None = None) -> int:
    """Return how many bytes all that is kept may take; with an argument, set it first.

    Beyond it the least recently used go.  0 keeps nothing: each solve factors anew.  What a
    `Factorization` holds is its user's, and stays.

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
    """Forget all that is kept, and the counts of `cache_info`.  Results do not depend on it."""
    # By falling rank: what a factor leaves to others is kept in a store of a lower one.
    for store in sorted(_stores, key=lambda store: -store.rank):
        store.clear()
