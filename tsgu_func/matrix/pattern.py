"""The sparsity pattern: where a matrix stores entries, shared by all matrices that do so there."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.structure import Structure, shared
from tsgu_func.matrix import pictures
from tsgu_func.matrix.assembly import (
    Assembly,
    Compressed,
    checked,
    compressed,
    compressed_coo,
    first_disorder,
    refuse_while_compiling,
)
from tsgu_func.registration.transforms import outside_transforms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SAVED", "Assembly", "SparsityPattern", "assemble_coo", "assemble_csr", "assembled"]


class SparsityPattern:
    """The places where a matrix stores entries.  A pattern cannot be changed, and it is hashable.

    Two patterns with the same indices on the same device are equal, wherever they come from.
    However often such a pattern is made, there is only one copy of its indices.  To find an equal
    one costs O(nnz) when a pattern is made; to compare two patterns then costs nothing.  Indices
    are copied when you pass them and when you ask for them, so nobody can change them.

    The indices are compressed by rows.  The transpose of a pattern shares them, and reads them as
    compressed by columns.  What else the kernels need is computed at first use and then kept.

    Parameters
    ----------
    crow : Tensor, shape (n + 1,), integer
        Where each row starts in `col`.
    col : Tensor, shape (nnz,), integer
        The column of each entry, increasing within each row.
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
    >>> pattern  # with an id that equal patterns have in common
    SparsityPattern(shape=(2, 3), nnz=3, id=...)
    >>> pattern.row, pattern.col
    (tensor([0, 0, 1], dtype=torch.int32), tensor([0, 2, 1], dtype=torch.int32))
    """

    structure: Structure
    transposed: bool
    detected: str = ""  # how it was, where it need not hold for other inputs

    def __init__(self, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
        for name, index in (("crow", crow), ("col", col)):
            if not isinstance(index, Tensor):
                raise TypeError(f"{name} is a tensor of integers; got {type(index).__name__}")
        refuse_while_compiling()
        structure = checked(crow, col, shape)
        with outside_transforms():
            if (k := first_disorder(structure)) is not None:
                raise ValueError(
                    f"columns increase within a row, but col[{k}] = {int(structure.col[k])} does "
                    f"not exceed col[{k - 1}] = {int(structure.col[k - 1])} in row "
                    f"{int(structure.row[k])}; SparsityPattern.from_csr sorts them and tells how "
                    f"values follow"
                )
        self.structure, self.transposed = shared(structure), False

    @classmethod
    def of_structure(cls, structure: Structure, transposed: bool = False) -> SparsityPattern:
        """Wrap a structure that is known to be valid, or the one with the same indices."""
        self = cls.__new__(cls)
        self.structure = structure if structure.content is not None else shared(structure)
        self.transposed = transposed
        return self

    # ---------------------------------------------------------------------------- construction

    @classmethod
    def from_coo(
        cls, row: Any, col: Any, shape: tuple[int, int]
    ) -> tuple[SparsityPattern, Assembly]:
        """Make a pattern from places in any order, and a function that assembles values for it.

        In the pattern, entries are sorted by row, and within a row by column.  If a place is listed
        more than once, the pattern has one entry for it.

        Parameters
        ----------
        row, col : Tensor or sequence of int, shape (entries,)
            The place of each entry.
        shape : (int, int)

        Returns
        -------
        pattern : SparsityPattern
        assemble : Assembly
            A function that you call with entries ``(*batch, entries)`` in the order of `row` and
            `col`.  It sorts them, sums those at the same place, and returns the values for
            ``SparseMatrix(pattern, values)``.  It is linear, and differentiable to any order.

        Raises
        ------
        ValueError
            If an index is out of range, or the indices differ in length or device.
        TypeError
            If the indices are not integers.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix, SparsityPattern
        >>> pattern, assemble = SparsityPattern.from_coo([2, 0, 0], [0, 1, 0], (3, 2))
        >>> pattern.row, pattern.col
        (tensor([0, 0, 2], dtype=torch.int32), tensor([0, 1, 0], dtype=torch.int32))
        >>> SparseMatrix(pattern, assemble(torch.tensor([1.0, 2.0, 3.0]))).to_dense()
        tensor([[3., 2.],
                [0., 0.],
                [1., 0.]])
        """
        assembly = assemble_coo(row, col, shape)
        return assembly.pattern, assembly

    @classmethod
    def from_csr(
        cls, crow: Any, col: Any, shape: tuple[int, int]
    ) -> tuple[SparsityPattern, Assembly]:
        """Make a pattern from the arrays of CSR, and a function that assembles values for it.

        The columns need not increase within a row, and may be repeated.  See `from_coo`.

        Parameters
        ----------
        crow : Tensor or sequence of int, shape (n + 1,)
            Where each row starts in `col`.
        col : Tensor or sequence of int, shape (entries,)
            Column of each entry.
        shape : (int, int)

        Returns
        -------
        pattern : SparsityPattern
        assemble : Assembly
        """
        assembly = assemble_csr(crow, col, shape)
        return assembly.pattern, assembly

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
    def nbytes(self) -> int:
        """Size of the indices, and of all that was derived from them."""
        return self.structure.bytes

    @property
    def crow(self) -> Tensor:
        """Where each row starts in `col`: a copy.

        Raises
        ------
        ValueError
            If this is a transpose, which is compressed by columns.
        """
        if self.transposed:
            raise ValueError(
                "a transpose is compressed by columns, so its entries are not ordered by row; "
                "pattern.T.crow says where its columns start"
            )
        return self.structure.crow.clone()

    @property
    def row(self) -> Tensor:
        """Row of each entry, in the order of the values: a copy."""
        return (self.structure.col if self.transposed else self.structure.row).clone()

    @property
    def col(self) -> Tensor:
        """Column of each entry, in the order of the values: a copy."""
        return (self.structure.row if self.transposed else self.structure.col).clone()

    def places(self) -> tuple[Tensor, Tensor]:
        """Return row and column of each entry, which are not to be written to."""
        s = self.structure
        return (s.col, s.row) if self.transposed else (s.row, s.col)

    @property
    def T(self) -> SparsityPattern:
        """The transpose, which shares the indices (and the order of the values)."""
        transpose = SparsityPattern.of_structure(self.structure, not self.transposed)
        return transpose._detected_as(self)

    def _detected_as(self, other: SparsityPattern) -> SparsityPattern:
        self.detected = other.detected
        return self

    # ------------------------------------------------------------------------------ comparison

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        return self.structure is other.structure and self.transposed == other.transposed

    def __hash__(self) -> int:
        return hash((id(self.structure), self.transposed))

    def same_pattern(self, other: SparsityPattern) -> bool:
        """Whether two patterns store the same entries in the same order, on the same device.

        Equal patterns do.  A pattern and the transpose of another one may do so, too, although they
        are not equal; this takes O(nnz) to find out.
        """
        if self.transposed == other.transposed or self.shape != other.shape:
            return self == other
        if self.nnz != other.nnz or self.device != other.device:
            return False
        with outside_transforms():
            pairs = zip(self.places(), other.places(), strict=True)
            return all(bool((x == y).all()) for x, y in pairs)

    def __repr__(self) -> str:
        by = ", by columns" if self.transposed else ""
        how = f", detected {self.detected}" if self.detected else ""
        known = f"shape={self.shape}, nnz={self.nnz}, id={self.structure.label}"
        return f"SparsityPattern({known}{by}{how})"

    def _repr_html_(self) -> str:
        facts = {
            "shape": " × ".join(map(str, self.shape)),
            "stored entries": self.nnz,
            "density": pictures.density(self),
            "device": self.device,
            "id": self.structure.label + (", by columns" if self.transposed else ""),
        }
        return pictures.card("SparsityPattern", pictures.thumbnail(self), facts)

    def spy(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw where entries are stored, with matplotlib (``pip install "tsgu_func[demo]"``).

        Each entry is a dark cell.  If there are more than 256 rows or columns, a cell stands for
        a rectangle of places, and is darker the more entries there are in it.  This takes O(nnz)
        time.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw.  Default: the current ones of ``matplotlib.pyplot``.
        **options
            For ``Axes.imshow``, such as ``cmap="Blues"``.

        Returns
        -------
        Axes
        """
        return pictures.spy(self, ax, options)

    # --------------------------------------------------------------------------------- copies

    def to(self, device: torch.device | str) -> SparsityPattern:
        """Move to a device.  A pattern that is there already is returned as it is."""
        device = _device(device)
        if device == self.device:
            return self
        moved = SparsityPattern.of_structure(_moved(self.structure, device), self.transposed)
        return moved._detected_as(self)

    def share_memory_(self) -> SparsityPattern:
        """Move the indices to memory that several processes share.

        As for a tensor, no other thread may compute with the pattern during the move.
        """
        for index in (self.structure.crow, self.structure.col):
            index.share_memory_()
        return self

    def __copy__(self) -> SparsityPattern:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsityPattern:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        s = self.structure
        return _unpickle, (s.crow, s.col, s.cols, self.transposed, self.detected)


