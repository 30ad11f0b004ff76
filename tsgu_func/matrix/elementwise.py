"""A dense factor at the stored entries of a sparse matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.shapes import broadcast_shapes
from tsgu_func.matrix.arguments import check_whole, describe

if TYPE_CHECKING:
    from tsgu_func.matrix.base import MatrixBase

__all__ = ["at_entries", "check_operand", "check_scales", "is_factor"]


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


def check_scales(d: Any, size: int, what: str) -> None:
    """Check numbers for the rows, or for the columns, of a matrix."""
    if not isinstance(d, Tensor) or d.layout != torch.strided:
        raise TypeError(f"the scales are a dense tensor; got {describe(d)}")
    if d.ndim == 0 or d.shape[-1] != size:
        raise ValueError(
            f"there is one number for each {what}, {size} of them, along the last axis; got shape "
            f"{tuple(d.shape)}"
        )


def check_operand(A: MatrixBase, x: Tensor, what: str) -> None:
    """Check that what meets a matrix entry by entry is dense, and on its device."""
    if x.layout != torch.strided:
        raise TypeError(
            f"{what} is a number, a SparseMatrix or a dense tensor; got {describe(x)}: "
            f"SparseMatrix.from_torch converts it"
        )
    if x.device != A.device:
        raise ValueError(f"a matrix and {what} are on one device; got {A.device} and {x.device}")


def _check(A: MatrixBase, factor: Tensor) -> None:
    check_operand(A, factor, "its factor")
    try:
        shape = broadcast_shapes(A.shape, factor.shape)
    except RuntimeError:
        shape = None
    if shape is None or shape[-2:] != A.shape[-2:]:
        raise ValueError(
            f"a factor broadcasts with the matrix, of shape {tuple(A.shape)}, as with the dense "
            f"one, and leaves it its size; got shape {tuple(factor.shape)}: t of shape (n, 1) "
            f"scales rows, as A.scale_rows(t) does for shape (n,), t of shape (m,) columns, and "
            f"t[..., None, None] has a number for each member of a batch"
        )
