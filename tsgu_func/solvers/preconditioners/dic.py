"""Incomplete Cholesky factorization that changes the diagonal alone.

Meijerink and van der Vorst, *An Iterative Solution Method for Linear Systems of Which the
Coefficient Matrix is a Symmetric M-Matrix*, Math. Comp. 31, 1977: their factorization of the
matrices of grids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure, unsigned
from tsgu_func.solvers.preconditioners.incomplete_cholesky import IncompleteCholesky
from tsgu_func.solvers.preconditioners.triangles import cancelled, copied

__all__ = ["DIC", "Split", "TwistedRows"]


@dataclass(frozen=True, eq=False)
class TwistedRows:
    """A strict lower triangle by rows, with rows and columns in a twisted order.

    Attributes
    ----------
    crow, col : ndarray of unsigned integers
        Its compressed rows, as compiled loops read them.
    entry, mirrored : ndarray
        Place of each entry in the matrix, and whether it is the conjugate of what is stored there.
    order : Tensor of int64, shape (n,)
        Which row of the matrix each row is.
    cuts : tuple of unsigned integers
        Where the second and the last part begin, and the end: rows of the second wait for none of
        the first.
    """

    crow: np.ndarray
    col: np.ndarray
    entry: np.ndarray
    mirrored: np.ndarray
    order: Tensor
    cuts: tuple[np.uint64, np.uint64, np.uint64]

    @property
    def nbytes(self) -> int:
        """Size of all of it."""
        parts = self.crow, self.col, self.entry, self.mirrored, self.order
        return sum(part.nbytes for part in parts)


@dataclass(frozen=True, eq=False)
class Split:
    """``M = S⁻¹ (I + L) (I + L)ᴴ S⁻¹`` with ``S A S = L + D + Lᴴ``.

    Attributes
    ----------
    rows : TwistedRows
        Where L is.
    values, excess, root : ndarray
        Entries of L, of ``D - 2 I``, and of S⁻¹, which has the square roots of the pivots.
    relaxation, shift : float
        Share of the dropped fill that was added to the diagonal; and what was added besides,
        relative to it.
    """

    rows: TwistedRows
    values: np.ndarray
    excess: np.ndarray
    root: np.ndarray
    relaxation: float = 0.0
    shift: float = 0.0

    @property
    def bytes(self) -> int:
        """Size of the factor; its pattern is kept with that of the matrix."""
        return self.values.nbytes + self.excess.nbytes + self.root.nbytes

    @property
    def triangle(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """L, by rows."""
        return self.rows.crow, self.rows.col, self.values

    @property
    def inverse(self) -> np.ndarray:
        """One over each pivot."""
        return 1 / (self.root * self.root)

    def solve(self, R: Tensor, conjugate: bool) -> Tensor:
        """Return ``M⁻¹ R`` or ``conj(M)⁻¹ R`` for R (n, p), in one sweep down and one up."""
        X = copied(R.conj() if conjugate else R)[self.rows.order]
        root = torch.from_numpy(self.root).unsqueeze(-1)
        X /= root
        compiled.incomplete.solve_llh(*self.triangle, X.numpy())
        solved = torch.empty_like(X)
        solved[self.rows.order] = (X if conjugate else X.conj_physical_()) / root
        return solved.to(R.device)


@dataclass(frozen=True, repr=False)
class DIC(IncompleteCholesky):
    """Incomplete Cholesky factorization that keeps the triangles of A, and computes only pivots.

    ``M = (E + L) E⁻¹ (E + L)ᴴ``, with the strict lower triangle L of A and the pivots E.  If no
    three rows are all joined with each other, as on a grid where points are joined with their
    nearest neighbours, this is `IC0`, apart from the order of the rows.  For other matrices it is
    less close to A than `IC0`, but cheaper to make.  If the rows are in an order that goes along
    the graph, they are eliminated in a *twisted* order, from both ends to the middle.  `ICCG` makes
    use of this form, and sweeps in two threads.

    The parameters are those of `IncompleteCholesky`.

    Raises
    ------
    SolveError
        If an entry of the diagonal is not positive, or no shift helps.

    Notes
    -----
    It takes O(nnz) time to prepare, O(nnz p) time to apply, and O(nnz) memory.  If rows and columns
    of A are scaled by the same numbers, so are those of M.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import CG, DIC
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, -1.0], [-1.0, 4.0]]))
    >>> sparse_solve(A, torch.tensor([1.0, 2.0]), solver=CG(DIC()))
    tensor([0.4000, 0.6000])
    """

    def read(self, A: StoredMatrix, diagonal: Tensor) -> tuple[TwistedRows, np.ndarray, np.ndarray]:
        """Return the strict lower triangle, in a twisted order."""
        rows = A.structure.derive("twisted lower triangle", _twisted)
        entries = compiled.ordering.entries(A.values.cpu().numpy(), rows.entry, rows.mirrored)
        return rows, entries, diagonal.cpu().index_select(0, rows.order).numpy()

    def factor(
        self,
        triangle: TwistedRows,
        entries: np.ndarray,
        diagonal: np.ndarray,
        shift: float,
        relaxation: float,
    ) -> tuple[Split | None, int | None]:
        """Find the pivots, and scale by them."""
        rows, least = (triangle.crow, triangle.col), cancelled(diagonal.dtype)
        pivots, row = compiled.eisenstat.pivots(*rows, entries, diagonal, shift, relaxation, least)
        if row < len(pivots):
            return None, int(triangle.order[row])
        values, excess = compiled.eisenstat.scaled(*rows, entries, pivots), diagonal / pivots - 2
        return Split(triangle, values, excess, np.sqrt(pivots), relaxation, shift), None


def _twisted(s: Structure) -> TwistedRows:
    crow, col = unsigned(s.crow.cpu()), unsigned(s.col.cpu())
    order, *cuts = compiled.ordering.order_of(crow, col)
    start, column, entry, mirrored = compiled.ordering.triangle(crow, col, order)
    first, second, end = (np.uint64(cut) for cut in (*cuts, len(order)))
    cuts = first, second, end
    return TwistedRows(start, column, entry, mirrored, torch.from_numpy(order), cuts)
