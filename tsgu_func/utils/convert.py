"""From coordinates to compressed rows, for one matrix or a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels.products import silence_beta_notice
from tsgu_func.kernels.structure import compress
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.torch_sparse import check_places
from tsgu_func.solvers.settings import check_count

__all__ = ["convert_coo_to_csr", "convert_coo_to_csr_indices_values"]

INDEX_DTYPES = (torch.int32, torch.int64)


def convert_coo_to_csr_indices_values(
    coo_indices: Tensor, num_rows: int, values: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort coordinates by row and column, and compress the rows.

    Parameters
    ----------
    coo_indices : Tensor, shape (2, nnz) or (3, nnz), int32 or int64
        The row and the column of each entry, or the member of a batch, the row and the column, in
        any order.
    num_rows : int
        The number of rows of the matrix.
    values : Tensor, shape ``(nnz, ...)``, optional
        Any dtype.  Without values, the permutation that sorts the entries is returned instead.

    Returns
    -------
    crow_indices : Tensor, shape (num_rows + 1,) or (b, num_rows + 1)
        Where each row starts, in the dtype of `coo_indices`.
    col_indices : Tensor, shape (nnz,) or (b, nnz / b)
        The columns, increasing within a row, in the dtype of `coo_indices`.
    values_or_permutation : Tensor, shape ``(nnz, ...)`` or ``(b, nnz / b, ...)``
        The sorted values, which are differentiable, or the int64 positions that the sorted entries
        had among the given ones.

    Raises
    ------
    TypeError
        If an argument is not a tensor, or the indices are not int32 or int64.
    ValueError
        If shapes do not fit, if a row is out of range, if an index is negative, or if the members
        of a batch have different numbers of entries.

    Notes
    -----
    The size of a batch is the largest index of a member, plus one.  Entries at the same place are
    not summed, and stay in their order.  It takes O(nnz log nnz) time.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import convert_coo_to_csr_indices_values
    >>> places = torch.tensor([[1, 0, 1], [2, 1, 0]])
    >>> convert_coo_to_csr_indices_values(places, 2, torch.tensor([1.0, 2.0, 3.0]))
    (tensor([0, 1, 3]), tensor([1, 0, 2]), tensor([2., 3., 1.]))
    >>> convert_coo_to_csr_indices_values(places, 2)[2]
    tensor([1, 2, 0])
    """
    check_count("num_rows", num_rows)
    _check_coordinates(coo_indices, num_rows, values)
    dtype, (row, col) = coo_indices.dtype, coo_indices[-2:].long()
    member = coo_indices[0].long() if len(coo_indices) == 3 else torch.zeros_like(row)
    order = torch.argsort(col, stable=True)
    order = order[torch.argsort((member * num_rows + row)[order], stable=True)]
    picked = order if values is None else values[order]
    row, col = row[order], col[order].to(dtype)
    if len(coo_indices) == 3:
        shape = (int(member.max()) + 1 if len(member) else 0, -1)
        each = _entries_of_each(member, shape[0])
        row, col, picked = (x.unflatten(0, (shape[0], each)) for x in (row, col, picked))
    return compress(row, num_rows).to(dtype), col, picked


