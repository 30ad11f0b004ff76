"""The sparsity pattern: where a matrix stores entries, shared by all matrices that do so there."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.structure import Structure, index_dtype, register, rows_of
from tsgu_func.registration.transforms import outside_transforms, unwrapped

__all__ = ["Assembly", "SparsityPattern"]


class SparsityPattern:
    """Where a matrix stores entries: immutable, hashable, and shared by everything built on it.

    Indices are kept once, compressed by rows or, for a transpose, by columns; the transpose of a
    pattern shares them.  What kernels need beyond them is derived at first use and then kept.

    Two patterns are equal when they share their index tensors, which costs nothing to find out;
    `same_pattern` compares the indices themselves.

    Parameters
    ----------
    crow : Tensor, shape (n + 1,), integer
        Where each row starts in `col`.
    col : Tensor, shape (nnz,), integer
        Column of each entry, increasing within each row.
    shape : tuple of int
        ``(n, m)``.

    Raises
    ------
    ValueError
        If an index is out of range, decreasing or repeated; the message names the entry.
    TypeError
        If the indices are not integer tensors.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparsityPattern
    >>> pattern = SparsityPattern(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), (2, 3))
    >>> pattern
    SparsityPattern(shape=(2, 3), nnz=3)
    >>> pattern.row, pattern.col
    (tensor([0, 0, 1], dtype=torch.int32), tensor([0, 2, 1], dtype=torch.int32))
    """

    structure: Structure
    transposed: bool

    def __init__(self, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
        with outside_transforms():
            structure = _checked(crow, col, shape)
            if (k := _first_disorder(structure)) is not None:
                raise ValueError(
                    f"columns increase within a row, but col[{k}] = {int(structure.col[k])} does "
                    f"not exceed col[{k - 1}] = {int(structure.col[k - 1])} in row "
                    f"{int(structure.row[k])}; SparseMatrix.from_csr sorts them and sums duplicates"
                )
            self.structure, self.transposed = register(structure), False

    @classmethod
    def of_structure(cls, structure: Structure, transposed: bool = False) -> SparsityPattern:
        """Wrap a structure that is known to be valid."""
        self = cls.__new__(cls)
        self.structure, self.transposed = structure, transposed
        return self

    # ------------------------------------------------------------------------------ attributes

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        s = self.structure
        return (s.cols, s.rows) if self.transposed else (s.rows, s.cols)

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.structure.nnz

    @property
    def device(self) -> torch.device:
        """Where the indices are."""
        return self.structure.crow.device

    @property
    def row(self) -> Tensor:
        """Row of each entry, in the order of the values."""
        return self.structure.col if self.transposed else self._along()

    @property
    def col(self) -> Tensor:
        """Column of each entry, in the order of the values."""
        return self._along() if self.transposed else self.structure.col

    def _along(self) -> Tensor:
        # A traced region must not fill the store of derived pieces, so there it is computed.
        s = self.structure
        if torch.compiler.is_compiling():
            return rows_of(s)
        with outside_transforms():
            return s.row

    @property
    def T(self) -> SparsityPattern:
        """The transpose, which shares the indices (and the order of the values)."""
        return SparsityPattern.of_structure(self.structure, not self.transposed)

    # ------------------------------------------------------------------------------ comparison

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        return self.structure is other.structure and self.transposed == other.transposed

    def __hash__(self) -> int:
        return hash((id(self.structure), self.transposed))

    def same_pattern(self, other: SparsityPattern) -> bool:
        """Whether both store the same entries in the same order.  O(nnz) time."""
        if self == other:
            return True
        if self.shape != other.shape or self.nnz != other.nnz or self.device != other.device:
            return False
        return _all_equal(self.row, other.row) and _all_equal(self.col, other.col)

    def __repr__(self) -> str:
        by = ", by columns" if self.transposed else ""
        return f"SparsityPattern(shape={self.shape}, nnz={self.nnz}{by})"

    # --------------------------------------------------------------------------------- copies

    def to(self, device: torch.device | str) -> SparsityPattern:
        """Move to a device; the pattern itself where it is there already."""
        if torch.device(device) == self.device:
            return self
        s = self.structure
        with outside_transforms():
            moved = register(Structure(s.crow.to(device), s.col.to(device), s.cols))
        return SparsityPattern.of_structure(moved, self.transposed)

    def __copy__(self) -> SparsityPattern:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsityPattern:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        s = self.structure
        return _unpickle, (s.crow, s.col, s.cols, self.transposed)


def _unpickle(crow: Tensor, col: Tensor, cols: int, transposed: bool) -> SparsityPattern:
    return SparsityPattern.of_structure(register(Structure(crow, col, cols)), transposed)


# --------------------------------------------------------------------- from entries to a pattern


class Assembly(NamedTuple):
    """A pattern, and how the values of a list of entries become values on it.

    Attributes
    ----------
    pattern : SparsityPattern
    order : Tensor or None
        The sorted order of the entries; ``None`` where they are sorted.
    slot : Tensor or None
        Where each sorted entry goes; ``None`` where no two share a place.
    """

    pattern: SparsityPattern
    order: Tensor | None
    slot: Tensor | None

    def __call__(self, values: Tensor) -> Tensor:
        """Sort values (..., entries) and sum duplicates: differentiable, any batch."""
        if self.order is not None:
            values = values.index_select(-1, self.order)
        if self.slot is None:
            return values
        zeros = values.new_zeros(*values.shape[:-1], self.pattern.nnz)
        return zeros.index_add(-1, self.slot, values)


def assemble_coo(row: Tensor, col: Tensor, shape: tuple[int, int]) -> Assembly:
    """Sort entries by row and column, and find duplicates.  O(nnz log nnz) time."""
    with outside_transforms():
        rows, cols = check_shape(shape)
        check_index("row", row, rows)
        check_index("col", col, cols)
        if row.shape != col.shape:
            raise ValueError(f"row and col have the same length; got {len(row)} and {len(col)}")
        if row.device != col.device:
            raise ValueError(f"row and col are on one device; got {row.device} and {col.device}")
        return _assemble(_plain(row).long(), _plain(col).long(), rows, cols)


def _assemble(row: Tensor, col: Tensor, rows: int, cols: int) -> Assembly:
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
    pattern = SparsityPattern.of_structure(register(_owned(crow, col, cols)))
    return Assembly(pattern, order, slot)


def assemble_csr(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Assembly:
    """Check compressed rows; sort columns and find duplicates where there are any."""
    with outside_transforms():
        structure = _checked(crow, col, shape)
        if _first_disorder(structure) is None:
            return Assembly(SparsityPattern.of_structure(register(structure)), None, None)
        return assemble_coo(structure.row, structure.col, shape)


def _checked(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Structure:
    rows, cols = check_shape(shape)
    check_crow(crow, rows, col)
    check_index("col", col, cols)
    return _owned(_plain(crow), _plain(col), cols)


def _plain(index: Tensor) -> Tensor:
    """Take off what transforms have wrapped around an index that was made under them."""
    return unwrapped(index).detach()


def _owned(crow: Tensor, col: Tensor, cols: int) -> Structure:
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


def _first_disorder(s: Structure) -> int | None:
    """Return the first entry whose column does not exceed its predecessor's in the same row."""
    wrong = (s.col[1:] <= s.col[:-1]) & (s.row[1:] == s.row[:-1])
    return int(wrong.nonzero()[0]) + 1 if bool(wrong.any()) else None


