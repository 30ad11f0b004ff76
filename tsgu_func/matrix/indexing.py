"""Members of a batch of sparse matrices, and their rows, columns and entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from tsgu_func.matrix import arguments, subscripts
from tsgu_func.matrix.base import MatrixBase
from tsgu_func.matrix.derived import derived
from tsgu_func.matrix.selection import Selected, line, selected
from tsgu_func.matrix.subscripts import Picked, Span, along, positions
from tsgu_func.registration.transforms import outside_transforms

__all__ = ["Indexing"]

T = TypeVar("T")


class Indexing(MatrixBase):
    """What ``A[...]`` means for a `SparseMatrix`."""

    def __getitem__(self, index: Any) -> Any:
        """Select members, rows and columns, as ``A.to_dense()[index]`` does.

        The first axes are those of the batch, the last two rows and columns: ``A[rows]`` of one
        matrix, ``A[..., rows, :]`` of any batch.

        Parameters
        ----------
        index : slice, int, list or tensor of int, mask of bool, or a tuple of these
            Slices may have any step.  Integers below zero count from the end; those in a list may
            be repeated.  A mask is a vector.  ``None`` in front of the rows adds an axis to the
            batch.  One of them at most is a list, a tensor or a mask: ``A[rows][:, cols]`` is the
            matrix of these rows and columns, where NumPy would pair them.

        Returns
        -------
        SparseMatrix, or Tensor
            Where an integer picks a row or a column, a dense vector; for a row and a column, a
            number, which is 0 where nothing is stored.

        Raises
        ------
        IndexError
            If there are too many indices, one is out of range, or a mask has another length.
        ValueError
            If two of them are lists, tensors or masks.
        TypeError
            If an index is none of these.

        Notes
        -----
        Where the result stores entries is found once for a pattern and an index, in O(entries that
        are selected) for rows, O(nnz) for columns (for a transpose the other way); an integer costs
        O(length of the vector) each time.  The values are differentiable to any order.

        The pattern of the result is static.  So slices, integers and lists work inside of
        ``torch.compile``, tensors and masks outside of it; none may be mapped over by ``vmap``.
        A permutation p of the rows and q of the columns is ``A[p][:, q]``.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 2.0], [0.0, 3.0], [4.0, 0.0]]))
        >>> A[[2, 0]].to_dense()
        tensor([[4., 0.],
                [1., 2.]])
        >>> A[1:][:, ::-1].to_dense()
        tensor([[3., 0.],
                [0., 4.]])
        >>> A[torch.tensor([True, False, True])].shape, A[:, 1], A[-1, 0]
        (torch.Size([2, 2]), tensor([2., 3., 0.]), tensor(4.))
        """
        arguments.check_whole(self)
        batch, row, col = subscripts.read(index, tuple(self.shape))
        A = self._of(self.pattern, self.values[(*batch, slice(None))]) if batch else self
        n, m = self.pattern.shape
        rows, cols = along(row, n, "row"), along(col, m, "column")
        if isinstance(rows, int):
            return _picked_from(A._line(False, rows), cols)
        if isinstance(cols, int):
            return _picked_from(A._line(True, cols), rows)
        return A._selected(False, rows)._selected(True, cols)

    def _selected(self, by_col: bool, picked: Span | bytes) -> Self:
        """Return the matrix of some of its rows, or columns."""
        if picked == Span(0, 1, self.pattern.shape[by_col]):
            return self
        return self._take(derived(selected, self.pattern, by_col, picked))

    def _take(self, some: Selected) -> Self:
        """Return the matrix of some of its entries."""
        return self._of(some.pattern, self.values.index_select(-1, some.order))

    def _line(self, by_col: bool, k: int) -> Tensor:
        """Return a row, or a column, as a dense vector ``(*batch, length)``."""
        order, place = _once_in_graphs(line, self.pattern, by_col, k)
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.pattern.shape[not by_col])
        return zeros.index_add(-1, place, self.values.index_select(-1, order))

    def __len__(self) -> int:
        """Return the number of members along the first axis of a batch."""
        if self.values.ndim == 1:
            raise TypeError(
                "this matrix has no batch, so no length; A.shape[0] is the number of rows"
            )
        return self.values.shape[0]

    def __iter__(self) -> Iterator[Self]:
        """Iterate over the members along the first axis of a batch."""
        if self.values.ndim == 1:
            raise TypeError(
                "this matrix has no batch to iterate over; A.values is the tensor of its entries, "
                "A[i] a row"
            )
        return (self._of(self.pattern, values) for values in self.values)


def _picked_from(vector: Tensor, picked: Picked) -> Tensor:
    if isinstance(picked, int):
        return vector.select(-1, picked)
    if picked == Span(0, 1, vector.shape[-1]):
        return vector
    return vector.index_select(-1, _once_in_graphs(positions, picked, str(vector.device)))


def _once_in_graphs(make: Callable[..., T], *given: Any) -> T:
    """Return what is cheaper made again than kept; graphs hold it as what is derived."""
    if torch.compiler.is_compiling():
        return derived(make, *given)
    with outside_transforms():
        return make(*given)
