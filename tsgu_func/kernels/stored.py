"""A stored matrix as solvers see it: compressed rows, values, and how to read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsgu_func.kernels import products
from tsgu_func.kernels.arrays import as_array
from tsgu_func.kernels.structure import Structure

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["StoredMatrix"]


@dataclass(frozen=True)
class StoredMatrix:
    """The matrix that a solver is handed: S, Sᵀ, conj(S) or Sᴴ, for a matrix S that is stored.

    The values of S are (nnz,) or (b, nnz).  The attribute `hermitian` says that S was found to be
    equal to Sᴴ, so that it need not be looked at again.
    """

    structure: Structure
    values: Tensor
    transpose: bool = False
    conjugate: bool = False
    hermitian: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        s = self.structure
        return (s.cols, s.rows) if self.transpose else (s.rows, s.cols)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the values."""
        return self.values.dtype

    @property
    def T(self) -> StoredMatrix:
        """The transpose, sharing everything."""
        return replace(self, transpose=not self.transpose)

    @property
    def mH(self) -> StoredMatrix:
        """The conjugate transpose, sharing everything."""
        return replace(self, transpose=not self.transpose, conjugate=not self.conjugate)

    def conj(self) -> StoredMatrix:
        """Return the conjugate, sharing everything."""
        return replace(self, conjugate=not self.conjugate)

    @property
    def entries(self) -> Tensor:
        """The values, conjugated if the matrix is."""
        return self.values.conj().resolve_conj() if self.conjugate else self.values

    def __matmul__(self, X: Tensor) -> Tensor:
        """Multiply with X (m, p) or (b, m, p)."""
        return products.spmm(self.structure, self.entries, X, transpose=self.transpose)

    def members(self) -> Iterator[StoredMatrix]:
        """Go through the batch."""
        return (replace(self, values=values) for values in self.values)

    def to_csr(self) -> Tensor:
        """Return a ``torch.sparse_csr`` tensor (not batched): a copy."""
        s, order = self.structure.oriented(self.transpose)
        entries = self.entries.clone() if order is None else self.entries.index_select(-1, order)
        return products.csr_tensor(Structure(s.crow.clone(), s.col.clone(), s.cols), entries)

    def to_scipy(self) -> csr_array:
        """Return S, neither transposed nor conjugated, as a SciPy array: a copy."""
        from scipy.sparse import csr_array

        s = self.structure
        parts = (as_array(x).copy() for x in (self.values, s.col, s.crow))
        return csr_array(tuple(parts), shape=(s.rows, s.cols))