def convert_coo_to_csr(sparse_coo_tensor: Tensor) -> Tensor:
    """Convert a sparse COO tensor to CSR: one matrix, or a batch.

    Parameters
    ----------
    sparse_coo_tensor : sparse COO Tensor, shape (n, m) or (b, n, m)
        Any dtype.  It need not be coalesced: duplicates are summed.

    Returns
    -------
    sparse CSR Tensor
        The same matrices, with int64 indices.  It can be differentiated once (but not if it is
        complex, because PyTorch has no derivative for that).

    Raises
    ------
    TypeError
        If the argument is not a tensor.
    ValueError
        If it is not COO, or has another number of axes, or if its members store different numbers
        of entries, because a batched CSR tensor cannot do that.
    NotImplementedError
        If a gradient of a complex tensor is asked for.

    Notes
    -----
    It takes O(nnz) time if the tensor is coalesced.  For a single matrix it is the same as
    ``A.to_sparse_csr()``, which does not take a batch.  PyTorch cannot differentiate its sparse
    constructors twice; a `SparseMatrix` can be differentiated to any order.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import convert_coo_to_csr
    >>> batch = torch.stack([torch.eye(2), torch.ones(2, 2).triu(1) + torch.eye(2)[:, :1]])
    >>> convert_coo_to_csr(batch.to_sparse_coo()).crow_indices()
    tensor([[0, 1, 2],
            [0, 2, 2]])
    """
    A = sparse_coo_tensor
    if not isinstance(A, Tensor):
        raise TypeError(f"convert_coo_to_csr takes a sparse COO tensor; got {describe(A)}")
    if A.layout != torch.sparse_coo:
        raise ValueError(
            f"convert_coo_to_csr takes a sparse COO tensor; got {describe(A)}: "
            f"A.to_sparse_coo() converts it"
        )
    if A.dense_dim() or A.ndim not in (2, 3):
        raise ValueError(
            f"convert_coo_to_csr takes a matrix (n, m) or a batch (b, n, m), all axes sparse; got "
            f"shape {tuple(A.shape)} with {A.dense_dim()} dense axes"
        )
    check_places(A)
    if A.ndim == 2:
        _check_differentiable(A)
        silence_beta_notice()
        return A.to_sparse_csr()
    A = A.coalesce()
    member, row, col = A.indices()
    each = _entries_of_each(member, len(A))
    row, col, values = (x.unflatten(0, (len(A), each)) for x in (row, col, A.values()))
    return csr_tensor(compress(row, A.shape[1]), col, values, tuple(A.shape))


def csr_tensor(crow: Tensor, col: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Build a CSR tensor whose indices are valid by construction."""
    _check_differentiable(values)
    silence_beta_notice()
    return torch.sparse_csr_tensor(
        crow, col, values, size, device=values.device, check_invariants=False
    )


def _check_differentiable(values: Tensor) -> None:
    if values.is_complex() and values.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            "PyTorch does not differentiate the making of a complex CSR tensor: take COO tensors, "
            "a SparseMatrix, or A.detach() where no gradient is needed"
        )


def _entries_of_each(member: Tensor, batch: int) -> int:
    if batch > len(member) > 0:  # as many members as the largest index says may be too many
        raise ValueError(
            f"all members of a CSR batch store equally many entries; got {len(member)} for {batch} "
            f"members"
        )
    counts = torch.bincount(member, minlength=batch)
    if batch and int(counts.min()) != int(counts.max()):
        raise ValueError(
            f"all members of a CSR batch store equally many entries; got {int(counts.min())} in "
            f"one and {int(counts.max())} in another: store zeros to even them out, or convert "
            f"the members one by one"
        )
    return len(member) // max(batch, 1)


def _check_coordinates(indices: Tensor, rows: int, values: Tensor | None) -> None:
    for name, x in (("coo_indices", indices), ("values", values)):
        if not isinstance(x, Tensor) and x is not None:
            raise TypeError(f"{name} is a tensor; got {type(x).__name__}")
    if indices.dtype not in INDEX_DTYPES:
        raise TypeError(f"coo_indices is int32 or int64; got {indices.dtype}")
    if indices.ndim != 2 or len(indices) not in (2, 3):
        raise ValueError(
            f"coo_indices has shape (2, nnz), rows and columns, or (3, nnz) with the member of a "
            f"batch in front; got shape {tuple(indices.shape)}"
        )
    if values is not None and (values.ndim == 0 or len(values) != indices.shape[1]):
        raise ValueError(
            f"values has one entry for each of the {indices.shape[1]} columns of coo_indices; "
            f"got shape {tuple(values.shape)}"
        )
    if indices.is_meta:
        raise ValueError("coo_indices are on the meta device, which keeps no numbers")
    if bool((indices < 0).any()):
        raise ValueError(f"indices are not negative; got {int(indices.min())} in coo_indices")
    if bool((indices[-2] >= rows).any()):
        raise ValueError(
            f"rows run from 0 to num_rows - 1 = {rows - 1}; got row {int(indices[-2].max())}"
        )
