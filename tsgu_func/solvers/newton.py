r"""Newton's method with a line search, for a system ``F(x) = 0`` whose Jacobian is sparse.

At each iterate ``J d = -F(x)`` is solved, and ``x + t d`` taken with the first t of 1, 1/2, 1/4 and
so on that reduces the residual enough (Armijo):

.. math:: \|F(x + t d)\| \le (1 - 10^{-4} t) \, \|F(x)\|.

See Dennis and Schnabel, *Numerical Methods for Unconstrained Optimization and Nonlinear Equations*
(1983), chapters 6 and 7, from which the constants are.

**When it has converged.**  F has no scale by which its norm could be called small, but x has: the
last step d estimates the error of x that was, and that of x + d is smaller by far.  So the step is
judged, relative to x.  A step is also small next to a pole, where F is not: the residual has to
fall as it does at a root, or F to be linear around (`_is_linear`).

**As far as rounding allows.**  A residual of a few units of rounding of ``|J| |x|`` does not fall
any more, and steps stay as long as its error is: x is the root of a function nearby.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.checks import check_finite
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.judgement import small
from tsgu_func.solvers.protocol import ConvergenceError, IllConditionedWarning, SolveError
from tsgu_func.solvers.settings import check_count, check_real

__all__ = ["Newton", "NewtonInfo", "System", "newton"]

_DECREASE = 1e-4  # of what a step promises, that it must achieve
_FALLS = 0.3  # the residual by more, at simple and double roots alike; at poles by 1/e, or less
_SHORTEST = 2.0**-60  # fraction of a step
_UNITS = 64  # of rounding, that a residual may be of what is added up in it
_FURTHER, _VISIBLE = 16, 2**9  # how far F is looked at: in steps, and in units of rounding
_SLOW, _IN_A_ROW = 0.3, 3  # how steps shrink at a singular root, and how often until it is seen


@dataclass(frozen=True)
class Newton:
    """Settings of Newton's method.

    Attributes
    ----------
    rtol : float, optional
        How large the last step may be, relative to x.  Default: ``eps ** (2 / 3)``.
    atol : float
        A residual norm that counts as zero.
    max_iterations : int
        How many steps are made at most.
    """

    rtol: float | None = None
    atol: float = 0.0
    max_iterations: int = 50

    def __post_init__(self) -> None:
        if self.rtol is not None:
            check_real("rtol", self.rtol, most=1.0)
        check_real("atol", self.atol)
        check_count("max_iterations", self.max_iterations)


class NewtonInfo(NamedTuple):
    """How a root was reached.

    It is a pytree of tensors, so a function under any transform can return it.

    Attributes
    ----------
    iterations : Tensor of int64, shape ``batch``
        The number of steps, each of which takes a Jacobian and a factorization.
    evaluations : Tensor of int64, shape ``batch``
        How often F was evaluated, apart from its Jacobians.
    initial : Tensor, shape ``batch``
        ``|F(x0)|``, in the 2-norm.
    residual : Tensor, shape ``batch``
        ``|F(x)|`` for the x that is returned.
    step : Tensor, shape ``batch``
        The length of the last step, relative to x.  It is 0 if no step was made.
    """

    iterations: Tensor
    evaluations: Tensor
    initial: Tensor
    residual: Tensor
    step: Tensor


class System(NamedTuple):
    """What is solved.

    Attributes
    ----------
    function : callable
        ``function(x) -> F(x)``, vectors (n,).
    jacobian : callable
        ``jacobian(x) -> J`` (n, n).
    solve : callable
        ``solve(J, b) -> d``, vectors (n,); it raises `SolveError` where it cannot.
    """

    function: Callable[[Tensor], Tensor]
    jacobian: Callable[[Tensor], StoredMatrix]
    solve: Callable[[StoredMatrix, Tensor], Tensor]


class _Point(NamedTuple):
    """An iterate."""

    x: Tensor
    value: Tensor
    norm: float


class _Counted:
    """F, its norm, and how often they were asked for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function, self.count = function, 0

    def __call__(self, x: Tensor) -> _Point:
        self.count += 1
        value = self.function(x)
        return _Point(x, value, _norm(value))


