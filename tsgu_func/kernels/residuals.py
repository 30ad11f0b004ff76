"""Residuals, with the magnitudes that a rounding error in them is relative to.  O(nnz p) time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.products import batched, run_over_rows, spmm
from tsgu_func.kernels.structure import Structure, unsigned

__all__ = ["Residuals", "residuals"]

_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class Residuals(NamedTuple):
    """What X leaves of ``A X = B``, in double precision on the CPU.

    Attributes
    ----------
    R : Tensor, shape ``(*batch, n, p)``
        ``B - A X``.
    sizes : Tensor, shape ``(*batch, n, p)``
        ``|A| |X| + |B|``.
    sums, totals : Tensor, shape ``(*batch, n)``
        Row sums of ``|A|`` and of A.
    """

    R: Tensor
    sizes: Tensor
    sums: Tensor
    totals: Tensor


def residuals(s: Structure, values: Tensor, X: Tensor, B: Tensor, *, transpose: bool) -> Residuals:
    """Compute them, for values (nnz,) and X (n, p), or values (b, nnz) and X (b, n, p)."""
    s, order = s.oriented(transpose)
    values = values if order is None else values.index_select(-1, order)
    if B.device.type != "cpu":
        return _by_products(s, values, X, B)
    wide = _WIDE.get(B.dtype, B.dtype)
    R = B.new_empty(B.shape, dtype=wide)
    sizes = B.new_empty(B.shape, dtype=wide.to_real())
    totals, sums = (x.new_empty(x.shape[:-1]) for x in (R, sizes))
    outputs = batched(R, 2), batched(sizes, 2), batched(sums, 1), batched(totals, 1)
    arguments = unsigned(s.crow), unsigned(s.col), batched(values, 1), batched(X, 2), batched(B, 2)

    def loop(first: int, last: int) -> None:
        compiled.residuals.residuals(*arguments, *outputs, first, last)

    if R.numel():
        run_over_rows(s, len(outputs[0]), R.shape[-1], loop)
    return Residuals(R, sizes, sums, totals)


def _by_products(s: Structure, values: Tensor, X: Tensor, B: Tensor) -> Residuals:
    ones = X.new_ones(*X.shape[:-1], 1)
    size = values.abs()
    return Residuals(
        B - spmm(s, values, X),
        spmm(s, size, X.abs()) + B.abs(),
        spmm(s, size, ones.real.contiguous()).squeeze(-1),
        spmm(s, values, ones).squeeze(-1),
    )
