"""The default least-squares solutions: LSMR, to the last digits but a few, and watchful of rank.

Columns are scaled to norm one, which changes no solution and is, among diagonal scalings, within a
factor of sqrt(n) of the best condition number: van der Sluis, *Condition Numbers and Equilibration
of Matrices*, Numer. Math. 14, 1969.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.base import SolveError, relative_residual
from tsgu_func.utils.lsmr import lsmr

__all__ = ["least_norm_by_lsmr", "least_squares_by_lsmr"]

# An adjoint system whose residual stays above this has no solution.
_INCONSISTENT = 1e-3


def least_squares_by_lsmr(A: StoredMatrix, B: Tensor) -> Tensor:
    """Minimize ``|A X - B|`` for a tall A of full column rank."""
    scaled, scale = _scaled(A)
    return scale * lsmr(scaled, B, **_settings(A))[0]


def least_norm_by_lsmr(Ah: StoredMatrix, G: Tensor) -> Tensor:
    """Solve ``Aᴴ Y = G`` with the least norm, for a tall A of full column rank."""
    scaled, scale = _scaled(Ah.mH)
    right = scale * G
    Y = lsmr(scaled.mH, right, **_settings(Ah))[0]
    residual = relative_residual(right - scaled.mH @ Y, right)
    if not float(residual.max()) <= _INCONSISTENT:
        raise SolveError(
            f"A does not have full column rank, so its least-squares solution has no derivative: "
            f"the adjoint system leaves a relative residual of {float(residual.max()):.1e}"
        )
    return Y


# Both take a batch of matrices whole.
for function in (least_squares_by_lsmr, least_norm_by_lsmr):
    function.takes_batches = True  # pyright: ignore[reportFunctionMemberAccess]


def _settings(A: StoredMatrix) -> dict[str, Any]:
    eps = torch.finfo(A.dtype).eps
    return {"atol": 8 * eps, "btol": 8 * eps, "conlim": 0.1 / eps, "maxiter": 10 * max(A.shape)}


def _scaled(A: StoredMatrix) -> tuple[StoredMatrix, Tensor]:
    """Return A with columns of norm one, and what they were multiplied with, ``(..., n, 1)``."""
    column = (A.structure.row if A.transpose else A.structure.col).long()
    size = A.values.abs()
    zeros = size.new_zeros(*size.shape[:-1], A.shape[1])
    peak = zeros.scatter_reduce(-1, column.expand_as(size), size, "amax")
    if not bool((peak > 0).all()):
        j = int((peak == 0).nonzero()[0, -1])
        raise SolveError(f"A does not have full column rank: its column {j} holds but zeros")
    # Divided by the largest entry first, so that no square over- or underflows.
    norm = zeros.index_add(-1, column, (size / peak.index_select(-1, column)) ** 2).sqrt()
    scale = 1 / peak / norm
    values = A.values * scale.index_select(-1, column)
    return replace(A, values=values), scale.unsqueeze(-1)
