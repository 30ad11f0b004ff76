"""Which rule serves an op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tsgu_func.derivatives.detection import (
    convolution,
    distances,
    elementwise,
    indexing,
    linalg,
    movement,
    pooling,
    primitives,
    products,
    reductions,
)
from tsgu_func.derivatives.detection.dense import dense, refused
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.table import Found, find, is_elementwise, name_of
from tsgu_func.registration.primitive import primitive_of
from tsgu_func.registration.transforms import decomposition

__all__ = ["choices_of", "computation", "is_independent", "simpler", "with_known_masks"]

FAMILIES = (
    convolution,
    distances,
    elementwise,
    indexing,
    linalg,
    movement,
    pooling,
    products,
    reductions,
)
# Ops whose output tells nothing of the numbers that they are given.
_INDEPENDENT = frozenset(
    [
        *("zeros_like", "empty_like", "ones_like", "full_like", "rand_like", "randn_like"),
        *("randint_like", "new_zeros", "new_empty", "new_full", "new_ones", "new_empty_strided"),
        *("_new_zeros_with_same_feature_meta", "is_same_size", "_has_same_storage_numel"),
        *("sym_size", "sym_stride", "sym_numel", "sym_storage_offset"),
        *("prim::device", "prim::layout", "prim::dtype"),
    ]
)


def is_independent(op: Any) -> bool:
    """Whether the output of an op does not depend on the numbers in its arguments."""
    return name_of(op) in _INDEPENDENT


def simpler(op: Any) -> Callable[..., Any] | None:
    """Return what composes an op of others, if it has no rule itself."""
    if primitive_of(op) is not None or find(op) is not None:
        return None
    return decomposition(op)


def computation(op: Any, operands: Sequence[Operand], unknown: str) -> Found:
    """Return what computes the sets of the outputs of an op."""
    if (primitive := primitive_of(op)) is not None:
        return primitives.computation(primitive)
    found = find(op)
    if found is None:
        return dense if unknown == "dense" else refused(op, "")
    moved = any(x.depends and movement.is_index(x) for x in operands)
    return dense if moved and not is_elementwise(found) else found


def choices_of(op: Any, given: dict[str, Any], out: Any) -> Any:
    """Return which positions an op may compute as its second output, where that is known."""
    if not isinstance(out, tuple) or len(out) != 2 or "self" not in given:
        return None
    return pooling.choices_of(name_of(op), given, out[0])


def with_known_masks(
    op: Any, args: Any, kwargs: Any, is_numberless: Callable[[Tensor], bool]
) -> tuple[Any, Any, Any]:
    """Return an op with positions in the place of masks, so that its shape is known with them."""
    name = name_of(op)
    if name == "masked_select" and not is_numberless(args[1]) and op._schema.overload_name == "":
        shape = torch.broadcast_shapes(*(x.shape for x in args))
        x, mask = (x.expand(shape).reshape(-1) for x in args)
        op, args = torch.ops.aten.index.Tensor, (x, [mask])
    elif name not in ("index", "_unsafe_index") or len(args) < 2:
        return op, args, kwargs
    indices: list[Tensor | None] = []
    for index in args[1]:
        if (
            index is not None
            and index.dtype == torch.bool
            and index.ndim
            and not is_numberless(index)
        ):
            indices += index.nonzero(as_tuple=True)
        else:
            indices.append(index)
    return op, (args[0], indices, *args[2:]), kwargs
