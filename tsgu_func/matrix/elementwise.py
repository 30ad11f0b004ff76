"""A dense factor at the stored entries of a sparse matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.matrix.arguments import check_whole, describe

if TYPE_CHECKING:
    from tsgu_func.matrix.base import MatrixBase

__all__ = ["at_entries", "is_factor"]


def is_factor(x: Any) -> bool:
    """Whether x is a number or a tensor."""
    return isinstance(x, (Tensor, int, float, complex, np.number))


def at_entries(A: MatrixBase, factor: Any) -> Any:
    """Return what ``A.to_dense() * factor`` multiplies each stored entry with.

    Parameters
    ----------
    A : SparseMatrix, shape ``(*batch, n, m)``
    factor : number, or Tensor that broadcasts with `A` to ``(*larger_batch, n, m)``

    Returns
    -------
    number or Tensor
        What broadcasts with the values.
    """
    check_whole(A)
    if not is_factor(factor):
        raise TypeError(f"a matrix is scaled by a number or a tensor; got {describe(factor)}")
    if not isinstance(factor, Tensor) or factor.ndim == 0:
        return factor
    _check(A, factor)
    n, m = A.pattern.shape
    if factor.ndim == 1:
        factor = factor.unsqueeze(0)
    row, col = A.pattern.places()
    rows, cols = factor.shape[-2:]
    if rows == cols == 1 != n * m:
        return factor.squeeze(-1)
    if rows == 1 != n:
        return factor.squeeze(-2).index_select(-1, col)
    if cols == 1 != m:
        return factor.squeeze(-1).index_select(-1, row)
    return factor[..., row.long(), col.long()]  # an expanded factor is not copied


def _check(A: MatrixBase, factor: Tensor) -> None:
    if factor.layout != torch.strided:
        raise TypeError(f"a matrix is scaled by a dense tensor; got {describe(factor)}")
    if factor.device != A.device:
        raise ValueError(
            f"a matrix and its factor are on one device; got {A.device} and {factor.device}"
        )
    try:
        shape = torch.broadcast_shapes(A.shape, factor.shape)
    except RuntimeError:
        shape = None
    if shape is None or shape[-2:] != A.shape[-2:]:
        raise ValueError(
            f"a factor broadcasts with the matrix, of shape {tuple(A.shape)}, as with the dense "
            f"one, and leaves it its size; got shape {tuple(factor.shape)}: t of shape (n, 1) "
            f"scales rows, of shape (m,) columns, and t[..., None, None] has a number for each "
            f"member of a batch"
        )
