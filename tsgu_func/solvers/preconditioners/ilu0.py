"""Incomplete LU factorization without fill.

Meijerink and van der Vorst, *An Iterative Solution Method for Linear Systems of Which the
Coefficient Matrix is a Symmetric M-Matrix*, Math. Comp. 31, 1977; relaxed as by Axelsson and
Lindskog, *On the Eigenvalue Distribution of a Class of Preconditioning Methods*, Numer. Math. 48,
1986.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.triangular import diagonal_of
from tsgu_func.solvers.preconditioners.reading import check_square
from tsgu_func.solvers.preconditioners.triangles import LDU, Halves, cancelled, halves_of, shifted
from tsgu_func.solvers.protocol import Settings, SolveError
from tsgu_func.solvers.settings import check_real

__all__ = ["ILU0"]


@dataclass(frozen=True, repr=False)
class ILU0(Settings):
    """Incomplete LU factorization with the pattern of A: all fill is dropped.

    If a pivot is zero, a multiple of the diagonal is added to it, as small as possible.  The state
    has this multiple as its `shift`.  It is relative to the diagonal entry or, if that entry is
    zero or not stored, to the largest magnitude in the row.

    Parameters
    ----------
    relaxation : float
        Which share of the dropped fill is added to the diagonal of its row, between 0 and 1.  With
        1, M and A have the same row sums.
    shift : float
        The shift to try first.

    Raises
    ------
    SolveError
        If all entries of a row are zero, or no shift helps.

    Notes
    -----
    With b entries in a row, it takes O(nnz b) time to prepare, O(nnz p) time to apply, and O(nnz)
    memory.  If rows and columns of A are scaled, so are those of M, as long as no shift is needed.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_generic_solve
    >>> from tsgu_func.solvers import GMRES
    >>> from tsgu_func.solvers.preconditioners import ILU0
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, -1.0], [1.0, 2.0]]))
    >>> sparse_generic_solve(A, torch.tensor([3.0, 3.0]), solve=GMRES(preconditioner=ILU0()))
    tensor([1., 1.])
    """

    relaxation: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        check_real("relaxation", self.relaxation, most=1)
        check_real("shift", self.shift)

    def init(self, A: StoredMatrix) -> LDU:
        """Factor."""
        check_square(self, A)
        halves, values = halves_of(A.structure), A.values.cpu().numpy()
        diagonal = diagonal_of(A.structure, A.values)

        def factor(shift: float) -> tuple[LDU, int | None]:
            moved = diagonal + shift * _unit_shift(A, diagonal) if shift else diagonal
            return self._factored(halves, values, moved.cpu().numpy(), shift)

        return shifted(self, self.shift, factor)

    def _factored(
        self, halves: Halves, values: np.ndarray, diagonal: np.ndarray, shift: float
    ) -> tuple[LDU, int | None]:
        state = LDU(halves, values.copy(), np.empty_like(diagonal), shift)
        row = compiled.incomplete.ilu0(
            *halves, state.values, diagonal, state.inverse,
            float(self.relaxation), cancelled(values.dtype),
        )  # fmt: skip
        return state, None if row == len(diagonal) else row

    def apply(
        self, state: LDU, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Solve with both triangles, for R (n, p)."""
        return state.solve(R, transpose, conjugate)


def _unit_shift(A: StoredMatrix, diagonal: Tensor) -> Tensor:
    """Return the diagonal, and the largest magnitude of the row where it is zero."""
    largest = torch.zeros_like(diagonal.abs())
    largest.scatter_reduce_(0, A.structure.row.long(), A.values.abs(), "amax")
    if bool((empty := largest == 0).any()):
        row = int(empty.nonzero()[0])
        raise SolveError(f"the matrix is singular: nothing but zeros in row {row}")
    return torch.where(diagonal == 0, largest.to(diagonal.dtype), diagonal)
