"""What a solver is, and what it returns."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix

__all__ = ["ConvergenceError", "Solution", "SolveError", "Solver"]


class SolveError(torch.linalg.LinAlgError):
    """A linear system could not be solved: it is singular, or the solver did not converge."""


class ConvergenceError(SolveError):
    """An iterative solver stopped before the residual was as small as asked.

    Attributes
    ----------
    iterations : int
        How many were made.
    residual : Tensor
        What the solver judges by, for each column: as a rule the true relative residual.
    """

    def __init__(self, message: str, iterations: int, residual: Tensor) -> None:
        super().__init__(message)
        self.iterations, self.residual = iterations, residual

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.iterations, self.residual)


class Solution(NamedTuple):
    """A solution, and how it was reached.

    Attributes
    ----------
    value : Tensor (n, p)
    iterations : int
        Matrix products of an iterative solver; 0 for a direct one.
    residual : Tensor (p,)
        True residual of each column, relative to its right-hand side.
    """

    value: Tensor
    iterations: int
    residual: Tensor


@runtime_checkable
class Solver(Protocol):
    """A way to solve ``A X = B``: an immutable object, so that it can be part of a compiled graph.

    Its `repr` names it with all its settings, and is the key under which graphs refer to it.
    """

    def init(self, A: StoredMatrix) -> Any:
        """Prepare a matrix that is neither transposed nor conjugated: factor, precondition."""
        ...

    def compute(self, state: Any, B: Tensor, X0: Tensor | None = None) -> Solution:
        """Solve for the columns of B (n, p)."""
        ...

    def transpose(self, state: Any) -> Any:
        """Return the state of the transposed matrix, sharing what was prepared."""
        ...

    def conj(self, state: Any) -> Any:
        """Return the state of the conjugated matrix, sharing what was prepared."""
        ...


def relative_residual(R: Tensor, B: Tensor) -> Tensor:
    """Return |R| / |B| per column, for a residual R; |R| where the column of B vanishes."""
    scale = torch.linalg.vector_norm(B, dim=-2)
    return torch.linalg.vector_norm(R, dim=-2) / torch.where(scale == 0, 1, scale)
