"""Conservative rules: everything in a block depends on everything in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets
from tsgu_func.derivatives.detection.table import over_groups, positions, unite

__all__ = ["by_member", "dense", "refused", "whole", "within"]


def dense(given: dict[str, Any]) -> list[Sets]:
    """Let each output depend on all that the arguments depend on."""
    operands, inputs = given["operands"], given["inputs"]
    found = unite((within(x, 0) for x in operands if x.depends), 1, inputs)
    return [found.take(np.zeros(out.count, np.int64)) for out in given["outs"]]


def refused(op: Any, where: str) -> Callable[[dict[str, Any]], list[Sets]]:
    """Return what tells that there is no rule for an op, when it is asked for."""

    def refuse(given: dict[str, Any]) -> list[Sets]:
        raise NotImplementedError(
            f"no rule says which inputs the output of {op} depends on{where}: pass "
            f'unknown="dense" to have each of its outputs depend on all that its arguments do '
            f"(never too small, but perhaps far too large), or compose f of other ops"
        )

    return refuse


def whole(x: Operand, out: Operand) -> Sets:
    """Let each element of the output depend on all elements of an operand."""
    return within(x, 0).take(np.zeros(out.count, np.int64))


def within(x: Operand, batch: int) -> Sets:
    """Return the union over all axes but the first ones: one set for each member of a batch."""
    members = math.prod(x.shape[:batch])
    groups = np.repeat(np.arange(members), x.count // members) if members else np.empty(0, np.int64)
    return over_groups(x.sets, groups, members)


def by_member(operands: Sequence[Operand], out: Operand, batch: Sequence[int], inputs: int) -> Sets:
    """Return sets for an op that takes each member of a batch for itself, and all of it together.

    Parameters
    ----------
    batch : sequence of int
        The leading axes of the output that are a batch.  Those of an operand broadcast to it; they
        are all but the last two, where they are not the same.
    """
    parts = []
    for x in operands:
        if x.depends:
            same = tuple(x.shape[: len(batch)]) == tuple(batch)
            axes = len(batch) if same else max(len(x.shape) - 2, 0)
            member = np.broadcast_to(positions(x.shape[:axes]), tuple(batch)).ravel()
            parts.append(within(x, axes).take(member))
    members = math.prod(batch)
    sets = unite(parts, members, inputs)
    return sets.take(np.repeat(np.arange(members), out.count // max(members, 1)))
