"""From torch sparse tensors, SciPy and dense matrices to patterns and values.

A torch sparse tensor brings its indices along on every call.  So that its pattern, and what was
derived from it, is found again, patterns are kept in a small store and compared by content: two
tensors with equal indices share one pattern, and indices that were changed in place do not match.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.matrix.pattern import Assembly, SparsityPattern, assemble_coo, assemble_csr
from tsgu_func.registration.transforms import is_batched, outside_transforms, unwrapped

__all__ = ["BlockMatrix", "blocks_from_torch", "from_torch"]

_KEPT = 16
_INSTEAD = "pass a SparseMatrix (SparseMatrix.from_torch(A), or its values) through the transform"
_store: OrderedDict[int, SparsityPattern] = OrderedDict()
_lock = threading.Lock()


class BlockMatrix(NamedTuple):
    """A batch of matrices as one: block-diagonal, with the members' patterns and values."""

    pattern: SparsityPattern
    values: Tensor
    batch: int


def from_torch(A: Tensor) -> tuple[SparsityPattern, Tensor]:
    """Pattern and values of a 2-D torch sparse tensor: differentiable with respect to `A`."""
    if A.ndim != 2 or dense_axes(A):
        raise ValueError(
            f"a sparse matrix has two sparse axes and no dense ones; got shape {tuple(A.shape)} "
            f"with {dense_axes(A)} dense"
        )
    if A.layout == torch.sparse_coo:
        return _from_coo(A)
    if A.layout == torch.sparse_csr:
        pattern, values = _from_compressed(A, A.shape)
        return pattern, values
    if A.layout == torch.sparse_csc:
        pattern, values = _from_compressed(A, A.shape[::-1])
        return pattern.T, values
    raise ValueError(
        f"a sparse matrix is COO, CSR or CSC; got {A.layout} (A.to_sparse_csr() converts it)"
    )


def blocks_from_torch(A: Tensor) -> BlockMatrix:
    """Return a 3-D torch sparse tensor (b, n, m) as one block-diagonal matrix (b n, b m)."""
    b, n, m = A.shape
    if A.layout == torch.sparse_coo:
        A = A if A.is_coalesced() else A.coalesce()
        with outside_transforms():
            member, row, col = unwrapped(A.detach()).indices()
        pattern = _kept(assemble_coo(member * n + row, member * m + col, (b * n, b * m))).pattern
        return BlockMatrix(pattern, A.values().clone(), b)
    with outside_transforms():
        values = A.values().clone().flatten()
        crow, col = A.crow_indices(), A.col_indices()
        start = torch.arange(b, device=col.device).unsqueeze(1)
        nnz = col.shape[-1]
        crow = torch.cat([(crow[:, :-1] + start * nnz).flatten(), crow.new_full((1,), b * nnz)])
        assembly = _kept(assemble_csr(crow, (col + start * m).flatten(), (b * n, b * m)))
    return BlockMatrix(assembly.pattern, assembly(values), b)


def dense_axes(A: Tensor) -> int:
    """Return the number of dense axes of a sparse tensor, if it can be read at all here.

    COO tensors may be arguments of ``torch.func.grad``; CSR ones PyTorch refuses by itself.
    """
    if is_batched(A):
        raise ValueError(f"PyTorch cannot map over a sparse tensor: {_INSTEAD}")
    with outside_transforms():
        return A.dense_dim()


def _from_coo(A: Tensor) -> tuple[SparsityPattern, Tensor]:
    A = A if A.is_coalesced() else A.coalesce()
    # A copy, because values that are a view of a sparse tensor cannot enter a compiled region.
    values = A.values().clone()
    with outside_transforms():
        row, col = unwrapped(A.detach()).indices()
        shape = (A.shape[0], A.shape[1])
        for pattern in _candidates(shape, len(row), row.device):
            if bool((pattern.col == col).all()) and bool((pattern.row == row).all()):
                return pattern, values
        return _kept(assemble_coo(row, col, shape)).pattern, values


def _from_compressed(A: Tensor, shape: Any) -> tuple[SparsityPattern, Tensor]:
    with outside_transforms():
        by_rows = A.layout == torch.sparse_csr
        crow = A.crow_indices() if by_rows else A.ccol_indices()
        col = A.col_indices() if by_rows else A.row_indices()
        values = A.values().clone()
        for pattern in _candidates(tuple(shape), len(col), col.device):
            s = pattern.structure
            if bool((s.col == col).all()) and bool((s.crow == crow).all()):
                return pattern, values
        assembly = _kept(assemble_csr(crow, col, shape))
    return assembly.pattern, assembly(values)


def _candidates(shape: tuple[int, int], nnz: int, device: torch.device) -> list[SparsityPattern]:
    with _lock:
        kept = reversed(_store.values())
        return [p for p in kept if p.shape == shape and p.nnz == nnz and p.device == device]


def _kept(assembly: Assembly) -> Assembly:
    """Keep the pattern of an assembly, or swap it for an equal one that is kept already."""
    pattern = assembly.pattern
    for kept in _candidates(pattern.shape, pattern.nnz, pattern.device):
        if kept.same_pattern(pattern):
            return assembly._replace(pattern=kept)
    with _lock:
        _store[id(pattern)] = pattern
        while len(_store) > _KEPT:
            _store.popitem(last=False)
    return assembly


def clear_patterns() -> None:
    """Forget the patterns of torch sparse tensors that were seen."""
    with _lock:
        _store.clear()
