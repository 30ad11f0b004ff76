"""Outputs are new: what a transform may assume of an op that is functional."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tsgu_func.registration import transforms

__all__ = ["check_fresh", "memory", "storage"]

Place = tuple[int, int]
At = Callable[[Tensor], Place]


def memory(x: Tensor) -> Place:
    """Return where in memory the storage of a tensor begins and ends; (0, 0) for none."""
    if x.layout is not torch.strided:
        return 0, 0
    held = x.untyped_storage()
    start = held.data_ptr()
    return start, start + held.nbytes() if start else 0


def storage(x: Tensor) -> Place:
    """Return the storage of a tensor without data."""
    number = transforms.storage_number(x) if x.layout is torch.strided else 0
    return number, number + 1 if number else 0


def check_fresh(
    who: str, names: Sequence[str], given: Sequence[Tensor], outs: Sequence[Tensor], place: At
) -> None:
    """Refuse outputs that share memory with an argument or with each other.

    With NumPy in between, two storages may be one piece of memory, hence the interval.
    """
    taken = [*map(place, given)]
    for i, out in enumerate(outs):
        start, end = place(out)
        for k, (first, last) in enumerate(taken):
            if start < last and first < end:
                n = len(given)
                whose = f"its argument {names[k]!r}" if k < n else f"output {k - n}"
                raise RuntimeError(
                    f"{who} returned as output {i} a tensor that shares memory with {whose}; "
                    f"return a clone of it"
                )
        taken.append((start, end))
