"""Sets of inputs, one for each element of a tensor: what flows through the graph of a derivative.

Many elements share a set: those that a broadcast repeats, or the channels that a convolution
computes of one window.  So sets are rows of a *table*, and each element says which row is its own.
A set of all inputs is no row: a mean over a million elements, subtracted from each of them, would
take a table of 10¹² entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

__all__ = ["ALL", "NONE", "Sets", "everything", "joined", "nothing", "singles", "union"]

NONE, ALL = -1, -2
_MOST = 2**31 - 1  # entries of a table: what its indices can count


@dataclass(frozen=True, eq=False)
class Sets:
    """A set of inputs for each element of a tensor, in raveled order.

    Attributes
    ----------
    place : ndarray of int64, shape (elements,)
        Row of the table, or `NONE`, or `ALL`.
    table : csr_array of bool, shape (rows, inputs)
    """

    place: np.ndarray
    table: Any

    def __len__(self) -> int:
        return len(self.place)

    @property
    def inputs(self) -> int:
        """How many inputs there are."""
        return self.table.shape[1]

    def take(self, elements: np.ndarray) -> Sets:
        """Return the sets of some elements, in any order; -1 stands for an empty one."""
        if not len(self):
            return Sets(np.full(len(elements), NONE), self.table)
        return Sets(np.where(elements < 0, NONE, self.place[elements]), self.table)

    def collect(self, groups: np.ndarray, elements: np.ndarray, count: int) -> Sets:
        """Return the union of each group of elements.

        Parameters
        ----------
        groups, elements : ndarray of int, shape (pairs,)
            Each pair says that an element belongs to a group.
        count : int
            Number of groups.
        """
        place = self.place[elements]
        full = groups[place == ALL]
        there = place >= 0
        pairs = (groups[there], place[there])
        which = _table(*pairs, (count, self.table.shape[0]))
        return _placed(_product(which, self.table), full)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return element and input of each pair, sorted by both."""
        own = np.flatnonzero(self.place >= 0)
        rows = _rows(self.table, self.place[own])
        full = np.flatnonzero(self.place == ALL)
        entries = rows.nnz + len(full) * self.inputs
        if entries > _MOST:
            raise _too_many(entries, (len(self), self.inputs))
        element = np.repeat(own, np.diff(rows.indptr))
        element = np.concatenate([element, np.repeat(full, self.inputs)])
        column = np.concatenate([rows.indices, np.tile(np.arange(self.inputs), len(full))])
        order = np.lexsort((column, element))
        return element[order], column[order]


def nothing(elements: int, inputs: int) -> Sets:
    """Return empty sets."""
    return Sets(np.full(elements, NONE), csr_array((0, inputs), dtype=bool))


def everything(elements: int, inputs: int) -> Sets:
    """Return sets of all inputs."""
    return Sets(np.full(elements, ALL), csr_array((0, inputs), dtype=bool))


def singles(elements: int, first: int, inputs: int) -> Sets:
    """Return a set for each of consecutive inputs, with nothing but it."""
    pairs = np.arange(elements), np.arange(first, first + elements)
    return _placed(_table(*pairs, (elements, inputs)), np.empty(0, int))


def joined(parts: Sequence[Sets]) -> Sets:
    """Return the sets of several tensors, one after the other."""
    if len(parts) == 1:
        return parts[0]
    tables: dict[int, int] = {}  # parts of one tensor have one table
    place, kept, rows = [], [], 0
    for part in parts:
        first = tables.setdefault(id(part.table), rows)
        if first == rows:
            kept.append(part.table)
            rows += part.table.shape[0]
        place.append(np.where(part.place >= 0, part.place + first, part.place))
    table = kept[0] if len(kept) == 1 else csr_array(vstack(kept, format="csr"))
    return Sets(np.concatenate(place), table)


def union(a: Sets, b: Sets) -> Sets:
    """Return the union of the sets of each element."""
    if not (b.place != NONE).any():
        return a
    if not (a.place != NONE).any():
        return b
    if a.table is b.table and np.array_equal(a.place, b.place):
        return a
    full = (a.place == ALL) | (b.place == ALL)
    own = np.flatnonzero(~full & ((a.place >= 0) | (b.place >= 0)))
    first, second, which = _distinct(a.place[own], b.place[own], b.table.shape[0])
    table = _rows(a.table, first) + _rows(b.table, second)
    made = _placed(csr_array(table), np.empty(0, int))
    place = np.full(len(a), NONE)
    place[own], place[full] = made.place[which], ALL
    return Sets(place, made.table)


def _distinct(
    first: np.ndarray, second: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | slice]:
    """Return the pairs of rows without repetition, and which of them each element has."""
    code = (first + 1) * (rows + 1) + second + 1
    found, which = np.unique(code, return_inverse=True)
    if len(found) == len(code):
        return first, second, slice(None)
    return found // (rows + 1) - 1, found % (rows + 1) - 1, which


def _placed(table: Any, full: np.ndarray) -> Sets:
    """Return sets with a row each, but for empty ones, and those that are found to be full."""
    length = np.diff(table.indptr)
    place = np.arange(table.shape[0])
    place[length == 0] = NONE
    place[length == table.shape[1]] = ALL
    place[full] = ALL
    return Sets(place, table)


def _table(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Any:
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=shape)


def _rows(table: Any, rows: np.ndarray) -> Any:
    """Return rows of a table; those of a negative number are empty."""
    if len(rows) == table.shape[0] and np.array_equal(rows, np.arange(len(rows))):
        return table
    there = rows >= 0
    if there.all():
        return table[rows] if len(rows) else csr_array((0, table.shape[1]), dtype=bool)
    kept = table[rows[there]] if there.any() else csr_array((0, table.shape[1]), dtype=bool)
    length = np.zeros(len(rows), np.int64)
    length[there] = np.diff(kept.indptr)
    indptr = np.concatenate([[0], np.cumsum(length)])
    return csr_array((kept.data, kept.indices, indptr), shape=(len(rows), table.shape[1]))


def _product(a: Any, b: Any) -> Any:
    """Multiply; a product that has no room is refused before it is begun."""
    most = int(np.diff(b.indptr)[a.indices].sum(dtype=np.int64))
    shape = a.shape[0], b.shape[1]
    if most > 2 * _MOST and a.nnz and most > 2 * np.prod(shape, dtype=float):
        most = int(np.prod(shape, dtype=float))
    if most > 2 * _MOST:
        raise _too_many(most, shape)
    return csr_array(a @ b)


def _too_many(entries: int, shape: tuple[int, int]) -> ValueError:
    return ValueError(
        f"the sparsity pattern, or that of an intermediate result, stores up to {entries:.1e} "
        f"entries of {shape[0]} x {shape[1]}, more than fit: this derivative is not sparse"
    )
