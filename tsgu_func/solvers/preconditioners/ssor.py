"""Symmetric successive over-relaxation.

Young, *Iterative Solution of Large Linear Systems*, Academic Press, 1971.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.preconditioners.reading import nonzero_diagonal
from tsgu_func.solvers.preconditioners.triangles import LDU, halves_of
from tsgu_func.solvers.protocol import Settings
from tsgu_func.solvers.settings import check_real

__all__ = ["SSOR"]


@dataclass(frozen=True, repr=False)
class SSOR(Settings):
    """One sweep of over-relaxation down the rows and one up, without a factorization.

    For ``A = L + D + U``, M is ``ω/(2-ω) (D/ω + L) D⁻¹ (D/ω + U)``.  If A is Hermitian positive
    definite, so is M.

    Parameters
    ----------
    omega : float
        The relaxation ω, between 0 and 2.  With 1 it is the symmetric Gauss-Seidel method.

    Raises
    ------
    SolveError
        If an entry of the diagonal is zero or not stored.

    Notes
    -----
    It takes O(nnz) time to prepare, O(nnz p) time to apply, and O(nnz) memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_generic_solve
    >>> from tsgu_func.solvers import CG
    >>> from tsgu_func.solvers.preconditioners import SSOR
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, -1.0], [-1.0, 4.0]]))
    >>> sparse_generic_solve(A, torch.tensor([3.0, 3.0]), solve=CG(preconditioner=SSOR(omega=1.2)))
    tensor([1., 1.])
    """

    omega: float = 1.0

    def __post_init__(self) -> None:
        check_real("omega", self.omega, most=2)
        if self.omega in (0, 2):
            raise ValueError(f"omega is between 0 and 2, and neither of them; got {self.omega}")

    def init(self, A: StoredMatrix) -> LDU:
        """Scale the triangles.

        M is ``(I + ω L D⁻¹) D/(ω(2-ω)) (I + ω D⁻¹ U)``: what an LDU factorization would be, if no
        elimination were made.
        """
        diagonal = nonzero_diagonal(self, A)
        s, omega = A.structure, self.omega
        # An entry of L is divided by the diagonal of its column, one of U by that of its row.
        pivot = s.derive("first diagonal", lambda s: torch.minimum(s.row, s.col).long())
        values = omega * A.values / diagonal[pivot]
        inverse = omega * (2 - omega) / diagonal
        return LDU(halves_of(s), values.cpu().numpy(), inverse.cpu().numpy())

    def apply(
        self, state: LDU, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Sweep down and up, for R (n, p)."""
        return state.solve(R, transpose, conjugate)
