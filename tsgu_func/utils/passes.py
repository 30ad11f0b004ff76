"""Restarts of a recurrence from the true residual, for the solver functions.

A solver's *pass* runs its recurrence over all columns at once, with a mask, and returns a
correction; `refine` adds it, computes the true residual and starts another pass from there while
that helps.  A column that needs nothing gets a correction of zero, so it comes out bit for bit as
it went in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.iteration import System
from tsgu_func.solvers.protocol import ConvergenceError

__all__ = ["Pass", "Reached", "refine", "unconverged"]

# A recurrence drifts from the true residual; it is started afresh from there this often.
_RESTARTS = 5


class Pass(NamedTuple):
    """One run of a recurrence: a scaled correction, its iterations, the residual it believes in."""

    change: Tensor
    steps: int
    error: Tensor
    broken: Tensor | None = None  # columns that broke down, and deserve another run all the same
    trusted: bool = False  # whether the correction is one even where the residual rises


class Reached(NamedTuple):
    """A solution, its true relative residual, what the recurrence took it for, and iterations."""

    X: Tensor
    error: Tensor
    recursive: Tensor
    steps: int


def refine(
    system: System,
    run: Callable[[Tensor, int], Pass],
    unfinished: Callable[[Tensor, int], Tensor],
    limit: int,
) -> Reached:
    """Run passes from the true residual until no column is unfinished, or none gains by it.

    ``run(R, steps)`` makes a pass; ``unfinished(error, steps)`` masks the columns that need one.
    """
    X = torch.zeros_like(system.B) if system.start is None else system.start.clone()
    R = system.B / system.peak if system.start is None else system.residual(X)
    error = recursive = system.error(R)
    steps = 0
    for _ in range(_RESTARTS):
        if steps >= limit or not bool(unfinished(error, steps).any()):
            break
        change, used, recursive, broken, trusted = run(R, steps)
        steps += used
        moved = X + change * system.peak
        left = system.residual(moved)
        after = system.error(left)
        better = after < error
        taken = better | trusted
        X, R = torch.where(taken, moved, X), torch.where(taken, left, R)
        error = torch.where(taken, after, error)
        promising = better if broken is None else better | broken
        if not bool((unfinished(error, steps) & promising).any()):
            break
    return Reached(X, error, recursive, steps)


def unconverged(
    method: str, count: str, residual: Tensor, tolerance: str, advice: str, steps: int
) -> ConvergenceError:
    """Return the error of a method that stopped above its tolerance."""
    return ConvergenceError(
        f"{method} did not converge: after {count} the worst relative residual is "
        f"{float(residual.max()):.1e}, above the tolerance {tolerance}; {advice}",
        steps,
        residual,
    )
