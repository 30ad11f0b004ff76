"""The same numbers, stored in other ways: what a kernel that reads memory itself gets wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Leaves

__all__ = ["PLACES", "Place", "as_it_is", "expanded", "moved"]

Place = Callable[[Tensor], Tensor]


def as_it_is(a: Tensor) -> Tensor:
    """Leave a tensor where it is."""
    return a


def transposed(a: Tensor) -> Tensor:
    """Store the last two axes the other way round; a vector with gaps."""
    return a.mT.contiguous().mT if a.ndim > 1 else torch.stack([a, a + 1], -1)[..., 0]


def offset(a: Tensor) -> Tensor:
    """Begin in the middle of a storage."""
    return torch.cat([a.new_zeros(3), a.flatten()])[3:].view(a.shape)


def lazy(a: Tensor) -> Tensor:
    """Store the conjugate, or the negative, and a bit that says so."""
    if a.is_complex():
        return a.conj().resolve_conj().conj()
    if a.dtype not in (torch.float32, torch.float64):  # of no others there are complex numbers
        return a
    return torch.complex(torch.zeros_like(a), -a).conj().imag


def channels_last(a: Tensor) -> Tensor:
    """Store the second axis as the last one."""
    return a.movedim(1, -1).contiguous().movedim(-1, 1) if a.ndim > 2 else a


PLACES: tuple[Place, ...] = (transposed, offset, lazy, channels_last)


def moved(x: Leaves, place: Place) -> Leaves | None:
    """Store tensors in another way; nothing where that changes none of them."""
    elsewhere = tuple(map(place, x))
    return None if all(a is b for a, b in zip(x, elsewhere, strict=True)) else elsewhere


def expanded(a: Tensor) -> Tensor:
    """Repeat the first entries along the last axis that is longer than one, with stride 0."""
    for axis in reversed(range(a.ndim)):
        if a.shape[axis] > 1:
            return a.narrow(axis, 0, 1).expand(a.shape)
    return a
