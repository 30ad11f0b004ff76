"""The default least-squares solutions: LSMR, to the last digits but a few, and watchful of rank."""

from __future__ import annotations

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
    _check_columns(A)
    return lsmr(A, B, **_settings(A))[0]


def least_norm_by_lsmr(Ah: StoredMatrix, G: Tensor) -> Tensor:
    """Solve ``Aᴴ Y = G`` with the least norm, for a tall A of full column rank."""
    _check_columns(Ah.mH)
    Y = lsmr(Ah, G, **_settings(Ah))[0]
    residual = relative_residual(G - Ah @ Y, G)
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


def _check_columns(A: StoredMatrix) -> None:
    columns = A.structure.row if A.transpose else A.structure.col
    used = A.values.new_zeros(*A.values.shape[:-1], A.shape[1], dtype=torch.bool)
    used = used.index_add(-1, columns, A.values != 0)
    if not bool(used.all()):
        column = int((~used).nonzero()[0, -1])
        raise SolveError(f"A does not have full column rank: its column {column} holds but zeros")
