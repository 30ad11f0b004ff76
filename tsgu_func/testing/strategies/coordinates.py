"""Entries of a matrix: three lists that are drawn first, and all layouts that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.testing.strategies.options import one_of_names
from tsgu_func.testing.strategies.places import Places

__all__ = ["LAYOUTS", "Entries", "joined", "kept", "merged", "ordered"]


class Entries(NamedTuple):
    """The entries of a matrix, or of a batch with one pattern, in any order and with duplicates.

    Attributes
    ----------
    row, col : Tensor, shape (nnz,), integer
    values : Tensor, shape ``(*batch, nnz)``
    shape : (int, int)

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies import Entries
    >>> e = Entries(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([2.0, 3.0]), (1, 2))
    >>> e.dense()
    tensor([[0., 5.]])
    >>> e.matrix().nnz, e.coo().is_coalesced(), e.csr().values()
    (1, False, tensor([5.]))
    """

    row: Tensor
    col: Tensor
    values: Tensor
    shape: tuple[int, int]

    @property
    def places(self) -> Places:
        """The places of the entries."""
        return Places(self.row, self.col, self.shape)

    def dense(self) -> Tensor:
        """Return the dense matrix, by a loop that shares no code with the library: the oracle."""
        A = self.values.new_zeros(*self.values.shape[:-1], *self.shape)
        for k, (i, j) in enumerate(zip(self.row.tolist(), self.col.tolist(), strict=True)):
            A[..., i, j] += self.values[..., k]
        return A

    def matrix(self) -> SparseMatrix:
        """Return a SparseMatrix."""
        return SparseMatrix.from_coo(self.row, self.col, self.values, self.shape)

    def transposed(self) -> SparseMatrix:
        """Return a SparseMatrix that is made as a transpose, so its pattern is kept by columns."""
        n, m = self.shape
        return SparseMatrix.from_coo(self.col, self.row, self.values, (m, n)).T

    def coo(self) -> Tensor:
        """Return a ``torch.sparse_coo`` tensor with the entries as they are, not coalesced."""
        self._check_single("coo")
        indices = torch.stack([self.row, self.col]).long()
        return torch.sparse_coo_tensor(indices, self.values, self.shape, check_invariants=True)

    def coalesced(self) -> Tensor:
        """Return a ``torch.sparse_coo`` tensor that PyTorch has coalesced."""
        return self.coo().coalesce()

    def csr(self) -> Tensor:
        """Return a ``torch.sparse_csr`` tensor with indices of the dtype of `row`."""
        A = self.coo().to_sparse_csr()
        crow, col = (x.to(self.row.dtype) for x in (A.crow_indices(), A.col_indices()))
        return torch.sparse_csr_tensor(crow, col, A.values(), A.shape, check_invariants=True)

    def stored(self, layout: str) -> SparseMatrix | Tensor:
        """Return the matrix in one of `LAYOUTS`."""
        one_of_names("layout", layout, LAYOUTS)
        return _STORE[layout](self)

    def _check_single(self, layout: str) -> None:
        if self.values.ndim != 1:
            raise ValueError(
                f"{layout} takes the entries of one matrix; these have a batch of shape "
                f"{tuple(self.values.shape[:-1])}: sparse_matrices(layout={layout!r}, batch=(b,)) "
                f"draws a batch"
            )


_STORE: dict[str, Callable[[Entries], Any]] = {
    "matrix": Entries.matrix,
    "transposed": Entries.transposed,
    "coo": Entries.coo,
    "coalesced": Entries.coalesced,
    "csr": Entries.csr,
}
LAYOUTS = tuple(_STORE)


def kept(e: Entries, mask: Tensor) -> Entries:
    """Keep the entries of a mask."""
    return Entries(e.row[mask], e.col[mask], e.values[..., mask], e.shape)


def joined(e: Entries, row: Tensor, col: Tensor, values: Tensor) -> Entries:
    """Add entries behind those that are there."""
    rows, cols = torch.cat([e.row, row.to(e.row)]), torch.cat([e.col, col.to(e.col)])
    return Entries(rows, cols, torch.cat([e.values, values], -1), e.shape)


def ordered(e: Entries) -> Entries:
    """Sort by row, then by column; entries at one place keep their order."""
    order = torch.argsort(e.row.long() * e.shape[1] + e.col, stable=True)
    return Entries(e.row[order], e.col[order], e.values[..., order], e.shape)


def merged(e: Entries) -> Entries:
    """Add up the entries at each place, the places in the order in which they come first."""
    cells = list(zip(e.row.tolist(), e.col.tolist(), strict=True))
    number = {cell: k for k, cell in enumerate(dict.fromkeys(cells))}
    index = torch.tensor([number[cell] for cell in cells], dtype=torch.int64)
    values = e.values.new_zeros(*e.values.shape[:-1], len(number))
    row, col = (torch.tensor([cell[axis] for cell in number], dtype=e.row.dtype) for axis in (0, 1))
    return Entries(row, col, values.index_add(-1, index, e.values), e.shape)
