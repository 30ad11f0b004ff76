"""Arithmetic of sparse matrices: what the operators mean for dense ones."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from tsgu_func.matrix import arguments
from tsgu_func.matrix.base import MatrixBase
from tsgu_func.matrix.batches import over_batches
from tsgu_func.matrix.elementwise import at_entries, is_factor
from tsgu_func.matrix.pattern import SparsityPattern, assemble_coo
from tsgu_func.ops.products import spmm

__all__ = ["Algebra"]


class Algebra(MatrixBase):
    """The arithmetic of a `SparseMatrix`."""

    # Binary operators of NumPy arrays leave the operation to this class.
    __array_ufunc__ = None

    def diagonal(self) -> Tensor:
        """Return the main diagonal ``(*batch, min(n, m)``), with zeros where nothing is stored."""
        arguments.check_whole(self)
        row, col = self.pattern.places()
        zeros = self.values.new_zeros(*self.values.shape[:-1], min(self.pattern.shape))
        # Entries off the diagonal add nothing, at any place that exists: traceable as it is.
        on = row == col
        kept = torch.where(on, self.values, self.values.new_zeros(()))
        return zeros if not zeros.shape[-1] else zeros.index_add(-1, torch.where(on, row, 0), kept)

    # There is no __torch_function__: with one, Dynamo (2.13) would hand it A @ B and B @ A as the
    # same call.  Without, a compiled `@` raises, and sparse_mm is the way to write it there.
    def __matmul__(self, B: Tensor) -> Tensor:
        return self.matmul(B) if isinstance(B, Tensor) else NotImplemented

    def matmul(self, B: Tensor) -> Tensor:
        """Return ``A @ B``, also inside of ``torch.compile``; `mm` and `mv` are other names for it.

        Parameters
        ----------
        B : Tensor, shape (m,), or ``(*batch, m, p)`` with a batch that broadcasts

        Returns
        -------
        Tensor, shape ``(*batch, n)`` for a vector, or ``(*batch, n, p)``

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
        >>> torch.compile(SparseMatrix.matmul, backend="eager")(A, torch.ones(2))
        tensor([2., 3.])
        """
        arguments.check_matmul(self, B)
        return over_batches(_product, self.pattern, self.values, B)

    mm = mv = matmul

    def __rmatmul__(self, B: Tensor) -> Tensor:
        if not isinstance(B, Tensor):
            return NotImplemented
        return self.T @ B if B.ndim == 1 else (self.T @ B.mT).mT

    def __add__(self, other: Any) -> Self:
        if not isinstance(other, MatrixBase):
            return NotImplemented
        arguments.check_devices(self, other)
        if self.pattern == other.pattern:
            return self._of(self.pattern, self.values + other.values)
        if self.pattern.shape != other.pattern.shape:
            raise ValueError(
                f"matrices of one shape can be added; got {self.pattern.shape} "
                f"and {other.pattern.shape}"
            )
        p, q = self.pattern, other.pattern
        row, col = (torch.cat(both) for both in zip(p.places(), q.places(), strict=True))
        batch = torch.broadcast_shapes(self.values.shape[:-1], other.values.shape[:-1])
        both = [x.values.expand(*batch, x.nnz) for x in (self, other)]
        assembly = assemble_coo(row, col, p.shape)
        return self._of(assembly.pattern, assembly(torch.cat(both, -1)))

    def __neg__(self) -> Self:
        return self._of(self.pattern, -self.values)

    def __sub__(self, other: Any) -> Self:
        if not isinstance(other, Algebra):
            return NotImplemented
        return self + -other

    def __mul__(self, factor: complex | Tensor) -> Self:
        if not is_factor(factor):
            return NotImplemented
        return self.mul(factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: complex | Tensor) -> Self:
        if not is_factor(divisor):
            return NotImplemented
        return self.div(divisor)

    def mul(self, factor: complex | Tensor) -> Self:
        """Return ``A * factor``, also inside of ``torch.compile``; the pattern stays.

        Parameters
        ----------
        factor : number, or dense Tensor that broadcasts with A
            What it does to ``A.to_dense()``, at the stored entries.  It may add axes to the batch,
            but no rows and no columns.  O(nnz) time and memory.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        >>> d = torch.tensor([10.0, 100.0])
        >>> (A * d).to_dense(), (A * d[:, None]).to_dense()
        (tensor([[ 10., 200.],
                [  0., 300.]]), tensor([[ 10.,  20.],
                [  0., 300.]]))
        """
        return self._of(self.pattern, self.values * at_entries(self, factor))

    def div(self, divisor: complex | Tensor) -> Self:
        """Return ``A / divisor`` at the stored entries; for the divisor see `mul`."""
        return self._of(self.pattern, self.values / at_entries(self, divisor))


def _product(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
    s = pattern.structure
    return spmm(values, B, s.crow, s.col, s.cols, pattern.transposed)
