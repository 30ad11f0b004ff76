"""Peers on tensors: PyTorch's own products, and torchsparsegradutils."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm

from tsgu_func import SparseMatrix
from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.timing import Contender, call

__all__ = [
    "BATCHED_MM",
    "GATHER_MM",
    "LSTSQ",
    "MM",
    "SEGMENT_MM",
    "SPGEMM",
    "TRIANGULAR",
    "batched_csr",
]

_UPSTREAM = "torchsparsegradutils"


def _long_csr(A: SparseMatrix) -> Tensor:
    """Return a CSR tensor as PyTorch makes them, with int64 indices."""
    pattern = A.pattern
    return torch.sparse_csr_tensor(pattern.crow.long(), pattern.col.long(), A.values, A.shape)


def batched_csr(A: SparseMatrix) -> Tensor:
    """Return a batch of matrices of one pattern as a CSR tensor."""
    size = len(A.values), -1
    crow, col = (x.expand(size).contiguous() for x in (A.pattern.crow, A.pattern.col))
    return torch.sparse_csr_tensor(crow, col, A.values, A.shape)


def _product(
    convert: Callable[[SparseMatrix], Tensor], A: SparseMatrix, B: Tensor, backward: bool
) -> Contender:
    return call(torch.matmul, convert(A), B, backward=backward)


def _coo(A: SparseMatrix, B: Tensor, backward: bool) -> Contender | None:
    # PyTorch's gradient of a COO matrix is dense: 40 GB for 100 000 rows and columns.
    return None if backward else call(torch.sparse.mm, A.to_coo(), B, backward=False)


def _sparse_coo(A: SparseMatrix, B: SparseMatrix, backward: bool) -> Contender:
    return call(_values_of_product, A.to_coo(), B.to_coo(), backward=backward)


def _values_of_product(A: Tensor, B: Tensor) -> Tensor:
    # The derivative of the sum of a COO product itself is an internal error of PyTorch (2.13).
    return torch.sparse.mm(A, B).coalesce().values()


def _sparse_csr(A: SparseMatrix, B: SparseMatrix, backward: bool) -> Contender | None:
    return None if backward else call(torch.matmul, A.to_csr(), B.to_csr(), backward=False)


def _upstream(
    name: str,
    convert: Callable[[SparseMatrix], Tensor],
    A: SparseMatrix,
    B: Tensor,
    backward: bool,
    **options: bool,
) -> Contender:
    f = partial(getattr(importlib.import_module(_UPSTREAM), name), **options)
    return call(f, convert(A), B, backward=backward)


def _upstream_indexed(name: str, a: Tensor, b: Tensor, which: Tensor, backward: bool) -> Contender:
    return call(getattr(importlib.import_module(_UPSTREAM), name), a, b, which, backward=backward)


# --------------------------------------------------------------------------- products of groups


def _segments(a: Tensor, b: Tensor, lengths: Tensor, backward: bool) -> Contender:
    ends = lengths.cumsum(0).int()
    return call(lambda a, b: grouped_mm(a, b, offs=ends), a, b, backward=backward)


def _gathered(a: Tensor, b: Tensor, index: Tensor, backward: bool) -> Contender:
    def sorted_and_grouped(a: Tensor, b: Tensor) -> Tensor:
        order = index.argsort()
        ends = torch.bincount(index, minlength=len(b)).cumsum(0).int()
        product = grouped_mm(a[order], b, offs=ends)
        return product[order.argsort()]

    return call(sorted_and_grouped, a, b, backward=backward)


# ------------------------------------------------------------------------------- what there is


def _from_upstream(name: str, **options: bool) -> dict[str, Peer]:
    kinds = {"CSR": _long_csr, "COO": SparseMatrix.to_coo}
    return {
        f"{_UPSTREAM} {kind}": Peer(partial(_upstream, name, convert, **options), _UPSTREAM)
        for kind, convert in kinds.items()
    }


MM = {
    "torch CSR int32": Peer(partial(_product, SparseMatrix.to_csr)),
    "torch CSR int64": Peer(partial(_product, _long_csr)),
    "torch COO": Peer(_coo),
    **_from_upstream("sparse_mm"),
}
BATCHED_MM = {
    f"{_UPSTREAM} CSR": Peer(partial(_upstream, "sparse_mm", batched_csr), _UPSTREAM),
}
SPGEMM = {"torch COO": Peer(_sparse_coo), "torch CSR int32": Peer(_sparse_csr)}
TRIANGULAR = _from_upstream("sparse_triangular_solve", upper=False)
LSTSQ = {
    f"{_UPSTREAM} CSR": Peer(partial(_upstream, "sparse_generic_lstsq", _long_csr), _UPSTREAM),
}
GATHER_MM = {
    _UPSTREAM: Peer(partial(_upstream_indexed, "gather_mm"), _UPSTREAM),
    "sort + grouped_mm": Peer(_gathered),
}
SEGMENT_MM = {
    _UPSTREAM: Peer(partial(_upstream_indexed, "segment_mm"), _UPSTREAM),
    "grouped_mm": Peer(_segments),
}
