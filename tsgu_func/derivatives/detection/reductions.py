"""Rules of ops that take elements along axes together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets, nothing
from tsgu_func.derivatives.detection.table import mixed, over_groups, positions, rule, unite

__all__ = ["along", "axes_of", "reduced"]


def axes_of(dim: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes that are meant: all for None and an empty list, as reductions have it."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return tuple(range(ndim))
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    return tuple(d % ndim for d in dims) if ndim else ()


def reduced(x: Operand, axes: Sequence[int]) -> Sets:
    """Return the union along some axes, which are gone in the result."""
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    groups = np.broadcast_to(positions(kept), x.shape)
    return over_groups(x.sets, groups, math.prod(kept))


def along(sets: Sets, shape: Sequence[int], axis: int, pairs: np.ndarray, size: int) -> Sets:
    """Return the sets after a linear map along one axis, the same for all others.

    Parameters
    ----------
    pairs : ndarray of int, shape (2, pairs)
        Each says that an output depends on an input along the axis.
    size : int
        Number of outputs along the axis.
    """
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    outer = np.arange(before).reshape(-1, 1, 1)
    inner = np.arange(after).reshape(1, 1, -1)
    row, column = (index.reshape(1, -1, 1) for index in pairs)
    target = (outer * size + row) * after + inner
    source = (outer * shape[axis] + column) * after + inner
    return sets.collect(target.ravel(), source.ravel(), before * size * after)


@rule(
    *("sum", "mean", "nansum", "prod", "amax", "amin", "aminmax", "logsumexp", "norm"),
    *("linalg_vector_norm", "any", "all", "argmax", "argmin", "count_nonzero"),
)
def _(self, given, outs):
    axes = axes_of(given.get("dim"), len(self.shape))
    return [reduced(self, axes)] * len(outs)


@rule("max", "min")
def _(self, given, outs, inputs):
    if "other" in given:  # of two tensors, element by element
        raise NotImplementedError("max of two tensors is maximum")
    sets = reduced(self, axes_of(given.get("dim"), len(self.shape)))
    return [sets, *(nothing(out.count, inputs) for out in outs[1:])]


@rule("std", "var")
def _(self, given):
    return reduced(self, axes_of(given.get("dim"), len(self.shape)))


@rule("std_mean", "var_mean")
def _(self, given):
    return [reduced(self, axes_of(given.get("dim"), len(self.shape)))] * 2


@rule("cumsum", "cumprod", "logcumsumexp")
def _(self, dim):
    if not self.shape:
        return self.sets
    axis, size = dim % len(self.shape), self.shape[dim]
    pairs = np.stack(np.tril_indices(size))
    return along(self.sets, self.shape, axis, pairs, size)


@rule("_softmax", "_log_softmax", "_safe_softmax")
def _(self, dim):
    return mixed(self, self.sets, [dim])


@rule("_softmax_backward_data", "_log_softmax_backward_data")
def _(grad_output, output, dim, inputs):
    parts = [mixed(x, x.sets, [dim]) for x in (grad_output, output) if x.depends]
    return unite(parts, output.count, inputs)


@rule("trace")
def _(self):
    diagonal = positions(self.shape).diagonal()
    return self.sets.collect(np.zeros(len(diagonal), np.int64), diagonal, 1)


@rule("_fft_c2c", "_fft_r2c", "_fft_c2r")
def _(self, dim, out):
    sets = mixed(self, self.sets, dim)
    place = positions(self.shape)
    for axis in dim:  # one end, for what is longer or shorter
        place = np.take(place, np.zeros(out.shape[axis], np.int64), axis)
    return sets.take(place.ravel())
