"""From entries in any order to compressed rows: indices are checked, sorted and made unique."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.structure import Structure, index_dtype
from tsgu_func.registration.transforms import outside_transforms, unwrapped

if TYPE_CHECKING:
    from tsgu_func.matrix.pattern import SparsityPattern

__all__ = [
    "Assembly",
    "Compressed",
    "as_index",
    "check_index",
    "checked",
    "compressed",
    "compressed_coo",
    "first_disorder",
    "owned",
    "refuse_while_compiling",
]


@dataclass(frozen=True, eq=False, repr=False)
class Assembly:
    """A function that brings entries from the order in which you list them to that of a pattern.

    `SparsityPattern.from_coo` and `SparsityPattern.from_csr` make it, once for a list of places.
    It cannot be changed, is hashable, and can be pickled.  It works under every transform, and
    inside of a compiled function that uses it from outside.

    Attributes
    ----------
    pattern : SparsityPattern
        Where the entries are.
    entries : int
        How many entries it takes, duplicates included.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, SparsityPattern
    >>> pattern, assemble = SparsityPattern.from_coo([1, 0, 1], [0, 1, 0], (2, 2))
    >>> assemble(torch.tensor([1.0, 2.0, 4.0]))
    tensor([2., 5.])
    >>> assemble
    Assembly(3 entries to 2 values)
    """

    pattern: SparsityPattern
    entries: int
    _order: Tensor | None = None  # the sorted order of the entries; None where they are sorted
    _slot: Tensor | None = None  # where each sorted entry goes; None where no two share a place

    def __call__(self, entries: Tensor) -> Tensor:
        """Sort entries, and sum those at the same place.

        Parameters
        ----------
        entries : Tensor, shape ``(*batch, entries)``

        Returns
        -------
        Tensor, shape ``(*batch, nnz)``
            The values for ``SparseMatrix(pattern, values)``.  Entries that are in the order of the
            pattern already are returned as they are.

        Raises
        ------
        ValueError
            If there are more or fewer entries, or they are on another device.
        """
        if entries.ndim == 0 or entries.shape[-1] != self.entries:
            raise ValueError(
                f"there is one value for each of the {self.entries} places that this was made for, "
                f"along the last axis; got shape {tuple(entries.shape)}"
            )
        if entries.device != self.pattern.device:
            raise ValueError(
                f"entries are on the device of the pattern, {self.pattern.device}; got "
                f"{entries.device}: assemble.to({str(entries.device)!r}) moves the places"
            )
        if self._order is not None:
            entries = entries.index_select(-1, self._order)
        if self._slot is None:
            return entries
        zeros = entries.new_zeros(*entries.shape[:-1], self.pattern.nnz)
        return zeros.index_add(-1, self._slot, entries)

    @property
    def in_order(self) -> bool:
        """Whether entries are values as they are."""
        return self._order is None and self._slot is None

    @property
    def nbytes(self) -> int:
        """Size of the pattern and of the map."""
        own = sum(x.nbytes for x in (self._order, self._slot) if x is not None)
        return self.pattern.nbytes + own

    def to(self, device: torch.device | str) -> Assembly:
        """Move to a device."""
        order, slot = (x if x is None else x.to(device) for x in (self._order, self._slot))
        return Assembly(self.pattern.to(device), self.entries, order, slot)

    def __repr__(self) -> str:
        return f"Assembly({self.entries} entries to {self.pattern.nnz} values)"


class Compressed(NamedTuple):
    """Compressed rows of a list of entries, and how the entries get there (see `Assembly`)."""

    structure: Structure
    order: Tensor | None = None
    slot: Tensor | None = None


def compressed_coo(row: Any, col: Any, shape: tuple[int, int]) -> Compressed:
    """Sort entries by row and column, and find duplicates.  O(nnz log nnz) time."""
    with outside_transforms():
        rows, cols = check_shape(shape)
        row, col = as_index("row", row), as_index("col", col)
        check_index("row", row, rows)
        check_index("col", col, cols)
        if row.shape != col.shape:
            raise ValueError(f"row and col have the same length; got {len(row)} and {len(col)}")
        if row.device != col.device:
            raise ValueError(f"row and col are on one device; got {row.device} and {col.device}")
        _check_room(rows, len(row))
        return _compressed(_plain(row).long(), _plain(col).long(), rows, cols)


def compressed(crow: Any, col: Any, shape: tuple[int, int]) -> Compressed:
    """Check compressed rows; sort columns and find duplicates where there are any."""
    structure = checked(crow, col, shape)
    with outside_transforms():
        if first_disorder(structure) is None:
            return Compressed(structure)
        return _compressed(
            structure.row.long(), structure.col.long(), structure.rows, structure.cols
        )


def checked(crow: Any, col: Any, shape: tuple[int, int]) -> Structure:
    """Check compressed rows, but for the order of columns, and copy them."""
    with outside_transforms():
        rows, cols = check_shape(shape)
        crow, col = as_index("crow", crow), as_index("col", col)
        check_crow(crow, rows, col)
        check_index("col", col, cols)
        return owned(_plain(crow), _plain(col), cols)


def first_disorder(s: Structure) -> int | None:
    """Return the first entry whose column does not exceed its predecessor's in the same row."""
    wrong = s.col[1:] <= s.col[:-1]
    wrong[s.crow[(s.crow > 0) & (s.crow < s.nnz)].long() - 1] = False  # the last of a row
    return int(wrong.nonzero()[0]) + 1 if bool(wrong.any()) else None


