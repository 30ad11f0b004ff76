"""Incomplete Cholesky factorization on the pattern of the matrix.

Meijerink and van der Vorst, *An Iterative Solution Method for Linear Systems of Which the
Coefficient Matrix is a Symmetric M-Matrix*, Math. Comp. 31, 1977.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure, compress, unsigned
from tsgu_func.solvers.preconditioners.incomplete_cholesky import IncompleteCholesky
from tsgu_func.solvers.preconditioners.triangles import LDLH, UpperRows, cancelled

__all__ = ["IC0"]


@dataclass(frozen=True, repr=False)
class IC0(IncompleteCholesky):
    """Incomplete Cholesky factorization with the pattern of A: all fill is dropped.

    The parameters are those of `IncompleteCholesky`.

    Raises
    ------
    SolveError
        If an entry of the diagonal is not positive, or no shift helps.

    Notes
    -----
    With b entries in a row, it takes O(nnz b) time to prepare, O(nnz p) time to apply, and O(nnz)
    memory.  If rows and columns of A are scaled by the same numbers, so are those of M.

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

    def read(self, A: StoredMatrix, diagonal: Tensor) -> tuple[UpperRows, np.ndarray, np.ndarray]:
        """Return the strict lower triangle by columns, conjugated."""
        rows = A.structure.derive("mirrored lower triangle", _mirrored)
        entries = A.values[rows.mirrored].conj().resolve_conj()
        return rows, entries.cpu().numpy(), diagonal.cpu().numpy()

    def factor(
        self,
        triangle: UpperRows,
        entries: np.ndarray,
        diagonal: np.ndarray,
        shift: float,
        relaxation: float,
    ) -> tuple[LDLH, int | None]:
        """Factor on the pattern."""
        state = LDLH(triangle, entries.copy(), np.empty_like(diagonal), shift)
        row = compiled.incomplete.ic0(
            triangle.crow, triangle.col, state.values, diagonal, state.inverse,
            shift, relaxation, cancelled(entries.dtype),
        )  # fmt: skip
        return state, None if row == len(diagonal) else row


def _mirrored(s: Structure) -> UpperRows:
    """Return the strict lower triangle by columns: the rows of its conjugate transpose."""
    t, order = s.transpose
    chosen = t.row < t.col
    crow = compress(t.row[chosen], s.rows).to(s.crow.dtype)
    crow_read, col_read = (unsigned(index.cpu()) for index in (crow, t.col[chosen]))
    return UpperRows(crow_read, col_read, order[chosen].long())
