"""Direct solution by SuperLU, through SciPy.

Li, *An Overview of SuperLU: Algorithms, Implementation, and User Interface*, ACM TOMS 31(3), 2005.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.base import Solution, SolveError, relative_residual, solution

__all__ = ["SuperLU"]

# A backward stable solution leaves a residual of about eps |A| |X|, relative to |B|: where that is
# no small part of B, the condition number has reached 1 / eps.
_USELESS = 0.1


@dataclass(frozen=True)
class _Factor:
    """A factor of Sᵀ (SciPy's takes columns, we store rows), and the matrix to solve with."""

    lu: Any
    A: StoredMatrix
    norm: float  # the largest column or row sum of |A|

    @property
    def bytes(self) -> int:
        return int(self.lu.nnz) * (self.A.values.itemsize + 4)

    def solve(self, B: np.ndarray) -> np.ndarray:
        # With F = Sᵀ: S = Fᵀ, conj(S) = Fᴴ, Sᵀ = F, and Sᴴ X = B is conj(F conj(X) = conj(B)).
        if self.A.transpose and self.A.conjugate:
            return self.lu.solve(B.conj(), "N").conj()
        mode = "N" if self.A.transpose else "H" if self.A.conjugate else "T"
        return self.lu.solve(B, mode)


@dataclass(frozen=True)
class SuperLU:
    """Sparse LU factorization with SciPy's SuperLU, on the CPU.

    Works for any non-singular matrix, float32 to complex128.  A matrix with a symmetric pattern is
    first factored along its diagonal with a minimum-degree ordering, which is sparser; if the
    residual shows that this lost accuracy, it is factored again with full row pivoting.
    One factor serves A, its transpose and its conjugate, and all right-hand sides at once.

    Raises
    ------
    SolveError
        If the matrix is singular to working precision.
    """

    def init(self, A: StoredMatrix) -> _Factor:
        """Factor."""
        if (empty := _empty_row(A)) is not None:
            raise SolveError(f"the matrix is singular: nothing but zeros in row {empty}")
        return _factor(A, symmetric=A.structure.derive("symmetric", _symmetric))

    def compute(self, state: _Factor, B: Tensor, X0: Tensor | None = None) -> Solution:
        """Solve for the columns of B (n, p); a start X0 is of no use here."""
        X, R = _solve(state, B)
        if _backward_error(state, X, B, R) > 100 * _accuracy(B):
            pivoted = _factor(StoredMatrix(state.A.structure, state.A.values), symmetric=False)
            X, R = _solve(replace(pivoted, A=state.A), B)
            error = _backward_error(state, X, B, R)
            if not error <= _accuracy(B) ** 0.5:
                raise SolveError(
                    f"the matrix is singular to working precision: SuperLU left a backward error "
                    f"of {error:.1e}"
                )
        residual = relative_residual(R, B)
        if B.numel() and not float(residual.max()) <= _USELESS:
            raise SolveError(
                f"the matrix is singular to working precision: the best solution leaves a relative "
                f"residual of {float(residual.max()):.1e}"
            )
        return solution(self, X, residual)

    def transpose(self, state: _Factor) -> _Factor:
        """Return the same factor, for the transpose."""
        return replace(state, A=state.A.T)

    def conj(self, state: _Factor) -> _Factor:
        """Return the same factor, for the conjugate."""
        return replace(state, A=replace(state.A, conjugate=not state.A.conjugate))


def _factor(A: StoredMatrix, symmetric: bool) -> _Factor:
    from scipy.sparse.linalg import splu

    S = A.to_scipy()
    settings: dict[str, Any] = (
        {
            "permc_spec": "MMD_AT_PLUS_A",
            "diag_pivot_thresh": 0.01,
            "options": {"SymmetricMode": True},
        }
        if symmetric
        else {"permc_spec": "COLAMD"}
    )
    try:
        lu = splu(S.T, **settings)  # the transpose of CSR is CSC, without a copy
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        raise SolveError("the matrix is exactly singular: SuperLU met a zero pivot") from None
    absolute = abs(S)
    norm = max(absolute.sum(axis=0).max(initial=0), absolute.sum(axis=1).max(initial=0))
    return _Factor(lu, A, float(norm))


def _solve(state: _Factor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return X and the residual B - A X."""
    solved = np.ascontiguousarray(state.solve(B.cpu().numpy()))
    X = torch.from_numpy(solved).to(B.device)
    return X, B - state.A @ X


def _backward_error(state: _Factor, X: Tensor, B: Tensor, R: Tensor) -> float:
    """Return |B - A X| / (|A| |X| + |B|) in the maximum norm, worst column: Rigal and Gaches."""
    if not B.numel():
        return 0.0
    residual, x, b = ((y.abs().amax(0)) for y in (R, X, B))
    # Below this scale, rounding is absolute: numbers that small have no digits to lose.
    least = torch.finfo(residual.dtype).tiny / torch.finfo(residual.dtype).eps
    return float((residual / (state.norm * x + b).clamp_min(least)).max())


def _accuracy(B: Tensor) -> float:
    return torch.finfo(B.dtype).eps * max(B.shape[0], 1) ** 0.5


def _symmetric(s: Structure) -> bool:
    t = s.transpose.structure
    return torch.equal(s.crow, t.crow) and torch.equal(s.col, t.col)


def _empty_row(A: StoredMatrix) -> int | None:
    used = torch.zeros(A.structure.rows, dtype=torch.bool, device=A.values.device)
    used[A.structure.row[A.values != 0].long()] = True
    return None if bool(used.all()) else int((~used).nonzero()[0])
