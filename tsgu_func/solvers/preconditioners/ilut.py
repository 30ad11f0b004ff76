"""Incomplete LU factorization with a threshold, by SuperLU.

Li and Shao, *A Supernodal Approach to Incomplete LU Factorization with Partial Pivoting*, ACM TOMS
37(4), 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.direct.superlu import GENERAL, SYMMETRIC
from tsgu_func.solvers.preconditioners.reading import check_square
from tsgu_func.solvers.protocol import Settings, SolveError
from tsgu_func.solvers.settings import check_real
from tsgu_func.solvers.traits import symmetric_pattern

__all__ = ["ILUT"]


@dataclass(frozen=True, eq=False)
class _State:
    """An incomplete factor of Sᵀ (SciPy's takes columns, we store rows)."""

    lu: Any
    itemsize: int

    @property
    def bytes(self) -> int:
        return int(self.lu.nnz) * (self.itemsize + 4) + 16 * self.lu.shape[0]

    def solve(self, R: np.ndarray, transpose: bool, conjugate: bool) -> np.ndarray:
        # With F = Sᵀ: S = Fᵀ, conj(S) = Fᴴ, Sᵀ = F, and Sᴴ X = R is conj(F conj(X) = conj(R)).
        if transpose and conjugate:
            return self.lu.solve(R.conj(), "N").conj()
        return self.lu.solve(R, "N" if transpose else "H" if conjugate else "T")


@dataclass(frozen=True, repr=False)
class ILUT(Settings):
    """Incomplete LU factorization that drops only small entries, by SciPy's SuperLU.

    Use it for matrices for which `ILU0` is too weak or breaks down.  It keeps the fill that
    matters, and pivots by rows.  A matrix with a symmetric pattern is first factored along its
    diagonal in a minimum-degree order, because less has to be dropped there.

    Parameters
    ----------
    drop_tol : float
        Entries that are smaller than this are dropped, relative to the largest entry of their
        column of the factor.  Between 0, which drops none, and 1.
    fill_factor : float
        How many times as many entries as A the factors may have; at least 1.

    Raises
    ------
    SolveError
        If the matrix is singular.

    Notes
    -----
    It takes O(fill_factor nnz) memory, and as much time for each column that it is applied to.  To
    prepare it takes the time of a sparse factorization with this fill.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_generic_solve
    >>> from tsgu_func.solvers import GMRES
    >>> from tsgu_func.solvers.preconditioners import ILUT
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, -1.0], [1.0, 2.0]]))
    >>> solver = GMRES(preconditioner=ILUT(drop_tol=1e-3))
    >>> sparse_generic_solve(A, torch.tensor([1.0, 2.0]), solve=solver)
    tensor([0.4444, 0.7778])
    """

    drop_tol: float = 1e-4
    fill_factor: float = 10.0

    def __post_init__(self) -> None:
        check_real("drop_tol", self.drop_tol, most=1)
        check_real("fill_factor", self.fill_factor, 1, 1e6)

    def init(self, A: StoredMatrix) -> _State:
        """Factor."""
        check_square(self, A)
        along = symmetric_pattern(A.structure)
        for settings in (SYMMETRIC, GENERAL) if along else (GENERAL,):
            if (lu := self._factored(A, settings)) is not None:
                return _State(lu, A.values.itemsize)
        raise SolveError(
            f"{self!r}: the matrix is singular, or too much was dropped: take a smaller drop_tol "
            f"or a larger fill_factor"
        )

    def _factored(self, A: StoredMatrix, settings: dict[str, Any]) -> Any:
        from scipy.sparse.linalg import spilu

        limits = {"drop_tol": self.drop_tol, "fill_factor": self.fill_factor}
        try:
            # The transpose of CSR is CSC, without a copy.
            return spilu(A.to_scipy().T, **limits, **settings)
        except RuntimeError as error:
            if "singular" not in str(error):
                raise
        return None

    def apply(
        self, state: _State, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Solve with both triangles, for R (n, p)."""
        if not R.numel():
            return R.clone()
        solved = state.solve(R.resolve_conj().cpu().numpy(), transpose, conjugate)
        return torch.from_numpy(np.ascontiguousarray(solved)).to(R.device)
