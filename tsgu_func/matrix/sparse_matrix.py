"""The sparse matrix of this library: a pattern, and values that transforms see.

To PyTorch a `SparseMatrix` is a pytree whose only leaf is `values`.  So the gradient
``torch.func.grad(loss)(A)`` is a `SparseMatrix` with the pattern of ``A``, and ``vmap`` maps over a
batch of values.
"""

from __future__ import annotations

from typing import Any

import torch

from tsgu_func.matrix import pytree
from tsgu_func.matrix.algebra import Algebra
from tsgu_func.matrix.construction import Construction
from tsgu_func.matrix.pattern import SAVED, SparsityPattern
from tsgu_func.matrix.reductions import Reductions
from tsgu_func.matrix.shaping import Shaping
from tsgu_func.matrix.tensor_like import TensorLike

__all__ = ["SparseMatrix", "SparsityPattern"]


class SparseMatrix(Construction, Algebra, Reductions, Shaping, TensorLike):
    """A sparse matrix, or a batch of sparse matrices that store entries at the same places.

    Parameters
    ----------
    pattern : SparsityPattern
        Where entries are stored.  It has the shape (n, m), and `nnz` entries.
    values : Tensor, shape ``(*batch, nnz)``
        The entries, in the order of ``pattern.row`` and ``pattern.col``: sorted by row, and within
        a row by column (a transpose has the order of the matrix that was transposed).  The tensor
        is not copied.  So a leaf of autograd stays the leaf, and if you write to the tensor, you
        change the matrix.

    Raises
    ------
    ValueError
        If the values do not fit the pattern, or are on another device.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    **Operators.** ``A + B``, ``A - B``, ``-A``, ``A @ B`` and ``B @ A`` have the same meaning as
    for dense matrices, and so have ``A * d`` and ``A / d``, for a number or a dense d that
    broadcasts with A: d of shape (m,) scales the columns, d of shape (n, 1) the rows, and
    ``t[:, None, None]`` each member of a batch.

    **Indices.** ``A[i]`` is a member of a batch, or a row of a single matrix.  ``A[rows]``,
    ``A[rows][:, cols]`` and ``A[mask]`` are matrices of some rows and columns.

    **Compiled functions.** `torch.compile` does not ask a class for its operators, if the other
    operand is a tensor or for ``@``.  Call the methods `matmul`, `mul`, `div` and `add` there.

    **Derivatives.** Under ``torch.func`` a matrix is a pytree whose only leaf is `values`.  With
    eager autograd, the gradient of a leaf is ``A.values.grad``.  A matrix that was made from a
    dense or sparse tensor is differentiable with respect to that tensor.  A tangent for A needs
    the pattern of A: make it with ``A.with_values(v)``.

    **Modules.** A matrix that is a plain attribute of a ``torch.nn.Module`` is not trained, not
    moved and not saved.  Write ``self.A = SparseParameter(A)``, which is a module whose parameter
    is the values.

    ``A == B`` asks whether both are the same object.  To compare the entries use `allclose`.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix
    >>> A = SparseMatrix.from_coo([0, 0, 1], [0, 2, 1], torch.tensor([1.0, 2.0, 3.0]), (2, 3))
    >>> A
    SparseMatrix(shape=(2, 3), nnz=3, dtype=torch.float32, device='cpu')
    >>> A @ torch.ones(3)
    tensor([3., 3.])
    >>> torch.func.grad(lambda A: (A @ torch.ones(3)).square().sum())(A).values
    tensor([6., 6., 6.])
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _register(cls)


def _register(cls: type[SparseMatrix], name: str | None = None) -> None:
    pytree.register(cls, "values", "pattern", lambda v, pattern: cls._of(pattern, v), name)


_register(SparseMatrix, "tsgu_func.SparseMatrix")
torch.serialization.add_safe_globals([SparseMatrix, *SAVED])
