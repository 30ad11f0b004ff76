"""Solve ops that also tell how a solution was reached: what their rules share.

What they tell is the rest of a `Solution`, and has no derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tsgu_func.kernels.checks import check_computable, check_finite
from tsgu_func.ops import keys
from tsgu_func.solvers.protocol import Solution, solution
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["OUTPUTS", "as_rows", "empty_report", "from_rows", "report", "still"]

OUTPUTS = (
    "(Tensor value, Tensor code, Tensor iterations, Tensor residual, Tensor condition,"
    " Tensor shift, Tensor method)"
)


def report(A: StoredMatrix, B: Tensor, solver: str) -> tuple[Tensor, ...]:
    """Solve with what a key stands for, and tell; it is asked only where there is something."""
    check_computable(A.values)
    check_finite("A", A.values)
    check_finite("B", B)
    if B.numel() and A.shape[1]:
        solved = keys.handle_of(solver).report(A, B)
    else:
        X = B.new_zeros(*B.shape[:-2], A.shape[1], B.shape[-1])
        solved = solution("nothing to solve", X, _of_each_column(B, B.dtype.to_real()))
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in solved)


def empty_report(X: Tensor, B: Tensor) -> tuple[Tensor, ...]:
    """Return what `report` returns for a solution of the shape of X, without values."""
    counts = _of_each_column(B, torch.int64)
    numbers = _of_each_column(B, B.dtype.to_real())
    others = (counts, counts, numbers, numbers, numbers, counts)
    return X, *(torch.empty_like(x) for x in others)


def still(told: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the tangents of what is told: none."""
    return tuple(torch.zeros_like(x) if x.is_floating_point() else None for x in told)


def as_rows(solved: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Make numbers a row each, so that they go through what brings batches together as X does."""
    X, *numbers = solved
    return X, *(x.detach().unsqueeze(-2) for x in numbers)


def from_rows(solved: tuple[Tensor, ...], B: Tensor) -> tuple[Tensor, Solution]:
    """Return X, and the `Solution`, with numbers of the columns of B."""
    X, *rows = solved
    return X, Solution(X, *(x.squeeze(-1 if B.ndim == 1 else -2) for x in rows))


def _of_each_column(B: Tensor, dtype: torch.dtype) -> Tensor:
    return B.new_zeros(*B.shape[:-2], B.shape[-1], dtype=dtype)
