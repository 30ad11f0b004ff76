"""Matrices with different patterns as one: along the diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from tsgu_func.kernels.structure import index_dtype
from tsgu_func.matrix.arguments import check_dense, describe, is_sparse_matrix
from tsgu_func.matrix.assembly import check_shape
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.matrix.stacking import block_diag
from tsgu_func.matrix.torch_sparse import check_places
from tsgu_func.utils.convert import csr_tensor

__all__ = ["block_diag", "block_split", "sparse_block_diag", "sparse_block_diag_split"]


def block_split(X: Tensor, matrices: Sequence[SparseMatrix]) -> tuple[Tensor, ...]:
    """Split the rows of X (sum n_i,) or ``(*batch, sum n_i, p)`` as `block_diag` packed them."""
    check_dense("X", X, TypeError)
    if not X.ndim:
        raise ValueError("X has rows, as the matrices; got a number")
    sizes = [A.shape[-2] for A in _matrices(matrices)]
    axis = 0 if X.ndim == 1 else -2
    if X.shape[axis] != sum(sizes):
        raise ValueError(f"X has {sum(sizes)} rows, as the matrices; got shape {tuple(X.shape)}")
    return X.split(sizes, axis)


def _matrices(matrices: Any) -> list[SparseMatrix]:
    known = isinstance(matrices, Sequence)
    if wrong := [A for A in matrices if not is_sparse_matrix(A)] if known else [matrices]:
        raise TypeError(
            f"matrices is a list of SparseMatrix, as block_diag takes it; got {describe(wrong[0])}"
        )
    return list(matrices)


# ------------------------------------------------------------------------ torch sparse tensors


def sparse_block_diag(*sparse_tensors: Tensor) -> Tensor:
    """Put torch sparse matrices along the diagonal of one, as ``torch.block_diag`` for dense ones.

    Parameters
    ----------
    *sparse_tensors : sparse Tensor, shapes (n_i, m_i)
        All COO or all CSR, on the same device.  COO tensors need not be coalesced, and the columns
        in a row of CSR need not be sorted.  Dtypes are promoted as by ``torch.cat``.

    Returns
    -------
    sparse Tensor, shape (sum n_i, sum m_i)
        In the same layout; COO is coalesced.  The indices of CSR are int32 if those of all blocks
        are, and if the sums fit.  It can be differentiated once with respect to each block (but
        not a complex CSR tensor, for which PyTorch has no derivative).

    Raises
    ------
    TypeError
        If an argument is not a tensor.
    ValueError
        If there is no argument, if layouts or devices differ, or if one is not a sparse matrix.
    NotImplementedError
        If a gradient of complex CSR blocks is asked for.

    Notes
    -----
    O(total nnz) time and memory.  PyTorch does not differentiate its sparse constructors twice;
    `block_diag` of `SparseMatrix` does.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import sparse_block_diag
    >>> A, B = torch.tensor([[1.0, 2.0]]).to_sparse_csr(), torch.tensor([[3.0]]).to_sparse_csr()
    >>> sparse_block_diag(A, B).to_dense()
    tensor([[1., 2., 0.],
            [0., 0., 3.]])
    """
    _check_blocks(sparse_tensors)
    sizes = [(A.shape[0], A.shape[1]) for A in sparse_tensors]
    rows, cols = _offsets(sizes)
    size = (rows[-1], cols[-1])
    if sparse_tensors[0].layout == torch.sparse_csr:
        return _csr_diagonal(sparse_tensors, cols, size)
    for A in sparse_tensors:
        check_places(A)
    blocks = [A.coalesce() for A in sparse_tensors]
    places = [
        torch.stack([A.indices()[0] + n, A.indices()[1] + m])
        for A, n, m in zip(blocks, rows, cols, strict=False)
    ]
    values = torch.cat([A.values() for A in blocks])
    return _coo_tensor(torch.cat(places, 1), values, size)


def sparse_block_diag_split(
    sparse_block_diag_tensor: Tensor, *shapes: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Take a block-diagonal torch sparse matrix apart: the inverse of `sparse_block_diag`.

    Parameters
    ----------
    sparse_block_diag_tensor : sparse COO or CSR Tensor, shape (n, m)
    *shapes : tuple of int
        ``(n_i, m_i)`` of each block, down the diagonal.

    Returns
    -------
    tuple of sparse Tensor, shapes (n_i, m_i)
        In the same layout, with the same index dtype, in memory of their own.  They can be
        differentiated once (but not complex CSR tensors, for which PyTorch has no derivative).

    Raises
    ------
    TypeError
        If the first argument is not a tensor.
    ValueError
        If it is not a sparse COO or CSR matrix, a shape does not have two entries, the shapes do
        not add up to that of the tensor, or an entry is stored outside of the blocks.
    NotImplementedError
        If a gradient of a complex CSR tensor is asked for.

    Notes
    -----
    O(nnz log(blocks)) time; O(nnz) memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import sparse_block_diag_split
    >>> A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]).to_sparse_coo()
    >>> [block.to_dense().tolist() for block in sparse_block_diag_split(A, (1, 2), (1, 1))]
    [[[1.0, 2.0]], [[3.0]]]
    """
    A = sparse_block_diag_tensor
    if not isinstance(A, Tensor):
        raise TypeError(f"sparse_block_diag_split takes a sparse tensor; got {describe(A)}")
    _check_matrix("sparse_block_diag_split", A)
    _check_shapes(tuple(A.shape), shapes)
    rows, cols = _offsets(shapes)
    if A.layout == torch.sparse_csr:
        return _split_csr(A, shapes, rows, cols)
    check_places(A)
    A = A.coalesce()
    row, col = A.indices()
    _check_inside(row, col, rows, cols)
    bounds = torch.searchsorted(row.contiguous(), torch.tensor(rows, device=row.device))
    counts = bounds.diff().tolist()
    parts = zip(row.split(counts), col.split(counts), A.values().split(counts), strict=True)
    return tuple(
        _coo_tensor(torch.stack([i - n, j - m]), v.clone(), shape)
        for (i, j, v), shape, n, m in zip(parts, shapes, rows, cols, strict=False)
    )


