"""How the solver functions read what they are handed for a matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.registration.transforms import is_recorded, is_tracing
from tsgu_func.solvers.krylov.block import Block, Function, Functions
from tsgu_func.solvers.krylov.watch import Watch
from tsgu_func.solvers.system import System, as_operator

__all__ = ["adjoint_of", "block_of", "preconditioning", "readable", "stored", "unwatched"]


def readable(A: Any) -> Any:
    """Bring a sparse matrix to compressed rows, so that no product converts it again."""
    if isinstance(A, Tensor) and A.layout != torch.strided:
        return _by_rows(SparseMatrix.from_torch(A))
    return _by_rows(A) if isinstance(A, SparseMatrix) else A


def _by_rows(A: SparseMatrix) -> SparseMatrix:
    if not A.pattern.transposed:
        return A
    structure, order = A.pattern.structure.transpose
    values = A.values.resolve_conj().index_select(-1, order)
    return SparseMatrix(SparsityPattern.of_structure(structure), values)


def stored(A: Any, b: Any, start: Any) -> Any:
    """Read a sparse matrix as solvers do, which bind it to their loops; not while anybody records.

    Of one matrix and one right-hand side: a product with a `SparseMatrix` broadcasts batches.
    """
    if isinstance(A, Tensor) and A.layout != torch.strided:
        A = SparseMatrix.from_torch(A)
    if not isinstance(A, SparseMatrix) or not isinstance(b, Tensor):
        return A
    single = A.values.ndim == 1 and b.ndim <= 2
    if not single or is_tracing() or is_recorded((A.values, b, start)):
        return A
    return StoredMatrix(A.pattern.structure, A.values.resolve_conj(), A.pattern.transposed)


def adjoint_of(A: Any) -> Any:
    """Return Aᴴ for a matrix; None for what has no adjoint to hand out."""
    if isinstance(A, Tensor) and A.layout != torch.strided:
        A = SparseMatrix.from_torch(A)
    return readable(getattr(A, "mH", None))


def preconditioning(M: Any, name: str, vector: bool) -> Function | None:
    """Read ``R -> M⁻¹ R``, if there is one."""
    return None if M is None else as_operator(readable(M), name, vector)


def block_of(system: System, goal: Tensor, precondition: Function | None) -> Block:
    """Return a system as the loop of the solvers works on it."""
    parts = system.multiply, system.B, system.peak, system.unit
    return Block(Functions(precondition), *parts, goal)


def unwatched() -> Watch:
    """Return what counts iterations, and tells nobody."""
    return Watch("", None, progress=False)
