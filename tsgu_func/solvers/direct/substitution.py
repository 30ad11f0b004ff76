"""Solution with a triangular matrix, by substitution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.triangular import diagonal_of, sides, solve
from tsgu_func.solvers.judgement import judged
from tsgu_func.solvers.members import first_row
from tsgu_func.solvers.protocol import SingularError, Solution, SolveError

__all__ = ["Substitution"]


@dataclass(frozen=True)
class _Triangle:
    upper: bool
    diagonal: Tensor

    @property
    def bytes(self) -> int:
        return self.diagonal.nbytes


@dataclass(frozen=True)
class Substitution:
    """Substitution, for a triangular matrix: one that stores nothing on one side of its diagonal.

    Raises
    ------
    SolveError
        If the matrix is not triangular, or an entry of its diagonal is zero or not stored.

    Notes
    -----
    It takes O(nnz p) time and O(n p) memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import Substitution
    >>> A = SparseMatrix.from_dense(torch.tensor([[2.0, 0.0], [1.0, 4.0]]))
    >>> sparse_solve(A, torch.tensor([2.0, 5.0]), solver=Substitution())
    tensor([1., 1.])
    """

    takes_batches = square_only = True

    def init(self, A: StoredMatrix) -> _Triangle:
        """Find the triangle and its diagonal."""
        s = A.structure
        lower, upper = sides(s)
        if upper and lower:
            raise SolveError(
                "Substitution is for triangular matrices, and entries are stored on both sides of "
                "the diagonal: take SuperLU(), or sparse_triangular_solve, which reads one triangle"
            )
        diagonal = diagonal_of(s, A.values)
        if bool((zero := diagonal == 0).any()):
            raise SingularError(
                f"the matrix is singular: the diagonal of {first_row(zero)} is zero"
            )
        return _Triangle(upper, diagonal)

    def compute(
        self, state: _Triangle, A: StoredMatrix, B: Tensor, X0: Tensor | None = None
    ) -> Solution:
        """Solve for the columns of B (n, p) or (b, n, p); a start X0 is of no use here."""
        S, upper = A.structure, state.upper
        X = solve(S, A.entries, B, upper=upper, transpose=A.transpose, unit=False)
        return judged(self, A, X, B)

    def logabsdet(self, state: _Triangle) -> Tensor:
        """Return log|det A|, from the diagonal."""
        return state.diagonal.abs().log().sum(-1)
