"""What the functions do when they have not converged."""

from __future__ import annotations

import warnings

from torch import Tensor

from tsgu_func.solvers.protocol import ConvergenceError

__all__ = ["check_policy", "fail", "unconverged"]


def check_policy(on_failure: str) -> None:
    """Check what a caller wants done when a solver does not converge."""
    if on_failure not in ("raise", "warn", "ignore"):
        raise ValueError(f"on_failure is 'raise', 'warn' or 'ignore'; got {on_failure!r}")


def fail(on_failure: str, error: ConvergenceError) -> None:
    """Raise an error, warn with its message, or leave it at that."""
    if on_failure == "raise":
        raise error
    if on_failure == "warn":
        warnings.warn(str(error), stacklevel=3)


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