def _unpickle(
    crow: Tensor, col: Tensor, cols: int, transposed: bool, detected: str = ""
) -> SparsityPattern:
    """Make a pattern of what a file says, which anybody may have written."""
    structure = Structure(crow, col, cols)
    if not crow.is_meta:
        structure = checked(crow, col, (len(crow) - 1, cols))
        if first_disorder(structure) is not None:
            raise ValueError("the file holds no sparsity pattern: columns do not increase in a row")
    pattern = SparsityPattern.of_structure(structure, transposed)
    pattern.detected = str(detected)
    return pattern


# What `torch.load` meets in a file with a pattern, or with what brings entries into its order.
SAVED = (SparsityPattern, Assembly, _unpickle)


def _device(device: torch.device | str) -> torch.device:
    """Name a device as tensors do that are there: `cuda` is the current one of them."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _moved(s: Structure, device: torch.device) -> Structure:
    """Return a structure on another device, copied once as long as that one lives."""
    there = s.derive("elsewhere", lambda _: weakref.WeakValueDictionary())
    moved = there.get(device)
    if moved is None:
        with outside_transforms():
            moved = shared(Structure(s.crow.to(device), s.col.to(device), s.cols))
        # Weakly, and both ways: neither keeps the other's memory.
        there[device] = moved
        moved.derive("elsewhere", lambda _: weakref.WeakValueDictionary())[s.crow.device] = s
    return moved


@considerate
def assemble_coo(row: Any, col: Any, shape: tuple[int, int]) -> Assembly:
    """Sort entries by row and column, and find duplicates.  O(nnz log nnz) time."""
    refuse_while_compiling()
    return assembled(compressed_coo(row, col, shape), len(col))


@considerate
def assemble_csr(crow: Any, col: Any, shape: tuple[int, int]) -> Assembly:
    """Check compressed rows; sort columns and find duplicates where there are any."""
    refuse_while_compiling()
    return assembled(compressed(crow, col, shape), len(col))


def assembled(found: Compressed, entries: int) -> Assembly:
    """Return the pattern of compressed rows, and what brings entries into its order."""
    pattern = SparsityPattern.of_structure(found.structure)
    return Assembly(pattern, entries, found.order, found.slot)
