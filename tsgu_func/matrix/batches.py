"""Batches of matrices and of right-hand sides that broadcast, brought down to one axis or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.shapes import broadcast_shapes
from tsgu_func.matrix.arguments import are_vectors
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.torch_sparse import blocks_from_torch, borrowed, from_torch

if TYPE_CHECKING:
    from tsgu_func.matrix.base import MatrixBase

__all__ = ["over_batches", "over_matrix", "over_system"]

# Returns a tensor, or a tuple of it and of what belongs to all members of a block-diagonal matrix.
Function = Callable[[SparsityPattern, Tensor, Tensor], Any]


@considerate
def over_matrix(function: Function, A: MatrixBase | Tensor, B: Tensor, rows: int) -> Any:
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
    if not isinstance(A, Tensor):
        return over_batches(function, A.pattern, A.values, B)
    if A.ndim == 2:
        return over_batches(function, *from_torch(A), B)
    pattern, values, b = blocks_from_torch(A)
    outputs = function(pattern, values, B.flatten(0, 1))
    if isinstance(outputs, Tensor):
        return outputs.unflatten(0, (b, rows))
    result, *others = outputs
    return result.unflatten(0, (b, rows)), *(x.expand(b, *x.shape) for x in others)


def over_system(function: Function, A: MatrixBase | Tensor, B: Tensor) -> Any:
    """Apply what `over_matrix` does to a system, whose right-hand side may be `are_vectors`.

    Then each of what the function returns has one axis less, the last.  What is kept for the values
    of a torch sparse tensor is kept as long as that.
    """
    if isinstance(A, Tensor):
        function = _for_values_of(A, function)
    if not are_vectors(A, B):
        return over_matrix(function, A, B, A.shape[-1])
    columns = B.unsqueeze(-1)
    if isinstance(A, Tensor) and A.ndim > 2:  # whose members are not broadcast
        columns = columns.expand(*A.shape[:-1], 1)
    outputs = over_matrix(function, A, columns, A.shape[-1])
    return _each(lambda X: X.squeeze(-1), outputs)


def _for_values_of(A: Tensor, function: Function) -> Function:
    return lambda pattern, values, B: function(pattern, borrowed(values, A), B)


def over_batches(function: Function, pattern: SparsityPattern, values: Tensor, B: Tensor) -> Any:
    """Apply a function of a pattern, values (nnz,) or (b, nnz) and columns (m, p) or (b, m, p).

    Axes of the batch that the values lack become columns of one call, the others one leading axis;
    nothing is repeated in memory along the former.

    Parameters
    ----------
    function : callable
        Treats the columns of its last argument one by one; returns (n, p) or (b, n, p), or a tuple
        of such, with any number of rows.
    pattern : SparsityPattern, shape (n, m)
    values : Tensor, shape ``(*batch_A, nnz)``
    B : Tensor, shape (m,) or ``(*batch_B, m, p)``

    Returns
    -------
    Tensor, shape ``(*batch, n, p)``, or ``(*batch_A, n)`` for a vector
    """
    if B.ndim == 1:
        return _each(
            lambda C: C.squeeze(-1), over_batches(function, pattern, values, B.unsqueeze(-1))
        )
    if values.ndim == 1 and B.ndim == 2:
        return function(pattern, values, B)
    batch = broadcast_shapes(values.shape[:-1], B.shape[:-2])
    k, p = len(batch), B.shape[-1]
    sizes = (1,) * (k - values.ndim + 1) + tuple(values.shape[:-1])
    own = [i for i in range(k) if sizes[i] != 1]
    free = [i for i in range(k) if sizes[i] == 1]
    # Order the axes as (own, rows, free, columns), the first and the last two groups as one axis.
    order = [*own, k, *free, k + 1]
    B = B.expand(*batch, *B.shape[-2:]).permute(order).flatten(len(own) + 1)
    values = values.reshape(*(sizes[i] for i in own), pattern.nnz)
    if own:
        values, B = values.flatten(0, -2), B.flatten(0, -3)

    def restored(C: Tensor) -> Tensor:
        C = C.reshape(*(batch[i] for i in own), C.shape[-2], *(batch[i] for i in free), p)
        return C.permute([order.index(axis) for axis in range(k + 2)])

    return _each(restored, function(pattern, values, B))


def _each(change: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    return change(outputs) if isinstance(outputs, Tensor) else tuple(map(change, outputs))
