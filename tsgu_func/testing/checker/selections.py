"""Which arguments are mapped over, and batches of them."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Directions, Function, Leaves

__all__ = ["combinations", "looped", "stacked"]

Which = tuple[bool, ...]


def combinations(x: Leaves) -> list[tuple[Which, int]]:
    """Return each argument alone, each pair and all of them, with the axis to map along."""
    some = [w for w in product((False, True), repeat=len(x)) if sum(w) in (1, 2, len(x))]
    return [(which, dim) for which in some for dim in (0, -1)]


def stacked(x: Leaves, w: Directions, which: Which, dim: int = 0) -> Leaves:
    """Make a batch out of some of the arguments."""
    return tuple(
        torch.stack(members, dim) if k else a
        for a, k, members in zip(x, which, zip(*w.members, strict=True), strict=True)
    )


def looped(f: Function, x: Leaves, w: Directions, which: Which) -> Leaves:
    """Return what ``vmap`` of f must, by a loop over the members."""
    each: list[tuple[Tensor, ...]] = [
        f(*(b if k else a for a, b, k in zip(x, m, which, strict=True))) for m in w.members
    ]
    return tuple(torch.stack(r) for r in zip(*each, strict=True))
