"""Sparse matrices from what they consist of: the identity, a batch out of its members."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tsgu_func.kernels.structure import compress
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.utils.convert import INDEX_DTYPES, csr_tensor

__all__ = ["sparse_eye", "stack_csr"]

_VALUE_DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)
_CPU = torch.device("cpu")
_INT32_MAX = 2**31 - 1


def sparse_eye(
    size: tuple[int, ...],
    *,
    layout: torch.layout | type[SparseMatrix] = torch.sparse_coo,
    values_dtype: torch.dtype = torch.float64,
    indices_dtype: torch.dtype = torch.int64,
    device: torch.device = _CPU,
    requires_grad: bool = False,
) -> Any:
    """Make an identity matrix, or a batch of them.

    Parameters
    ----------
    size : tuple of int
        ``(n, n)`` or ``(b, n, n)``.
    layout : {torch.sparse_coo, torch.sparse_csr, SparseMatrix}
    values_dtype : torch.dtype
        float16, bfloat16, float32, float64, complex64 or complex128.
    indices_dtype : {torch.int64, torch.int32}
        For CSR.  The indices of COO are always int64 in PyTorch, and those of a SparseMatrix are
        int32 if they fit.
    device : torch.device
    requires_grad : bool
        Whether autograd records operations on the result.

    Returns
    -------
    sparse Tensor or SparseMatrix, shape `size`
        COO tensors are coalesced.

    Raises
    ------
    ValueError
        If the size is not that of square matrices, or if a dtype or the layout is not among those
        above.

    Notes
    -----
    O(b n) time and memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import sparse_eye
    >>> sparse_eye((2, 2), layout=torch.sparse_csr).to_dense()
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    >>> sparse_eye((3, 2, 2)).shape
    torch.Size([3, 2, 2])
    """
    batch, n, m = check_size(size)
    if n != m:
        raise ValueError(f"an identity matrix is square, (n, n) or (b, n, n); got {tuple(size)}")
    check_kinds(layout, values_dtype, indices_dtype)
    values = torch.ones(batch, n, dtype=values_dtype, device=device)
    if layout is SparseMatrix:
        eye = SparseMatrix.eye(n, dtype=values_dtype, device=device)
        A = eye.with_values(values) if len(size) == 3 else eye
        return A.requires_grad_(requires_grad)
    index = torch.arange(n, device=device).expand(batch, n)
    return assemble(index, index, values, size, layout, indices_dtype).requires_grad_(requires_grad)


def stack_csr(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Make a batch of CSR matrices, as ``torch.stack`` does for other layouts.

    Parameters
    ----------
    tensors : list or tuple of sparse CSR Tensor, shape (n, m)
        All with the same shape, dtype, device and number of stored entries.
    dim : int
        0 (or -3), because the batch of a CSR tensor is its first axis.

    Returns
    -------
    sparse CSR Tensor, shape (b, n, m)
        It can be differentiated once with respect to each matrix (but not if it is complex, because
        PyTorch has no derivative for that).

    Raises
    ------
    TypeError
        If `tensors` is not a list or tuple, or a member is not a tensor.
    ValueError
        If there is no matrix, if one is not CSR or not 2-D, if they differ in what is named above,
        or if `dim` is another axis.
    NotImplementedError
        If a gradient of complex matrices is asked for.

    Notes
    -----
    O(total nnz) time.  Indices keep their dtype.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import stack_csr
    >>> A, B = (torch.tensor([[0.0, x], [1.0, 0.0]]).to_sparse_csr() for x in (2.0, 3.0))
    >>> stack_csr([A, B]).values()
    tensor([[2., 1.],
            [3., 1.]])
    """
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"stack_csr takes a list of CSR matrices; got {describe(tensors)}")
    for A in tensors:
        if not isinstance(A, Tensor):
            cure = ": tsgu_func.stack takes these" if isinstance(A, SparseMatrix) else ""
            raise TypeError(f"stack_csr takes CSR matrices; got {describe(A)} among them{cure}")
        if A.layout != torch.sparse_csr or A.ndim != 2 or A.dense_dim():
            raise ValueError(f"stack_csr takes CSR matrices (n, m); got {describe(A)}")
    if not tensors or dim not in (0, -3):
        raise ValueError(
            f"stack_csr stacks one matrix or more along the first axis, dim=0; got {len(tensors)} "
            f"with dim={dim}"
        )
    kinds = [(tuple(A.shape), A.values().shape[0], A.dtype, A.device) for A in tensors]
    if different := [kind for kind in kinds if kind != kinds[0]]:
        raise ValueError(
            f"the matrices of a CSR batch have one shape, number of entries, dtype and device; got "
            f"{kinds[0]} and {different[0]}"
        )
    crow = torch.stack([A.crow_indices() for A in tensors])
    col = torch.stack([A.col_indices() for A in tensors])
    values = torch.stack([A.values() for A in tensors])
    return csr_tensor(crow, col, values, (len(tensors), *tensors[0].shape))


