"""Minimization of the estimated risk over θ, by Newton's method with safeguards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, hessian

from tsgu_func import SparseMatrix
from tsgu_func.demo.denoise import Grid, edge_weights, solve, system
from tsgu_func.demo.risk import sure

__all__ = ["Iterate", "minimize"]

MOST_STEPS = 15
_LONGEST = 2.0  # no entry of θ moves further in a step: a factor of 7 in λ or κ
_SHORTEST = 2.0**-8  # fraction of a step below which the search gives up: rounding is reached
_DECREASE = 1e-4  # of what the gradient promises, that a step must achieve: Armijo
_FLAT = 2e-3  # relative change of the risk per unit of θ at which we stop: 0.01 dB


class Iterate(NamedTuple):
    """A point on the way.

    Attributes
    ----------
    theta : Tensor (2, K)
    risk : float
        Estimate of the mean squared error.
    slope : float
        Norm of the gradient of `risk`.
    A : SparseMatrix (N, N)
        The matrix I + L, whose factor is kept as long as it lives.
    x : Tensor (N,)
        The denoised image.
    """

    theta: Tensor
    risk: float
    slope: float
    A: SparseMatrix
    x: Tensor


def minimize(
    grid: Grid, theta: Tensor, y: Tensor, sigma: float, probes: Tensor
) -> Iterator[Iterate]:
    """Yield θ and what belongs to it, from the first guess to the last improvement.

    The probes stay the same, so this is a smooth deterministic problem.  Its Hessian is forward
    over reverse over forward mode: that of `hessian`, of a risk that has a `jvp` inside.
    """

    def risk(theta: Tensor) -> Tensor:
        return sure(grid, theta, y, sigma, probes)

    # A factor is kept as long as the values that it belongs to.  These stay in A; the gradient and
    # the Hessian, which compute equal values anew, find the factor that the solve for x made.
    A, x = _solved(grid, theta, y)
    for _ in range(MOST_STEPS):
        gradient, value = grad_and_value(risk)(theta)
        yield Iterate(theta, float(value), float(gradient.norm()), A, x)
        if gradient.norm() <= _FLAT * value.abs():
            return
        step = _step(gradient, hessian(risk)(theta))
        descent, t = (gradient * step).sum(), 1.0
        A, x = _solved(grid, theta + step, y)
        while not risk(theta + t * step) <= value + _DECREASE * t * descent:
            t /= 2
            if t < _SHORTEST:
                return
            A, x = _solved(grid, theta + t * step, y)
        theta = theta + t * step


def _solved(grid: Grid, theta: Tensor, y: Tensor) -> tuple[SparseMatrix, Tensor]:
    A = system(grid, edge_weights(grid, theta, y))
    return A, solve(A, y)


def _step(gradient: Tensor, H: Tensor) -> Tensor:
    """Return a direction of descent: Newton's, with the Hessian made positive definite.

    Where the curvature is negative Newton's method climbs.  With the absolute values of the
    eigenvalues it descends, and near a minimum nothing changes.
    """
    n = gradient.numel()
    curvature, directions = torch.linalg.eigh(H.reshape(n, n))
    curvature = curvature.abs().clamp(min=1e-3 * float(curvature.abs().max()))
    step = -(directions @ ((directions.T @ gradient.flatten()) / curvature)).view_as(gradient)
    return step * min(1.0, _LONGEST / float(step.abs().max()))
