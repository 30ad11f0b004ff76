"""Systems to solve: matrices as SciPy arrays in float64, by a size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["PROBLEMS", "Problem", "right_hand_side", "side"]


class Problem(NamedTuple):
    """A family of matrices.

    Attributes
    ----------
    title : str
    build : callable
        ``build(size) -> csr_array``.
    sizes : tuple of int
        Those that are measured by default, the last of them for the summary.
    small : int
        A size that takes no time, and the same ways through a solver.
    symmetric : bool
        Whether the matrices are symmetric, and then positive definite.
    axes : int
        The power of the size that is the number of rows.
    """

    title: str
    build: Callable[[int], Any]
    sizes: tuple[int, ...]
    small: int
    symmetric: bool = True
    axes: int = 2


def right_hand_side(n: int) -> np.ndarray:
    """Return normal numbers."""
    return np.random.default_rng(1).standard_normal(n)


def _line(n: int, drift: float = 0.0) -> Any:
    """Return -u'' + drift u' on n points, times the square of their distance."""
    from scipy import sparse

    central = drift / (2 * (n + 1))
    diags: Any = sparse.diags_array
    if n == 1:
        return diags([2.0], offsets=[0], shape=(1, 1))
    return diags([-1.0 - central, 2.0, -1.0 + central], offsets=[-1, 0, 1], shape=(n, n))


def _sum_of(*lines: Any) -> Any:
    """Return the Kronecker sum: one operator along each axis of a grid."""
    from scipy.sparse import kronsum

    total = lines[0]
    for line in lines[1:]:
        total = kronsum(total, line)
    return total.tocsr()


def _plane(n: int) -> Any:
    return _sum_of(_line(n), _line(n))


def _space(n: int) -> Any:
    return _sum_of(_line(n), _line(n), _line(n))


def _anisotropic(n: int) -> Any:
    return _sum_of(_line(n), 1e-3 * _line(n))


def _convection(n: int) -> Any:
    return _sum_of(_line(n, drift=80.0), _line(n, drift=40.0))


def _graph(n: int) -> Any:
    """Join random points of the unit square with their six nearest, by log-normal weights."""
    from scipy.sparse import coo_array, diags_array
    from scipy.spatial import KDTree

    generator = np.random.default_rng(0)
    points = generator.random((n, 2))
    many = min(6, n - 1)
    near = np.asarray(KDTree(points).query(points, k=many + 1)[1]).reshape(n, many + 1)[:, 1:]
    weights = generator.lognormal(0.0, 1.0, near.size)
    W = coo_array((weights, (np.repeat(np.arange(n), many), near.ravel())), shape=(n, n)).tocsr()
    W = W + W.T
    return (diags_array(W.sum(axis=1) + 1e-3) - W).tocsr()


PROBLEMS = {
    "plane": Problem("Poisson, 2-D", _plane, (100, 300, 1000), 150),
    "space": Problem("Poisson, 3-D", _space, (20, 40), 20, axes=3),
    "anisotropic": Problem("anisotropic diffusion", _anisotropic, (100, 300), 150),
    "convection": Problem(
        "convection and diffusion", _convection, (100, 300), 150, symmetric=False
    ),
    "graph": Problem("graph Laplacian", _graph, (10_000, 50_000), 20_000, axes=1),
}


def side(name: str, rows: int) -> int:
    """Return the size of a problem that has about so many rows."""
    return max(1, round(rows ** (1 / PROBLEMS[name].axes)))
