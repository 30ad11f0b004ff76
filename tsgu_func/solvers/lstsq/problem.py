"""A least-squares problem, what it is judged by, and when an iteration for it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.columns import column_norms, quotient
from tsgu_func.solvers.settings import check_count, check_real
from tsgu_func.solvers.system import Operator, System, check_finite

__all__ = ["Problem", "Rules", "State", "problem_of", "rules_of"]

# The true residual is judged up to this many times the rounding of one entry, times sqrt(m + n).
_ROUNDINGS = 10.0


class Rules(NamedTuple):
    """When a column has converged, and when to give up."""

    atol: float
    btol: float
    least: float  # reciprocal condition number
    limit: int
    roundings: float = _ROUNDINGS  # by which the true residual may miss what is asked


def rules_of(atol: float, btol: float, conlim: float, maxiter: int) -> Rules:
    """Check the settings."""
    check_real("atol", atol)
    check_real("btol", btol)
    check_count("maxiter", maxiter)
    if not conlim >= 0:
        raise ValueError(f"conlim must not be negative; got {conlim}")
    return Rules(atol, btol, 1 / conlim if conlim else 0.0, maxiter)


class State(NamedTuple):
    """A change to the start, its residual, the norm of Aᴴ R, and which columns have converged."""

    change: Tensor
    R: Tensor
    gradient: Tensor
    converged: Tensor
    measure: Tensor


@dataclass(frozen=True)
class Problem:
    """``min |A X - B|``, with A and B extended by damping and B scaled."""

    multiply: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    operators: tuple[Operator, Operator]
    start: Tensor
    left: Tensor  # the residual of the start
    norm_b: Tensor
    damped: bool = False

    def judge(self, change: Tensor, norm_A: Tensor, rules: Rules) -> State:
        """Measure what a change to the start leaves, as it is."""
        R = self.left - self.multiply(change)
        norm_r, gradient = column_norms(R), column_norms(self.adjoint(R))
        check_finite(self.operators[0], norm_r, R)
        size = norm_A * column_norms(self.start + change)
        rows = R.shape[-2] + change.shape[-2]
        rounding = rules.roundings * torch.finfo(R.dtype).eps * rows**0.5
        solved = norm_r <= (rules.btol + rounding) * self.norm_b + (rules.atol + rounding) * size
        noise = rounding * (norm_r + size + self.norm_b)
        least = gradient <= norm_A * (rules.atol * norm_r + noise)
        relative = quotient(gradient, norm_A * norm_r, norm_A * norm_r > 0)
        return State(change, R, gradient, solved | least, relative)


def problem_of(system: System, adjoint: Operator, cols: int, damp: float = 0.0) -> Problem:
    """Scale B, and append ``damp I`` to A and zeros to B, which means the same for any start."""
    B, m = system.B / system.peak, system.B.shape[-2]
    start, left = B.new_zeros(*B.shape[:-2], cols, B.shape[-1]), B
    if system.start is not None:
        start, left = system.start / system.peak, system.residual(system.start)
    operators = (system.multiply, adjoint)
    if not damp:
        return Problem(*operators, operators, start, left, column_norms(B))

    def multiply(X: Tensor) -> Tensor:
        return torch.cat([system.multiply(X), damp * X], -2)

    def transposed(Y: Tensor) -> Tensor:
        return adjoint(Y[..., :m, :].contiguous()) + damp * Y[..., m:, :]

    left = torch.cat([left, -damp * start], -2)
    return Problem(multiply, transposed, operators, start, left, column_norms(B), damped=True)
