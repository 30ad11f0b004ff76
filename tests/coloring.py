"""What colourings are tested on, and by: patterns, and definitions written down as they are."""

from itertools import combinations, permutations

import numpy as np
import scipy.sparse as sp
import torch
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tsgu_func import SparsityPattern

__all__ = [
    "arrowhead",
    "band",
    "brusselator_1d",
    "brusselator_2d",
    "check",
    "frame",
    "graphs",
    "grid",
    "is_orthogonal",
    "is_star",
    "kkt",
    "masks",
    "of_mask",
    "path",
    "random_mask",
    "ring",
]


def of_mask(mask, transposed=False):
    """Make the pattern of what is true, or of its transpose, stored by columns."""
    A = sp.csr_array(mask)
    A.sort_indices()
    index = (torch.from_numpy(x.copy()) for x in (A.indptr, A.indices))
    pattern = SparsityPattern(*index, A.shape)
    return pattern.T if transposed else pattern


# --------------------------------------------------------------------------------- definitions


def check(coloring):
    """Read all entries of a random matrix from the products that a colouring asks for.

    The matrix is dense, products are NumPy's: what is read is equal: zeros are added.
    """
    pattern, rng = coloring.pattern, np.random.default_rng(0)
    J, (row, col) = np.zeros(pattern.shape), (pattern.row.numpy(), pattern.col.numpy())
    J[row, col] = rng.uniform(1, 2, pattern.nnz)
    if coloring.mode == "symmetric":
        J = np.triu(J) + np.triu(J, 1).T
    S, R = (f(torch.float64).numpy() for f in (coloring.forward_seeds, coloring.reverse_seeds))
    assert S.shape == (coloring.forward_colors, J.shape[1])
    assert R.shape == (coloring.reverse_colors, J.shape[0])
    products = np.concatenate([(S @ J.T).ravel(), (R @ J).ravel()])
    assert coloring.index.dtype == torch.long
    assert_array_equal(products[coloring.index.numpy()], J[row, col])
    assert all(S.any(axis=1))
    assert all(R.any(axis=1))


def is_orthogonal(mask, color):
    """Say whether no two columns of one colour meet in a row."""
    pairs = combinations(np.flatnonzero(color >= 0), 2)
    return not any(color[j] == color[k] and (mask[:, j] & mask[:, k]).any() for j, k in pairs)


def is_star(mask, color, proper=True):
    """Say whether neighbours differ, and paths of four have three colours: by going through all."""
    n = len(mask)
    edges = [(v, w) for v, w in permutations(range(n), 2) if mask[v, w]]
    if proper and any(color[v] == color[w] >= 0 for v, w in edges):
        return False
    return not any(
        len({color[a], color[b], color[c], color[d]}) < 3
        for a, b in edges
        for c in np.flatnonzero(mask[b]).tolist()
        for d in np.flatnonzero(mask[c]).tolist()
        if len({a, b, c, d}) == 4 and min(color[a], color[b], color[c], color[d]) >= 0
    )


# ------------------------------------------------------------------------------------- patterns


def path(n):
    return sp.diags_array([np.ones(n - 1), np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1]) != 0


def ring(n):
    i = np.arange(n)
    step = sp.csr_array((np.ones(n), (i, (i + 1) % n)), shape=(n, n))
    return (sp.eye_array(n) + step + step.T) != 0


def grid(n, line=path):
    """Give the five-point stencil on an n x n grid."""
    one = sp.eye_array(n)
    return (sp.kron(one, line(n)) + sp.kron(line(n), one)) != 0


def _two_species(stencil):
    one = sp.eye_array(stencil.shape[0])
    return sp.block_array([[stencil, one], [one, stencil]]) != 0


def brusselator_1d(n):
    return _two_species(path(n))


def brusselator_2d(n):
    return _two_species(grid(n, ring))


def band(n, lower, upper):
    offsets = list(range(-lower, upper + 1))
    return sp.diags_array([np.ones(n - abs(k)) for k in offsets], offsets=offsets) != 0


def arrowhead(n):
    i, zero = np.arange(n), np.zeros(n, int)
    where = np.concatenate([i, zero, i]), np.concatenate([i, i, zero])
    return sp.csr_array((np.ones(3 * n), where), shape=(n, n)) != 0


def random_mask(n, m, density, seed):
    rng, entries = np.random.default_rng(seed), int(n * m * density)
    where = rng.integers(0, n, entries), rng.integers(0, m, entries)
    return sp.csr_array((np.ones(entries), where), shape=(n, m)) != 0


def kkt(n, constraints, seed):
    A = random_mask(constraints, n, 3 / n, seed)
    return sp.block_array([[path(n), A.T], [A, None]]) != 0


def frame(n, m, width):
    """Give a frame of dense rows and columns."""
    mask = np.ones((n, m), bool)
    mask[width:-width, width:-width] = False
    return mask


@st.composite
def masks(draw, most=12):
    """Draw rectangular patterns: sparse, dense, banded, with dense and empty rows and columns."""
    n, m = draw(st.integers(0, most)), draw(st.integers(0, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((n, m)) < draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
    if n and m:
        if draw(st.booleans()):
            mask |= np.abs(np.subtract.outer(np.arange(n), np.arange(m))) <= rng.integers(0, 3)
        for value in draw(st.lists(st.booleans(), max_size=3)):
            mask[rng.integers(n)] = value
        for value in draw(st.lists(st.booleans(), max_size=3)):
            mask[:, rng.integers(m)] = value
    return mask


@st.composite
def graphs(draw, most=10):
    """Draw symmetric patterns, with a diagonal, a part of one, or none."""
    n = draw(st.integers(0, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((n, n)) < draw(st.sampled_from([0.05, 0.1, 0.2, 0.4, 1.0]))
    if n and draw(st.booleans()):  # a long path, through all
        along = rng.permutation(n)
        mask[along[:-1], along[1:]] = True
    mask |= mask.T
    mask[np.arange(n), np.arange(n)] = rng.random(n) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    if n > 2 and draw(st.booleans()):  # a KKT system: nothing is stored in a corner
        mask[n // 2 :, n // 2 :] = False
    return mask
