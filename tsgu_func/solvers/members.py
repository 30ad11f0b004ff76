"""Errors out of a batch name the member."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from tsgu_func.solvers.protocol import SolveError

__all__ = ["first_row", "named"]

T = TypeVar("T")


def named(index: int, function: Callable[..., T], *given: Any) -> T:
    """Return what a function does for one member of a batch; a `SolveError` says which it was.

    Members are counted in the order of a flattened batch.
    """
    try:
        return function(*given)
    except SolveError as error:
        message, *more = error.args
        error.args = (f"member {index} of the batch: {message}", *more)
        raise


def first_row(mask: Tensor) -> str:
    """Say which row is the first that is set in a mask (n,), or (b, n) of a batch."""
    *member, row = (int(i) for i in mask.nonzero()[0])
    return f"row {row} of member {member[0]}" if member else f"row {row}"
