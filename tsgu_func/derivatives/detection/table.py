"""The table of rules, and the helpers that they are written with.

A rule says which inputs the output of an op depends on, given those of its arguments.  It asks by
name for what it uses: arguments of the op, all tensors among them (`operands`), `out` (an operand
with the shape and dtype of the output) or `outs`, the number of `inputs`, the `op`, and all that
is there (`given`).  Tensors come as an
`Operand`, lists of them as a list.  It returns the sets of the output, or a list for several.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets, nothing, union

__all__ = [
    "Found",
    "find",
    "is_elementwise",
    "mixed",
    "name_of",
    "over_groups",
    "positions",
    "rule",
    "spread",
    "unite",
]

Rule = Callable[..., Any]
Found = Callable[[dict[str, Any]], list[Sets]]
_rules: dict[str, Found] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops of PyTorch: for all overloads, and for their in-place variants."""

    def register(function: Rule) -> Rule:
        asks = tuple(inspect.signature(function).parameters)

        def found(given: dict[str, Any]) -> list[Sets]:
            there = {**given, "given": given}
            result = function(**{name: there[name] for name in asks if name in there})
            return [result] if isinstance(result, Sets) else list(result)

        _rules.update(dict.fromkeys(names, found))
        return function

    return register


def name_of(op: Any) -> str:
    """Return the name by which the rule of an op is found: ``add`` for ``aten::add_``."""
    namespace, name = op._schema.name.split("::")
    if namespace != "aten":
        return f"{namespace}::{name}"
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def find(op: Any) -> Found | None:
    """Return the rule of an op of PyTorch; None if it has none."""
    found = _rules.get(name_of(op))
    return _rules["pointwise"] if found is None and torch.Tag.pointwise in op.tags else found


def is_elementwise(found: Found) -> bool:
    """Whether a rule is that of ops which take each element for itself."""
    return found is _rules["pointwise"]


# ------------------------------------------------------------------------ what rules are made of


def unite(parts: Iterable[Sets | None], count: int, inputs: int) -> Sets:
    """Return the union of several sets for each of so many elements."""
    there = [part for part in parts if part is not None]
    return functools.reduce(union, there) if there else nothing(count, inputs)


def positions(shape: Sequence[int]) -> np.ndarray:
    """Return the position of each element in raveled order, in an array of that shape."""
    return np.arange(math.prod(shape)).reshape(tuple(shape))


def spread(sets: Sets, shape: Sequence[int], target: Sequence[int]) -> Sets:
    """Return the sets of a tensor that is broadcast to another shape."""
    if tuple(shape) == tuple(target):
        return sets
    return sets.take(np.broadcast_to(positions(shape), tuple(target)).ravel())


def over_groups(sets: Sets, groups: np.ndarray, count: int) -> Sets:
    """Return the union of each group: `groups` says of each element which one it belongs to."""
    groups = groups.ravel()
    return sets.collect(groups, np.arange(len(groups)), count)


def mixed(x: Operand, sets: Sets, axes: Sequence[int]) -> Sets:
    """Return, for each element, the union of all that differ from it along some axes alone."""
    axes = tuple(axis % max(len(x.shape), 1) for axis in axes) if x.shape else ()
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    groups = np.broadcast_to(positions(kept), x.shape)
    return over_groups(sets, groups, math.prod(kept)).take(groups.ravel())
