"""Maps beside the denoised image: what it depends on, and how sure it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vmap

from tsgu_func import SparseMatrix
from tsgu_func.demo.denoise import Grid, denoise, edge_weights, solve
from tsgu_func.demo.risk import random_signs

__all__ = ["inverse_diagonal", "inverse_entries", "mean_weight", "sensitivity"]


def mean_weight(grid: Grid, theta: Tensor, y: Tensor) -> Tensor:
    """Return the mean weight of the edges of each pixel, (N,)."""
    weights = edge_weights(grid, theta, y)
    ends = torch.cat([grid.tail, grid.head])
    zeros = weights.new_zeros(y.numel())
    total = zeros.index_add(0, ends, torch.cat([weights, weights]))
    return total / torch.bincount(ends, minlength=y.numel())


def sensitivity(grid: Grid, theta: Tensor, y: Tensor) -> Tensor:
    """Return dx / d log λ, all classes together, (N,)."""
    direction = torch.zeros_like(theta)
    direction[0] = 1
    return jvp(lambda theta: denoise(grid, theta, y), (theta,), (direction,))[1]


def inverse_diagonal(
    A: SparseMatrix, width: int, spacing: int, generator: torch.Generator
) -> Tensor:
    """Estimate the diagonal (N,) of the inverse of `A`, a matrix on a grid of rows of `width`.

    Pixels are coloured so that those of one colour are `spacing` apart along both axes.  A probe
    has random signs at the pixels of one colour: ``p * (A⁻¹ p)`` is there ``(A⁻¹)_ii`` and, with
    random signs, entries of A⁻¹ between pixels that are far apart.  Those average out, and are
    small to begin with, for A⁻¹ decays exponentially.  Probes full of signs (Hutchinson's, for a
    diagonal) would mix in the near ones: J. M. Tang and Y. Saad, *A Probing Method for Computing
    the Diagonal of a Matrix Inverse*, Numer. Linear Algebra Appl. 19(3), 2012.

    Examples
    --------
    >>> A = SparseMatrix.from_dense(2 * torch.eye(4, dtype=torch.float64))
    >>> inverse_diagonal(A, 2, 2, torch.Generator())
    tensor([0.5000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    pixel = torch.arange(A.shape[-1])
    colour = (pixel // width % spacing) * spacing + pixel % width % spacing
    signs = random_signs(1, len(pixel), generator)
    probes = torch.where(colour == torch.arange(spacing**2).unsqueeze(1), signs, 0.0)
    columns = vmap(lambda p: solve(A, p))(probes)
    return (probes * columns).sum(0)


def inverse_entries(A: SparseMatrix, pixels: Tensor) -> Tensor:
    """Return the diagonal entries of the inverse at some pixels, exactly: a solve for each."""
    units = torch.nn.functional.one_hot(pixels, A.shape[-1]).to(A.dtype)
    columns = vmap(lambda b: solve(A, b))(units)
    return (units * columns).sum(1)
