"""What can be seen of a matrix before it is solved with, by inspections that take O(nnz) time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.arrays import as_array
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure, unsigned
from tsgu_func.kernels.triangular import sides

__all__ = [
    "Traits",
    "asymmetry",
    "dense_rows",
    "hermitian",
    "rounding",
    "sums_of_magnitudes",
    "symmetric_pattern",
    "traits_of",
    "triangular",
    "width",
]

# Row sums of a Laplacian are zero up to so many units of rounding of what they are sums of.
_UNITS = 4096
# An entry and its mirror image are the same up to so many units of rounding of the root of the
# product of their diagonal entries, which a sum of squares bounds them by.
_MIRRORED = 16
# A row of so many entries is not dense, however few rows there are.
_FEW_ENTRIES = 16


class Traits(NamedTuple):
    """What the values decide of which solver suits a matrix.

    Attributes
    ----------
    hermitian : bool
        By pattern and values, up to a few roundings of what meets in the diagonal: products such as
        ``J.T @ D @ J`` are no more exact.
    positive : bool
        Whether all of the diagonal is real and positive: with `hermitian`, a necessary condition
        for a definite matrix.
    dominant : bool
        Whether besides no other entry is positive and no row sum negative: a symmetric M-matrix,
        so positive semidefinite.  The matrices of diffusion, and graph Laplacians.
    """

    hermitian: bool
    positive: bool
    dominant: bool


def traits_of(A: StoredMatrix) -> Traits:
    """Inspect a square matrix.  O(nnz) time."""
    pattern, *traits = _inspect(A.structure, A.values)
    A.structure.derive("symmetric", lambda _: pattern)
    return Traits(*traits)


def _inspect(s: Structure, values: Tensor) -> tuple[bool, bool, bool, bool]:
    eps = torch.finfo(values.dtype).eps
    units = _UNITS * eps, _MIRRORED * eps
    return compiled.inspection.traits(*_on_host(s), as_array(values), *units)


def rounding(dtype: torch.dtype) -> float:
    """Return how far below zero a row sum may be, relative to that of the magnitudes."""
    return _UNITS * torch.finfo(dtype).eps


def triangular(s: Structure) -> bool:
    """Say whether nothing is stored on one side of the diagonal; found once."""
    return s.derive("triangular", lambda s: not all(sides(s)))


def hermitian(A: StoredMatrix) -> bool:
    """Say whether A equals its adjoint."""
    return A.shape[0] == A.shape[1] and traits_of(A).hermitian


def asymmetry(A: StoredMatrix) -> float:
    """Return the largest magnitude in A - Aᴴ, relative to that in A.  O(nnz) time."""
    most, largest = compiled.inspection.asymmetry(*_on_host(A.structure), as_array(A.values))
    return float(most) / float(largest or 1)


def symmetric_pattern(s: Structure) -> bool:
    """Say whether a pattern is that of its transpose; found once."""
    return s.derive("symmetric", _symmetric)


def _symmetric(s: Structure) -> bool:
    # Of the values nothing is asked.
    zero = torch.zeros(s.nnz, dtype=torch.float32, device="cpu")
    return s.rows == s.cols and _inspect(s, zero)[0]


def sums_of_magnitudes(A: StoredMatrix) -> tuple[Tensor, Tensor]:
    """Return the sums of |S| along its rows, ``(*batch, n)``, and along its columns."""
    s, batch = A.structure, A.values.shape[:-1]
    # Sizes are named one by one: without entries PyTorch cannot tell one from the others.
    members = math.prod(batch)
    values = as_array(A.values.reshape(members, s.nnz))
    real, device = A.dtype.to_real(), A.values.device
    rows, columns = (torch.zeros(members, n, dtype=real, device="cpu") for n in (s.rows, s.cols))
    compiled.inspection.magnitudes(*_on_host(s), values, rows.numpy(), columns.numpy())
    return rows.reshape(*batch, s.rows).to(device), columns.reshape(*batch, s.cols).to(device)


def _on_host(s: Structure):
    return unsigned(s.crow.cpu()), unsigned(s.col.cpu())


def width(s: Structure) -> int:
    """Return the size of the largest set of unknowns at one distance from an end; found once.

    Such a set separates the graph: n for a graph without small separators, n^(1/2) for a grid in
    the plane, n^(2/3) for one in space.  It is about the bandwidth of the matrix after reordering
    (Cuthill and McKee, *Reducing the Bandwidth of Sparse Symmetric Matrices*, 1969, who order by
    these sets), and tells what a factorization will cost.  Rows that are nearly `dense_rows` are
    left out, as minimum-degree orderings do: they join everything with everything, and are
    eliminated last.  O(nnz) time.
    """
    return s.derive("width", _searched)[0]


def dense_rows(s: Structure) -> int:
    """Return how many rows, or columns, have more than 10 √n entries; found once.

    Amestoy, Davis and Duff, *Algorithm 837: AMD, an Approximate Minimum Degree Ordering Algorithm*,
    ACM TOMS 30(3), 2004, who set them aside.
    """
    return s.derive("width", _searched)[1]


def _searched(s: Structure) -> tuple[int, int]:
    if symmetric_pattern(s):
        crow, col = _on_host(s)
    else:
        S = StoredMatrix(s, torch.ones(s.nnz, dtype=torch.int8, device="cpu")).to_scipy()
        both = (S + S.T).tocsr()
        crow, col = (x.astype("u4") for x in (both.indptr, both.indices))
    most = max(_FEW_ENTRIES, int(10 * s.rows**0.5))
    return compiled.inspection.widest_level(crow, col, most)
