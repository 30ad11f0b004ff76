"""The kinds of matrices: how each is made from entries that were drawn, and what it promises.

A kind says where entries are drawn, and what is done to them.  What it decides by chance follows
from the seed of the values, for which 0 stands for the simplest choice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.testing.strategies.coordinates import Entries, joined, kept, merged
from tsgu_func.testing.strategies.dominance import (
    Numbers,
    mirrored,
    moduli,
    phases,
    shrunk,
    with_diagonal,
    with_pairs,
)

__all__ = ["BUILT", "KINDS", "Kind", "Making", "depending"]

# Powers of two between the largest and the smallest unit of rows, or of columns.
_GRADES = 40
# Powers of ten that a penalty is at least and at most.
_PENALTIES = 6, 12
# How much of a row is left beside the other one that it depends on: powers of two.
_LEFT = None, -20, -34, -50


class Making(NamedTuple):
    """What a kind is made with."""

    numbers: Numbers
    seed: int
    unique: bool
    variant: int

    def drawn(self, shape: tuple[int, ...], dtype: torch.dtype, which: int) -> Tensor:
        """Return numbers of the seed; `which` tells one set of them from another."""
        return self.numbers(shape, dtype, self.seed + which if self.seed else 0)

    def picks(self) -> random.Random | None:
        """Return what decides by chance, or None for the simplest choice."""
        return random.Random(self.seed) if self.seed else None


Build = Callable[[Entries, Making], Entries]


@dataclass(frozen=True)
class Kind:
    """How a kind is made.

    Attributes
    ----------
    build : callable
        Makes it of entries that were drawn.
    form : str
        As for `patterns`.
    drawn : str or None
        The triangle in which entries are drawn.
    triangle : str or None
        The triangle in which all entries are in the end.
    variants : int
        How many ways there are of making it.
    ways : tuple of str
        How a condition number is reached: see `tsgu_func.testing.strategies.condition`.
    smallest : int
        Least size with a condition number above one.
    """

    build: Build
    form: str = "square"
    drawn: str | None = None
    triangle: str | None = None
    variants: int = 1
    ways: tuple[str, ...] = ()
    smallest: int = 2


# ------------------------------------------------------------------- condition number at most 5


def _rest(e: Entries, making: Making) -> Entries:
    return kept(e, e.row != e.col) if making.unique else e


def _dominant(e: Entries, making: Making) -> Entries:
    e = shrunk(_rest(e, making))
    raw = making.drawn((*e.values.shape[:-1], e.shape[1]), e.values.dtype, 1)
    return with_diagonal(e, moduli(raw) * phases(raw))


def _definite(e: Entries, making: Making) -> Entries:
    e = shrunk(mirrored(_rest(e, making)))
    raw = making.drawn((*e.values.shape[:-1], e.shape[1]), e.values.dtype, 1)
    return with_diagonal(e, moduli(raw))


def _indefinite(e: Entries, making: Making) -> Entries:
    e = shrunk(mirrored(_rest(e, making)))
    n, picks = e.shape[1], making.picks()
    raw = making.drawn((*e.values.shape[:-1], n), e.values.dtype, 1)
    signs = [1 if picks is None or picks.random() < 0.5 else -1 for _ in range(n)]
    signs[:2] = [1, -1][:n]  # both, by the theorem of Gershgorin
    return with_diagonal(e, moduli(raw) * torch.tensor(signs, dtype=raw.dtype))


def _strictly_triangular(e: Entries, making: Making) -> Entries:
    return shrunk(e)


def _tall(e: Entries, making: Making) -> Entries:
    e, picks = _dominant(e, making), making.picks()
    if picks is None:
        return e
    order = torch.tensor(picks.sample(range(e.shape[0]), e.shape[0]), dtype=e.row.dtype)
    return e._replace(row=order[e.row])


def _flipped(e: Entries) -> Entries:
    return Entries(e.col, e.row, e.values, (e.shape[1], e.shape[0]))


def _wide(e: Entries, making: Making) -> Entries:
    return _flipped(_tall(_flipped(e), making))


def _skew(e: Entries, making: Making) -> Entries:
    if making.unique:  # the pairs are below
        e = kept(e, e.row // 2 != e.col // 2)
    e = shrunk(mirrored(e, -1))
    raw = making.drawn((*e.values.shape[:-1], e.shape[0] // 2), e.values.dtype, 1)
    return with_pairs(e, moduli(raw) * phases(raw))


def _arrow(e: Entries, making: Making) -> Entries:
    n, picks = e.shape[0], making.picks()
    if n:
        dense = 0 if picks is None else picks.randrange(n)
        at, others = [dense] * n, list(range(n))
        for k, (row, col) in enumerate(((at, others), (others, at))):
            if making.variant in (k, 2):
                values = making.drawn((*e.values.shape[:-1], n), e.values.dtype, 2 + k)
                e = joined(e, torch.tensor(row), torch.tensor(col), values)
    return _dominant(merged(e) if making.unique else e, making)


# --------------------------------------------------------------------------------------- harder


def _laplacian(e: Entries, making: Making) -> Entries:
    """Weights are the modulus of what was drawn; variant 1 joins all vertices by a path."""
    n = e.shape[0]
    if making.variant and n > 1:
        raw = making.drawn((*e.values.shape[:-1], n - 1), e.values.dtype, 2)
        e = joined(e, torch.arange(1, n), torch.arange(n - 1), raw)
    e = merged(e) if making.unique else e
    weights = torch.where(e.values == 0, torch.ones_like(e.values), e.values.abs())
    e = mirrored(e._replace(values=-weights))
    degrees = weights.new_zeros(*weights.shape[:-1], n).index_add(-1, e.row, -e.values)
    every = torch.arange(n)
    return joined(e, every, every, degrees)


def _graded(e: Entries, making: Making) -> Entries:
    """Rows (variant 0), columns (1) or both (2) in other units: powers of two."""
    e = _dominant(e, making)
    for axis, index in ((0, e.row), (1, e.col)):
        if making.variant in (axis, 2):
            units = _units(e.shape[0], e.values.dtype, making, axis)
            e = e._replace(values=e.values * units[index])
    return e


def _units(n: int, dtype: torch.dtype, making: Making, axis: int) -> Tensor:
    """Return powers of two with a largest and a smallest that are far apart."""
    apart = min(_GRADES, int(math.log2(torch.finfo(dtype).max)) // 3)
    picks = making.picks()
    if picks is None:
        powers = [apart * k // max(n - 1, 1) for k in range(n)]
    else:
        picks.seed(2 * making.seed + axis)
        powers = [picks.randint(0, apart) for _ in range(n)]
        powers[:2] = [0, apart][:n]
        picks.shuffle(powers)
    return torch.tensor([2.0 ** (power - apart // 2) for power in powers], dtype=dtype)


def _penalty(e: Entries, making: Making) -> Entries:
    """Rows (variant 0) or entries of the diagonal (1) that are much larger than others."""
    e, n, picks = _definite(e, making), e.shape[0], making.picks()
    least, most = _PENALTIES
    most = min(most, int(math.log10(torch.finfo(e.values.dtype).max)) // 3)
    powers = [0] * n
    for i in [0][:n] if picks is None else picks.sample(range(n), min(n, picks.randint(1, 3))):
        powers[i] = least if picks is None else picks.randint(min(least, most), most)
    factors = torch.tensor([10.0**power for power in powers], dtype=e.values.dtype)[e.row]
    meant = torch.ones_like(e.row == e.col) if making.variant == 0 else e.row == e.col
    return e._replace(values=torch.where(meant, e.values * factors, e.values))


def _dependent(e: Entries, making: Making) -> Entries:
    """One row is another one, up to a small share (exactly, in variant 0) of what it was."""
    e, power = _dominant(e, making), _LEFT[making.variant]
    return depending(e, 0.0 if power is None else 2.0**power, making, axis=0)


def depending(e: Entries, left: float, making: Making, axis: int) -> Entries:
    """Put another row (axis 0) or column (1) in the place of one, of which a share is left.

    This is ``T A`` (or ``A T``) for the unit matrix T with one row replaced, whose condition number
    is about ``2 / left``.
    """
    n, picks = min(e.shape), making.picks()
    if n < 2:
        return e
    index = (e.row, e.col)[axis]
    lines = index.unique().tolist()  # a tall or wide matrix has lines in which nothing is stored
    target, source = lines[1::-1] if picks is None else picks.sample(lines, 2)
    values = torch.where(index == target, left * e.values, e.values)
    copy = kept(e, index == source)
    moved = torch.full_like(copy.row, target)
    row, col = (moved, copy.col) if axis == 0 else (copy.row, moved)
    e = joined(e._replace(values=values), row, col, copy.values)
    return merged(e) if making.unique else e


# ---------------------------------------------------------------------------------------- table

_SQUARE = "rows", "columns", "pivot"
BUILT: dict[str, Kind | None] = {
    "general": None,  # left as it was drawn
    "dominant": Kind(_dominant, ways=(*_SQUARE, "dependent rows")),
    "definite": Kind(_definite, drawn="lower", ways=("both", "real pivot")),
    "lower": Kind(_dominant, drawn="lower", triangle="lower", ways=_SQUARE),
    "upper": Kind(_dominant, drawn="upper", triangle="upper", ways=_SQUARE),
    "strictly lower": Kind(_strictly_triangular, drawn="strictly lower", triangle="strictly lower"),
    "strictly upper": Kind(_strictly_triangular, drawn="strictly upper", triangle="strictly upper"),
    "tall": Kind(_tall, form="tall", ways=("columns", "dependent columns")),
    "wide": Kind(_wide, form="wide", ways=("rows", "dependent rows")),
    "indefinite": Kind(_indefinite, drawn="lower", ways=("both", "real pivot")),
    "skew": Kind(_skew, form="even", drawn="strictly lower", ways=("pairs",), smallest=4),
    "arrow": Kind(_arrow, variants=3, ways=(*_SQUARE, "dependent rows")),
    "laplacian": Kind(_laplacian, drawn="strictly lower", variants=2, ways=("shift",)),
    "graded": Kind(_graded, variants=3),
    "penalty": Kind(_penalty, drawn="lower", variants=2),
    "dependent": Kind(_dependent, variants=len(_LEFT)),
}
KINDS = tuple(BUILT)
