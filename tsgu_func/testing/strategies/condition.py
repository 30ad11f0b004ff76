"""Matrices with a condition number in a given range.

A well-conditioned matrix is made worse by one number x, continuously, until its condition number,
which is computed from all singular values, is where it is wanted:

- *units*: rows, columns or both are multiplied with numbers from ``exp(-x)`` to 1.  Rows that are
  scaled back show nothing of it.
- *pivot*: one entry of the diagonal is moved towards the number that makes the matrix singular,
  ``a - 1 / (A⁻¹)ᵢᵢ``, up to a share ``exp(-x)``.  No scaling helps.
- *dependent rows*, or columns: one is replaced by another one, but for a share ``exp(-x)``.
- *shift*: ``exp(-x)`` of the largest eigenvalue is added to the diagonal of a Laplacian.

What hides in cancellation is lost in rounding.  Where the condition number is out of reach for this
reason, units do the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import assume
from torch import Tensor

from tsgu_func.testing.strategies.coordinates import Entries
from tsgu_func.testing.strategies.kinds import Kind, Making, depending

__all__ = ["conditioned"]

# The condition number is this close to the one that was drawn, and to the range.
_NEAR, _WITHIN = math.log(1.25), 1e-3
_DOUBLINGS, _HALVINGS = 8, 60
# What hides in cancellation is to be this much larger than a rounding.
_ROUNDINGS = 1e3

Way = Callable[[Entries, Making, float], Entries]


def conditioned(
    e: Entries, kind: Kind, way: str, making: Making, bounds: tuple[float, float], share: float
) -> Entries:
    """Make the condition number of each member one in a range, at a share of its logarithm."""
    batch = e.values.shape[:-1]
    empty = not min(e.shape) or not math.prod(batch)
    if empty or (min(e.shape) < kind.smallest and way != "shift"):
        return e
    members = [
        _member(e._replace(values=values), way, making, bounds, share)
        for values in e.values.reshape(math.prod(batch), e.values.shape[-1])
    ]
    values = torch.stack([member.values for member in members])
    return members[0]._replace(values=values.reshape(*batch, values.shape[-1]))


def _member(
    e: Entries, way: str, making: Making, bounds: tuple[float, float], share: float
) -> Entries:
    least, most = bounds
    if way == "shift" and not bool((e.values * (e.row != e.col)).any()):
        assume(least == 1)
        return _WAYS[way](e, making, 0.0)  # a graph without an edge
    wanted = math.log(least) + share * math.log(most / least)
    if way in _HIDDEN:
        rounding = math.log(1 / (_ROUNDINGS * torch.finfo(e.values.dtype).eps))
        reached = _reached(e, way, making, min(wanted, rounding), bounds)
        if reached is not None:
            return reached
        e, way = _WAYS[way](e, making, 0.0), _HIDDEN[way]
    reached = _reached(e, way, making, wanted, bounds)
    if reached is None:
        raise RuntimeError(f"no condition number from {least} to {most} was found for {e}")
    return reached


def _reached(
    e: Entries, way: str, making: Making, wanted: float, bounds: tuple[float, float]
) -> Entries | None:
    """Search for x by bisection; None if what is wanted is not in the range."""
    least, most = bounds

    def tried(x: float) -> tuple[Entries, float, bool]:
        worse = _WAYS[way](e, making, x)
        number = condition_number(worse)
        within = least * (1 - _WITHIN) <= number <= most * (1 + _WITHIN)
        return worse, math.log(number), within

    best, number, within = tried(0.0)
    if within and number >= wanted:
        return best
    low, high = 0.0, max(wanted, 1.0)
    for _ in range(_DOUBLINGS):
        best, number, within = tried(high)
        if number >= wanted:
            break
        low, high = high, 1.5 * high
    for _ in range(_HALVINGS):
        if within and abs(number - wanted) < _NEAR:
            return best
        middle = (low + high) / 2
        best, number, within = tried(middle)
        low, high = (middle, high) if number < wanted else (low, middle)
    return best if within else None


def condition_number(e: Entries) -> float:
    """Return the largest singular value by the smallest, computed in double precision."""
    singular = torch.linalg.svdvals(_dense(e))
    return float(singular[0] / singular[-1].clamp_min(torch.finfo(singular.dtype).tiny))


def _dense(e: Entries) -> Tensor:
    values = e.values.to(torch.complex128 if e.values.is_complex() else torch.float64)
    zeros = values.new_zeros(e.shape)
    return zeros.index_put((e.row.long(), e.col.long()), values, accumulate=True)


# ----------------------------------------------------------------------------------------- ways


def _in_units(*axes: int, run: int = 1) -> Way:
    """Scale rows (axis 0), columns (1) or both alike; `run` lines together have one unit."""

    def worsened(e: Entries, making: Making, x: float) -> Entries:
        lines = [(e.row, e.col)[axis] for axis in axes]
        used = lines[0].unique().tolist()
        powers = dict(zip(used, _powers(len(used) // run, making), strict=False))
        if run > 1:
            powers = {line: powers[used[line // run]] for line in used}
        for index in lines:
            units = [math.exp(-x * powers[line] / len(axes)) for line in index.tolist()]
            e = e._replace(values=e.values * torch.tensor(units, dtype=e.values.dtype))
        return e

    return worsened


def _powers(number: int, making: Making) -> list[float]:
    """Return numbers from 0 to 1, with both ends among them."""
    picks = making.picks()
    if picks is None:
        return [k / max(number - 1, 1) for k in range(number)]
    powers = [picks.random() for _ in range(number)]
    powers[:2] = [0.0, 1.0][:number]
    picks.shuffle(powers)
    return powers


def _pivot(e: Entries, making: Making, x: float) -> Entries:
    k, value = _singular_pivot(e)
    return _moved(e, k, math.expm1(-x) * value)


def _real_pivot(e: Entries, making: Making, x: float) -> Entries:
    k, value = _singular_pivot(e)
    return _moved(e, k, math.expm1(-x) * value.real)


def _singular_pivot(e: Entries) -> tuple[int, Tensor]:
    """Return which entry of the diagonal is stored behind all others there, and 1 / (A⁻¹)ᵢᵢ."""
    k = int((e.row == e.col).nonzero().max())
    i = int(e.row[k])
    return k, 1 / torch.linalg.inv(_dense(e))[i, i]


def _moved(e: Entries, k: int, by: Tensor) -> Entries:
    values = e.values.clone()
    values[k] += by.to(values.dtype)
    return e._replace(values=values)


def _dependent(axis: int) -> Way:
    return lambda e, making, x: depending(e, math.exp(-x), making, axis)


def _shifted(e: Entries, making: Making, x: float) -> Entries:
    largest = float(torch.linalg.matrix_norm(_dense(e), 2)) if min(e.shape) else 0.0
    shift = math.exp(-x) * (largest or 1.0)
    return e._replace(values=torch.where(e.row == e.col, e.values + shift, e.values))


_WAYS: dict[str, Way] = {
    "rows": _in_units(0),
    "columns": _in_units(1),
    "both": _in_units(0, 1),
    "pairs": _in_units(0, 1, run=2),
    "pivot": _pivot,
    "real pivot": _real_pivot,
    "dependent rows": _dependent(0),
    "dependent columns": _dependent(1),
    "shift": _shifted,
}
# Ways that hide in cancellation, and the units that go on where they end.
_HIDDEN = {
    "pivot": "both",
    "real pivot": "both",
    "dependent rows": "rows",
    "dependent columns": "columns",
    "shift": "both",
}