def _compressed(row: Tensor, col: Tensor, rows: int, cols: int) -> Compressed:
    order = slot = None
    if not _sorted(row, col):
        order = _lexicographic_order(row, col, rows, cols)
        row, col = row[order], col[order]
    new = torch.ones_like(row, dtype=torch.bool)
    new[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
    if not bool(new.all()):
        slot = new.cumsum(0) - 1
        row, col = row[new], col[new]
    counts = torch.bincount(row, minlength=rows)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Compressed(owned(crow, col, cols), order, slot)


def _plain(index: Tensor) -> Tensor:
    """Take off what transforms have wrapped around an index that was made under them."""
    return unwrapped(index).detach()


def owned(crow: Tensor, col: Tensor, cols: int) -> Structure:
    """Copy indices to tensors that nobody else can modify."""
    dtype = index_dtype(crow.shape[0] - 1, cols, col.shape[0])
    crow, col = (x.to(dtype, copy=True).contiguous() for x in (crow, col))
    return Structure(crow, col, cols)


def _sorted(row: Tensor, col: Tensor) -> bool:
    later = (row[1:] > row[:-1]) | ((row[1:] == row[:-1]) & (col[1:] >= col[:-1]))
    return bool(later.all())


def _lexicographic_order(row: Tensor, col: Tensor, rows: int, cols: int) -> Tensor:
    if rows * cols < 2**63:  # the place in the dense matrix fits its integer
        return torch.argsort(row * cols + col, stable=True)
    by_col = torch.argsort(col, stable=True)
    return by_col[torch.argsort(row[by_col], stable=True)]


# -------------------------------------------------------------------------------------- checks


def refuse_while_compiling() -> None:
    """Refuse indices inside of a compiled region: they decide about shapes."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "a sparsity pattern cannot be made inside of a compiled function, because its size "
            "depends on the indices: make it outside, with "
            "`pattern, assemble = SparsityPattern.from_coo(row, col, shape)`, and build "
            "SparseMatrix(pattern, assemble(values)) inside"
        )


def as_index(name: str, index: Any, device: torch.device | None = None) -> Tensor:
    """Return indices as a tensor."""
    if isinstance(index, Tensor):
        return index
    try:
        index = torch.as_tensor(index, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is a vector of integers; got {index!r:.60}") from error
    return index if index.numel() else index.long()


def check_shape(shape: Any) -> tuple[int, int]:
    """Return a matrix shape as two ints."""
    try:
        size = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise TypeError(f"a shape is (rows, columns), two integers; got {shape!r}") from None
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"a matrix has a shape (rows, columns), none negative; got {size}")
    if math.prod(size) and max(size) > 2**62:
        raise ValueError(f"a matrix has at most 2**62 rows and columns; got {size}")
    return size[0], size[1]


def _check_room(rows: int, entries: int) -> None:
    """Refuse a matrix that would take gigabytes to say that most of its rows are empty."""
    if rows >= 2**30 and rows > 16 * entries:
        raise ValueError(
            f"a matrix with {rows} rows keeps where each of them starts, in {rows / 2**27:,.0f} "
            f"GiB, and {entries} entries are given: number the rows that store entries, or make "
            f"the transpose, and take its T"
        )


def check_index(name: str, index: Tensor, size: int) -> None:
    """Check a vector of indices into an axis of `size` entries."""
    _check_integer_vector(name, index)
    if not len(index):
        return
    low, high = index.aminmax()
    if low < 0 or high >= size:
        k = int(((index < 0) | (index >= size)).nonzero()[0])
        raise ValueError(
            f"{name}[{k}] = {int(index[k])} is out of range: indices run from 0 to {size - 1}"
            if size
            else f"{name}[{k}] = {int(index[k])} is out of range: that axis is empty"
        )


def check_crow(crow: Tensor, rows: int, col: Tensor) -> None:
    """Check where rows start."""
    _check_integer_vector("crow", crow)
    _check_integer_vector("col", col)
    if crow.device != col.device:
        raise ValueError(f"crow and col are on one device; got {crow.device} and {col.device}")
    if crow.shape[0] != rows + 1:
        raise ValueError(
            f"crow has one entry more than there are rows, {rows + 1}; got {crow.shape[0]}"
        )
    if int(crow[0]) != 0:
        raise ValueError(f"crow starts with 0; got crow[0] = {int(crow[0])}")
    falling = crow[1:] < crow[:-1]
    if bool(falling.any()):
        k = int(falling.nonzero()[0]) + 1
        raise ValueError(
            f"crow never decreases; got crow[{k}] = {int(crow[k])} "
            f"after crow[{k - 1}] = {int(crow[k - 1])}"
        )
    if int(crow[-1]) != col.shape[0]:
        raise ValueError(
            f"crow ends with the number of entries, {col.shape[0]} columns given; "
            f"got crow[{rows}] = {int(crow[-1])}"
        )


def _check_integer_vector(name: str, index: Tensor) -> None:
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name} holds integers; got {index.dtype}")
    if index.ndim != 1:
        raise ValueError(f"{name} is a vector; got shape {tuple(index.shape)}")
    if index.is_meta:
        raise ValueError(
            f"{name} is on the meta device, which keeps no numbers: make the matrix elsewhere and "
            f"move it with .to('meta')"
        )
