"""What ``A[...]`` asks for, read without looking at A: numbers that can be compared, and kept.

An index that stands in for one row or column becomes an int, a slice a `Span`, and any other the
bytes of the positions that it picks.  All of these are static: a pattern can be found for them.
"""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.registration.transforms import (
    constant_when_traced,
    is_batched,
    is_in_graph,
    outside_transforms,
    unwrapped,
)

__all__ = ["Picked", "Span", "Subscripts", "along", "positions", "read"]


class Span(NamedTuple):
    """Positions at equal distances."""

    first: int
    step: int
    length: int


# Which positions of an axis: one, some at equal distances, or any, as the bytes of int64.
Picked = int | Span | bytes


class Subscripts(NamedTuple):
    """An index by the axes that its parts are for."""

    batch: tuple[Any, ...]
    row: Any
    col: Any


def read(index: Any, shape: tuple[int, ...]) -> Subscripts:
    """Tell which parts of an index are for the batch, for the rows and for the columns.

    Parameters
    ----------
    index : what stands in the brackets of ``A[...]``
    shape : tuple of int
        ``(*batch, n, m)``.
    """
    given = index if isinstance(index, tuple) else (index,)
    if torch.compiler.is_compiling() and any(isinstance(part, np.ndarray) for part in given):
        raise _unknown()
    parts = _filled(given, shape)
    batch, axes = 0, len(shape) - 2
    taken = 0
    while taken < axes or (parts[batch] is None and taken == axes):
        taken += _axes(parts[batch])
        batch += 1
    matrix = parts[batch:]
    if any(part is None for part in matrix):
        raise IndexError(
            "None adds an axis to the batch, in front of the rows: A.unsqueeze(0), or A[None]; a "
            "sparse matrix has no axis between rows and columns or after them"
        )
    if taken > axes or len(matrix) != 2:
        raise IndexError(
            f"a mask selects rows, columns or members of a batch, each by a vector; got one over "
            f"several axes of a matrix of shape {shape}: A * mask keeps the entries where it is "
            f"one, A.to_dense()[mask] is the vector of what it marks"
        )
    if sum(_is_array(part) for part in matrix) + any(map(_is_array, parts[:batch])) > 1:
        raise ValueError(
            "NumPy pairs two index arrays, to single entries; write A[rows][:, cols] for all rows "
            "and all columns"
        )
    return Subscripts(parts[:batch], *matrix)


