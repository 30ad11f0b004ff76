"""What the preconditioners read from a matrix, and how they check what they are given."""

from __future__ import annotations

import math

from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.triangular import triangle_of
from tsgu_func.solvers.base import SolveError

__all__ = ["check_between", "check_square", "diagonal_of", "nonzero_diagonal"]


def check_between(name: str, value: float, least: float, most: float) -> None:
    """Raise unless a setting is a number, at least `least` and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number; got {type(value).__name__}")
    if math.isnan(value) or not least <= value <= most:
        bounds = f"at least {least}" if math.isinf(most) else f"between {least} and {most}"
        raise ValueError(f"{name} is {bounds}; got {value}")


def check_square(preconditioner: object, A: StoredMatrix) -> None:
    """Raise unless the matrix is square."""
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"{preconditioner!r} is for square matrices; got shape {A.shape}")


def diagonal_of(A: StoredMatrix) -> Tensor:
    """Return the diagonal (n,), zero where no entry is stored."""
    triangle = triangle_of(A.structure, upper=False)
    diagonal = A.values.new_zeros(A.shape[0])
    place = triangle.diagonal[triangle.stored].long()
    diagonal[triangle.stored] = A.values[place]
    return diagonal


def nonzero_diagonal(preconditioner: object, A: StoredMatrix) -> Tensor:
    """Return the diagonal, and raise if it has a zero."""
    check_square(preconditioner, A)
    diagonal = diagonal_of(A)
    if bool((zero := diagonal == 0).any()):
        raise SolveError(
            f"{preconditioner!r} divides by the diagonal, which is zero or not stored in row "
            f"{int(zero.nonzero()[0])}: reorder the rows, or take ILU0() or ILUT()"
        )
    return diagonal