def _all_equal(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x, y) if x.dtype == y.dtype else bool((x == y).all())


# -------------------------------------------------------------------------------------- checks


def check_shape(shape: Any) -> tuple[int, int]:
    """Return a matrix shape as two ints."""
    size = tuple(int(n) for n in shape)
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"a matrix has a shape (rows, columns), none negative; got {size}")
    if math.prod(size) and max(size) > 2**62:
        raise ValueError(f"a matrix has at most 2**62 rows and columns; got {size}")
    return size[0], size[1]


def check_index(name: str, index: Any, size: int) -> None:
    """Check a vector of indices into an axis of `size` entries."""
    _check_integer_vector(name, index)
    wrong = (index < 0) | (index >= size)
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name}[{k}] = {int(index[k])} is out of range: indices run from 0 to {size - 1}"
            if size
            else f"{name}[{k}] = {int(index[k])} is out of range: that axis is empty"
        )


def check_crow(crow: Any, rows: int, col: Any) -> None:
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


def _check_integer_vector(name: str, index: Any) -> None:
    if not isinstance(index, Tensor):
        raise TypeError(f"{name} is a tensor of integers; got {type(index).__name__}")
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name} holds integers; got {index.dtype}")
    if index.ndim != 1:
        raise ValueError(f"{name} is a vector; got shape {tuple(index.shape)}")
