"""Rules of derivatives that PyTorch has ops of its own for: of distances, losses, samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsgu_func.derivatives.detection.dense import by_member
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.reductions import axes_of, reduced
from tsgu_func.derivatives.detection.sets import Sets
from tsgu_func.derivatives.detection.table import mixed, positions, rule, spread, unite

__all__: list[str] = []


def _cotangent(given: dict[str, Any]) -> Operand:
    """Return the cotangent of distances, which is named ``grad`` before PyTorch 2.14."""
    return given["grad_output" if "grad_output" in given else "grad"]


@rule("_cdist_backward")
def _(x1, x2, cdist, given, out, inputs):
    grad = _cotangent(given)
    parts = [by_member([x1, x2, cdist], out, out.shape[:-2], inputs)]
    if grad.depends:  # of all distances from a point
        last = len(grad.shape) - 1
        parts.append(spread(reduced(grad, [last]), (*grad.shape[:-1], 1), out.shape))
    return unite(parts, out.count, inputs)


@rule("_pdist_backward")
def _(given, out, inputs):
    grad = _cotangent(given)
    parts = [by_member([given["self"], given["pdist"]], out, (), inputs)]
    if grad.depends:
        points = np.concatenate(np.triu_indices(out.shape[0], 1))
        pair = np.tile(np.arange(grad.count), 2)
        each = grad.sets.collect(points, pair, out.shape[0])
        parts.append(spread(each, (out.shape[0], 1), out.shape))
    return unite(parts, out.count, inputs)


@rule("multi_margin_loss_backward", "multilabel_margin_loss_backward")
def _(grad_output, self, out, inputs):
    parts = [mixed(self, self.sets, [-1])]
    if grad_output.depends:
        shape = (*grad_output.shape, 1) if grad_output.shape else ()
        parts.append(spread(grad_output.sets, shape, out.shape))
    return unite(parts, out.count, inputs)


@rule("grid_sampler_2d_backward", "grid_sampler_3d_backward")
def _(grad_output, grid, output_mask, given, outs, inputs):
    # A point of the grid may be anywhere in the image, and moves all channels.
    image, n = given["input"], len(grad_output.shape) - 2
    own = [by_member([image, grid], out, out.shape[:1], inputs) for out in outs]
    places = range(2, n + 2)
    kinds = [kind for kind, asked in zip(("image", "grid"), output_mask, strict=True) if asked]
    parts = []
    for kind, out in zip(kinds, outs, strict=True):
        if kind == "image":
            shape = (*grad_output.shape[:2], *(1 for _ in places))
            parts.append(spread(reduced(grad_output, places), shape, out.shape))
        else:
            shape = (grad_output.shape[0], *grad_output.shape[2:], 1)
            parts.append(spread(reduced(grad_output, [1]), shape, out.shape))
    return [unite(pair, 0, inputs) for pair in zip(own, parts, strict=True)]


@rule("_segment_reduce_backward")
def _(grad, output, data, out, given, inputs):
    (axis,) = axes_of(given["axis"], len(out.shape))
    parts = []
    for x in (grad, output, data):
        if x.depends:
            place = np.take(positions(x.shape), np.zeros(out.shape[axis], np.int64), axis)
            parts.append(mixed(x, x.sets, [axis]).take(place.ravel()))
    return unite(parts, out.count, inputs)


# ------------------------------------------------------------------------ gated linear units


def _gated(x: Operand, dim: int) -> Sets:
    """Return for each element of a half the union with its partner in the other half."""
    first, second = np.split(positions(x.shape), 2, dim)
    return unite([x.sets.take(first.ravel()), x.sets.take(second.ravel())], 0, x.sets.inputs)


def _whole(sets: Sets, shape: Any, dim: int) -> Sets:
    """Return the sets of a half for both."""
    half = list(shape)
    half[dim] //= 2
    return sets.take(np.concatenate([positions(half)] * 2, dim).ravel())


@rule("glu")
def _(self, dim):
    return _gated(self, dim)


@rule("glu_jvp")
def _(glu, x, dx, dim, out, inputs):
    parts = [glu.sets, _gated(x, dim), _gated(dx, dim)]
    return unite(parts, out.count, inputs)


@rule("glu_backward")
def _(grad_output, self, dim, out, inputs):
    half = unite([grad_output.sets, _gated(self, dim)], 0, inputs)
    return _whole(half, out.shape, dim)


@rule("glu_backward_jvp")
def _(grad_x, grad_glu, x, dgrad_glu, dx, dim, out, inputs):
    halves = [grad_glu.sets, dgrad_glu.sets, *(_gated(part, dim) for part in (grad_x, x, dx))]
    return _whole(unite(halves, 0, inputs), out.shape, dim)
