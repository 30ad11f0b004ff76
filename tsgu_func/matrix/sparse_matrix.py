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
    """A sparse matrix, or a batch of them that store entries at the same places.

    Parameters
    ----------
    pattern : SparsityPattern
        Where entries are stored: shape (n, m), `nnz` of them.
    values : Tensor, shape ``(*batch, nnz)``
        The entries, in the order of ``pattern.row`` and ``pattern.col``: by row, and within a row
        by column; of a transpose, in the order of what was transposed.  They are kept as they
        are, not copied: a leaf of autograd stays the leaf, and who writes to it changes the matrix.

    Raises
    ------
    ValueError
        If the values do not fit the pattern, or are on another device.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    What is created from a dense or sparse argument is differentiable with respect to it.
    Under ``torch.func`` it is a pytree with the one leaf `values`.

    ``A + B``, ``A - B``, ``-A``, ``A @ B`` and ``B @ A`` mean what they mean for dense matrices.
    ``A * d`` and ``A / d`` do at the stored entries, for a number or a dense d that broadcasts with
    A: d of shape (m,) scales columns, (n, 1) rows, and ``t[:, None, None]`` each member of a batch.
    ``A[i]`` is a member of a batch, and a row of one matrix; ``A[rows]``, ``A[rows][:, cols]`` and
    ``A[mask]`` are matrices of some rows and columns, whose pattern is found once.  A compiled
    function does not ask this class for ``@``, nor for other operators with a tensor: call the
    methods `matmul`, `mul`, `div` and `add` there.

    In a ``torch.nn.Module`` a matrix is a constant: a plain attribute is not trained, moved or
    saved.  ``self.A = SparseParameter(A)`` is a module with the values for a parameter.  Elsewhere
    ``A.values`` is what autograd and optimizers take: the gradient of a leaf is ``A.values.grad``.

    A tangent, and whatever else is to be a tree like A, has the pattern of A: ``A.with_values(v)``.
    ``A == B`` asks whether both are one object; `allclose` compares entries.

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
