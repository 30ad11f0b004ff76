"""Iterative solvers of least-squares problems, with all that is not the method.

Columns are scaled to norm one, which changes no solution and is, among diagonal scalings, within a
factor of sqrt(n) of the best condition number: van der Sluis, *Condition Numbers and Equilibration
of Matrices*, Numer. Math. 14, 1969.  A wide matrix, for which the least norm is meant, has its rows
scaled, and the right-hand side with them.  A matrix that is known by its products shows no columns,
and is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tsgu_func.solvers import iteration
from tsgu_func.solvers.lstsq import bidiagonal
from tsgu_func.solvers.lstsq.bidiagonal import Process
from tsgu_func.solvers.matrix_free import MatrixFree
from tsgu_func.solvers.protocol import (
    Result,
    Settings,
    Solution,
    SolveError,
    relative_residual,
    solution,
)
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["LeastSquares"]

Matrix = StoredMatrix | MatrixFree

# A wide system whose residual stays above this has no solution.
_INCONSISTENT = 1e-3
_ROUNDS, _FEWEST = 10, 100


@dataclass(frozen=True, repr=False)
class LeastSquares(Settings):
    """Settings of a solver of least-squares problems.

    A tall A (m > n): the X that minimizes ``|A X - B|``.  A wide one: of all solutions of
    ``A X = B``, that of least norm, which is what derivatives of the former are made of.  A square
    one: the solution of ``A X = B``, which counts as one if its residual is as small as asked.

    Parameters
    ----------
    rtol : float, optional
        For a tall A, relative errors in A and B that may explain the residual, or the gradient
        ``|Aᴴ R| / (|A| |R|)``; for any other, the residual relative to B.  Default: a few
        roundings; for a square A 1e-5 in single precision and 1e-10 in double.
    max_iterations : int, optional
        Default: ten times the larger side, and 100 at least.
    warm_start : bool
        Start where the last solve of this solver with the same pattern and shape ended.
    """

    rtol: float | None = None
    max_iterations: int | None = None
    warm_start: bool = False

    process: ClassVar[type[Process]]
    takes_batches: ClassVar[bool] = True
    stateless: ClassVar[bool] = True
    takes_operators: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("rtol", "max_iterations"):
            if (value := getattr(self, name)) is not None:
                iteration.check_number(name, value)

    def init(self, A: Matrix) -> None:
        """Prepare nothing."""

    def compute(self, state: None, A: Matrix, B: Tensor, X0: Tensor | None = None) -> Solution:
        """Solve for the columns of B (m, p) or, for a batch, (b, m, p), starting at X0."""
        rows, cols = A.shape
        if rows < cols:  # the rows of A are the columns of its adjoint
            adjoint, scale = _scaled(A.mH)
            return self._judged(A, B, self._solved(adjoint.mH, scale * B, X0, B), None)
        columns, scale = _scaled(A)
        X0 = None if X0 is None else X0 / scale
        return self._judged(A, B, self._solved(columns, B, X0, B), scale)

    def _solved(
        self, A: Matrix, right: Tensor, X0: Tensor | None, B: Tensor
    ) -> tuple[Tensor, bidiagonal.Outcome]:
        cols = A.shape[1]
        system = iteration.read_system(A, right, X0, cols=cols, names=("A", "B", "X0"))
        adjoint = iteration.as_operator(A.mH, "the adjoint of A", False, cols)
        problem = bidiagonal.problem_of(system, adjoint, cols)
        outcome = bidiagonal.solve(problem, self._rules(A), self.process)
        X = outcome.state.change * system.peak
        return X if system.start is None else system.start + X, outcome

    def _rules(self, A: Matrix) -> bidiagonal.Rules:
        eps, square = torch.finfo(A.dtype).eps, A.shape[0] == A.shape[1]
        rtol = self._rtol(A)
        limit = self.max_iterations
        limit = max(_ROUNDS * max(A.shape), _FEWEST) if limit is None else limit
        rules = bidiagonal.rules_of(0.0 if square else rtol, rtol, 0.1 / eps, limit)
        # A square system has a solution, so nothing but its residual counts, to the last digit.
        return rules._replace(roundings=0.0) if square else rules

    def _rtol(self, A: Matrix) -> float:
        if self.rtol is not None:
            return self.rtol
        square = A.shape[0] == A.shape[1]
        return iteration.default_tolerance(A.dtype) if square else 8 * torch.finfo(A.dtype).eps

    def _judged(
        self,
        A: Matrix,
        B: Tensor,
        solved: tuple[Tensor, bidiagonal.Outcome],
        scale: Tensor | None,
    ) -> Solution:
        X, outcome = solved
        X = X if scale is None else scale * X
        rows, cols = A.shape
        residual = relative_residual(B - A @ X, B)
        converged = outcome.state.converged.squeeze(-2)
        if rows < cols and not float(residual.max()) <= _INCONSISTENT:
            raise SolveError(
                f"A does not have full column rank, so its least-squares solution has no "
                f"derivative: the adjoint system leaves a relative residual of "
                f"{float(residual.max()):.1e}"
            )
        if rows == cols:
            converged = residual <= self._rtol(A)
        limit = self._rules(A).limit
        reason = Result.ITERATIONS if outcome.steps >= limit else Result.STAGNATED
        code = torch.where(converged, int(Result.SOLVED), int(reason))
        condition = outcome.condition.squeeze(-2)
        return solution(
            self,
            X,
            residual,
            code=code,
            iterations=outcome.iterations.squeeze(-2),
            condition=condition,
        )


def _scaled(A: Matrix) -> tuple[Matrix, Tensor]:
    """Return A with columns of norm one, and what they were multiplied with, ``(..., n, 1)``."""
    if isinstance(A, MatrixFree):
        return A, torch.ones(1, 1, dtype=A.dtype.to_real(), device=A.values.device)
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
