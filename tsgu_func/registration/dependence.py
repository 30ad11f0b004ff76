"""Positions, of which rules of dependence return pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["positions", "spread"]


def positions(x: Tensor) -> Tensor:
    """Return the position of each element in raveled order, in a tensor of that shape."""
    count = math.prod(x.shape)
    return torch.arange(count, dtype=torch.int64, device="cpu").reshape(x.shape)


def spread(x: Tensor, batch: Sequence[int], core: int) -> Tensor:
    """Return positions in x, with all axes but the last ones broadcast to those of a batch."""
    place = positions(x)
    return place.expand(*batch, *place.shape[place.ndim - core :])
