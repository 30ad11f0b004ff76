"""Members of a batch of sparse matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from tsgu_func.matrix.base import MatrixBase

__all__ = ["Indexing"]


class Indexing(MatrixBase):
    """What ``A[...]`` means for a `SparseMatrix`."""

    def __getitem__(self, index: Any) -> Self:
        """Index the batch; entries of a matrix are not reached this way."""
        if self.values.ndim == 1:
            raise TypeError("this matrix has no batch to index; to_dense()[...] reaches entries")
        index = index if isinstance(index, tuple) else (index,)
        index = index if any(i is Ellipsis for i in index) else (*index, Ellipsis)
        return type(self)(self.pattern, self.values[(*index, slice(None))])

    def __len__(self) -> int:
        if self.values.ndim == 1:
            raise TypeError("this matrix has no batch, so no length; see shape")
        return self.values.shape[0]

    def __iter__(self) -> Iterator[Self]:
        if self.values.ndim == 1:
            raise TypeError(
                "this matrix has no batch to iterate over; A.values is the tensor of its entries"
            )
        return (self._of(self.pattern, values) for values in self.values)
