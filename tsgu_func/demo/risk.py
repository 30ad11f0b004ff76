"""How far the denoised image is from the clean one, estimated without the clean one.

Let y = c + σ n with white Gaussian noise n, and x(y) a denoiser.  Expanding around y,

    |x - c|² = |x - y|² + 2 <x - y, y - c> + |y - c|².

Integration by parts against the Gaussian density gives E <x(y), y - c> = σ² E div x, the sum of the
∂x_i/∂y_i, for every x that is (weakly) differentiable; for x(y) = y it is σ² N.  So

    SURE = |x - y|² / N - σ² + 2 σ² div x / N

has the expectation of the mean squared error: C. Stein, *Estimation of the Mean of a Multivariate
Normal Distribution*, Ann. Statist. 9(6), 1981.  It needs σ, but not c.

The divergence is the trace of the Jacobian dx/dy.  For probes p of random signs, E pᵀ (dx/dy) p is
that trace: M. F. Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix*, Comm.
Statist. Simulation Comput. 18(3), 1989; used for this very purpose, as Monte-Carlo SURE, by
S. Ramani, T. Blu and M. Unser, IEEE TIP 17(9), 2008.  They take differences of x at y and y + εp;
here the derivative along p is exact.

It has two parts.  With A(y) = I + L(θ, y) and A x = y, differentiating along p gives

    dx = A⁻¹ (p - dA x),     dA the change of the matrix, because its weights are made from y.

Frozen weights amount to dA = 0.  That is the wrong trace: a weight grows where noise happens to
make two pixels alike, so x follows the noise more than A⁻¹ alone would tell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

from tsgu_func.demo.denoise import Grid, denoise, edge_weights, solve, system

__all__ = ["random_signs", "sure", "sure_frozen", "sure_of"]


def random_signs(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Draw vectors (count, n) with entries -1 and 1."""
    return 2.0 * torch.randint(0, 2, (count, n), generator=generator).double() - 1


def sure_of(x_of: Callable[[Tensor], Tensor], y: Tensor, sigma: float, probes: Tensor) -> Tensor:
    """Estimate the mean squared error of ``x_of(y)`` from noisy y (N,), and probes (m, N).

    Examples
    --------
    Of y itself it is the variance of the noise, whatever y is:

    >>> y = torch.randn(100, dtype=torch.float64)
    >>> sure_of(lambda y: y, y, 0.1, random_signs(1, 100, torch.Generator()))
    tensor(0.0100, dtype=torch.float64)
    """
    # The value does not depend on the probe, so under vmap there is one of it.  Only the tangents
    # have a batch: their solves become one, with a column for each probe.
    both = vmap(lambda p: jvp(x_of, (y,), (p,)), out_dims=(None, 0))  # pyright: ignore[reportArgumentType]
    x, dx = both(probes)[:2]
    divergence = (probes * dx).sum(-1).mean()
    return (x - y).square().mean() - sigma**2 + 2 * sigma**2 / y.numel() * divergence


def sure(grid: Grid, theta: Tensor, y: Tensor, sigma: float, probes: Tensor) -> Tensor:
    """Estimate the risk of the denoiser at θ."""
    return sure_of(lambda y: denoise(grid, theta, y), y, sigma, probes)


def sure_frozen(grid: Grid, theta: Tensor, y: Tensor, sigma: float, probes: Tensor) -> Tensor:
    """Do the same with the weights taken as constants, which is wrong: see above."""
    A = system(grid, edge_weights(grid, theta, y))
    return sure_of(lambda y: solve(A, y), y, sigma, probes)
