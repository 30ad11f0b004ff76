"""Iterative solvers of least-squares problems, with all that is not the method.

Columns are scaled to norm one, or a preconditioner is given.  A wide matrix, for which the least
norm is meant, has its rows scaled, and the right-hand side with them.  A matrix that is known by
its products shows no columns, and is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsgu_func.kernels.matrix_free import MatrixFree
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.columns import column_norms, quotient
from tsgu_func.solvers.history import Log
from tsgu_func.solvers.lstsq.bidiagonal import Method, Outcome, solve
from tsgu_func.solvers.lstsq.problem import Rules, problem_of, rules_of
from tsgu_func.solvers.lstsq.variables import Variables, preconditioned, scaled_columns, unchanged
from tsgu_func.solvers.protocol import (
    Preconditioner,
    Result,
    Settings,
    Solution,
    SolveError,
    relative_residual,
    solution,
)
from tsgu_func.solvers.settings import (
    check_count,
    check_preconditioner,
    check_real,
    default_tolerance,
)
from tsgu_func.solvers.system import as_operator, read_system

__all__ = ["LeastSquares"]

Matrix = StoredMatrix | MatrixFree

# A wide system whose residual stays above this has no solution.
_INCONSISTENT = 1e-3
_ROUNDS, _FEWEST = 10, 100
# The gradient of what is least is this many roundings of one entry, times sqrt(m + n).
_ROUNDINGS = 100.0


@dataclass(frozen=True, repr=False)
class LeastSquares(Settings):
    """The settings that iterative solvers of least-squares problems have in common.

    For a tall A (m > n), they look for the X that minimizes ``|A X - B|``.  For a wide A, they look
    for the solution of ``A X = B`` of least norm; the derivatives of the former need this.  For a
    square A, they look for the solution of ``A X = B``, and it counts as solved if the residual is
    as small as `rtol` asks.

    Parameters
    ----------
    rtol : float, optional
        When to stop.  For a tall A: when relative errors of this size in A and B would explain the
        residual, or when the gradient ``|Aᴴ R| / (|A| |R|)`` is at most this.  For any other A:
        when the residual, relative to B, is at most this.  Default: a few rounding errors; for a
        square A 1e-5 in single precision and 1e-10 in double.
    max_iterations : int, optional
        Default: ten times the larger side of A, but at least 100.
    warm_start : bool
        Whether to start where the last solve of this solver with the same pattern and shape ended.
    preconditioner : Preconditioner, optional
        A matrix M (n, n) such that the columns of ``A M⁻¹`` are close to orthonormal; for a wide A,
        (m, m) such that the rows of ``M⁻ᴴ A`` are.  By default, the columns of a stored matrix are
        scaled to norm one.

        It is applied on the right: the solver iterates with ``A M⁻¹``, and multiplies what it finds
        with ``M⁻¹``.  So it changes the number of iterations, but neither X nor its derivatives.
        (If A lacks full rank, there are several solutions, and the one with the least ``|M X|`` is
        found.)  It is prepared from A as it is stored.  A `Custom`, which is made of functions, can
        also be used for a `LinearOperator`.
    damp : float
        The damping δ: the minimum of ``|A X - B|² + δ² |X|²`` is looked for.  This works only in
        `sparse_lstsq` and `sparse_generic_lstsq`.  Here it is a constant; the argument `damp` of
        `sparse_lstsq` can be differentiated.
    history : int
        How many residuals ``|A X - B|`` of each column to keep for `Info.history`.  They belong to
        the matrix that the solver iterates with, whose columns or rows are scaled, and with damping
        they contain the rows of the damping.
    """

    rtol: float | None = None
    max_iterations: int | None = None
    warm_start: bool = False
    preconditioner: Preconditioner | None = None
    damp: float = 0.0
    history: int = 0

    method: ClassVar[Method]
    takes_batches: ClassVar[bool] = True
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks = {"max_iterations": check_count, "history": check_count}
        for name in ("rtol", "max_iterations", "damp", "history"):
            if (value := getattr(self, name)) is not None:
                checks.get(name, check_real)(name, value)
        check_preconditioner(self.preconditioner, "Custom(f)")

    @property
    def takes_operators(self) -> bool:
        """Whether a matrix that is known by its products alone will do."""
        M = self.preconditioner
        return M is None or getattr(M, "takes_operators", False)

    def init(self, A: Matrix) -> Any:
        """Precondition."""
        if self.damp:
            raise ValueError(
                f"{self!r} minimizes |A X - B|² + damp² |X|²; to solve A X = B, leave damp=0"
            )
        given: Any = A
        return None if self.preconditioner is None else self.preconditioner.init(given)

    def compute(self, state: Any, A: Matrix, B: Tensor, X0: Tensor | None = None) -> Solution:
        """Solve for the columns of B (m, p) or, for a batch, (b, m, p), starting at X0."""
        rows, cols = A.shape
        # An adjoint, whose rows are changed; of a square matrix only a preconditioner asks which.
        if rows < cols or (rows == cols and self.preconditioner is not None and A.conjugate):
            variables = self._variables(A.mH, state, "row")
            return self._judged(A, B, *self._solved(variables.A.mH, variables.adjoint(B), X0))
        variables = self._variables(A, state, "column")
        if X0 is not None and variables.inverse is None:
            change, outcome = self._solved(variables.A, B, None, B - A @ X0)
            return self._judged(A, B, X0 + variables.forward(change), outcome)
        start = None if X0 is None or variables.inverse is None else variables.inverse(X0)
        Y, outcome = self._solved(variables.A, B, start)
        return self._judged(A, B, variables.forward(Y), outcome)

    def _variables(self, A: Matrix, state: Any, name: str) -> Variables:
        if self.preconditioner is not None:
            return preconditioned(A, self.preconditioner, state)
        return scaled_columns(A, name) if isinstance(A, StoredMatrix) else unchanged(A)

    def _solved(
        self, A: Matrix, B: Tensor, X0: Tensor | None, left: Tensor | None = None
    ) -> tuple[Tensor, Outcome]:
        """Solve, from a start, or from what is left of B without one."""
        cols = A.shape[1]
        system = read_system(A, B, X0, cols=cols, names=("A", "B", "X0"))
        adjoint = as_operator(A.mH, "the adjoint of A", False, cols)
        problem = problem_of(system, adjoint, cols)
        if left is not None:
            problem = replace(problem, left=left / system.peak)
        log = Log(self.history)
        log.begin(system.B)
        outcome = solve(problem, self._rules(A), self.method, log)
        X = outcome.state.change * system.peak
        return X if system.start is None else system.start + X, outcome

    def _rules(self, A: Matrix) -> Rules:
        eps, square = torch.finfo(A.dtype).eps, A.shape[0] == A.shape[1]
        rtol = self._rtol(A)
        limit = self.max_iterations
        limit = max(_ROUNDS * max(A.shape), _FEWEST) if limit is None else limit
        rules = rules_of(0.0 if square else rtol, rtol, 0.1 / eps, limit)
        # A square system has a solution, so nothing but its residual counts, to the last digit.
        return rules._replace(roundings=0.0) if square else rules

    def _rtol(self, A: Matrix) -> float:
        if self.rtol is not None:
            return self.rtol
        square = A.shape[0] == A.shape[1]
        return default_tolerance(A.dtype) if square else 8 * torch.finfo(A.dtype).eps

    def _judged(self, A: Matrix, B: Tensor, X: Tensor, outcome: Outcome) -> Solution:
        rows, cols = A.shape
        R = B - A @ X
        residual = relative_residual(R, B)
        if rows < cols and not float(residual.max()) <= _INCONSISTENT:
            raise SolveError(
                f"A does not have full column rank, so its least-squares solution has no "
                f"derivative (or, wide, not full row rank, and no solution): the system of least "
                f"norm leaves a relative residual of {float(residual.max()):.1e}; damp= makes a "
                f"problem that has both"
            )
        # Fewer steps than unknowns have not seen all of A.
        condition = outcome.condition.squeeze(-2)
        complete = outcome.longest.squeeze(-2) >= min(rows, cols)
        return solution(
            self,
            X,
            residual,
            code=self._code(A, residual, condition, outcome, self._reached(A, B, X, R)),
            iterations=outcome.iterations.squeeze(-2),
            condition=torch.where(complete, condition, torch.nan),
            **outcome.log.told,
        )

    def _code(
        self,
        A: Matrix,
        residual: Tensor,
        condition: Tensor,
        outcome: Outcome,
        reached: Tensor | bool,
    ) -> Tensor:
        rules, state = self._rules(A), outcome.state
        reason = Result.ITERATIONS if outcome.steps >= rules.limit else Result.STAGNATED
        code = torch.where(condition * rules.least < 1, int(reason), int(Result.SINGULAR))
        if A.shape[0] != A.shape[1]:
            return torch.where(state.converged.squeeze(-2) | reached, int(Result.SOLVED), code)
        eps, measure = torch.finfo(A.dtype).eps, state.measure.squeeze(-2)
        noise = _ROUNDINGS * eps * sum(A.shape) ** 0.5
        inconsistent = (measure <= eps**0.5) & (measure * residual <= noise)
        code = torch.where(inconsistent, int(Result.LEAST_SQUARES), code)
        return torch.where(residual <= rules.btol, int(Result.SOLVED), code)

    def _reached(self, A: Matrix, B: Tensor, X: Tensor, R: Tensor) -> Tensor | bool:
        """Say whether a column solves its problem with A itself, where M hides it by rounding.

        Each product with A bounds the norm of A from below.
        """
        rows, cols = A.shape
        if self.preconditioner is None or rows == cols:
            return False
        of_R, of_B = (column_norms(Y) for Y in (A.mH @ torch.cat([R, B], -1)).chunk(2, -1))
        r, b, x, ax = (column_norms(Y) for Y in (R, B, X, A @ X))
        norm = torch.maximum(quotient(of_B, b, b > 0), quotient(ax, x, x > 0))
        noise = 10 * torch.finfo(A.dtype).eps * (rows + cols) ** 0.5 * (norm * x + b)
        if rows < cols:
            return (r <= self._rtol(A) * b + noise).squeeze(-2)
        return (of_R <= norm * (self._rtol(A) * r + noise)).squeeze(-2)
