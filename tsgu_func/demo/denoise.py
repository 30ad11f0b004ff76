"""The denoiser: a screened diffusion on the graph of pixels, with weights made from the image.

From a noisy image y, edges between neighbouring pixels get weights, and

    x(θ, y) = (I + L(θ, y))⁻¹ y,     L the weighted graph Laplacian,
    w_e = λ exp(-(d_e / κ)²),        d_e the difference of the smoothed y across the edge e,

with θ = (log λ, log κ).  This is one implicit step of the diffusion of Perona and Malik,
*Scale-Space and Edge Detection Using Anisotropic Diffusion*, IEEE TPAMI 12(7), 1990.  It is not
linear in y: y is both what is smoothed and where the weights come from.

λ and κ may depend on the brightness.  θ has a column for each of K classes, and an edge mixes them
linearly, by how far its brightness (in the smoothed y) is from the classes' own.  The classes are
soft on purpose: a hard threshold would make x jump in y, and Stein's identity (see `risk`) holds
only for maps that are continuous.  The mixture is differentiated like everything else.

All functions are pure functions of tensors; images are vectors of N pixels, row by row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, SparsityPattern, sparse_generic_solve
from tsgu_func.solvers import SuperLU

__all__ = ["Grid", "denoise", "edge_weights", "make_grid", "solve", "start", "system"]

_WIDTH = 1.0  # of the Gaussian that smooths y, in pixels
# Brightness of the last class; brighter pixels belong to it.  The first has 0, the others lie
# evenly between.  Most images tell background from objects in the dark half, so classes pay there.
_LAST_CLASS = 0.4


class Grid(NamedTuple):
    """What does not depend on y and θ.

    Attributes
    ----------
    tail, head : Tensor (edges,)
        The two pixels of each edge.
    pattern : SparsityPattern
        Where I + L stores entries: the diagonal and, twice, each edge.
    order : Tensor (nnz,)
        Which of ``[diagonal, edges]`` each stored entry is.
    blur : (Tensor (height, height), Tensor (width, width))
        The smoothing filter, along columns and along rows.
    classes : Tensor (K, 1)
        Brightness of the classes.
    """

    tail: Tensor
    head: Tensor
    pattern: SparsityPattern
    order: Tensor
    blur: tuple[Tensor, Tensor]
    classes: Tensor


def make_grid(height: int, width: int, classes: int = 1) -> Grid:
    """Connect each pixel with its four neighbours.

    Examples
    --------
    >>> make_grid(2, 3).pattern
    SparsityPattern(shape=(6, 6), nnz=20, id=...)
    """
    n = height * width
    pixel = torch.arange(n).view(height, width)
    tail = torch.cat([pixel[:, :-1].flatten(), pixel[:-1].flatten()])
    head = torch.cat([pixel[:, 1:].flatten(), pixel[1:].flatten()])
    row, col = torch.cat([pixel.flatten(), tail, head]), torch.cat([pixel.flatten(), head, tail])
    # A matrix whose values are numbers of pixels and edges: the pattern's order can be read off it.
    edge = n + torch.arange(len(tail))
    number = torch.cat([pixel.flatten(), edge, edge]).double()
    numbered = SparseMatrix.from_coo(row, col, number, (n, n))
    brightness = torch.linspace(0, _LAST_CLASS, classes, dtype=torch.float64).unsqueeze(1)
    blur = _gaussian(height), _gaussian(width)
    return Grid(tail, head, numbered.pattern, numbered.values.long(), blur, brightness)


def _gaussian(n: int) -> Tensor:
    """Return a Gaussian filter as a matrix whose rows sum to 1, so borders are not darkened."""
    place = torch.arange(n, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((place.unsqueeze(1) - place) / _WIDTH) ** 2)
    return weight / weight.sum(1, keepdim=True)


def start(classes: int, sigma: float) -> Tensor:
    """Return a first θ (2, classes): λ = 1, and κ the standard deviation of the noise."""
    return torch.tensor([[1.0], [sigma]], dtype=torch.float64).log().repeat(1, classes)


def edge_weights(grid: Grid, theta: Tensor, y: Tensor) -> Tensor:
    """Return the weight of each edge, for θ (2, K)."""
    down, along = grid.blur
    smooth = (down @ y.view(len(down), len(along)) @ along.T).flatten()
    a, b = smooth.index_select(0, grid.tail), smooth.index_select(0, grid.head)
    share = _membership(grid.classes, (a + b) / 2)
    log_lambda, log_kappa = theta[0] @ share, theta[1] @ share
    return torch.exp(log_lambda - (a - b).square() * torch.exp(-2 * log_kappa))


def _membership(classes: Tensor, brightness: Tensor) -> Tensor:
    """Return how much (K, edges) each edge belongs to each class: hat functions that sum to 1."""
    if len(classes) == 1:
        return torch.ones_like(brightness).unsqueeze(0)
    inside = brightness.clamp(min=0.0, max=_LAST_CLASS)
    return (1 - (inside - classes).abs() / (classes[1] - classes[0])).clamp(min=0)


def system(grid: Grid, weights: Tensor) -> SparseMatrix:
    """Return I + L, symmetric and positive definite, with entries linear in the weights."""
    diagonal = weights.new_ones(grid.pattern.shape[0])
    diagonal = diagonal.index_add(0, grid.tail, weights).index_add(0, grid.head, weights)
    entries = torch.cat([diagonal, -weights]).index_select(0, grid.order)
    return SparseMatrix(grid.pattern, entries)


def solve(A: SparseMatrix, y: Tensor) -> Tensor:
    """Solve ``A x = y`` with a factorization, which all derivatives at this A share."""
    return sparse_generic_solve(A, y, solve=SuperLU())


def denoise(grid: Grid, theta: Tensor, y: Tensor) -> Tensor:
    """Return x(θ, y).

    Examples
    --------
    A constant image stays as it is:

    >>> grid, theta = make_grid(2, 2), start(1, 1.0)
    >>> denoise(grid, theta, torch.ones(4, dtype=torch.float64)).round(decimals=9)
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    return solve(system(grid, edge_weights(grid, theta, y)), y)
