"""Colourings of columns, of rows and columns together, and of a symmetric matrix.

Which products with a matrix, or with its transpose, suffice to read all of its entries, is a
question of colouring: columns of one colour are summed by one product.  All is done on the host,
with loops that are compiled.  Sources:

A. H. Gebremedhin, F. Manne, A. Pothen, *What Color Is Your Jacobian? Graph Coloring for Computing
Derivatives*, SIAM Review 47, 2005: partial distance-2 colouring, and the orders.

A. H. Gebremedhin, A. Tarafdar, F. Manne, A. Pothen, *New Acyclic and Star Coloring Algorithms with
Application to Computing Hessians*, SIAM J. Sci. Comput. 29, 2007: star colouring.

T. F. Coleman, A. Verma, *The Efficient Computation of Sparse Jacobian Matrices Using Automatic
Differentiation*, SIAM J. Sci. Comput. 19, 1998: rows and columns together.

J. C. Culberson, *Iterated Greedy Graph Coloring and the Difficulty Landscape*, 1992: colouring
again, class by class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
from numpy import ndarray

from tsgu_func.kernels import compiled
from tsgu_func.kernels.structure import Structure

__all__ = [
    "MODES",
    "ORDERS",
    "REVERSE",
    "Incidence",
    "Side",
    "bidirectional",
    "both_parts",
    "cheapest",
    "column_order",
    "forward",
    "in_order",
    "one_way",
    "reading",
    "reading_of_symmetric",
    "star",
    "symmetric",
    "uncolored",
    "unreadable",
    "vertex_order",
]

T = TypeVar("T")
Both = tuple[ndarray, ndarray]  # colours of the columns, and of the rows

MODES = ("forward", "reverse", "bidirectional", "symmetric")
ORDERS = ("natural", "largest_first", "smallest_last", "random")
# What a product with the transpose costs, in products with the matrix: reverse mode runs a function
# forward, keeping what it meets, and then back.
REVERSE = 2
# In longer rows, an order does not count each column again for each other one.
_LONG = 256
# Rows up to this length need no table of the colours in them: a list is gone through as fast.
_SHORT = 64
# Entries of such tables, altogether, for each stored entry.
_ROOM = 8
# How often columns are coloured again, class by class.
_AGAIN = 6
# How many ways of setting dense rows apart are tried, and as many for columns.
_TRIES = 2


class Side(NamedTuple):
    """A pattern by rows, or by columns: where each starts, and what is stored there.

    Attributes
    ----------
    start : ndarray, shape (rows + 1,)
    across : ndarray, shape (nnz,)
        Column of each entry.
    entry : ndarray, shape (nnz,), or None
        Which of the values it is; None: they are in this order.
    """

    start: ndarray
    across: ndarray
    entry: ndarray | None

    @property
    def lengths(self) -> ndarray:
        """How many entries each row stores."""
        return np.diff(self.start)

    @property
    def owner(self) -> ndarray:
        """Row of each entry."""
        return np.repeat(np.arange(len(self.start) - 1, dtype=self.across.dtype), self.lengths)

    def by_value(self, found: ndarray) -> ndarray:
        """Bring what was found for each entry into the order of the values."""
        if self.entry is None:
            return found
        out = np.empty_like(found)
        out[self.entry] = found
        return out

    def where(self, kept: ndarray) -> Side:
        """Leave out entries."""
        before = np.zeros(len(kept) + 1, self.start.dtype)
        np.cumsum(kept, out=before[1:])
        entry = None if self.entry is None else self.entry[kept]
        return Side(before[self.start], self.across[kept], entry)


class Incidence(NamedTuple):
    """A pattern by rows and by columns."""

    rows: Side
    columns: Side

    @classmethod
    def of(cls, structure: Structure, transposed: bool) -> Incidence:
        """Read a structure on the CPU, or its transpose."""
        rows, columns = (
            Side(s.crow.numpy(), s.col.numpy(), None if order is None else order.numpy())
            for s, order in map(structure.oriented, (transposed, not transposed))
        )
        return cls(rows, columns)

    @property
    def T(self) -> Incidence:
        """The transpose."""
        return Incidence(self.columns, self.rows)

    @property
    def is_symmetric(self) -> bool:
        """Whether the transpose stores entries at the same places."""
        return all(
            np.array_equal(x, y) for x, y in zip(self.rows[:2], self.columns[:2], strict=True)
        )

    def places(self) -> tuple[ndarray, ndarray]:
        """Return row and column of each value."""
        return self.rows.by_value(self.rows.owner), self.rows.by_value(self.rows.across)

    def mirrored(self) -> ndarray:
        """Return which value is at (j, i), for the one at (i, j) of a symmetric pattern."""
        there = self.columns.entry
        return self.rows.by_value(np.arange(len(self.rows.across)) if there is None else there)

    def of_rows(self, chosen: ndarray) -> Incidence:
        """Leave all rows empty but those that are chosen."""
        return Incidence(
            self.rows.where(np.repeat(chosen, self.rows.lengths)),
            self.columns.where(chosen[self.columns.across]),
        )


def uncolored(side: Side) -> ndarray:
    """Return a colouring without colours."""
    return np.full(len(side.start) - 1, -1)


def _colors(color: ndarray) -> int:
    """Return how many colours there are."""
    return int(color.max(initial=-1)) + 1


def _cost(color: Both) -> int:
    """Return what the products cost."""
    return _colors(color[0]) + REVERSE * _colors(color[1])


def _cheapest(tried: Iterable[T], cost: Callable[[T], int], bound: int = 0) -> T:
    """Return what costs least, the first of several; stop at what cannot cost less."""
    rest = iter(tried)
    best = next(rest)
    least = cost(best)
    while least > bound and (found := next(rest, None)) is not None:
        if (price := cost(found)) < least:
            best, least = found, price
    return best


# ------------------------------------------------------------------------------------- columns


def forward(A: Incidence, order: str, seed: int) -> ndarray:
    """Colour columns so that no two of one colour meet in a row; empty ones get no colour, -1.

    By order "best": greedily in each order but the random one, and then some times again, class by
    class, which never takes more colours, and often fewer.  Fewer than the longest row has entries
    cannot be.
    """
    if order != "best":
        return in_order(A, column_order(A, order, seed))
    bound = int(A.rows.lengths.max(initial=0))
    orders = chain((column_order(A, name, seed) for name in ORDERS[:3]), _other_ties(A))
    again = (_again(A, in_order(A, order)) for order in orders)
    return _cheapest(chain.from_iterable(again), _colors, bound)


def _again(A: Incidence, color: ndarray) -> Iterator[ndarray]:
    """Colour again and again, class by class: from the largest, and from the last."""
    yield color
    for turn in range(_AGAIN):
        size = np.bincount(color[color >= 0])
        first = np.argsort(-size, kind="stable") if turn % 2 == 0 else np.arange(len(size))[::-1]
        rank = np.append(np.argsort(first), len(size))  # the last is that of no colour
        color = in_order(A, np.argsort(rank[color], kind="stable"))
        yield color


def in_order(A: Incidence, order: ndarray) -> ndarray:
    """Give each column that stores entries the first colour that is permitted, in an order."""
    order = order[A.columns.lengths[order] > 0]
    number, long = _long(A.rows.lengths, len(order))
    taken = np.zeros((long, len(order) + 1), np.bool_)
    start, row, _ = A.columns
    return compiled.coloring.columns(start, row, A.rows.start, order, number, taken)


def column_order(A: Incidence, order: str, seed: int) -> ndarray:
    """Order columns by name: those with a degree count the columns that each meets in some row."""
    given = (*A.columns[:2], *A.rows[:2], _LONG)
    if order == "largest_first":
        return np.argsort(-compiled.coloring.degrees(*given), kind="stable")
    natural = np.arange(len(A.columns.lengths))
    if order == "smallest_last":
        return compiled.coloring.smallest_last_columns(*given, natural)
    return np.random.default_rng(seed).permutation(natural) if order == "random" else natural


def _other_ties(A: Incidence) -> Iterator[ndarray]:
    """Return the order "smallest_last" with ties broken the other way."""
    backwards = np.arange(len(A.columns.lengths))[::-1].copy()
    given = (*A.columns[:2], *A.rows[:2], _LONG)
    yield compiled.coloring.smallest_last_columns(*given, backwards)


def _long(lengths: ndarray, colors: int) -> tuple[ndarray, int]:
    """Give numbers to the rows with a table of colours: the longest, as there is room for them."""
    room = _ROOM * int(lengths.sum()) // (colors + 1)
    shortest = _SHORT
    if room < len(lengths):
        shortest = max(shortest, -int(np.partition(-lengths, room)[room]))
    long = np.flatnonzero(lengths > shortest)
    number = np.full(len(lengths), -1)
    number[long] = np.arange(len(long))
    return number, len(long)


# -------------------------------------------------------------------------------- star colourings


def symmetric(A: Incidence, order: str, seed: int) -> ndarray:
    """Colour the columns of a symmetric matrix so that each entry, or its mirror image, is read.

    That is a star colouring.  By order "best" it is the one with fewest colours in each order but
    the random one, or a colouring of columns as if the matrix were not symmetric, which for some
    grids takes fewer.
    """
    graph = A.rows.where(A.rows.owner != A.rows.across)
    if order != "best":
        return _needed_of_symmetric(A, star(graph, vertex_order(graph, order, seed), True))
    orders = [vertex_order(graph, name, seed) for name in ORDERS[:3]]
    orders.append(column_order(A, "smallest_last", seed))
    stars = (_needed_of_symmetric(A, star(graph, order, True)) for order in orders)
    best = _cheapest(stars, _colors)
    if int(A.rows.lengths.max(initial=0)) >= _colors(best):
        return best
    plain = _needed_of_symmetric(A, forward(A, "best", seed))
    return _cheapest((best, plain), _colors)


def bidirectional(A: Incidence, order: str, seed: int) -> Both:
    """Colour columns and rows so that each entry is read by one or by the other.

    That is a star colouring of [0 Aᵀ; A 0], in which columns and rows have colours of their own.
    By order "best" it is the cheapest of those in each order but the random one, of colourings of
    columns alone and of rows alone, and of those with dense rows, or columns, set apart.
    """
    known = _one_ways(A, order, seed).values() if order == "best" else ()
    return _both_ways(A, order, seed, known)


def _both_ways(A: Incidence, order: str, seed: int, known: Iterable[Both]) -> Both:
    """Return the cheapest of those that are known, and of those in both directions."""
    graph, m = both_parts(A), len(A.columns.lengths)
    names, ways = (ORDERS[:3], _ways_apart(A)) if order == "best" else ((order,), [])
    colored = (star(graph, vertex_order(graph, name, seed), False) for name in names)
    stars = ((color[:m], color[m:]) for color in colored)
    tried = chain(known, (_apart(A, way, seed) for way in ways), stars)
    return _cheapest((_needed(A, *color) for color in tried), _cost)


def both_parts(A: Incidence) -> Side:
    """Return the graph [0 Aᵀ; A 0]: first the columns, with the rows that they meet."""
    (row_start, column, _), (start, row, _) = A
    nnz, m = len(column), len(start) - 1
    dtype = np.result_type(start, np.min_scalar_type(-(max(2 * nnz, m + len(row_start)) + 1)))
    both = np.concatenate([start[:-1], row_start.astype(dtype) + nnz], dtype=dtype)
    return Side(both, np.concatenate([row.astype(dtype) + m, column], dtype=dtype), None)


def star(graph: Side, order: ndarray, one_palette: bool) -> ndarray:
    """Give each vertex the first colour that a star colouring permits, in an order."""
    number, long = _long(graph.lengths, len(order))
    entry = np.full((long, len(order) + 1), -2, graph.across.dtype)
    start, neighbor, _ = graph
    return compiled.coloring.star(start, neighbor, order, number, entry, one_palette)


def vertex_order(graph: Side, order: str, seed: int) -> ndarray:
    """Order the vertices of a graph by name: those with a degree count neighbours."""
    if order == "largest_first":
        return np.argsort(-graph.lengths, kind="stable")
    natural = np.arange(len(graph.lengths))
    if order == "smallest_last":
        return compiled.coloring.smallest_last(*graph[:2], natural)
    return np.random.default_rng(seed).permutation(natural) if order == "random" else natural


# ------------------------------------------------------------------------ dense rows set apart


class _Way(NamedTuple):
    """A way to set dense rows apart, or columns, and what it costs at least."""

    bound: int
    of_columns: bool
    dense: ndarray  # which ones


def _ways_apart(A: Incidence) -> list[_Way]:
    """Return ways to read the longest rows by products with the transpose, and others with A.

    The longest of the others says how many products these need at least, the column with most
    entries in the long ones how many those; and the other way round.  Left out are ways that cost
    no less than what all rows, or all columns, cost at least.
    """
    bound, ways = min(_bounds(A))[0], []
    for of_columns in (False, True):
        side = A[of_columns]
        others, dense = (REVERSE, 1) if of_columns else (1, REVERSE)
        order = np.argsort(-side.lengths, kind="stable")
        most = compiled.coloring.set_apart(*side[:2], len(A[not of_columns].lengths), order)
        stored = int(np.count_nonzero(side.lengths))
        bounds = others * side.lengths[order[1:stored]] + dense * most[1:stored]
        for k in np.argsort(bounds, kind="stable")[:_TRIES]:
            if bounds[k] >= bound:
                break
            chosen = np.zeros(len(order), np.bool_)
            chosen[order[: k + 1]] = True
            ways.append(_Way(int(bounds[k]), of_columns, chosen))
    return ways


def _apart(A: Incidence, way: _Way, seed: int) -> Both:
    B = A.T if way.of_columns else A
    others = forward(B.of_rows(~way.dense), "best", seed)
    dense = forward(B.of_rows(way.dense).T, "best", seed)
    return (dense, others) if way.of_columns else (others, dense)


# --------------------------------------------------------------------------------- all directions


def _bounds(A: Incidence) -> list[tuple[int, str]]:
    """Return what the products of each direction cost at least."""
    longest, deepest = (int(side.lengths.max(initial=0)) for side in A)
    return [(longest, "forward"), (REVERSE * deepest, "reverse")]


def one_way(A: Incidence, mode: str, order: str, seed: int) -> Both:
    """Colour columns alone, "forward", or rows alone, "reverse"."""
    if mode == "forward":
        return forward(A, order, seed), uncolored(A.rows)
    return uncolored(A.columns), forward(A.T, order, seed)


def _one_ways(A: Incidence, order: str, seed: int) -> dict[str, Both]:
    """Colour columns alone, and rows alone; only one of them if the other cannot be cheaper."""
    found: dict[str, Both] = {}
    for bound, mode in sorted(_bounds(A)):
        if all(bound <= _cost(color) for color in found.values()):
            found[mode] = one_way(A, mode, order, seed)
    return found


def cheapest(A: Incidence, order: str, seed: int) -> tuple[str, Both]:
    """Return the mode that needs the cheapest products, and its colours.

    A mode is not tried if it cannot be cheaper.  Both directions at once are tried, by order
    "best", if to set dense rows or columns apart can be cheaper than either alone can be.
    """
    found = _one_ways(A, order, seed)
    if order != "best" or _ways_apart(A):
        found["bidirectional"] = _both_ways(A, order, seed, found.values())
    column, row = _cheapest((found[mode] for mode in MODES if mode in found), _cost)
    if _colors(column) and _colors(row):
        return "bidirectional", (column, row)
    return "reverse" if _colors(row) else "forward", (column, row)


# --------------------------------------------------------------------------------- what is read


def _alone(side: Side, color: ndarray) -> ndarray:
    """Say of each value whether its column has a colour that no other has in its row."""
    start, index, _ = side
    return side.by_value(compiled.coloring.alone(start, index, color, _colors(color)))


def reading(A: Incidence, column: ndarray, row: ndarray) -> tuple[ndarray, ndarray]:
    """Return where each value is read, and whether it can be read there.

    That is, where in the products with A (colours of columns, n), one after the other, followed by
    those with its transpose (colours of rows, m).
    """
    n, m = len(row), len(column)
    i, j = A.places()
    direct = _alone(A.rows, column)
    index = np.where(direct, column[j] * n + i, _colors(column) * n + row[i] * m + j)
    return index, direct | _alone(A.columns, row)


def reading_of_symmetric(A: Incidence, color: ndarray) -> tuple[ndarray, ndarray]:
    """Return where in the products (colours, n) each value is read, or that which mirrors it."""
    n = len(color)
    i, j = A.places()
    direct = _alone(A.rows, color)
    index = np.where(direct, color[j] * n + i, color[i] * n + j)
    return index, direct | direct[A.mirrored()]


def unreadable(A: Incidence, column: ndarray, row: ndarray, mode: str, k: int) -> str:
    """Say why no product tells a value."""
    i, j = (int(index[k]) for index in A.places())
    said = []
    if mode != "reverse":
        said.append(_why("column", "row", column, j, i, A.rows))
    if mode == "symmetric":
        said.append(_why("column", "row", column, i, j, A.rows))
    if mode in ("reverse", "bidirectional"):
        said.append(_why("row", "column", row, i, j, A.columns))
    return f"no product tells the entry ({i}, {j}): {'; and '.join(said)}"


def _why(kind: str, other: str, color: ndarray, j: int, i: int, side: Side) -> str:
    """Say with which other column column j is summed in row i."""
    if color[j] < 0:
        return f"{kind} {j} has no color"
    beside = side.across[side.start[i] : side.start[i + 1]]
    twin = next(int(x) for x in beside if x != j and color[x] == color[j])
    return f"{kind} {twin}, which {other} {i} stores too, has the same color, {int(color[j])}"


def _needed(A: Incidence, column: ndarray, row: ndarray) -> Both:
    """Take the colours off those columns and rows whose entries are all read by others."""
    (i, j), m = A.places(), len(column)
    color = np.concatenate([column, np.where(row < 0, -1, row + _colors(column))])
    cost = np.repeat([1, REVERSE], [_colors(column), _colors(row)])
    by_column, by_row = _alone(A.rows, column), _alone(A.columns, row)
    i, j = i.astype(np.int64) + m, j.astype(np.int64)
    chosen = compiled.coloring.needed(j, i, by_column, by_row, color, cost)
    return _numbered(column, chosen[:m]), _numbered(row, chosen[m:])


def _needed_of_symmetric(A: Incidence, color: ndarray) -> ndarray:
    """Take the colours off those columns whose entries are all read in their mirror images."""
    i, j = (index.astype(np.int64) for index in A.places())
    direct = _alone(A.rows, color)
    mirrored, half = direct[A.mirrored()] & (i != j), i <= j
    cost = np.ones(_colors(color), np.int64)
    given = (j[half], i[half], direct[half], mirrored[half])
    return _numbered(color, compiled.coloring.needed(*given, color, cost))


def _numbered(color: ndarray, chosen: ndarray) -> ndarray:
    """Keep the colours of those that are chosen, numbered without gaps."""
    _, number = np.unique(color[chosen], return_inverse=True)
    out = np.full(len(color), -1)
    out[chosen] = number
    return out
