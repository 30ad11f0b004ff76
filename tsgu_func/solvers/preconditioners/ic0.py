"""Incomplete Cholesky factorization without fill.

Meijerink and van der Vorst, *An Iterative Solution Method for Linear Systems of Which the
Coefficient Matrix is a Symmetric M-Matrix*, Math. Comp. 31, 1977; modified as by Gustafsson, *A
Class of First Order Factorization Methods*, BIT 18, 1978; shifted as by Manteuffel, *An Incomplete
Factorization Technique for Positive Definite Linear Systems*, Math. Comp. 34, 1980.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure, unsigned
from tsgu_func.solvers.base import Settings
from tsgu_func.solvers.preconditioners.factored import (
    LDLH,
    UpperRows,
    cancelled,
    is_laplacian,
    levels_of,
    relaxed,
)
from tsgu_func.solvers.preconditioners.reading import check_between, positive_diagonal

__all__ = ["IC0"]


@dataclass(frozen=True, repr=False)
class IC0(Settings):
    """Cholesky factorization on the pattern of A: what would fill in is dropped.

    For Hermitian positive definite matrices.  The lower triangle is read, and the diagonal; the
    upper triangle need not be stored.  Where a pivot is not positive, a multiple of the diagonal
    is added to it, the least that helps: the state tells it as its `shift`.

    Parameters
    ----------
    relaxation : float, optional
        Share of the dropped fill that is added to the diagonals of its two rows, between 0 and 1;
        with 1, M and A have the same row sums (if complex, the real part of them that a Hermitian
        M can keep).  Default: for what behaves like a Laplacian on a grid in its natural order,
        what is best for a grid of this length (Chan, 1991), which reduces the order of the
        condition number.  That is: real, no positive entries beside the diagonal, no negative
        row sums, and few relaxed pivots that are small.  0 for any other, where it may do harm.
    shift : float
        The shift to begin with.

    Raises
    ------
    SolveError
        If an entry of the diagonal is not positive, or no shift helps.

    Notes
    -----
    Cost: O(nnz b) time to prepare for b entries in a row, O(nnz p) to apply; memory O(nnz).
    Scaling rows and columns of A alike scales M.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_generic_solve
    >>> from tsgu_func.solvers import CG
    >>> from tsgu_func.solvers.preconditioners import IC0
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, -1.0], [-1.0, 4.0]]))
    >>> sparse_generic_solve(A, torch.tensor([3.0, 3.0]), solve=CG(preconditioner=IC0()))
    tensor([1., 1.])
    """

    relaxation: float | None = None
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.relaxation is not None:
            check_between("relaxation", self.relaxation, 0, 1)
        check_between("shift", self.shift, 0, float("inf"))

    def init(self, A: StoredMatrix) -> LDLH:
        """Factor."""
        diagonal = positive_diagonal(self, A).cpu().numpy()
        rows = A.structure.derive("mirrored lower triangle", _mirrored)
        entries = A.values[rows.mirrored].conj().resolve_conj().cpu().numpy()
        laplacian = is_laplacian(rows.crow, rows.col, entries, diagonal)
        return relaxed(
            self,
            levels_of(A.structure).relaxation if laplacian else 0.0,
            diagonal,
            lambda shift, relaxation: _factored(
                rows, entries, diagonal * (1 + shift), relaxation, shift
            ),
        )

    def apply(self, state: LDLH, R: Tensor) -> Tensor:
        """Solve with both triangles, for R (n, p)."""
        return state.solve(R)

    def transpose(self, state: LDLH) -> LDLH:
        """Return the same factor, conjugated: M is Hermitian."""
        return state.conj()

    def conj(self, state: LDLH) -> LDLH:
        """Return the same factor, conjugated."""
        return state.conj()


def _factored(
    rows: UpperRows, entries: np.ndarray, diagonal: np.ndarray, relaxation: float, shift: float
) -> tuple[LDLH, int | None]:
    from tsgu_func.kernels import incomplete

    state = LDLH(rows, entries.copy(), np.empty_like(diagonal), shift)
    least = cancelled(entries.dtype)
    row = incomplete.ic0(
        rows.crow, rows.col, state.values, diagonal, state.inverse, relaxation, least
    )
    return state, None if row == len(diagonal) else row


def _mirrored(s: Structure) -> UpperRows:
    """Return the strict lower triangle by columns: the rows of its conjugate transpose."""
    t, order = s.transpose
    chosen = t.row < t.col
    row, col = t.row[chosen], t.col[chosen]
    counts = torch.bincount(row, minlength=s.rows)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(s.crow.dtype)
    crow_read, col_read = (unsigned(index.cpu()) for index in (crow, col))
    return UpperRows(crow_read, col_read, order[chosen].long())
