"""Peers on arrays: SciPy, and JAX's BCOO under jit."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from tsgu_func import SparseMatrix
from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.timing import Contender

__all__ = ["JAX", "LSTSQ", "MM", "SPGEMM", "jax"]


def jax() -> Any:
    """Import JAX, with float64."""
    module = importlib.import_module("jax")
    module.config.update("jax_enable_x64", True)
    return module


def _scipy_product(A: SparseMatrix, B: Tensor, backward: bool) -> Contender | None:
    if backward:
        return None
    S, right = A.to_scipy(), B.numpy()
    return lambda: S @ right


def _scipy_sparse_product(A: SparseMatrix, B: SparseMatrix, backward: bool) -> Contender | None:
    if backward:
        return None
    S, right = A.to_scipy(), B.to_scipy()
    return lambda: S @ right


def _scipy_lsmr(A: SparseMatrix, B: Tensor, backward: bool) -> Contender | None:
    if backward:
        return None
    from scipy.sparse.linalg import lsmr

    S, columns = A.to_scipy(), B.numpy().T.copy()
    return lambda: [lsmr(S, b, atol=1e-6, btol=1e-6)[0] for b in columns]


def _bcoo(A: SparseMatrix, B: Tensor, backward: bool) -> Contender:
    J = jax()
    BCOO: Any = importlib.import_module("jax.experimental.sparse").BCOO
    row_and_col = A.pattern.row.numpy(), A.pattern.col.numpy()
    indices = J.numpy.stack([J.numpy.asarray(x) for x in row_and_col], axis=1)
    values, right = J.numpy.asarray(A.values.numpy()), J.numpy.asarray(B.numpy())
    sortedness = {"indices_sorted": True, "unique_indices": True}

    def product(values: Any, right: Any, indices: Any) -> Any:
        return BCOO((values, indices), shape=tuple(A.shape), **sortedness) @ right

    def gradients(values: Any, right: Any, indices: Any, cotangent: Any) -> Any:
        return J.vjp(lambda v, b: product(v, b, indices), values, right)[1](cotangent)

    if not backward:
        forward = J.jit(product)
        return lambda: forward(values, right, indices).block_until_ready()
    both, cotangent = J.jit(gradients), J.numpy.ones((A.shape[0], B.shape[1]), right.dtype)
    return lambda: J.block_until_ready(both(values, right, indices, cotangent))


JAX = {"JAX BCOO": Peer(_bcoo, "jax")}
MM = {"SciPy": Peer(_scipy_product), **JAX}
SPGEMM = {"SciPy": Peer(_scipy_sparse_product)}
LSTSQ = {"SciPy lsmr at 1e-6": Peer(_scipy_lsmr)}
