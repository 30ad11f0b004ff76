"""Least-squares problems, and the process of Golub and Kahan that solves them.

Golub and Kahan, *Calculating the Singular Values and Pseudo-Inverse of a Matrix*, SIAM J. Numer.
Anal. 2(2), 1965: vectors u and v, orthonormal each, in which A is lower bidiagonal.  LSQR and LSMR
differ in what they minimize over the space of the v.  Names follow Fong and Saunders (2011), and so
do the rules that end a column: its residual, or the gradient ``Aᴴ R`` of its square, is as small as
asked, or the condition number as large as the precision allows.

What decides in the end is the residual of the solution, not that of the recurrence, which is
started afresh if it drifted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.columns import column_norms, quotient
from tsgu_func.solvers.history import Log
from tsgu_func.solvers.settings import check_count, check_real
from tsgu_func.solvers.system import Operator, System, check_finite

__all__ = [
    "Outcome",
    "Problem",
    "Process",
    "Rules",
    "State",
    "over",
    "problem_of",
    "rotation",
    "rules_of",
    "solve",
]

# The true residual is judged up to this many times the rounding of one entry, times sqrt(m + n).
_ROUNDINGS = 10.0
_RESTARTS = 5


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
    return Problem(multiply, transposed, operators, start, left, column_norms(B))


class Outcome(NamedTuple):
    """What was reached.

    Attributes
    ----------
    state : State
    condition : Tensor
        An estimate of the condition number, of what the steps made have seen of A.
    iterations : Tensor
        Of each column.
    steps : int
        Of all.
    longest : Tensor
        Most steps that a column made in one pass: with as many as unknowns, all of A was seen.
    log : Log
    """

    state: State
    condition: Tensor
    iterations: Tensor
    steps: int
    longest: Tensor
    log: Log


def solve(problem: Problem, rules: Rules, method: type[Process], log: Log) -> Outcome:
    """Run passes from the true residual, as long as a column that should have converged gains."""
    norm_A = torch.zeros_like(problem.norm_b)
    condition, wanted = torch.zeros_like(norm_A), column_norms(problem.left) > 0
    infinite = torch.full_like(norm_A, torch.inf)
    state = State(torch.zeros_like(problem.start), problem.left, infinite, ~wanted, norm_A)
    count, steps = torch.zeros_like(wanted, dtype=torch.int64), 0
    longest = count
    for _ in range(_RESTARTS):
        if not bool(wanted.any()):
            break
        process = method(problem, rules, state.change, state.R, wanted)
        steps += process.run(rules.limit - steps, log)
        count, longest = count + process.count, torch.maximum(longest, process.count)
        norm_A = torch.maximum(norm_A, process.norm_A)
        condition = torch.where(wanted, process.condition, condition)
        after = problem.judge(process.change, norm_A, rules)
        # Where the recurrence gave up, rounding is no excuse for what is left.
        after = after._replace(converged=after.converged & process.claimed)
        gained = wanted & (after.gradient < state.gradient)
        state = State(*(torch.where(gained, x, y) for x, y in zip(after, state, strict=True)))
        wanted = gained & ~state.converged & process.claimed
    return Outcome(state, condition, count, steps, longest, log)


# ---------------------------------------------------------------------------------- the process


class Process:
    """One run of a recurrence from a residual R: it adds to `change`.

    A method makes the first of its numbers in `begin` and the next in `rotate`: `norm_r`, the norm
    of the residual, `gradient`, that of ``Aᴴ R``, and `condition`: as the recurrence knows them.

    `claimed` masks the columns that it takes for converged, whatever their true residual.
    """

    norm_r: Tensor
    gradient: Tensor
    condition: Tensor

    def __init__(
        self, problem: Problem, rules: Rules, change: Tensor, R: Tensor, wanted: Tensor
    ) -> None:
        self.problem, self.rules, self.change = problem, rules, change
        self.beta, self.U = _unit(R, problem.operators[0])
        self.alpha, self.V = _unit(problem.adjoint(self.U), problem.operators[1])
        self.norm_A = self.alpha
        self.claimed = wanted & (self.alpha == 0)
        self.active = wanted & ~self.claimed
        self.count = torch.zeros_like(wanted, dtype=torch.int64)
        self.begin()

    def begin(self) -> None:
        """Start the recurrence."""
        raise NotImplementedError

    def rotate(self) -> None:
        """Make a step of it, with the new alpha, beta, U and V."""
        raise NotImplementedError

    def run(self, limit: int, log: Log) -> int:
        """Iterate until no column is active; return how often."""
        self._stop()  # a start may be good enough
        for step in range(limit):
            if not bool(self.active.any()):
                return step
            self.count = self.count + self.active
            self._bidiagonalize()
            self.rotate()
            if log.length:
                norm_b = self.problem.norm_b
                log.record(self.active, quotient(self.norm_r, norm_b, norm_b > 0))
            self._stop()
        return limit

    def _bidiagonalize(self) -> None:
        problem, (forward, backward) = self.problem, self.problem.operators
        U = problem.multiply(self.V) - self.alpha * self.U
        self.beta, self.U = _unit(U, forward)
        V = problem.adjoint(self.U) - self.beta * self.V
        self.alpha, self.V = _unit(V, backward)
        # Not above the Frobenius norm of A, whatever the number of columns of V.
        self.norm_A = torch.hypot(self.norm_A, torch.hypot(self.alpha, self.beta))

    def _stop(self) -> None:
        """Apply the papers' stopping rules; `1 + test <= 1` says that no digit is left to gain."""
        rules, norm_b = self.rules, self.problem.norm_b
        size = self.norm_A * column_norms(self.problem.start + self.change)
        consistent = over(self.norm_r, norm_b + size)
        least = torch.where(self.norm_r > 0, over(self.gradient, self.norm_A * self.norm_r), 0)
        done = (self.norm_r <= rules.btol * norm_b + rules.atol * size) | (least <= rules.atol)
        done = done | (1 + consistent <= 1) | (1 + least <= 1)
        reciprocal = 1 / self.condition
        lost = (reciprocal <= rules.least) | (1 + reciprocal <= 1)
        self.claimed = self.claimed | (self.active & done)
        self.active = self.active & ~(done | lost)


def _unit(X: Tensor, operator: Operator) -> tuple[Tensor, Tensor]:
    """Return the norm of each column, and the columns divided by it; zero stays zero."""
    norm = column_norms(X)
    check_finite(operator, norm, X)
    return norm, quotient(X, norm, norm > 0)


def over(a: Tensor, b: Tensor) -> Tensor:
    """Divide; zero where the divisor vanishes, in columns that have ended."""
    return quotient(a, b, b != 0)


def rotation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return c, s, r with c a + s b = r and c b = s a."""
    r = torch.hypot(a, b)
    return over(a, r), over(b, r), r
