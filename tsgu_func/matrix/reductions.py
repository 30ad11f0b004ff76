"""Sums over rows, columns and batches of sparse matrices, norms, and diagonals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tsgu_func.matrix import arguments
from tsgu_func.matrix.base import MatrixBase

__all__ = ["Reductions"]


class Reductions(MatrixBase):
    """What a `SparseMatrix` can be reduced to."""

    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Any:
        """Sum over axes, as ``torch.sum`` does: -1 gives the sums of the rows, -2 of the columns.

        Parameters
        ----------
        dim : int or sequence of int, optional
            Axes of ``A.shape``.  Default: all.
        keepdim : bool
            Whether these axes stay, with size one.

        Returns
        -------
        Tensor, or SparseMatrix
            A SparseMatrix if all of the axes belong to the batch.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        >>> A.sum(), A.sum(-1), A.sum(-2)
        (tensor(6.), tensor([3., 3.]), tensor([1., 5.]))
        """
        arguments.check_whole(self)
        axes = _axes(dim, self.ndim)
        over_rows, over_cols = self.ndim - 2 in axes, self.ndim - 1 in axes
        batch = tuple(axis for axis in axes if axis < self.ndim - 2)
        values = self.values.sum(batch, keepdim) if batch else self.values
        if not (over_rows or over_cols):
            return self._of(self.pattern, values)
        if over_rows and over_cols:
            total = values.sum(-1)
            return total[..., None, None] if keepdim else total
        row, col = self.pattern.places()
        n, m = self.pattern.shape
        index, size = (row, n) if over_cols else (col, m)
        sums = values.new_zeros(*values.shape[:-1], size).index_add(-1, index, values)
        return sums.unsqueeze(-1 if over_cols else -2) if keepdim else sums

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Any:
        """Average over axes; entries that are not stored count as zeros.  See `sum`."""
        axes = _axes(dim, self.ndim)
        return self.sum(dim, keepdim) / math.prod([self.shape[axis] for axis in axes])

    def norm(self, ord: Literal["fro", 1] | float = "fro") -> Tensor:  # noqa: A002 - torch's name
        """Return a norm of each member, shape ``(*batch,)``.

        Parameters
        ----------
        ord : {"fro", 1, inf}
            ``"fro"`` is the Frobenius norm.  1 is the largest sum of absolute values in a column,
            and inf the largest in a row.  The spectral norm is not computed here, because it needs
            singular values: see ``scipy.sparse.linalg.svds``.
        """
        if ord == "fro":
            arguments.check_whole(self)
            return _length(self.values)
        if ord not in (1, math.inf):
            raise ValueError(f"ord is 'fro', 1 or inf; got {ord!r}")
        sums = self._of(self.pattern, self.values.abs()).sum(-2 if ord == 1 else -1)
        return sums.amax(-1) if sums.shape[-1] else sums.sum(-1)

    def diagonal(self) -> Tensor:
        """Return the main diagonal ``(*batch, min(n, m)``), with zeros where nothing is stored."""
        arguments.check_whole(self)
        row, col = self.pattern.places()
        zeros = self.values.new_zeros(*self.values.shape[:-1], min(self.pattern.shape))
        # Entries off the diagonal add nothing, at any place that exists: traceable as it is.
        on = row == col
        kept = torch.where(on, self.values, self.values.new_zeros(()))
        return zeros if not zeros.shape[-1] else zeros.index_add(-1, torch.where(on, row, 0), kept)

    def trace(self) -> Tensor:
        """Return the sum of the main diagonal, shape ``(*batch,)``; A need not be square."""
        return self.diagonal().sum(-1)


def _length(values: Tensor) -> Tensor:
    """Return the Euclidean norm along the last axis, whose derivative at zero is zero."""
    # Of vector_norm, the third derivative fails in PyTorch (2.13), in reverse mode over forward.
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj()).flatten(-2)
    squares = values.square().sum(-1)
    zero = squares == 0
    return torch.where(zero, 0, torch.where(zero, 1, squares).sqrt())


def _axes(dim: int | Sequence[int] | None, ndim: int) -> list[int]:
    """Return axes counted from the front, each once."""
    if dim is None:
        return list(range(ndim))
    axes = [arguments.axis_of(axis, ndim) for axis in ((dim,) if isinstance(dim, int) else dim)]
    if len(set(axes)) < len(axes):
        raise ValueError(f"each axis is summed over once; got {dim}")
    return axes
