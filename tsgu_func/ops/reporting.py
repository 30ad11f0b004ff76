"""How a solve op tells how a solution was reached, beside the solution itself.

That is an `Info`.  The op returns it as one tensor, a *report*: a row for each
number and a column for each right-hand side, so that batches are brought together as those of the
solution are.  The history comes last, in as many rows as the solver is asked for.  It has no
derivative.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tsgu_func.kernels.checks import all_finite, check_computable, check_finite
from tsgu_func.kernels.matrix_free import MatrixFree
from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.ops.handles import handle_of
from tsgu_func.solvers.nullspace import NullSpace
from tsgu_func.solvers.protocol import Info, Solution, solution

__all__ = ["OUTPUTS", "beside", "empty", "solve_by", "unpacked"]

OUTPUTS = "(Tensor value, Tensor report)"
_NUMBERS = Info._fields[:-1]  # all but the history
_WHOLE = ("code", "iterations", "method", "vain", "stride")  # what is a whole number
# A number that is not known: no NaN, which would make two equal runs differ, and none that is told.
_NONE = -math.pi * 2.0**-1000


@considerate
def solve_by(
    solver: str,
    A: StoredMatrix | MatrixFree,
    B: Tensor,
    argument: str = "",
    condition: bool = False,
    null: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """Solve with what a key stands for, which is asked only where there is something to solve.

    The front door names the `argument` that B is; there, what is not finite is an error.  The rules
    name none: a column of a cotangent or tangent that is not finite gives NaN, as everywhere in
    PyTorch, and the others are solved for.  `null` is what A, and its adjoint, map to zero.
    """
    check_computable(B)
    check_finite("A" if isinstance(A, StoredMatrix) else "a parameter of A", A.values)
    if argument:
        check_finite(argument, B)
    if argument or all_finite(B):
        return _packed(solver, _solved(solver, A, B, condition, null))
    finite = torch.isfinite(B).all(-2, keepdim=True)
    # What has overflowed as a whole, as a scaled loss does, is nothing to ask a solver for.
    some = torch.where(finite, B, 0)
    told = bool(finite.any())
    solved = _solved(solver, A, some, condition, null) if told else _nothing(A, some)
    value, report = _packed(solver, solved)
    return torch.where(finite, value, torch.nan), report


def _solved(
    solver: str, A: Any, B: Tensor, condition: bool, null: tuple[Tensor | None, Tensor | None]
) -> Solution:
    if not (B.numel() and A.shape[1]):
        return _nothing(A, B)
    right, left = null
    if right is None or left is None:
        return handle_of(solver).solve(A, B, condition=condition)
    return handle_of(solver).solve_projected(A, B, NullSpace.spanned(right, left))


def _nothing(A: StoredMatrix | MatrixFree, B: Tensor) -> Solution:
    X = B.new_zeros(*B.shape[:-2], A.shape[1], B.shape[-1])
    residual = B.new_zeros(*B.shape[:-2], B.shape[-1], dtype=B.dtype.to_real())
    return solution("nothing to solve", X, residual)


def _packed(solver: str, solved: Solution) -> tuple[Tensor, Tensor]:
    """Return what an op returns."""
    value, *numbers, history = solved
    report = torch.stack([x.double() for x in numbers], -2)
    if length := handle_of(solver).history:
        report = torch.cat([report, _filled_up(history, length).mT], -2)
    report = torch.where(report.isnan(), _NONE, report)
    return value.clone(memory_format=torch.contiguous_format), report


def _filled_up(history: Tensor, length: int) -> Tensor:
    """Return a history ``(*batch, p, length)`` of one that is shorter, as where nothing ran."""
    *columns, known = history.shape
    rest = history.new_full((*columns, length - known), torch.nan)
    return torch.cat([history, rest], -1).double()


def empty(X: Tensor, B: Tensor, solver: str) -> tuple[Tensor, Tensor]:
    """Return what `_packed` returns for a solution X, without values."""
    rows = len(_NUMBERS) + handle_of(solver).history
    return X, B.new_empty(*B.shape[:-2], rows, B.shape[-1], dtype=torch.float64)


def beside(dX: Tensor, report: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tangents of both outputs, of which a report has none."""
    return dX, torch.zeros_like(report)


def unpacked(outputs: tuple[Tensor, Tensor], vectors: bool) -> Info:
    """Return what is told, with a number for each column of the solution, or for each vector."""
    value, report = outputs
    real = value.real.dtype  # the compiler does not know `to_real`
    rows = report.detach() if vectors else report.detach().mT  # numbers of a column lie together
    known = torch.where(rows == _NONE, torch.nan, rows).to(real)
    numbers = zip(_NUMBERS, known.unbind(-1), rows.unbind(-1), strict=False)
    told = (whole.long() if name in _WHOLE else x for name, x, whole in numbers)
    return Info(*told, history=known[..., len(_NUMBERS) :])
