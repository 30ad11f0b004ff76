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

__all__ = ["choices_of", "computation", "is_independent", "is_view", "simpler", "with_positions"]

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


def is_view(op: Any) -> bool:
    """Whether an op says that it may return views of its arguments, and nothing else."""
    aliases = [value.alias_info for value in op._schema.returns]
    return bool(aliases) and all(a is not None and not a.is_write for a in aliases)


def simpler(op: Any, args: Any, kwargs: Any) -> Callable[[], Any] | None:
    """Return what composes an op of others, if it has no rule itself."""
    if primitive_of(op) is not None or find(op) is not None:
        return None
    composed = not is_view(op) or op._can_decompose()  # tables also have some for views themselves
    found = (op.decompose if is_view(op) else decomposition(op)) if composed else None
    return None if found is None else lambda: found(*args, **kwargs)


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


def with_positions(
    op: Any, args: Any, kwargs: Any, is_numberless: Callable[[Tensor], bool]
) -> Callable[[], Tensor] | None:
    """Return what indexes with positions, where an op does with masks that are known.

    Then the shape of the result is known, too.  None for other ops.
    """
    name = name_of(op)
    if name == "masked_select" and op._schema.overload_name == "" and not is_numberless(args[1]):
        return lambda: _selected(*args)
    if name not in ("index", "_unsafe_index") or len(args) < 2:
        return None
    masks = [i for i in args[1] if i is not None and i.dtype == torch.bool and i.ndim]
    if not masks or any(map(is_numberless, masks)):
        return None
    return lambda: op(args[0], _positions(args[1]), *args[2:], **kwargs)


def _selected(x: Tensor, mask: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    (place,) = mask.expand(shape).reshape(-1).nonzero(as_tuple=True)
    return x.expand(shape).reshape(-1).index_select(0, place)


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and index.ndim:
            found += index.nonzero(as_tuple=True)
        else:
            found.append(index)
    return found
