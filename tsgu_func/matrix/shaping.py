"""Triangles, zeros that are stored, and the axes of the batch."""

from __future__ import annotations

import math
import operator
from typing import Any, Self

import torch

from tsgu_func.matrix import arguments
from tsgu_func.matrix.derived import derived
from tsgu_func.matrix.indexing import Indexing
from tsgu_func.matrix.selection import marked, triangle
from tsgu_func.registration.transforms import (
    is_batched,
    is_tracing,
    outside_transforms,
    unwrapped,
)

__all__ = ["Shaping"]


class Shaping(Indexing):
    """Parts of a `SparseMatrix`, and other shapes of a batch."""

    def tril(self, k: int = 0) -> Self:
        """Return the entries on diagonal k and below it, as ``torch.tril`` does.

        Parameters
        ----------
        k : int
            0 is the main diagonal, 1 the one above, -1 the one below.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> A.tril().to_dense(), A.triu(1).nnz
        (tensor([[1., 0.],
                [3., 4.]]), 1)
        """
        arguments.check_whole(self)
        return self._take(derived(triangle, self.pattern, False, operator.index(k)))

    def triu(self, k: int = 0) -> Self:
        """Return the entries on diagonal k and above it; see `tril`."""
        arguments.check_whole(self)
        return self._take(derived(triangle, self.pattern, True, operator.index(k)))

    def eliminate_zeros(self) -> Self:
        """Return the same matrix without the stored entries that are zero in all members.

        Raises
        ------
        RuntimeError
            Under ``vmap`` over the values, and where a graph is traced.  How many entries are left
            depends on numbers, which are not known there.

        Notes
        -----
        Under ``torch.func.grad`` and eager autograd, the values at this point decide what is left
        out.  From then on what is left out is a constant, and its gradient is zero.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.eye(3)
        >>> (A - A).nnz, (A - A).eliminate_zeros().nnz
        (3, 0)
        """
        arguments.check_whole(self)
        if torch.compiler.is_compiling() or is_tracing() or is_batched(self.values):
            raise RuntimeError(
                "eliminate_zeros depends on which values are zero, and they are not known inside "
                "of a compiled function, or where vmap maps over them: call it outside"
            )
        with outside_transforms():
            used = unwrapped(self.values.detach()) != 0
            some = marked(self.pattern, used.flatten(0, -2).any(0) if used.ndim > 1 else used)
        return self._take(some)

    def reshape(self, *shape: Any) -> Self:
        """Give the batch another shape; the last two axes stay.

        Parameters
        ----------
        *shape : int, or one tuple of them
            ``(*batch, n, m)``; one size of the batch may be -1.

        Examples
        --------
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.eye(3).expand(6, 3, 3)
        >>> A.reshape(2, -1, 3, 3).shape
        torch.Size([2, 3, 3, 3])
        """
        batch = _batch_of(self, shape, "reshape")
        if batch.count(-1) == 1:  # which PyTorch cannot tell where nothing is stored
            known = math.prod(size for size in batch if size != -1)
            if known:
                rest = math.prod(self.shape[:-2]) // known
                batch = tuple(rest if size == -1 else size for size in batch)
        return self._of(self.pattern, self.values.reshape(*batch, self.nnz))

    def expand(self, *shape: Any) -> Self:
        """Repeat the matrix along axes of the batch, without a copy.

        The axes have the size one, or are new ones in front.

        Parameters
        ----------
        *shape : int, or one tuple of them
            ``(*batch, n, m)``; -1 leaves a size as it is.
        """
        batch = _batch_of(self, shape, "expand")
        return self._of(self.pattern, self.values.expand(*batch, self.nnz))

    def unsqueeze(self, dim: int) -> Self:
        """Add an axis of size one to the batch."""
        axis = _batch_axis(dim, self.ndim - 1, self.ndim + 1)
        return self._of(self.pattern, self.values.unsqueeze(axis))

    def squeeze(self, dim: int) -> Self:
        """Take an axis out of the batch, if its size is one."""
        axis = _batch_axis(dim, self.ndim - 2, self.ndim)
        return self._of(self.pattern, self.values.squeeze(axis))


def _batch_of(A: Shaping, given: tuple[Any, ...], name: str) -> tuple[int, ...]:
    """Return the batch of a shape that was asked for; the rest of it must be that of A."""
    arguments.check_whole(A)
    shape = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    n, m = A.pattern.shape
    if len(shape) < 2 or shape[-2] not in (n, -1) or shape[-1] not in (m, -1):
        raise ValueError(
            f"{name} gives the batch another shape, and takes (*batch, {n}, {m}) for a matrix of "
            f"shape {tuple(A.shape)}; got {tuple(shape)}: rows and columns stay, A.T swaps them"
        )
    return tuple(shape[:-2])


def _batch_axis(dim: int, count: int, ndim: int) -> int:
    """Return which of `count` axes is meant, of a matrix that has `ndim` of them then."""
    axis = dim + ndim if dim < 0 else dim
    if not 0 <= axis < count:
        raise IndexError(
            f"dim is an axis of the batch, one of {count}, and rows and columns are the last two; "
            f"got {dim}"
        )
    return axis
