"""Rules of ops on windows that are the same for each plane: pooling, resampling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.reductions import along
from tsgu_func.derivatives.detection.sets import Sets
from tsgu_func.derivatives.detection.table import rule

__all__ = ["Pairs", "choices_of", "each", "swapped", "through", "windows"]

Pairs = np.ndarray  # (2, pairs): positions of an output and of an input that meet, along an axis


def windows(size: int, result: int, kernel: int, stride: int, padding: int, dilation: int) -> Pairs:
    """Return which positions meet where windows of one size move along an axis."""
    out, tap = np.indices((result, kernel)).reshape(2, -1)
    at = out * stride - padding + tap * dilation
    there = (at >= 0) & (at < size)
    return np.stack([out[there], at[there]])


def parts(size: int, result: int) -> Pairs:
    """Return which positions meet where an axis is cut into so many parts, which may overlap."""
    start = [k * size // result for k in range(result)]
    stop = [-(-(k + 1) * size // result) for k in range(result)]
    lengths = np.subtract(stop, start)
    out = np.repeat(np.arange(result), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.stack([out, np.repeat(start, lengths) + np.arange(len(out)) - first])


def through(x: Operand, pairs: Sequence[Pairs], sizes: Sequence[int]) -> Sets:
    """Take what meets together, along each of the last axes."""
    sets, shape = x.sets, list(x.shape)
    for k, (own, size) in enumerate(zip(pairs, sizes, strict=True)):
        axis = len(shape) - len(pairs) + k
        sets = along(sets, shape, axis, own, size)
        shape[axis] = size
    return sets


def _pooled(image: Sequence[int], result: Sequence[int], given: dict[str, Any]) -> list[Pairs]:
    """Return the windows of a pooling along each of its axes."""
    count = len(image)
    kernel = each(given["kernel_size"], count)
    stride = each(given.get("stride") or kernel, count)
    padding = each(given.get("padding", 0), count)
    dilation = each(given.get("dilation", 1), count)
    return [*map(windows, image, result, kernel, stride, padding, dilation)]


def each(value: Any, count: int) -> list[int]:
    """Return a number for each axis; one stands for all."""
    values = [*value] if isinstance(value, Iterable) else [value]
    return values * count if len(values) == 1 else values


def _axes(op: Any) -> int:
    """Return how many axes an op pools or resamples: ``avg_pool2d`` has two."""
    return next(int(c) for c in op._schema.name if c.isdigit())


def swapped(pairs: Sequence[Pairs]) -> list[Pairs]:
    """Let outputs and inputs change places, as in a transpose."""
    return [own[::-1] for own in pairs]


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d")
def _(self, out, op, given):
    n = _axes(op)
    return through(self, _pooled(self.shape[-n:], out.shape[-n:], given), out.shape[-n:])


@rule(
    *("avg_pool2d_backward", "avg_pool3d_backward"),
    *("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward"),
)
def _(grad_output, out, op, given):
    n = _axes(op)
    pairs = _pooled(out.shape[-n:], grad_output.shape[-n:], given)
    return through(grad_output, swapped(pairs), out.shape[-n:])


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def _(self, out, op):
    n = _axes(op)
    return through(self, [*map(parts, self.shape[-n:], out.shape[-n:])], out.shape[-n:])


@rule(
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
)
def _(grad_output, out, op):
    n = _axes(op)
    pairs = map(parts, out.shape[-n:], grad_output.shape[-n:])
    return through(grad_output, swapped([*pairs]), out.shape[-n:])


# ------------------------------------------------------------------------ computed positions


def choices_of(name: str, given: dict[str, Any], out: Operand) -> Choices | None:
    """Return which positions in a plane a maximum may be found at; None for other ops."""
    n = next((int(c) for c in name if c.isdigit()), 0)
    image, result = given["self"].shape, out.shape
    if name in ("max_pool2d_with_indices", "max_pool3d_with_indices"):
        pairs = _pooled(image[-n:], result[-n:], given)
    elif name in ("adaptive_max_pool2d", "adaptive_max_pool3d"):
        pairs = [*map(parts, image[-n:], result[-n:])]
    else:
        return None
    return Choices(tuple(image[-n:]), tuple(result[-n:]), pairs)


class Choices:
    """Positions in a plane, of one of each window, as pooling computes them."""

    def __init__(self, image: Sequence[int], result: Sequence[int], pairs: Sequence[Pairs]) -> None:
        self.image, self.result, self.pairs = image, result, pairs

    def gathered(self, x: Operand, dim: int, index: Operand) -> Sets | None:
        """Return what may be gathered at these positions; None if they are not such."""
        last = len(x.shape) - 1
        if dim % len(x.shape) != last or x.shape[:-1] != index.shape[:-1]:
            return None
        if x.shape[-1] != math.prod(self.image) or index.shape[-1] != math.prod(self.result):
            return None
        plane = Operand((*x.shape[:-1], *self.image), x.dtype, sets=x.sets)
        return through(plane, self.pairs, self.result)
