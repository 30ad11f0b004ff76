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
from tsgu_func.solvers.base import Settings, SolveError
from tsgu_func.solvers.preconditioners.factored import LDLH, UpperRows, cancelled, shifted
from tsgu_func.solvers.preconditioners.reading import check_between, check_square, diagonal_of

__all__ = ["IC0"]

# By default: the relaxation that is tried, and what is asked of the pivots.  On a grid in its
# natural order each row has as much behind it as before, and a relaxed pivot keeps about half of
# its diagonal entry (Gustafsson's theory asks for that).  In a random order, or on a random graph,
# many rows have all their neighbours before them, their pivots nearly vanish, and relaxation does
# harm.
_STRONG = 0.97
_SMALL, _FEW = 0.25, 0.1


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
        M can keep).  Default: 0.97 for what behaves like a Laplacian on a grid in its natural
        order, where it reduces the order of the condition number: real, no positive entries
        beside the diagonal, no negative row sums, and few relaxed pivots that are small.  0 for
        any other, where it may do harm.
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
        check_square(self, A)
        diagonal = self._positive_diagonal(A)
        rows = A.structure.derive("mirrored lower triangle", _mirrored)
        upper = A.values[rows.mirrored].conj().resolve_conj()
        entries, pivots = upper.cpu().numpy(), diagonal.cpu().numpy()

        def factor(shift: float, relaxation: float) -> tuple[LDLH, int | None]:
            return _factored(rows, entries, pivots * (1 + shift), relaxation, shift)

        if self.relaxation is None and _laplacian(rows, upper, diagonal):
            relaxed, row = factor(self.shift, _STRONG)
            if row is None and _sound(relaxed, pivots):
                return relaxed
        relaxation = float(self.relaxation or 0)
        return shifted(self, self.shift, lambda shift: factor(shift, relaxation))

    def _positive_diagonal(self, A: StoredMatrix) -> Tensor:
        diagonal = torch.real(diagonal_of(A))
        if not bool((positive := diagonal > 0).all()):
            row = int((~positive).nonzero()[0])
            raise SolveError(
                f"{self!r} is for Hermitian positive definite matrices, and the diagonal of row "
                f"{row} is {float(diagonal[row]):.3g}: take ILU0() or ILUT()"
            )
        return diagonal

    def apply(self, state: LDLH, R: Tensor) -> Tensor:
        """Solve with both triangles, for R (n, p)."""
        return state.solve(R)

    def transpose(self, state: LDLH) -> LDLH:
        """Return the same factor, conjugated: M is Hermitian."""
        return state.conj()

    def conj(self, state: LDLH) -> LDLH:
        """Return the same factor, conjugated."""
        return state.conj()


def _laplacian(rows: UpperRows, upper: Tensor, diagonal: Tensor) -> bool:
    """Whether entries are real, none beside the diagonal positive, and no row sum negative."""
    if upper.is_complex() or bool((upper > 0).any()):
        return False
    total = diagonal.clone()
    total.index_add_(0, rows.row, upper).index_add_(0, rows.column, upper)
    slack = torch.finfo(upper.dtype).eps ** 0.5
    return bool((total >= -slack * diagonal).all())


def _sound(state: LDLH, diagonal: np.ndarray) -> bool:
    """Whether few pivots are a small part of their diagonal entry."""
    small = int(np.count_nonzero(_SMALL * state.inverse * diagonal > 1))
    return small <= _FEW * len(diagonal)


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
    return UpperRows(crow_read, col_read, row, col, order[chosen].long())
