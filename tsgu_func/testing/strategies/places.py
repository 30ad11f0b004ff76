"""Where entries are stored: the pattern, which is drawn before any value."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypedDict

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.testing.strategies.options import (
    INDEX_DTYPES,
    Bounds,
    bounds,
    choice,
    one_of_names,
)

__all__ = ["Places", "Where", "patterns"]

FORMS = ("any", "square", "even", "tall", "wide")
_SQUARE = ("square", "even")
TRIANGLES = (None, "lower", "upper", "strictly lower", "strictly upper")
SIZES = (0, 6)
ENTRIES = (0, 12)

Cell = tuple[int, int]


class Places(NamedTuple):
    """The rows and columns of entries, in any order.  A place may occur more than once.

    Attributes
    ----------
    row, col : Tensor, shape (nnz,), integer
    shape : (int, int)

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies import Places
    >>> places = Places(torch.tensor([1, 0, 1]), torch.tensor([0, 2, 0]), (2, 3))
    >>> places.mask()
    tensor([[False, False,  True],
            [ True, False, False]])
    >>> places.pattern()
    SparsityPattern(shape=(2, 3), nnz=2, id=...)
    """

    row: Tensor
    col: Tensor
    shape: tuple[int, int]

    def mask(self) -> Tensor:
        """Return a dense (n, m) tensor of bool, which is True where an entry is stored."""
        mask = torch.zeros(self.shape, dtype=torch.bool)
        for i, j in zip(self.row.tolist(), self.col.tolist(), strict=True):
            mask[i, j] = True
        return mask

    def pattern(self) -> SparsityPattern:
        """Return the pattern of a SparseMatrix that stores entries here."""
        values = torch.zeros(self.row.shape[0])
        return SparseMatrix.from_coo(self.row, self.col, values, self.shape).pattern


class Where(TypedDict, total=False):
    """The options of `patterns`, for a strategy that passes them on."""

    rows: Bounds
    cols: Bounds
    nnz: Bounds
    density: tuple[float, float]
    unique: bool
    ordered: bool
    form: str
    triangle: str | None
    index_dtype: torch.dtype | st.SearchStrategy[torch.dtype]


class _Options(NamedTuple):
    """The options of `patterns`, checked; `nnz` is None where a density is given."""

    rows: tuple[int, int]
    cols: tuple[int, int]
    nnz: tuple[int, int] | None
    density: tuple[float, float] | None
    unique: bool
    ordered: bool
    form: str
    triangle: str | None
    index_dtype: st.SearchStrategy[torch.dtype]


def _check_names(form: str, triangle: str | None) -> None:
    one_of_names("form", form, FORMS)
    one_of_names("triangle", triangle, TRIANGLES)
    if triangle is not None and form not in _SQUARE:
        raise ValueError(f"a triangle has form 'square' or 'even'; got form {form!r}")


def _check_either(form: str, cols: Any, nnz: Any, density: Any) -> None:
    if form in _SQUARE and cols is not None:
        raise ValueError("a square matrix takes its size from rows: leave cols out")
    if nnz is not None and density is not None:
        raise ValueError("nnz and density both say how many entries there are: give one")


def _with_room(options: _Options) -> _Options:
    """Leave out sizes that cannot hold the least that is asked for."""
    least = 0 if options.nnz is None else options.nnz[0]
    (low, high), (low_cols, high_cols) = options.rows, options.cols
    if options.form == "even":
        low, high = low + low % 2, high - high % 2
    if options.form in _SQUARE:
        low_cols, high_cols = low, high
    low, low_cols = max(low, min(least, 1)), max(low_cols, min(least, 1))
    if options.form == "tall":
        low, high_cols = max(low, low_cols), min(high, high_cols)
    if options.form == "wide":
        low_cols, high = max(low_cols, low), min(high, high_cols)
    room = count_cells(high, high_cols, options.triangle)
    if low > high or low_cols > high_cols or room < (least if options.unique else min(least, 1)):
        apart = " at different places" if options.unique else ""
        raise ValueError(
            f"no shape has room for what is asked for: at least {least} entries{apart} in at most "
            f"{high} rows and {high_cols} columns (form {options.form!r}, triangle "
            f"{options.triangle!r}); allow more of them"
        )
    return options._replace(rows=(low, high), cols=(low_cols, high_cols))


def _check_density(density: Any) -> None:
    if not isinstance(density, tuple) or len(density) != 2:
        raise TypeError(f"density is a pair (least, most); got {density!r}")
    if not 0 <= density[0] <= density[1] <= 1:
        raise ValueError(
            f"density is (least, most) with 0 <= least <= most <= 1, a share of all places; got "
            f"{density!r}"
        )


# ------------------------------------------------------------------------------ cells, numbered


def count_cells(n: int, m: int, triangle: str | None) -> int:
    """Count the places of a matrix, or of its triangle."""
    if triangle is None:
        return n * m
    side = n - triangle.startswith("strictly")
    return side * (side + 1) // 2


def _cell(k: int, m: int, triangle: str | None) -> Cell:
    """Return the place with the number k, counted by rows (by columns in an upper triangle)."""
    if triangle is None:
        return divmod(k, m)
    i = (math.isqrt(8 * k + 1) - 1) // 2
    j = k - i * (i + 1) // 2
    i += triangle.startswith("strictly")
    return (i, j) if triangle.endswith("lower") else (j, i)


def _row_of_cells(i: int, m: int, triangle: str | None) -> list[Cell]:
    """Return all places of a row, or of its part in the triangle."""
    apart = int(triangle is not None and triangle.startswith("strictly"))
    start, stop = 0, m
    if triangle is not None and triangle.endswith("lower"):
        stop = i + 1 - apart
    elif triangle is not None:
        start = i + apart
    return [(i, j) for j in range(start, stop)]


def triangle_mask(shape: tuple[int, int], triangle: str | None) -> Tensor:
    """Return a dense (n, m) bool: all places of a matrix, or of its triangle."""
    mask = torch.ones(shape, dtype=torch.bool)
    if triangle is None:
        return mask
    apart = int(triangle.startswith("strictly"))
    return mask.tril(-apart) if triangle.endswith("lower") else mask.triu(apart)


# ----------------------------------------------------------------------------------- strategies


def patterns(
    *,
    rows: Bounds = SIZES,
    cols: Bounds | None = None,
    nnz: Bounds | None = None,
    density: tuple[float, float] | None = None,
    unique: bool = False,
    ordered: bool = False,
    form: str = "any",
    triangle: str | None = None,
    index_dtype: torch.dtype | st.SearchStrategy[torch.dtype] = INDEX_DTYPES,
) -> st.SearchStrategy[Places]:
    """Draw the places where a matrix stores entries.

    Among the examples are matrices that store nothing, empty rows, full rows, a single row or
    column, no row at all, the same place twice, and places in any order.  A failing example shrinks
    to a few places in a small matrix, near its first row and column.

    Parameters
    ----------
    rows, cols : int or (int, int)
        The smallest and the largest number of each.  Default: (0, 6).
    nnz : int or (int, int)
        The smallest and the largest number of entries, where repeated places count each time.
        Default: (0, 12).
    density : (float, float)
        Instead of `nnz`: the smallest and the largest number of entries as a share of all places,
        rounded up and down.
    unique : bool
        Whether all places are different.
    ordered : bool
        Whether entries are sorted by row, then by column.
    form : {"any", "square", "even", "tall", "wide"}
        ``"tall"`` has at least as many rows as columns, and ``"wide"`` at most as many.  A square
        matrix takes its size from `rows`; ``"even"`` is square with an even number of rows.
    triangle : {None, "lower", "upper", "strictly lower", "strictly upper"}
        The part of a square matrix in which entries are stored.  A strict triangle is without the
        diagonal.
    index_dtype : torch.dtype, or a strategy of them
        Default: int64 and int32.

    Returns
    -------
    SearchStrategy of Places

    Raises
    ------
    TypeError
        If a bound is neither a number nor a pair.
    ValueError
        If bounds are not in order or contradict each other, or if no shape fits them.

    Examples
    --------
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import patterns
    >>> find(patterns(triangle="upper", form="square"), lambda places: len(places.row) == 2)
    Places(row=tensor([0, 0]), col=tensor([0, 0]), shape=(1, 1))
    """
    _check_names(form, triangle)
    _check_either(form, cols, nnz, density)
    if density is None:
        entries = bounds("nnz", ENTRIES if nnz is None else nnz)
    else:
        entries = None
        _check_density(density)
    sizes = bounds("rows", rows), bounds("cols", SIZES if cols is None else cols)
    options = _Options(
        *sizes, entries, density, unique, ordered, form, triangle, choice(index_dtype)
    )
    return _patterns(_with_room(options))


@st.composite
def _patterns(draw: st.DrawFn, options: _Options) -> Places:
    n, m = _shape(draw, options)
    cells = _cells(draw, options, n, m)
    if options.ordered:
        cells = sorted(cells)
    dtype = draw(options.index_dtype)
    row, col = (torch.tensor([cell[axis] for cell in cells], dtype=dtype) for axis in (0, 1))
    return Places(row, col, (n, m))


def _shape(draw: st.DrawFn, options: _Options) -> tuple[int, int]:
    low, high = options.rows
    if options.form == "even":
        n = 2 * draw(st.integers((low + 1) // 2, high // 2))
        return n, n
    n = draw(st.integers(low, high))
    if options.form == "square":
        return n, n
    low, high = options.cols
    low = max(low, n) if options.form == "wide" else low
    return n, draw(st.integers(low, min(high, n) if options.form == "tall" else high))


def _cells(draw: st.DrawFn, options: _Options, n: int, m: int) -> list[Cell]:
    count = count_cells(n, m, options.triangle)
    if options.nnz is not None:
        least, most = options.nnz
        assume(count >= (least if options.unique else min(least, 1)))
    else:
        low, high = options.density or (0, 1)
        least = math.ceil(low * count)
        most = max(least, math.floor(high * count))
    if not count:
        return []
    most = min(most, count) if options.unique else most
    number = st.sampled_from(range(count))
    drawn = draw(st.lists(number, min_size=least, max_size=most, unique=options.unique))
    cells = [_cell(k, m, options.triangle) for k in drawn]
    # Places drawn one by one would hardly ever fill a row of more than three, or the matrix.
    one, every = st.integers(0, n - 1).map(lambda i: [i]), st.just(list(range(n)))
    for i in draw(st.one_of(st.just([]), st.just([]), one, every)):
        row = _row_of_cells(i, m, options.triangle)
        cells += [cell for cell in row if not (options.unique and cell in cells)]
    return cells[:most]
