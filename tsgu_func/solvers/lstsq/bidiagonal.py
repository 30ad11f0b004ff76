"""The process of Golub and Kahan, which solves least-squares problems.

Golub and Kahan, *Calculating the Singular Values and Pseudo-Inverse of a Matrix*, SIAM J. Numer.
Anal. 2(2), 1965: vectors u and v, orthonormal each, in which A is lower bidiagonal.  LSQR and LSMR
differ in what they minimize over the space of the v: in a recurrence of numbers.  Names follow Fong
and Saunders (2011), and so do the rules that end a column: its residual, or the gradient ``Aᴴ R``
of its square, is as small as asked, or the condition number as large as the precision allows.

What decides in the end is the residual of the solution, not that of the recurrence, which is
started afresh if it drifted.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.processors import considerate
from tsgu_func.registration.transforms import never_traced
from tsgu_func.solvers.columns import column_norms, quotient
from tsgu_func.solvers.history import Log
from tsgu_func.solvers.lstsq.problem import Problem, Rules, State
from tsgu_func.solvers.lstsq.vectors import host, unit, vectors_of

__all__ = ["Method", "Outcome", "solve"]

Method = Literal["lsmr", "lsqr"]

_RESTARTS = 5


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


@never_traced
@considerate
def solve(problem: Problem, rules: Rules, method: Method, log: Log) -> Outcome:
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
        process = _Process(problem, rules, method, (state.change, state.R), wanted)
        steps += process.run(rules.limit - steps, log)
        made, claimed = process.number("count"), process.number("claimed")
        count, longest = count + made, torch.maximum(longest, made)
        norm_A = torch.maximum(norm_A, process.number("norm_A"))
        condition = torch.where(wanted, process.number("condition"), condition)
        after = problem.judge(process.change, norm_A, rules)
        # Where the recurrence gave up, rounding is no excuse for what is left.
        after = after._replace(converged=after.converged & claimed)
        gained = wanted & (after.gradient < state.gradient)
        state = State(*(torch.where(gained, x, y) for x, y in zip(after, state, strict=True)))
        wanted = gained & ~state.converged & claimed
    return Outcome(state, condition, count, steps, longest, log)


# ---------------------------------------------------------------------------------- the process


class _Process:
    """One run of a recurrence from a residual R: it adds to a change."""

    def __init__(
        self,
        problem: Problem,
        rules: Rules,
        method: Method,
        begin: tuple[Tensor, Tensor],
        wanted: Tensor,
    ) -> None:
        change, R = begin
        self._like, self._rules = R, rules
        beta, U = unit(R, problem.operators[0])
        alpha, V = unit(problem.adjoint(U), problem.operators[1])
        self._vectors = vectors_of(problem, (U, V, alpha), change)
        self._step = getattr(compiled.recurrences, f"step_{method}")
        self._numbers = numbers = np.zeros(beta.numel(), compiled.recurrences.NUMBERS)
        numbers["beta"], numbers["alpha"], numbers["norm_A"] = host(beta), host(alpha), host(alpha)
        numbers["norm_b"] = host(problem.norm_b)
        numbers["size"] = host(column_norms(problem.start + change))
        numbers["size_H"] = numbers["alpha"] > 0
        # A gradient of zero is what was asked for.
        asked, least = wanted.cpu().numpy().ravel(), numbers["alpha"] == 0
        numbers["claimed"], numbers["active"] = asked & least, asked & ~least
        getattr(compiled.recurrences, f"begin_{method}")(numbers)

    @property
    def change(self) -> Tensor:
        """What is reached."""
        return self._vectors.change

    def number(self, name: str) -> Tensor:
        """Return a number of each column, ``(*batch, 1, p)``, or a mask of them."""
        numbers = torch.from_numpy(np.ascontiguousarray(self._numbers[name]))
        if numbers.is_floating_point():
            numbers = numbers.to(self._like.dtype.to_real())
        return numbers.to(self._like.device).reshape_as(self._like[..., :1, :])

    def run(self, limit: int, log: Log) -> int:
        """Iterate until no column is active; return how often."""
        vectors, numbers = self._vectors, self._numbers
        going = self._stop()  # a start may be good enough
        for step in range(limit):
            if not going:
                return step
            numbers["beta"], numbers["alpha"] = vectors.bidiagonalize()
            self._step(numbers)
            numbers["size"], numbers["size_H"] = vectors.advance(numbers)
            if log.length:
                log.record(self.number("active"), self._residual())
            going = self._stop()
        return limit

    def _residual(self) -> Tensor:
        norm_r, norm_b = self.number("norm_r"), self.number("norm_b")
        return quotient(norm_r, norm_b, norm_b > 0)

    def _stop(self) -> bool:
        atol, btol, least, *_ = self._rules
        half = torch.finfo(self._like.dtype).eps / 2
        return compiled.recurrences.stop(self._numbers, atol, btol, least, half)
