"""From torch sparse tensors to patterns and values.

A torch sparse tensor brings its indices along on every call.  Its pattern is found again by the
memory of these indices and its version counter, as autograd finds that what it saved was changed;
only where these differ, by content.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.cache import Store, stands_for
from tsgu_func.kernels.structure import Structure, shared
from tsgu_func.matrix.assembly import check_index
from tsgu_func.matrix.pattern import Assembly, SparsityPattern, assemble_coo, assemble_csr
from tsgu_func.registration.transforms import is_batched, outside_transforms, unwrapped

__all__ = [
    "BlockMatrix",
    "blocks_from_torch",
    "borrowed",
    "check_places",
    "dense_axes",
    "from_torch",
]

_INSTEAD = "pass a SparseMatrix (SparseMatrix.from_torch(A), or its values) through the transform"
_seen = Store("sparse tensors", most=256, rank=0)


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
    shape = (b * n, b * m)
    if A.layout == torch.sparse_coo:
        A = _coalesced(A)
        with outside_transforms():
            member, row, col = unwrapped(A.detach()).indices()
            assembly = _assembled(
                A, lambda: assemble_coo(member * n + row, member * m + col, shape), member
            )
        return BlockMatrix(assembly.pattern, assembly(A.values().clone()), b)
    with outside_transforms():
        values = A.values().clone().flatten()
        crow, col = A.crow_indices(), A.col_indices()

        def blocks() -> Assembly:
            start = torch.arange(b, device=col.device).unsqueeze(1)
            nnz = col.shape[-1]
            starts = (crow[:, :-1] + start * nnz).flatten()
            end = crow.new_full((1,), b * nnz)
            return assemble_csr(torch.cat([starts, end]), (col + start * m).flatten(), shape)

        assembly = _assembled(A, blocks, crow, col)
    return BlockMatrix(assembly.pattern, assembly(values), b)


def borrowed(values: Tensor, A: Tensor) -> Tensor:
    """Return values that were read off a tensor for one call, of which nobody keeps the copy.

    What is kept for them is kept as long as those of the tensor live.
    """
    if not torch.compiler.is_compiling():
        with outside_transforms():
            plain = unwrapped(A.detach())
            original = plain._values() if A.layout == torch.sparse_coo else plain.values()
            stands_for(unwrapped(values).untyped_storage(), original.untyped_storage())
    return values


def dense_axes(A: Tensor) -> int:
    """Return the number of dense axes of a sparse tensor, if it can be read at all here.

    COO tensors may be arguments of ``torch.func.grad``; CSR ones PyTorch refuses by itself.
    """
    if is_batched(A):
        raise ValueError(f"PyTorch cannot map over a sparse tensor: {_INSTEAD}")
    with outside_transforms():
        return A.dense_dim()


def _from_coo(A: Tensor) -> tuple[SparsityPattern, Tensor]:
    A = _coalesced(A)
    # A copy, because values that are a view of a sparse tensor cannot enter a compiled region.
    values = A.values().clone()
    with outside_transforms():
        row, col = unwrapped(A.detach()).indices()
        assembly = _assembled(A, lambda: assemble_coo(row, col, (A.shape[0], A.shape[1])), row)
    return assembly.pattern, assembly(values)


def _coalesced(A: Tensor) -> Tensor:
    if A.is_coalesced():  # the indices are checked where they are assembled
        return A
    check_places(A)
    return A.coalesce()


def check_places(A: Tensor) -> None:
    """Check the indices of a COO tensor (n, m) or (b, n, m): PyTorch does not look at them.

    It would write out of bounds, or merge entries, where it coalesces or compresses them.
    """
    with outside_transforms():
        names = ("row", "col") if A.ndim == 2 else ("member", "row", "col")
        indices = unwrapped(A.detach())._indices()
        for name, index, size in zip(names, indices, A.shape, strict=True):
            check_index(name, index, size)


def _from_compressed(A: Tensor, shape: Any) -> tuple[SparsityPattern, Tensor]:
    with outside_transforms():
        by_rows = A.layout == torch.sparse_csr
        crow = A.crow_indices() if by_rows else A.ccol_indices()
        col = A.col_indices() if by_rows else A.row_indices()
        values = A.values().clone()
        assembly = _assembled(A, lambda: assemble_csr(crow, col, tuple(shape)), crow, col)
    return assembly.pattern, assembly(values)


# -------------------------------------------------------------------------- patterns found again


class _Seen(NamedTuple):
    """Where the indices of a tensor are, and their structure, none of which this keeps alive."""

    memory: list[weakref.ref[Any]]
    structure: weakref.ref[Structure]


def _assembled(A: Tensor, make: Callable[[], Assembly], *indices: Tensor) -> Assembly:
    """Assemble the entries of a tensor with these index tensors, or find that it was done."""
    if any(index.is_inference() for index in indices):
        return make()  # without a version counter a change in place could not be noticed
    storages = [index.untyped_storage() for index in indices]
    key = (A.layout, A.shape, *(_address(index) for index in indices))
    if (seen := _seen.get(key)) is not None:
        # An address may have been used again; a storage that lives is the same one.
        same = all(ref() is s for ref, s in zip(seen.memory, storages, strict=True))
        if same and (structure := seen.structure()) is not None:
            pattern = SparsityPattern.of_structure(shared(structure))
            return Assembly(pattern, pattern.nnz)
    assembly = make()
    if assembly.in_order:
        seen = _Seen([weakref.ref(s) for s in storages], weakref.ref(assembly.pattern.structure))
        _seen.keep(key, seen, storages[-1])
    return assembly


def _address(index: Tensor) -> tuple[Any, ...]:
    where = index.data_ptr(), index._version, index.device
    return *where, index.dtype, *index.shape, *index.stride()
