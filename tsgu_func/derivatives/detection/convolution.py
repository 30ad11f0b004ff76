"""Rules of convolutions; all weights count, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tsgu_func.derivatives.detection.dense import whole
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.pooling import Pairs, each, swapped, through, windows
from tsgu_func.derivatives.detection.reductions import reduced
from tsgu_func.derivatives.detection.sets import Sets
from tsgu_func.derivatives.detection.table import over_groups, positions, rule, spread, unite

__all__: list[str] = []


def _pairs(given: dict[str, Any], image: Operand, result: Operand) -> list[Pairs]:
    """Return which positions of the result and of the image meet, along each axis."""
    kernel = given["weight"].shape[2:]
    how = [kernel, *(each(given[name], len(kernel)) for name in ("stride", "padding", "dilation"))]
    if given["transposed"]:
        return swapped([*map(windows, result.shape[2:], image.shape[2:], *how)])
    return [*map(windows, image.shape[2:], result.shape[2:], *how)]


def _by_group(x: Operand, groups: int) -> Operand:
    """Take all channels of each group together."""
    own = x.shape[1] // groups
    shape = (x.shape[0], groups, *x.shape[2:])
    place = positions(shape).repeat(own, axis=1)
    return Operand(shape, x.dtype, sets=over_groups(x.sets, place, x.count // max(own, 1)))


def _moved(x: Operand, to: Operand, pairs: Sequence[Pairs], groups: int) -> Sets:
    """Return what reaches each element of `to`: all channels of its group, in its window."""
    sets = through(_by_group(x, groups), pairs, to.shape[2:])
    place = positions((to.shape[0], groups, *to.shape[2:]))
    return sets.take(place.repeat(to.shape[1] // groups, axis=1).ravel())


def _of_weight(weight: Operand, channels: int, groups: int, transposed: bool) -> Sets:
    """Return for each output channel all weights that it is computed with."""
    if not transposed:
        return reduced(weight, range(1, len(weight.shape)))
    group = np.arange(weight.shape[0]) // (weight.shape[0] // groups)
    channel = group[:, None] * weight.shape[1] + np.arange(weight.shape[1])
    place = np.broadcast_to(
        channel.reshape(*channel.shape, *[1] * (len(weight.shape) - 2)), weight.shape
    )
    return over_groups(weight.sets, place, channels)


@rule("convolution", "_convolution", "convolution_overrideable")
def _(given, weight, bias, transposed, groups, out, inputs):
    image, channels = given["input"], out.shape[1]
    flat = (channels, *(1 for _ in out.shape[2:]))
    parts = []
    if image.depends:
        parts.append(_moved(image, out, _pairs(given, image, out), groups))
    if weight.depends:
        own = _of_weight(weight, channels, groups, transposed)
        parts.append(spread(own, flat, out.shape))
    if bias is not None and bias.depends:
        parts.append(spread(bias.sets, flat, out.shape))
    return unite(parts, out.count, inputs)


@rule("convolution_backward")
def _(given, output_mask, outs, inputs):
    asked = [k for k, there in enumerate(output_mask) if there]
    rules = (_of_image, _of_kernel, _of_bias)
    return [
        unite(rules[k](given, out), out.count, inputs) for k, out in zip(asked, outs, strict=True)
    ]


def _of_image(given: dict[str, Any], out: Operand) -> list[Sets]:
    ct, weight = given["grad_output"], given["weight"]
    parts = [whole(weight, out)] if weight.depends else []
    if ct.depends:
        pairs = swapped(_pairs(given, given["input"], ct))
        parts.append(_moved(ct, out, pairs, given["groups"]))
    return parts


def _of_kernel(given: dict[str, Any], out: Operand) -> list[Sets]:
    return [whole(x, out) for x in (given["grad_output"], given["input"]) if x.depends]


def _of_bias(given: dict[str, Any], out: Operand) -> list[Sets]:
    ct = given["grad_output"]
    return [reduced(ct, [k for k in range(len(ct.shape)) if k != 1])] if ct.depends else []
