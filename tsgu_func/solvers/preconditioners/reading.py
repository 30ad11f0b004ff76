"""What the preconditioners read from a matrix, and how they check what they are given."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.triangular import diagonal_of
from tsgu_func.solvers.protocol import SolveError

__all__ = [
    "check_square",
    "nonzero_diagonal",
    "positive_diagonal",
]


def check_square(preconditioner: object, A: StoredMatrix) -> None:
    """Raise unless the matrix is square."""
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"{preconditioner!r} is for square matrices; got shape {A.shape}")


def nonzero_diagonal(preconditioner: object, A: StoredMatrix) -> Tensor:
    """Return the diagonal, and raise if it has a zero."""
    check_square(preconditioner, A)
    diagonal = diagonal_of(A.structure, A.values)
    if bool((zero := diagonal == 0).any()):
        raise SolveError(
            f"{preconditioner!r} divides by the diagonal, which is zero or not stored in row "
            f"{int(zero.nonzero()[0])}: reorder the rows, or take ILU0() or ILUT()"
        )
    return diagonal


def positive_diagonal(preconditioner: object, A: StoredMatrix) -> Tensor:
    """Return the real parts of the diagonal, and raise if one is not positive."""
    check_square(preconditioner, A)
    diagonal = torch.real(diagonal_of(A.structure, A.values))
    if not bool((positive := diagonal > 0).all()):
        row = int((~positive).nonzero()[0])
        raise SolveError(
            f"{preconditioner!r} is for Hermitian positive definite matrices, and the diagonal of "
            f"row {row} is {float(diagonal[row]):.3g}: take ILU0() or ILUT()"
        )
    return diagonal