def _filled(given: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Put whole axes where an ellipsis stands, or at the end."""
    dots = [k for k, part in enumerate(given) if isinstance(part, EllipsisType)]
    if len(dots) > 1:
        raise IndexError("an index has one ellipsis (...) at most")
    missing = len(shape) - sum(_axes(part) for part in given)
    if missing < 0:
        raise IndexError(
            f"a matrix of shape {shape} has {len(shape)} axes to index; got "
            f"{len(shape) - missing} (a list picks several rows, a tuple is an index of each axis)"
        )
    k = dots[0] if dots else len(given)
    return (*given[:k], *(slice(None) for _ in range(missing)), *given[k + 1 :])


def _axes(part: Any) -> int:
    """Return how many axes a part of an index is for."""
    if part is None or isinstance(part, EllipsisType):
        return 0
    mask = (isinstance(part, Tensor) and part.dtype == torch.bool) or (
        isinstance(part, np.ndarray) and part.dtype == np.bool_
    )
    return max(part.ndim, 1) if mask else 1


def _is_array(part: Any) -> bool:
    if isinstance(part, (Tensor, np.ndarray)):
        return part.ndim > 0
    return isinstance(part, (list, tuple, range))


# ------------------------------------------------------------------------------ along one axis


def along(part: Any, size: int, axis: str) -> Picked:
    """Return which positions of an axis a part of an index picks.

    Parameters
    ----------
    part : slice, int, sequence of int or bool, Tensor or array
    size : int
        Of the axis.
    axis : {"row", "column"}
        What it is called.

    Raises
    ------
    IndexError
        If a position is out of range, or a mask has another length.
    TypeError
        If it is none of these.
    RuntimeError
        If its numbers are not known, inside of a compiled function.
    """
    size = operator.index(size)
    if isinstance(part, slice):
        ends = (part.start, part.stop, part.step)
        return Span(*_spanned(size, *(x if x is None else operator.index(x) for x in ends)))
    if isinstance(part, (Tensor, np.ndarray)):
        numbers = _numbers(part, axis)
        return _checked(numbers, size, axis) if numbers.ndim else _single(numbers[()], size, axis)
    if isinstance(part, (list, tuple, range)):
        return _listed(size, axis, *(_item(x, axis) for x in part))
    return _single(part, size, axis)


def positions(picked: Span | bytes, device: str) -> Tensor:
    """Return the positions as an index tensor."""
    if isinstance(picked, bytes):
        return torch.from_numpy(np.frombuffer(picked, np.int64).copy()).to(device)
    first, step, length = picked
    return first + step * torch.arange(length, device=device)


@constant_when_traced
def _spanned(
    size: int, start: int | None, stop: int | None, step: int | None
) -> tuple[int, int, int]:
    first, end, step = slice(start, stop, step).indices(size)
    return first, step, len(range(first, end, step))


@constant_when_traced
def _listed(size: int, axis: str, *items: int | bool) -> bytes:
    return _checked(np.array(items, None if items else np.int64), size, axis)


def _item(x: Any, axis: str) -> int | bool:
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    try:
        return operator.index(x)
    except TypeError:
        raise _no_index(x, axis) from None


def _single(part: Any, size: int, axis: str) -> int:
    if isinstance(part, (bool, np.bool_)):
        raise _no_index(part, axis)
    k = _item(part, axis)
    if not -size <= k < size:
        raise IndexError(_out_of_range(f"{axis} {k}", size, axis))
    return k % size


def _numbers(part: Any, axis: str) -> np.ndarray:
    """Read an index tensor or array, whatever transforms have wrapped around it."""
    if torch.compiler.is_compiling() or (isinstance(part, Tensor) and is_in_graph(part)):
        raise _unknown()
    if isinstance(part, np.ndarray):
        return part
    if is_batched(part):
        raise ValueError(
            f"vmap maps over an index of {axis}s, but the members of its batch would store "
            f"different entries: map over the values alone, or index A.to_dense()"
        )
    with outside_transforms():
        return unwrapped(part.detach()).cpu().numpy()


def _checked(numbers: np.ndarray, size: int, axis: str) -> bytes:
    """Return positions, counted from the front."""
    if numbers.ndim != 1:
        raise IndexError(f"an index of {axis}s is a vector; got shape {numbers.shape}")
    if numbers.dtype == np.bool_:
        if len(numbers) != size:
            raise IndexError(
                f"a mask of {axis}s has one entry for each of them, {size}; got {len(numbers)}"
            )
        return numbers.nonzero()[0].astype(np.int64).tobytes()
    if numbers.dtype.kind not in "iu":
        raise _no_index(numbers, axis)
    numbers = numbers.astype(np.int64)
    wrong = (numbers < -size) | (numbers >= size)
    if wrong.any():
        k = int(wrong.argmax())
        raise IndexError(_out_of_range(f"{axis}s[{k}] = {numbers[k]}", size, axis))
    return np.where(numbers < 0, numbers + size, numbers).tobytes()


def _out_of_range(given: str, size: int, axis: str) -> str:
    there = f"{axis}s run from {-size} to {size - 1}" if size else "that axis is empty"
    return f"{given} is out of range: {there}"


def _unknown() -> RuntimeError:
    return RuntimeError(
        "the numbers in an index are not known inside of a compiled function, and decide how many "
        "entries the result stores: index with a slice or a list of ints, as index.tolist() makes "
        "outside, or do the selection outside"
    )


def _no_index(part: Any, axis: str) -> TypeError:
    given = getattr(part, "dtype", None) or type(part).__name__
    return TypeError(
        f"{axis}s are selected by a slice, an integer, several in a list or a tensor, or a mask of "
        f"bool; got {given}"
    )
