"""The diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.preconditioners.reading import nonzero_diagonal
from tsgu_func.solvers.protocol import Settings

__all__ = ["Jacobi"]


class _State(NamedTuple):
    inverse: Tensor  # (n, 1)

    @property
    def bytes(self) -> int:
        return self.inverse.nbytes


@dataclass(frozen=True, repr=False)
class Jacobi(Settings):
    """The diagonal of A.  It undoes a bad scaling of the rows, and costs next to nothing.

    Raises
    ------
    SolveError
        If an entry of the diagonal is zero or not stored.

    Notes
    -----
    It takes O(n p) time and O(n) memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_generic_solve
    >>> from tsgu_func.solvers import CG
    >>> from tsgu_func.solvers.preconditioners import Jacobi
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, -1.0], [-1.0, 4.0]]))
    >>> sparse_generic_solve(A, torch.tensor([3.0, 3.0]), solve=CG(preconditioner=Jacobi()))
    tensor([1., 1.])
    """

    def init(self, A: StoredMatrix) -> _State:
        """Invert the diagonal."""
        return _State(nonzero_diagonal(self, A).reciprocal().unsqueeze(-1))

    def apply(
        self, state: _State, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Divide R (n, p) by the diagonal, which is its own transpose."""
        return (state.inverse.conj() if conjugate else state.inverse) * R
