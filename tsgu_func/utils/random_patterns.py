"""Random places in a matrix: distinct, uniformly drawn, in memory that grows with their number.

Every place of a region has a number; numbers are drawn without replacement and then turned into
rows and columns by exact integer arithmetic, so no region is ever written out.

What is promised of well-conditioned matrices rests on dominance.  With ``f`` the least entry of the
diagonal D, and E the rest, whose rows and columns have absolute sums of at most ``f / 2``, we have
``|E|_2 <= sqrt(|E|_1 |E|_inf) <= f / 2``, so the singular values of ``D + E`` lie between ``f / 2``
and ``max D + f / 2``.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Places",
    "Source",
    "anywhere",
    "dominated",
    "strict_triangle",
    "triangle",
    "with_diagonal",
]

_DRAW_BELOW = 2**62
# With fewer places than this many for each one wanted, a permutation of all is as cheap.
_SPARSE = 4
_HALF = (torch.float16, torch.bfloat16)


class Places(NamedTuple):
    """Rows and columns (b, nnz) of distinct places, sorted by row and then by column."""

    row: Tensor
    col: Tensor


class Source(NamedTuple):
    """Where random numbers come from, and where they go.

    Numbers are drawn on the device of the generator, so that a generator on the CPU gives the same
    matrix on every device.
    """

    device: torch.device
    generator: torch.Generator | None

    @property
    def _drawn(self) -> torch.device:
        return self.device if self.generator is None else self.generator.device

    def distinct(self, batch: int, total: int, count: int) -> Tensor:
        """Draw (batch, count) of the numbers below `total`, each row increasing."""
        out = torch.empty(batch, count, dtype=torch.int64, device=self._drawn)
        for member in out:
            member.copy_(self._distinct(total, count))
        return out.to(self.device)

    def _distinct(self, total: int, count: int) -> Tensor:
        device, generator = self._drawn, self.generator
        if total <= _SPARSE * count:
            order = torch.randperm(total, generator=generator, device=device)
            return order[:count].sort().values
        # The first `count` different ones of independent draws: every subset is as likely.
        found = torch.empty(0, dtype=torch.int64, device=device)
        fair = _DRAW_BELOW - _DRAW_BELOW % total  # above it, the remainders are not
        while len(found) < count:
            missing = (count - len(found),)
            draws = torch.randint(_DRAW_BELOW, missing, generator=generator, device=device)
            found = torch.unique(torch.cat([found, draws[draws < fair] % total]))
        return found

    def uniform(
        self, shape: tuple[int, ...], low: float, high: float, dtype: torch.dtype
    ) -> Tensor:
        """Draw from (low, high]; complex numbers with both parts from there."""
        wide = torch.float32 if dtype in _HALF else dtype
        parts = (*shape, 2) if dtype.is_complex else shape
        x = torch.empty(parts, dtype=wide.to_real(), device=self._drawn)
        # PyTorch leaves out the upper end; mirrored, the lower one, which is often zero.
        x = x.uniform_(-high, -low, generator=self.generator).neg_()
        return (torch.view_as_complex(x) if dtype.is_complex else x).to(self.device)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Draw from the standard normal distribution."""
        wide = torch.float32 if dtype in _HALF else dtype
        x = torch.randn(shape, dtype=wide, device=self._drawn, generator=self.generator)
        return x.to(self.device)


def anywhere(batch: int, n: int, m: int, nnz: int, source: Source) -> Places:
    """Draw places of an (n, m) matrix."""
    _check_count(nnz, 0, n * m, (n, m), "the places")
    return _places(source.distinct(batch, n * m, nnz), m)


def with_diagonal(batch: int, n: int, m: int, nnz: int, source: Source) -> Places:
    """Take the diagonal of an (n, m) matrix, and draw the other places."""
    k = min(n, m)
    _check_count(nnz, k, n * m, (n, m), "the diagonal up to all places")
    number = source.distinct(batch, n * m - k, nnz - k)
    # In the order of rows, m places lie between one entry of the diagonal and the next.
    place = number + 1 + (number // max(m, 1)).clamp(max=k - 1)
    diagonal = torch.arange(k, device=source.device) * (m + 1)
    return _places(torch.cat([diagonal.expand(batch, k), place], 1), m)


def strict_triangle(batch: int, n: int, nnz: int, upper: bool, source: Source) -> Places:
    """Draw places above (or below) the diagonal of an (n, n) matrix."""
    total = n * (n - 1) // 2
    _check_count(nnz, 0, total, (n, n), "the places of a strict triangle")
    return _places(_triangular(source.distinct(batch, total, nnz), n, upper), n)


def triangle(batch: int, n: int, nnz: int, upper: bool, source: Source) -> Places:
    """Take the diagonal of an (n, n) matrix, and draw places above (or below) it."""
    total = n * (n - 1) // 2
    _check_count(nnz, n, n + total, (n, n), "the diagonal up to all places of a triangle")
    place = _triangular(source.distinct(batch, total, nnz - n), n, upper)
    diagonal = torch.arange(n, device=source.device) * (n + 1)
    return _places(torch.cat([diagonal.expand(batch, n), place], 1), n)


def dominated(
    places: Places, values: Tensor, shape: tuple[int, int], floor: float, source: Source
) -> Tensor:
    """Make the diagonal dominant: from (floor, 2 floor], the rest at most floor / 2 in sum.

    A diagonal that is not stored stays so; what is scaled is the rest.
    """
    row, col = places
    off, size = row != col, values.abs()
    size = size.masked_fill(~off, 0)
    by_row = size.new_zeros(len(row), shape[0]).scatter_add(1, row, size)
    by_col = size.new_zeros(len(row), shape[1]).scatter_add(1, col, size)
    worst = torch.maximum(by_row.gather(1, row), by_col.gather(1, col))
    values = values * (floor / 2 / worst.clamp(min=floor / 2))
    count = int(off.numel() - off.sum())
    diagonal = source.uniform((count,), floor, 2 * floor, size.dtype)
    return values.masked_scatter(~off, diagonal.to(values.dtype))


def _triangular(number: Tensor, n: int, upper: bool) -> Tensor:
    """Turn numbers below n (n - 1) / 2 into places of a strict triangle.

    The rows of n - 1 - k and of k + 1 entries together have n, for every k: so numbers divide
    into rows of equal length, without a square root and its rounding.
    """
    k, j = number // max(n, 1), number % max(n, 1)
    longer = n - 1 - k
    row, col = torch.where(j < longer, longer, k + 1), torch.where(j < longer, j, j - longer)
    return col * n + row if upper else row * n + col


def _places(place: Tensor, m: int) -> Places:
    place = place.sort(dim=1).values
    return Places(place // max(m, 1), place % max(m, 1))


def _check_count(nnz: int, least: int, most: int, shape: tuple[int, int], where: str) -> None:
    n, m = shape
    if n * m > _DRAW_BELOW:
        raise ValueError(f"random matrices have at most 2**62 places; got {n} x {m}")
    if not least <= operator.index(nnz) <= most:
        raise ValueError(f"nnz is {least} to {most}, {where} of a {n} x {m} matrix; got {nnz}")
