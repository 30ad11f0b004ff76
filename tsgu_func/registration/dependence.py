"""Which elements of an output depend on which elements of an argument.

A rule returns pairs of positions.  What an op says of its batches says something, too: members do
not interact.  Where nothing is said, everything depends on everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Blocks", "blocks_of", "positions", "without_numbers"]


def positions(shape: Sequence[int]) -> Tensor:
    """Return the position of each element in raveled order, in a tensor of that shape."""
    count = math.prod(shape)
    return torch.arange(count, dtype=torch.int64, device="cpu").reshape(tuple(shape))
