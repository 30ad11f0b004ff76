"""What can be seen of a matrix before it is solved with: O(nnz) looks, no more."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure

__all__ = ["Traits", "hermitian", "symmetric_pattern", "traits_of", "width"]


class Traits(NamedTuple):
    """What decides which solver suits a matrix.

    Attributes
    ----------
    triangular : bool
        Whether nothing is stored on one side of the diagonal.
    hermitian : bool
        By pattern and values, exactly.
    positive : bool
        Whether all of the diagonal is real and positive: with `hermitian`, a necessary condition
        for a definite matrix.
    dominant : bool
        Whether besides no other entry is positive and no row sum negative: a symmetric M-matrix,
        so positive semidefinite.  The matrices of diffusion, and graph Laplacians.
    even : bool
        Whether besides those entries differ by no more than a factor of ten.
    """

    triangular: bool
    hermitian: bool
    positive: bool
    dominant: bool
    even: bool


def traits_of(A: StoredMatrix) -> Traits:
    """Look at a matrix.  O(nnz) time."""
    s, values = A.structure, A.entries
    triangular = s.derive("triangular", _triangular)
    diagonal = _diagonal(s, values)
    positive = bool((diagonal.real > 0).all()) and not _imaginary(diagonal)
    same = hermitian(A)
    dominant = same and positive and _dominant(s, values)
    return Traits(triangular, same, positive, dominant, dominant and _even(s, values))


def hermitian(A: StoredMatrix) -> bool:
    """Say whether A equals its adjoint."""
    if not symmetric_pattern(A.structure):
        return False
    order = A.structure.transpose.order
    return torch.equal(A.values, A.values.index_select(-1, order).conj())


def symmetric_pattern(s: Structure) -> bool:
    """Say whether a pattern is that of its transpose; found once."""
    return s.derive("symmetric", _symmetric)


def _symmetric(s: Structure) -> bool:
    t = s.transpose.structure
    return torch.equal(s.crow, t.crow) and torch.equal(s.col, t.col)


def _triangular(s: Structure) -> bool:
    below, above = bool((s.row > s.col).any()), bool((s.row < s.col).any())
    return not (below and above)


def _diagonal(s: Structure, values: Tensor) -> Tensor:
    on = s.derive("on diagonal", lambda s: (s.row == s.col).nonzero().squeeze(-1))
    diagonal = values.new_zeros(s.rows)
    return diagonal.index_copy(0, s.row[on].long(), values[on])


def _imaginary(x: Tensor) -> bool:
    return x.is_complex() and bool((x.imag != 0).any())


def _dominant(s: Structure, values: Tensor) -> bool:
    if _imaginary(values):
        return False
    entries = values.real if values.is_complex() else values
    if bool(((entries > 0) & (s.row != s.col)).any()):
        return False
    zeros = entries.new_zeros(s.rows)
    size = zeros.index_add(0, s.row.long(), entries.abs())
    return bool((zeros.index_add(0, s.row.long(), entries) >= -1e-12 * size).all())


def _even(s: Structure, values: Tensor) -> bool:
    size = values.abs()[(s.row != s.col) & (values != 0)]
    return not size.numel() or bool(size.max() <= 10 * size.min())


def width(s: Structure) -> int:
    """Return the bandwidth of the pattern in the order of Cuthill and McKee; found once.

    About the number of unknowns that separate the graph into two: n for a graph without small
    separators, n^(1/2) for a grid in the plane, n^(2/3) for one in space.  It bounds the fill of a
    factor, and tells what a factorization will cost.  O(nnz) time: Cuthill and McKee, *Reducing the
    Bandwidth of Sparse Symmetric Matrices*, 1969.
    """
    return s.derive("width", _width)


def _width(s: Structure) -> int:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    if not s.nnz:
        return 0
    col, crow = s.col.cpu().numpy(), s.crow.cpu().numpy()
    A = csr_array((torch.ones(s.nnz, dtype=torch.int8).numpy(), col, crow), shape=(s.rows, s.cols))
    symmetric = symmetric_pattern(s)
    order = reverse_cuthill_mckee(A if symmetric else (A + A.T).tocsr(), symmetric_mode=True)
    place = torch.empty(s.rows, dtype=torch.int64)
    place[torch.from_numpy(order.copy()).long()] = torch.arange(s.rows)
    return int((place[s.row.cpu().long()] - place[s.col.cpu().long()]).abs().max())