def _csr_diagonal(blocks: Sequence[Tensor], cols: list[int], size: tuple[int, int]) -> Tensor:
    starts = list(accumulate((A.values().shape[0] for A in blocks), initial=0))
    narrow = all(A.crow_indices().dtype == torch.int32 for A in blocks)
    dtype = index_dtype(*size, starts[-1]) if narrow else torch.int64
    # Widened first: what is added may not fit the dtype of a block.
    crows = [A.crow_indices()[1:].long() + k for A, k in zip(blocks, starts, strict=False)]
    crow = torch.cat([crows[0].new_zeros(1), *crows]).to(dtype)
    col = torch.cat([A.col_indices().long() + m for A, m in zip(blocks, cols, strict=False)])
    return csr_tensor(crow, col.to(dtype), torch.cat([A.values() for A in blocks]), size)


def _split_csr(A: Tensor, shapes: Any, rows: list[int], cols: list[int]) -> tuple[Tensor, ...]:
    crow, col, values = A.crow_indices(), A.col_indices(), A.values()
    index = torch.arange(A.shape[0], device=crow.device)
    _check_inside(torch.repeat_interleave(index, crow.diff()), col, rows, cols)
    starts = crow[torch.tensor(rows, device=crow.device)].tolist()
    parts = zip(pairwise(rows), pairwise(starts), cols, shapes, strict=False)
    return tuple(
        csr_tensor(crow[n : end + 1] - k, col[k:last] - m, values[k:last].clone(), shape)
        for (n, end), (k, last), m, shape in parts
    )


def _coo_tensor(indices: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(
        indices, values, size, device=values.device, is_coalesced=True, check_invariants=False
    )


def _offsets(shapes: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Return where the blocks start, and where the last one ends, by row and by column."""
    rows, cols = (list(accumulate(sizes, initial=0)) for sizes in zip(*shapes, strict=True))
    return rows, cols


def _check_blocks(blocks: Sequence[Any]) -> None:
    for A in blocks:
        if not isinstance(A, Tensor):
            raise TypeError(f"sparse_block_diag takes sparse tensors; got {describe(A)}")
    kinds = {A.layout for A in blocks}
    if len(kinds) != 1:
        names = sorted(str(kind) for kind in kinds)
        raise ValueError(
            f"sparse_block_diag packs one matrix or more of one layout; got {names or 'none'}"
        )
    for A in blocks:
        _check_matrix("sparse_block_diag", A)
    if len(devices := {A.device for A in blocks}) > 1:
        raise ValueError(f"the blocks are on one device; got {sorted(map(str, devices))}")


def _check_matrix(name: str, A: Tensor) -> None:
    if A.layout not in (torch.sparse_coo, torch.sparse_csr):
        raise ValueError(f"{name} takes sparse COO or CSR; got {A.layout}: A.to_sparse_coo()")
    if (A.ndim, A.sparse_dim(), A.dense_dim()) != (2, 2, 0):
        raise ValueError(
            f"{name} takes a matrix with two sparse axes; got {A.ndim} axes, {A.sparse_dim()} of "
            f"them sparse and {A.dense_dim()} dense"
        )


def _check_shapes(size: tuple[int, ...], shapes: Sequence[Any]) -> None:
    if not shapes:
        raise ValueError("each block has a shape (rows, columns); got ()")
    for shape in shapes:
        check_shape(shape)
    total = tuple(map(sum, zip(*shapes, strict=True)))
    if total != size:
        raise ValueError(f"the shapes add up to that of the tensor, {size}; got {total}")


def _check_inside(row: Tensor, col: Tensor, rows: list[int], cols: list[int]) -> None:
    """Check that no entry is stored outside of the blocks: a split would lose it."""
    ends = torch.tensor(rows[1:], device=row.device)
    block = torch.searchsorted(ends, row.long().contiguous(), right=True)
    starts = torch.tensor(cols, device=row.device)
    outside = (col < starts[block]) | (col >= starts[block + 1])
    if bool(outside.any()):
        k = int(outside.nonzero()[0])
        b = int(block[k])
        raise ValueError(
            f"the entry at ({int(row[k])}, {int(col[k])}) lies outside of the blocks: in that row "
            f"block {b} has columns {cols[b]} to {cols[b + 1] - 1}"
        )
