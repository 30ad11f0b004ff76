"""Batches of matrices and of right-hand sides that broadcast, brought down to one axis or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tsgu_func.convert import blocks_from_torch, from_torch
from tsgu_func.matrix import SparseMatrix
from tsgu_func.pattern import SparsityPattern

__all__ = ["over_batches", "over_matrix"]

# Returns a tensor, or a pytree of tensors.
Function = Callable[[SparsityPattern, Tensor, Tensor], Any]


def over_matrix(function: Function, A: SparseMatrix | Tensor, B: Tensor, rows: int) -> Any:
    """Apply what `over_batches` takes to any kind of matrix.

    The members of a torch sparse batch may store different entries, so they become the blocks of
    one matrix.

    Parameters
    ----------
    function : callable
    A : SparseMatrix, or sparse COO or CSR Tensor (n, m) or (b, n, m)
    B : Tensor
    rows : int
        Rows of the result for one member.
    """
    if isinstance(A, SparseMatrix):
        return over_batches(function, A, B)
    if A.ndim == 2:
        return over_batches(function, SparseMatrix(*from_torch(A)), B)
    pattern, values, b = blocks_from_torch(A)

    def apart(C: Tensor) -> Tensor:
        # What is no more than one row belongs to all blocks.
        return C.unflatten(0, (b, rows)) if len(C) == b * rows else C.expand(b, *C.shape)

    return tree_map(apart, function(pattern, values, B.flatten(0, 1)))


def over_batches(function: Function, A: SparseMatrix, B: Tensor) -> Any:
    """Apply a function of a pattern, values (nnz,) or (b, nnz) and columns (m, p) or (b, m, p).

    Axes of the batch that A lacks become columns of one call, the others one leading axis; nothing
    is repeated in memory along the former.

    Parameters
    ----------
    function : callable
        Treats the columns of its last argument one by one; returns (n, p) or (b, n, p), or a pytree
        of such, with any number of rows.
    A : SparseMatrix, shape ``(*batch_A, n, m)``
    B : Tensor, shape (m,) or ``(*batch_B, m, p)``

    Returns
    -------
    Tensor, shape ``(*batch, n, p)``, or ``(*batch_A, n)`` for a vector
    """
    if B.ndim == 1:
        return tree_map(lambda C: C.squeeze(-1), over_batches(function, A, B.unsqueeze(-1)))
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    if not batch:
        return function(A.pattern, A.values, B)
    k, p = len(batch), B.shape[-1]
    sizes = (1,) * (k - A.ndim + 2) + tuple(A.shape[:-2])
    own = [i for i in range(k) if sizes[i] != 1]
    free = [i for i in range(k) if sizes[i] == 1]
    # Order the axes as (own, rows, free, columns), the first and the last two groups as one axis.
    order = [*own, k, *free, k + 1]
    B = B.expand(*batch, *B.shape[-2:]).permute(order).flatten(len(own) + 1)
    values = A.values.reshape(*(sizes[i] for i in own), A.nnz)
    if own:
        values, B = values.flatten(0, -2), B.flatten(0, -3)

    def restored(C: Tensor) -> Tensor:
        C = C.reshape(*(batch[i] for i in own), C.shape[-2], *(batch[i] for i in free), p)
        return C.permute([order.index(axis) for axis in range(k + 2)])

    return tree_map(restored, function(A.pattern, values, B))
