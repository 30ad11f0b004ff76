"""A matrix that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["MatrixFree"]

Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MatrixFree:
    """The operator that a solver is handed: S, Sᵀ, conj(S) or Sᴴ.

    S is known by its products alone, and depends on values (k,) or (b, k).  An iterative solver
    uses it like a `StoredMatrix`.

    Attributes
    ----------
    structure : object
        The object that the products belong to.
    values : Tensor
        The parameters of S, one vector for each member of a batch.
    forward, adjoint : callable
        ``(values, X) -> S X`` and ``Sᴴ X``, for X (m, p) or (b, m, p).
    size : (int, int)
        Rows and columns of S.
    dtype : torch.dtype
    """

    structure: Any
    values: Tensor
    forward: Product
    adjoint: Product
    size: tuple[int, int]
    dtype: torch.dtype
    transpose: bool = False
    conjugate: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.size
        return (cols, rows) if self.transpose else (rows, cols)

    @property
    def T(self) -> MatrixFree:
        """The transpose."""
        return replace(self, transpose=not self.transpose)

    @property
    def mH(self) -> MatrixFree:
        """The conjugate transpose."""
        return replace(self, transpose=not self.transpose, conjugate=not self.conjugate)

    def conj(self) -> MatrixFree:
        """Return the conjugate."""
        return replace(self, conjugate=not self.conjugate)

    def __matmul__(self, X: Tensor) -> Tensor:
        """Multiply with X (m, p) or (b, m, p)."""
        product = self.adjoint if self.transpose else self.forward
        # Sᵀ X is conj(Sᴴ conj(X)), and conj(S) X is conj(S conj(X)).
        if self.transpose == self.conjugate:
            return product(self.values, X)
        return product(self.values, X.conj()).conj().resolve_conj()