def newton(system: System, x0: Tensor, settings: Newton, eps: float) -> tuple[Tensor, list[float]]:
    """Return a root, and the numbers of a `NewtonInfo`.

    Parameters
    ----------
    system : System
    x0 : Tensor, shape (n,)
    settings : Newton
    eps : float
        Unit of rounding of F.

    Raises
    ------
    ValueError
        If F or its Jacobian is not finite at an iterate, x0 the first of them.
    SolveError
        If a linear system cannot be solved.
    ConvergenceError
        If no step reduces the residual, or none are left.

    Warns
    -----
    IllConditionedWarning
        If steps shrink linearly, as they do where the Jacobian is singular at the root; or the
        last one is long.
    """
    F = _Counted(system.function)
    rtol = eps ** (2 / 3) if settings.rtol is None else settings.rtol
    at = F(x0)
    check_finite("F(x0)", at.value)
    first, lengths, steps = at.norm, [], []  # steps are relative to x
    while at.norm > settings.atol:
        if len(steps) == settings.max_iterations:
            raise _failed(_NONE_LEFT, at, lengths, steps)
        J, d = _step(system, at, len(steps))
        lengths.append(_norm(d))
        steps.append(lengths[-1] / max(_norm(at.x), _norm(at.x + d), math.ulp(0.0)))
        short = steps[-1] <= rtol
        new = _search(F, at, d, 1.0 if short else _SHORTEST)
        if new is not None and new.norm <= _FALLS * at.norm:
            at = new
            if short:
                break
            continue
        rounding = eps * _magnitude(J, at.x)
        if (short or at.norm <= _UNITS * rounding) and _is_linear(F, at, d, eps, rounding):
            at = at if new is None else new
            if steps[-1] > small(x0.dtype):
                _warn(_ROUNDED.format(steps[-1]))
            break
        if new is None:
            raise _failed(_STUCK, at, lengths, steps)
        at = new
    if _is_slow(lengths):
        _warn(f"{_SINGULAR}; derivatives of the root are inaccurate")
    return at.x, [len(steps), F.count, first, at.norm, steps[-1] if steps else 0.0]


def _norm(x: Tensor) -> float:
    wide = torch.complex128 if x.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(x, dtype=wide))


def _magnitude(J: StoredMatrix, x: Tensor) -> float:
    """Return the norm of ``|J| |x|``."""
    return _norm(replace(J, values=J.values.abs()) @ x.abs().unsqueeze(-1))


def _step(system: System, at: _Point, number: int) -> tuple[StoredMatrix, Tensor]:
    J = system.jacobian(at.x)
    where = f"in step {number + 1} of Newton's method, where |F(x)| = {at.norm:.1e}"
    check_finite(f"{where}, the Jacobian", J.values)
    try:
        return J, system.solve(J, -at.value)
    except SolveError as error:
        message, *more = error.args
        error.args = (
            f"{where}, with the Jacobian for A: {message}.  It may not be so from another x0",
            *more,
        )
        raise


def _search(F: _Counted, at: _Point, d: Tensor, shortest: float) -> _Point | None:
    """Return the first point on the way back from x + d that is enough of a decrease."""
    t = 1.0
    while t >= shortest:
        x = at.x + t * d
        if torch.equal(x, at.x):
            return None
        new = F(x)
        if new.norm <= (1 - _DECREASE * t) * at.norm:
            return new
        t /= 2
    return None


def _is_linear(F: _Counted, at: _Point, d: Tensor, eps: float, rounding: float) -> bool:
    """Say whether F grows on the way back as its Jacobian says: near a pole, it shrinks.

    So far that this exceeds what it is rounded by; and further, since that is a guess.
    """
    length = _norm(d)
    if not length:
        return False
    near = max(_FURTHER, _VISIBLE * rounding / at.norm, _VISIBLE * eps * _norm(at.x) / length)
    return any(
        0.5 <= F(at.x - far * d).norm / (far * at.norm) <= 2 for far in (near, _FURTHER**2 * near)
    )


# -------------------------------------------------------------------------------------- verdicts

_NONE_LEFT = "no iterations were left: allow more (max_iterations), or start from another x0"
_STUCK = (
    "no step reduces the residual.  There may be no root nearby: start from another x0.  If F is "
    "as small as its rounding errors allow, give that as atol.  Or its derivatives are wrong"
)
_SINGULAR = "steps of Newton's method shrank slowly: the Jacobian is close to singular at the root"

_ROUNDED = (
    "Newton's method: the residual is as small as rounding allows, and the last step was {:.1e} of "
    "|x|: the Jacobian is close to singular"
)


def _failed(message: str, at: _Point, lengths: list[float], steps: list[float]) -> ConvergenceError:
    slow = f"; {_SINGULAR}" if _is_slow(lengths) else ""
    return ConvergenceError(
        f"Newton's method: |F(x)| = {at.norm:.1e} after {len(steps)} iterations, the last step "
        f"{steps[-1] if steps else 0.0:.1e} of |x|; {message}{slow}",
        len(steps),
        torch.tensor([at.norm], dtype=torch.float64, device=at.x.device),
    )


def _is_slow(lengths: list[float]) -> bool:
    last = lengths[-_IN_A_ROW - 1 :]
    pairs = zip(last[1:], last, strict=False)
    return len(last) > _IN_A_ROW and all(_SLOW * b <= a <= b for a, b in pairs)


def _warn(message: str) -> None:
    warnings.warn(message, IllConditionedWarning, stacklevel=2)
