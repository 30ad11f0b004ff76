"""Vectors that compiled iterations work on, kept from one solve to the next.

Memory that is new costs a page fault for each few kilobytes, together as much as ten iterations.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from tsgu_func.cache import Store
from tsgu_func.kernels import compiled

__all__ = ["give_back", "take"]

_spare = Store("work vectors", most=8, rank=0)
_numbers = itertools.count()


class _Spare(NamedTuple):
    vectors: tuple[np.ndarray, ...]

    @property
    def bytes(self) -> int:
        return sum(vector.nbytes for vector in self.vectors)


def take(n: int, dtype: np.dtype[Any]) -> tuple[np.ndarray, ...]:
    """Return vectors of n zeros, which nobody else gets before they are given back."""
    for key, kept in reversed(_spare.items()):
        vectors = kept.vectors
        suits = len(vectors[0]) == n and vectors[0].dtype == dtype
        if suits and _spare.drop(key) is kept:  # else another thread was faster
            for vector in vectors:
                vector.fill(0)
            return vectors
    return compiled.eisenstat.vectors(n, dtype)


def give_back(vectors: tuple[np.ndarray, ...], owner: object) -> None:
    """Keep vectors that were taken, as long as their owner lives."""
    _spare.keep(next(_numbers), _Spare(vectors), owner)
