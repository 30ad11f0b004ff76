"""Which arguments are mapped over, and batches of them."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Directions, Function, Leaves

__all__ = ["combinations", "looped", "of_five", "stacked"]

Which = tuple[bool, ...]


def combinations(x: Leaves) -> list[tuple[Which, int]]:
    """Return each argument alone, each pair and all of them, with the axis to map along.

    Along a middle axis go all of those that have one.
    """
    some = [w for w in product((False, True), repeat=len(x)) if sum(w) in (1, 2, len(x))]
    inside = tuple(a.ndim > 1 for a in x)
    return [(w, dim) for w in some for dim in (0, -1)] + [(inside, 1)] * any(inside)


def stacked(x: Leaves, w: Directions, which: Which, dim: int = 0) -> Leaves:
    """Make a batch out of some of the arguments."""
    return tuple(
        torch.stack(members, dim) if k else a
        for a, k, members in zip(x, which, zip(*w.members, strict=True), strict=True)
    )


def of_five(w: Directions) -> Directions:
    """Put two more members, each between two others, to those of a batch."""
    a, b, c = w.members
    return w._replace(members=(a, b, c, _between(a, b), _between(b, c)))


def _between(x: Leaves, y: Leaves) -> Leaves:
    return tuple((a + b) / 2 for a, b in zip(x, y, strict=True))


def looped(f: Function, x: Leaves, w: Directions, which: Which) -> Leaves:
    """Return what ``vmap`` of f must, by a loop over the members."""
    each: list[tuple[Tensor, ...]] = [
        f(*(b if k else a for a, b, k in zip(x, m, which, strict=True))) for m in w.members
    ]
    return tuple(torch.stack(r) for r in zip(*each, strict=True))
