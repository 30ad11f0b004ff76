"""Hypothesis strategies: the pattern is drawn first, then a seed for the values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = st.sampled_from([torch.float64, torch.complex128])


class Entries(NamedTuple):
    """Entries of a matrix in any order, with duplicates."""

    row: list[int]
    col: list[int]
    values: Tensor
    shape: tuple[int, int]

    def dense(self) -> Tensor:
        """Sum the entries one by one."""
        A = self.values.new_zeros(self.shape)
        for i, j, v in zip(self.row, self.col, self.values, strict=True):
            A[i, j] += v
        return A


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Return normal numbers with a sprinkle of exact zeros."""
    generator = torch.Generator().manual_seed(seed)
    zero = torch.rand(shape, generator=generator) < 0.1
    return torch.randn(shape, dtype=dtype, generator=generator).masked_fill(zero, 0)


@st.composite
def entries(draw: st.DrawFn, *, square: bool = False, least: int = 0) -> Entries:
    """Draw entries: none, empty rows, duplicates, unsorted, 1 x n and n x 1 among them."""
    n = draw(st.integers(least, 5))
    m = n if square else draw(st.integers(least, 5))
    place = st.tuples(st.integers(0, max(n - 1, 0)), st.integers(0, max(m - 1, 0)))
    places = draw(st.lists(place, max_size=12)) if n and m else []
    values = numbers((len(places),), draw(DTYPES), draw(st.integers(0, 999)))
    return Entries([i for i, _ in places], [j for _, j in places], values, (n, m))


@st.composite
def systems(draw: st.DrawFn) -> Entries:
    """Draw a square system that is diagonally dominant, so that differences can judge it."""
    e = draw(entries(square=True, least=1))
    n, scale = e.shape[0], draw(st.sampled_from([1.0, 1e-3, 1e3]))
    diagonal = torch.full((n,), 4.0 + e.values.abs().sum().item(), dtype=e.values.dtype)
    values = torch.cat([e.values, diagonal]) * scale
    return Entries([*e.row, *range(n)], [*e.col, *range(n)], values, e.shape)


def _sliced(x: Tensor) -> Tensor:
    return torch.stack([x, x + 1], -1)[..., 0]


def _offset(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


_PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "sliced": _sliced,
    "offset": _offset,
    "lazily conjugated": lambda x: x.conj().resolve_conj().conj(),
}


def restrided() -> st.SearchStrategy[Callable[[Tensor], Tensor]]:
    """Draw a way to put the same numbers elsewhere in memory."""
    return st.sampled_from(sorted(_PLACES)).map(_PLACES.__getitem__)
