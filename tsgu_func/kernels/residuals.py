"""Residuals, and what they are to be compared with, row by row.  O(nnz p) time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.products import batched, run_over_rows, spmm
from tsgu_func.kernels.structure import Structure, unsigned

__all__ = ["Residuals", "residuals"]

_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
# Row sums that vanish up to so many roundings of what they are sums of do vanish.
_ROUNDINGS = 4


class Residuals(NamedTuple):
    """What X leaves of ``A X = B``, in double precision on the CPU.

    Attributes
    ----------
    R : Tensor, shape ``(*batch, n, p)``
        ``B - A X``.
    errors : Tensor, shape ``(*batch, n, p)``
        ``|R|`` relative to ``|A| |X| + |B|``, or to ``|A| 1`` times a floor where that is more.
    sums : Tensor, shape ``(*batch, n)``
        Row sums of ``|A|``.
    vanishing : Tensor of bool, shape ``(*batch, n)``
        Whether the row sums of A are zero, up to rounding.
    """

    R: Tensor
    errors: Tensor
    sums: Tensor
    vanishing: Tensor


def residuals(
    s: Structure, values: Tensor, X: Tensor, B: Tensor, floor: Tensor, *, transpose: bool
) -> Residuals:
    """Compute them, for values (nnz,) and X (n, p), or values (b, nnz) and X (b, n, p).

    `floor` has a number for each column, (1, p) or (b, 1, p).
    """
    s, order = s.oriented(transpose)
    rounding = _ROUNDINGS * torch.finfo(values.dtype).eps
    values = values if order is None else values.index_select(-1, order)
    if B.device.type != "cpu":
        return _by_products(s, values, X, B, floor, rounding)
    wide = _WIDE.get(B.dtype, B.dtype)
    R, rows = B.new_empty(B.shape, dtype=wide), B.shape[:-1]
    errors = B.new_empty(B.shape, dtype=wide.to_real())
    sums, vanishing = errors.new_empty(rows), B.new_empty(rows, dtype=torch.bool)
    outputs = batched(R, 2), batched(errors, 2), batched(sums, 1), batched(vanishing, 1)
    given = unsigned(s.crow), unsigned(s.col), batched(values, 1), batched(X, 2), batched(B, 2)
    limits = batched(floor.to(errors.dtype), 2), rounding

    def loop(first: int, last: int) -> None:
        compiled.residuals.residuals(*given, *limits, *outputs, first, last)

    if R.numel():
        run_over_rows(s, len(outputs[0]), R.shape[-1], loop)
    return Residuals(R, errors, sums, vanishing)


def _by_products(
    s: Structure, values: Tensor, X: Tensor, B: Tensor, floor: Tensor, rounding: float
) -> Residuals:
    ones, size = X.new_ones(*X.shape[:-1], 1), values.abs()
    R = B - spmm(s, values, X)
    sums = spmm(s, size, ones.real.contiguous())
    divisor = torch.maximum(spmm(s, size, X.abs()) + B.abs(), sums * floor)
    errors = R.abs() / torch.where(divisor == 0, 1, divisor)
    vanishing = spmm(s, values, ones).abs() <= rounding * sums
    return Residuals(R, errors, sums.squeeze(-1), vanishing.squeeze(-1))