def assemble(
    row: Tensor,
    col: Tensor,
    values: Tensor,
    size: Sequence[int],
    layout: torch.layout | type[SparseMatrix],
    indices_dtype: torch.dtype,
) -> Any:
    """Build a matrix of entries (b, nnz), sorted and distinct; without a batch, b = 1.

    Those of a SparseMatrix are at the places of the first member.
    """
    batched = len(size) == 3
    if layout is SparseMatrix:
        values = values[: size[0]] if batched else values[0]
        return SparseMatrix.from_coo(row[0], col[0], values, (size[-2], size[-1]))
    if layout == torch.sparse_coo:
        member = torch.arange(len(row), device=row.device).unsqueeze(1).expand_as(row)
        axes = [member, row, col] if batched else [row, col]
        return torch.sparse_coo_tensor(
            torch.stack([axis.flatten() for axis in axes]).to(indices_dtype),
            values.flatten(),
            tuple(size),
            device=values.device,
            is_coalesced=True,
            check_invariants=False,
        )
    if indices_dtype == torch.int32 and max(*size[-2:], row.shape[1]) > _INT32_MAX:
        raise ValueError(
            f"int32 indices hold up to {_INT32_MAX}; got size {tuple(size)} with {row.shape[1]} "
            f"entries: use indices_dtype=torch.int64"
        )
    crow, col = compress(row, size[-2]).to(indices_dtype), col.to(indices_dtype)
    if not batched:
        crow, col, values = crow[0], col[0], values[0]
    return csr_tensor(crow, col.contiguous(), values, tuple(size))


# -------------------------------------------------------------------------------------- checks


def check_size(size: Any) -> tuple[int, int, int]:
    """Return the size of a matrix or a batch as (b, n, m), with b = 1 for a matrix."""
    if not isinstance(size, tuple | list):
        raise TypeError(f"size is a tuple of two or three ints; got {type(size).__name__}")
    sizes = tuple(map(operator.index, size))
    if len(sizes) not in (2, 3) or min(sizes) < 0:
        raise ValueError(
            f"size is (rows, columns) or (batch, rows, columns), none negative; got {sizes}"
        )
    batch = sizes[0] if len(sizes) == 3 else 1
    return batch, sizes[-2], sizes[-1]


def check_kinds(layout: Any, values_dtype: Any, indices_dtype: Any) -> None:
    """Check the layout and the dtypes that a sparse tensor is to have."""
    if layout not in (torch.sparse_coo, torch.sparse_csr, SparseMatrix):
        raise ValueError(
            f"Unsupported layout {layout}: it is torch.sparse_coo, torch.sparse_csr or SparseMatrix"
        )
    if values_dtype not in _VALUE_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _VALUE_DTYPES)
        raise ValueError(f"values are of dtype {names}; got {values_dtype}")
    if indices_dtype not in INDEX_DTYPES:
        raise ValueError(f"indices are torch.int64 or torch.int32; got {indices_dtype}")
