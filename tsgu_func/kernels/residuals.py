"""Residuals, and what they are to be compared with, row by row.  O(nnz p) time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.products import batched, run_over_rows, spmm
from tsgu_func.kernels.structure import Structure

__all__ = ["Residuals", "residuals"]

_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
# Row sums that vanish up to so many roundings of what they are sums of do vanish.
_ROUNDINGS = 4


class Residuals(NamedTuple):
    """What X leaves of ``A X = B``, computed in double precision on the CPU.

    Attributes
    ----------
    R : Tensor, shape ``(*batch, n, p)``
        ``B - A X``, in the precision of B.
    largest, largest_b : Tensor, shape ``(*batch, p)``
        Largest magnitudes in R and in B.
    error : Tensor, shape ``(*batch, p)``
        Largest ``|R|`` relative to ``|A| |X| + |B|``, or to ``|A| 1`` times a floor where that is
        more.
    norm, norm_b : Tensor, shape ``(*batch, p)``
        Euclidean norms of R and of B, whose squares over- or underflow as those of numbers do.
    row : Tensor, shape ``(*batch, 1)``
        Largest row sum of ``|A|``.
    vanishing : Tensor of bool, shape ``(*batch, 1)``
        Whether all row sums of A are zero, up to rounding.
    """

    R: Tensor
    largest: Tensor
    largest_b: Tensor
    error: Tensor
    norm: Tensor
    norm_b: Tensor
    row: Tensor
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
    R = B.new_empty(B.shape)
    out = batched(R, 2)
    wide = (np.complex128 if B.is_complex() else np.float64), np.float64
    given = *s.arrays, batched(values, 1), batched(X, 2), batched(B, 2)
    limits = batched(floor.to(torch.float64), 2), rounding
    compute = compiled.residuals.of_column if B.shape[-1] == 1 else compiled.residuals.of_columns
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def loop(first: int, last: int) -> None:
        room = tuple(np.empty(B.shape[-1], dtype) for dtype in wide)
        numbers = np.zeros((len(out), 5, B.shape[-1])), np.zeros((len(out), 2, 1))
        compute(*given, *limits, out, room, *numbers, first, last)
        found.append(numbers)

    if out.size:
        run_over_rows(s, len(out), B.shape[-1], loop)
    else:
        loop(0, 0)
    return _gathered(R, found)


def _gathered(R: Tensor, found: list[tuple[np.ndarray, np.ndarray]]) -> Residuals:
    """Put together what was found in parts of the rows."""
    columns, rows = found[0]
    for more, further in found[1:]:
        columns[:, 3:] += more[:, 3:]
        np.maximum(columns[:, :3], more[:, :3], out=columns[:, :3])
        np.maximum(rows, further, out=rows)
    numbers = (torch.from_numpy(x if R.ndim == 3 else x[0]) for x in (columns, rows))
    (largest, largest_b, error, *squares), (row, stands) = (x.unbind(-2) for x in numbers)
    norm, norm_b = (x.sqrt() for x in squares)
    return Residuals(R, largest, largest_b, error, norm, norm_b, row, stands == 0)


def _by_products(
    s: Structure, values: Tensor, X: Tensor, B: Tensor, floor: Tensor, rounding: float
) -> Residuals:
    ones, size = X.new_ones(*X.shape[:-1], 1), values.abs()
    R = B - spmm(s, values, X)
    sums = spmm(s, size, ones.real.contiguous())
    divisor = torch.maximum(spmm(s, size, X.abs()) + B.abs(), sums * floor)
    errors = R.abs() / torch.where(divisor == 0, 1, divisor)
    vanishing = (spmm(s, values, ones).abs() <= rounding * sums).all(-2)
    largest = (x.abs().amax(-2) for x in (R, B, errors))
    norms = (torch.linalg.vector_norm(x, dim=-2, dtype=_WIDE.get(x.dtype)) for x in (R, B))
    numbers = (*largest, *norms, sums.amax(-2), vanishing)
    return Residuals(R, *numbers)
