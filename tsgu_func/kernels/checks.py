"""Checks of what a kernel is handed: numbers, not shapes."""

from __future__ import annotations

import cmath

import torch
from torch import Tensor

__all__ = ["all_finite", "check_computable", "check_finite"]

_COMPUTABLE = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def check_computable(values: Tensor) -> None:
    """Check, inside of a kernel, that there is one for the dtype."""
    if values.dtype not in _COMPUTABLE:
        raise NotImplementedError(f"systems are solved in single or double; got {values.dtype}")


def check_finite(name: str, x: Tensor) -> None:
    """Check that no value is infinite or not a number."""
    if not all_finite(x):
        place = tuple(int(i) for i in (~torch.isfinite(x)).nonzero()[0])
        raise ValueError(f"{name} holds a value that is not finite: {x[place]} at {place}")


def all_finite(x: Tensor) -> bool:
    """Say whether no number is NaN or infinite.

    No sum recovers from one of those; where the sum is none of them, one pass tells.
    """
    return cmath.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())
