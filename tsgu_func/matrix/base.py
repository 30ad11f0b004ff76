"""What a sparse matrix is: a pattern and values; its shape, kind and place."""

from __future__ import annotations

from typing import Any, Self, overload

import torch
from torch import Tensor

from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.pattern import SparsityPattern

__all__ = ["MatrixBase"]


class MatrixBase:
    """A pattern, and values that transforms see: the part of `SparseMatrix` without arithmetic."""

    #: Where entries are stored.  It never changes.
    pattern: SparsityPattern
    #: The stored entries ``(*batch, nnz)``, in the order of ``pattern.row`` and ``pattern.col``.
    values: Tensor

    def __init__(self, pattern: SparsityPattern, values: Tensor) -> None:
        if not isinstance(pattern, SparsityPattern):
            raise TypeError(f"pattern is a SparsityPattern; got {type(pattern).__name__}")
        if not isinstance(values, Tensor) or values.layout != torch.strided:
            raise TypeError(f"values is a dense tensor; got {describe(values)}")
        if values.ndim == 0 or values.shape[-1] != pattern.nnz:
            raise ValueError(
                f"values has one entry for each of the {pattern.nnz} that the pattern stores, "
                f"along its last axis; got shape {tuple(values.shape)}"
            )
        if values.device != pattern.device:
            raise ValueError(
                f"pattern and values are on one device; got {pattern.device} and {values.device}"
            )
        self.pattern, self.values = pattern, values

    @classmethod
    def _of(cls, pattern: SparsityPattern, values: Any) -> Self:
        # Transforms put ints, None and placeholders where the leaf was: nothing is checked here.
        self = cls.__new__(cls)
        self.pattern, self.values = pattern, values
        return self

    def with_values(self, values: Tensor) -> Self:
        """Return a matrix with the same pattern and other values ``(*batch, nnz)``.

        The values have to be in the order of ``A.values``, which is that of ``A.pattern.row`` and
        ``A.pattern.col``.  This is not the order in which you gave the entries to `from_coo`,
        `from_csr` or `from_scipy`.  To go from your order to this one, use the function `assemble`
        that `SparsityPattern.from_coo` returns together with a pattern.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix, SparsityPattern
        >>> pattern, assemble = SparsityPattern.from_coo([1, 0, 1], [0, 1, 0], (2, 2))
        >>> A = SparseMatrix(pattern, assemble(torch.tensor([1.0, 2.0, 3.0])))
        >>> A.with_values(A.values.square()).to_dense()
        tensor([[ 0.,  4.],
                [16.,  0.]])
        >>> A.with_values(assemble(torch.tensor([5.0, 6.0, 7.0]))).to_dense()
        tensor([[ 0.,  6.],
                [12.,  0.]])
        """
        return type(self)(self.pattern, values)

    # ------------------------------------------------------------------------------ attributes

    @property
    def shape(self) -> torch.Size:
        """``(*batch, n, m)``."""
        return torch.Size((*self.values.shape[:-1], *self.pattern.shape))

    @property
    def ndim(self) -> int:
        """Number of axes: two more than the batch has."""
        return self.values.ndim + 1

    @property
    def nnz(self) -> int:
        """Number of stored entries of one member."""
        return self.pattern.nnz

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where values and indices are."""
        return self.values.device

    @property
    def requires_grad(self) -> bool:
        """Whether eager autograd records what is done with the values."""
        return self.values.requires_grad

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let eager autograd record what is done with A; the gradient is then ``A.values.grad``."""
        self.values.requires_grad_(requires_grad)
        return self

    def detach(self) -> Self:
        """Return the same matrix without its autograd history, as ``Tensor.detach`` does."""
        return self._of(self.pattern, self.values.detach())

    @overload
    def to(self, dtype: torch.dtype, non_blocking: bool = False, copy: bool = False) -> Self: ...

    @overload
    def to(
        self,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
        copy: bool = False,
    ) -> Self: ...

    @overload
    def to(
        self, other: Tensor | MatrixBase, /, non_blocking: bool = False, copy: bool = False
    ) -> Self: ...

    def to(self, *args: Any, **options: Any) -> Self:
        """Move to a device, convert to a dtype, or both: in all forms of ``torch.Tensor.to``.

        Returns
        -------
        SparseMatrix
            The matrix itself where nothing changes, unless ``copy=True``.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.eye(2)
        >>> A.to("cpu", torch.float64).dtype, A.to(torch.ones(1, dtype=torch.complex64)).dtype
        (torch.float64, torch.complex64)
        >>> A.to("cpu") is A
        True
        """
        values = self.values.to(
            *map(_tensor, args), **{name: _tensor(x) for name, x in options.items()}
        )
        pattern = self.pattern.to(values.device)
        if values is self.values and pattern is self.pattern:
            return self
        return self._of(pattern, values)

    @property
    def T(self) -> Self:
        """The transpose of each member; it shares indices and values."""
        return self._of(self.pattern.T, self.values)

    mT = T  # noqa: N815 - torch's name for it

    @property
    def mH(self) -> Self:
        """The conjugate transpose of each member."""
        return self._of(self.pattern.T, self.values.conj())

    def conj(self) -> Self:
        """Conjugate the values."""
        return self._of(self.pattern, self.values.conj())


def _tensor(x: Any) -> Any:
    return x.values if isinstance(x, MatrixBase) else x
