"""One rule for all ops that only move elements: they are run on positions instead of values.

Each element of each tensor that depends on something has a number; all others are zero, and so is
what an op fills in.  Its output says where the numbers go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets, joined
from tsgu_func.derivatives.detection.table import rule
from tsgu_func.registration.transforms import pytree

__all__ = ["is_index", "move", "numbered"]


def is_index(x: Operand) -> bool:
    """Whether an operand says where something is, and holds no values itself."""
    return not (x.dtype.is_floating_point or x.dtype.is_complex)


def numbered(shape: Sequence[int], first: int = 1) -> Tensor:
    """Return consecutive numbers; as floats, which every op takes: these are exact to 2⁵³."""
    count = int(np.prod(shape, dtype=np.int64))
    return torch.arange(first, first + count, dtype=torch.float64, device="cpu").reshape(
        tuple(shape)
    )


def move(given: dict[str, Any], index: dict[int, Tensor] | None = None) -> list[Sets]:
    """Return the sets of the outputs of an op that moves elements.

    Parameters
    ----------
    given : dict
        What the op was called with.
    index : dict of int to Tensor, optional
        What to take for index operands whose numbers are not known, by their `id`.
    """
    moved = [x for x in given["operands"] if not is_index(x)]
    numbers, first = dict(index or {}), 1
    for x in moved:
        numbers[id(x)] = numbered(x.shape, first) if x.depends else numbered(x.shape) * 0
        first += x.count

    def plain(x: Any) -> Any:
        return numbers.get(id(x), x.value) if isinstance(x, Operand) else x

    op = given["op"]
    arguments = {a.name: given[a.name] for a in op._schema.arguments if a.name in given}
    for fill in {"value", "fill_value"}.intersection(arguments):
        if not isinstance(arguments[fill], Operand):
            arguments[fill] = 0
    out = functional(op)(**pytree.tree_map(plain, arguments))
    sets = joined([x.sets for x in moved])
    return [sets.take(places(x)) for x in pytree.tree_leaves(out)]


def places(x: Tensor) -> np.ndarray:
    """Return which element each number stands for, -1 for none."""
    return x.numpy().ravel().astype(np.int64) - 1


def functional(op: Any) -> Any:
    """Return what an op that writes to an argument would return if it did not."""
    name, overload = op._schema.name.split("::")[1], op._schema.overload_name
    if name.endswith("_") or overload.endswith("out"):
        packet = getattr(torch.ops.aten, name.removesuffix("_"))
        return getattr(packet, overload.removesuffix("out").removesuffix("_") or "default")
    return op


@rule(
    *("cat", "stack", "roll", "flip", "repeat", "rot90", "block_diag", "tril", "triu"),
    *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d", "im2col"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
    *("diag_embed", "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter"),
    *("slice_backward", "select_backward", "diagonal_backward"),
    *("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "_unsafe_view"),
    *("view_copy", "expand_copy", "permute_copy", "unfold_copy", "split_with_sizes_copy"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("masked_select", "_reshape_copy", "narrow_copy", "_reshape_alias_copy"),
)
def _(given):
    return move(given)


# --------------------------------------------------------------------------- their transposes
#
# An op that sums where another one repeats: the other is run on the positions of the output.


def gathered(x: Operand, out: Operand, numbers: Tensor) -> Sets:
    """Return the union of the elements of x that go to each element of the output."""
    place = places(numbers)
    there = place >= 0
    return x.sets.collect(place[there], np.flatnonzero(there), out.count)


@rule("col2im")
def _(self, kernel_size, dilation, padding, stride, out):
    there = torch.ops.aten.im2col(numbered(out.shape), kernel_size, dilation, padding, stride)
    return gathered(self, out, there)


@rule("unfold_backward")
def _(grad_in, dim, size, step, out):
    return gathered(grad_in, out, numbered(out.shape).unfold(dim, size, step))


def _transposed(name: str) -> None:
    forward = getattr(torch.ops.aten, name)

    @rule(f"{name}_backward")
    def _(grad_output, padding, out):
        return gathered(grad_output, out, forward(numbered(out.shape), padding))


for _name in ("reflection_pad", "replication_pad"):
    for _axes in (1, 2, 3):
        _transposed(f"{_name}{_axes}d")


@rule(
    *("upsample_nearest1d_backward", "upsample_nearest2d_backward", "upsample_nearest3d_backward"),
    "_upsample_nearest_exact1d_backward",
    "_upsample_nearest_exact2d_backward",
    "_upsample_nearest_exact3d_backward",
)
def _(grad_output, output_size, given, out, op):
    forward = getattr(torch.ops.aten, op._schema.name.split("::")[1].removesuffix("_backward"))
    scales = [given[name] for name in given if name.startswith("scales")]
    return gathered(grad_output, out, forward(numbered(out.shape), output_size, *scales))
