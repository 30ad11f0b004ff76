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
        """Select members of a batch, rows and columns, as ``A.to_dense()[index]`` would.

        The first axes are those of the batch, and the last two are rows and columns.  So the rows
        of a single matrix are ``A[rows]``, and those of each member of a batch ``A[..., rows, :]``.

        Parameters
        ----------
        index : slice, int, list or tensor of int, mask of bool, or a tuple of these
            Slices may have any step.  Negative integers count from the end.  A list or a tensor
            may name an index more than once.  A mask is a vector.  ``None`` in front of the rows
            adds an axis to the batch.

            At most one part of a tuple may be a list, a tensor or a mask.  To select both rows and
            columns, write ``A[rows][:, cols]``.

        Returns
        -------
        SparseMatrix, or Tensor
            A row or a column that an integer picks is a dense vector.  With an integer for the row
            and one for the column, the result is a number, which is 0 if nothing is stored there.

        Raises
        ------
        IndexError
            If there are too many indices, one is out of range, or a mask has another length.
        ValueError
            If more than one of them is a list, a tensor or a mask.
        TypeError
            If an index is of another kind.

        Notes
        -----
        The pattern of the result is computed once for a pattern and an index, and then kept.  For
        rows it takes time in proportion to the entries that are selected, and for columns O(nnz)
        (for a transpose it is the other way round).  A row or column that an integer picks takes
        time in proportion to its length, in each call.  The result is differentiable to any order.

        Because the pattern of the result must not depend on numbers, an index cannot be mapped over
        by ``vmap``.  For the same reason slices, integers and lists work inside of
        ``torch.compile``, but tensors and masks do not.

        To permute rows by p and columns by q, write ``A[p][:, q]``.

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
