"""Scaling of the columns of a stored matrix to norm one."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.products import batched
from tsgu_func.kernels.structure import Structure, unsigned

__all__ = ["scale_columns"]


def scale_columns(s: Structure, values: Tensor, *, transpose: bool) -> tuple[Tensor, Tensor]:
    """Scale values (nnz,) or (b, nnz); also return the factors (n,) or (b, n), 0 for no entry.

    Each column is divided by its largest entry first, so that no square over- or underflows.
    """
    column, cols = (s.row, s.rows) if transpose else (s.col, s.cols)
    shape, real = (*values.shape[:-1], cols), values.dtype.to_real()
    if values.device.type != "cpu":
        return _by_torch(column.long(), values, values.new_zeros(shape, dtype=real))
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    scale = values.new_empty(shape, dtype=real)
    arrays = (batched(x, 1) for x in (values, out, scale))
    compiled.scaling.scale_columns(unsigned(column), *arrays)
    return out, scale


def _by_torch(column: Tensor, values: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor]:
    size = values.abs()
    peak = zeros.scatter_reduce(-1, column.expand_as(size), size, "amax")
    within = torch.where(peak == 0, 1, peak)
    squares = zeros.index_add(-1, column, (size / within.index_select(-1, column)) ** 2)
    scale = torch.where(peak == 0, 0, 1 / within / squares.sqrt())
    return values * scale.index_select(-1, column), scale
