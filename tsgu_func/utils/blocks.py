"""Matrices with different patterns as one: along the diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tsgu_func.matrix import SparseMatrix

__all__ = ["block_diag", "block_split"]


def block_diag(matrices: Sequence[SparseMatrix]) -> SparseMatrix:
    """Pack matrices with any patterns and shapes along the diagonal of one.

    The members' values follow each other, so a gradient splits the same way.  One product or one
    solve then serves all of them: ``block_split`` takes the result apart.

    Parameters
    ----------
    matrices : sequence of SparseMatrix, shapes (n_i, m_i), not batched

    Returns
    -------
    SparseMatrix, shape (sum n_i, sum m_i)

    Raises
    ------
    ValueError
        If there is no matrix, or one is batched.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix
    >>> from tsgu_func.utils import block_diag, block_split
    >>> A, B = (SparseMatrix.from_dense(torch.ones(n, 2)) for n in (1, 3))
    >>> packed = block_diag([A, B])
    >>> packed.shape
    torch.Size([4, 4])
    >>> [x.tolist() for x in block_split(packed @ torch.ones(4), [A, B])]
    [[2.0], [2.0, 2.0, 2.0]]
    """
    if not matrices or any(A.ndim != 2 for A in matrices):
        shapes = [tuple(A.shape) for A in matrices]
        raise ValueError(f"block_diag packs one or more matrices without a batch; got {shapes}")
    rows, cols, n, m = [], [], 0, 0
    for A in matrices:
        rows.append(A.pattern.row.long() + n)
        cols.append(A.pattern.col.long() + m)
        n, m = n + A.shape[0], m + A.shape[1]
    values = torch.cat([A.values for A in matrices])
    return SparseMatrix.from_coo(torch.cat(rows), torch.cat(cols), values, (n, m))


def block_split(X: Tensor, matrices: Sequence[SparseMatrix]) -> tuple[Tensor, ...]:
    """Split the rows of X (sum n_i,) or ``(*batch, sum n_i, p)`` as `block_diag` packed them."""
    sizes = [A.shape[0] for A in matrices]
    axis = 0 if X.ndim == 1 else -2
    if X.shape[axis] != sum(sizes):
        raise ValueError(f"X has {sum(sizes)} rows, as the matrices; got shape {tuple(X.shape)}")
    return X.split(sizes, axis)
