"""Where the sum, the elementwise product and the product of two matrices store entries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.structure import Structure
from tsgu_func.matrix.assembly import Compressed, compressed_coo, owned
from tsgu_func.matrix.pattern import Assembly, SparsityPattern, assembled

__all__ = ["Common", "Oriented", "by_rows", "intersection", "product", "union"]


class Common(NamedTuple):
    """Where two patterns both store entries, and which of the entries of each these are."""

    pattern: SparsityPattern
    first: Tensor
    second: Tensor


class Oriented(NamedTuple):
    """A pattern ordered by rows, and which entry of the other order each of its entries is."""

    pattern: SparsityPattern
    order: Tensor


def union(p: SparsityPattern, q: SparsityPattern) -> Assembly:
    """Return what brings the values of both, one after the other, to where either stores entries.

    O((nnz_p + nnz_q) log) time.
    """
    return assembled(_together(p, q), p.nnz + q.nnz)


def intersection(p: SparsityPattern, q: SparsityPattern) -> Common:
    """Return where both store entries.  O((nnz_p + nnz_q) log) time."""
    both = _together(p, q)
    count = torch.arange(p.nnz + q.nnz, device=p.device)
    order, slot = (count if x is None else x for x in (both.order, both.slot))
    twice = (slot[1:] == slot[:-1]).nonzero().squeeze(-1)
    # Those at one place keep the order in which they were given: the first belongs to p.
    first, second = order[twice], order[twice + 1] - p.nnz
    row, col = p.places()
    found = compressed_coo(row[first], col[first], p.shape)
    return Common(SparsityPattern.of_structure(found.structure), first, second)


def _together(p: SparsityPattern, q: SparsityPattern) -> Compressed:
    row, col = (torch.cat(both) for both in zip(p.places(), q.places(), strict=True))
    return compressed_coo(row, col, p.shape)


def by_rows(p: SparsityPattern) -> Oriented:
    """Return a transpose, which is compressed by columns, compressed by rows."""
    structure, order = p.structure.transpose
    return Oriented(SparsityPattern.of_structure(structure), order)


def product(p: SparsityPattern, q: SparsityPattern) -> SparsityPattern:
    """Return where the product of two matrices stores entries, of patterns compressed by rows.

    Whether entries cancel plays no part.  O(flops) time, by SciPy, on the host.
    """
    from scipy.sparse import csr_array

    def of_ones(s: Structure) -> csr_array:
        crow, col = s.crow.cpu().numpy(), s.col.cpu().numpy()
        return csr_array((np.ones(s.nnz, dtype=bool), col, crow), shape=(s.rows, s.cols))

    C: Any = of_ones(p.structure) @ of_ones(q.structure)
    C.sort_indices()
    crow, col = (torch.from_numpy(x).to(p.device) for x in (C.indptr, C.indices))
    return SparsityPattern.of_structure(owned(crow, col, q.shape[1]))
