"""Pullbacks and tangents are linear maps, the same at each call.

What is special about a cotangent must not matter: that all its entries are one, or zero, or that it
is stored once and expanded, as ``.sum().backward()`` has it.  What must come out follows from
cotangents without anything special, by linearity, and without finite differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsgu_func.testing.checker.comparison import Comparison
from tsgu_func.testing.checker.places import expanded
from tsgu_func.testing.checker.problem import Leaves

__all__ = ["LinearMap"]

_HALF = torch.finfo(torch.float16).eps
_LOST = 1e4  # how much of the accuracy may be lost for arguments of another size


@dataclass(frozen=True)
class LinearMap:
    """A map of leaves that is to be linear, and two arguments whose entries are about one.

    ``natural`` is, for each leaf that comes out, how small a result is nothing but rounding;
    ``exact`` the relative tolerance, ``eps`` the rounding unit.
    """

    map: Callable[[Leaves], Leaves]
    g: Leaves
    h: Leaves
    natural: Sequence[float]
    exact: float
    eps: float

    def comparisons(self) -> Iterator[Comparison]:
        """Yield all that linearity says."""
        given = _copies(self.g)
        first = self.map(given)
        yield Comparison(given, self.g, 0.0, against="the argument before the call")
        rounding = 16 * self.eps  # sums may be taken in another order, on some devices
        yield Comparison(self.map(_copies(self.g)), first, rounding, against="the first call")
        yield from self._expanded()
        # Where a slope is infinite there is nothing that linearity could say of products with zero.
        if all(bool(torch.isfinite(a).all()) for a in first):
            yield from self._special(first)

    def parts_of(self, whole: Leaves, parts: Sequence[Leaves], what: str) -> Comparison:
        """Compare a result with the sum of those of parts of the argument."""
        together = tuple(map(_sum, zip(*parts, strict=True)))
        return self._close(whole, together, self._noise(whole), f"the sum over {what}")

    def _expanded(self) -> Iterator[Comparison]:
        for leaves in (tuple(map(expanded, self.g)), self._ones()):
            stored = tuple(a.contiguous() for a in leaves)
            yield Comparison(
                self.map(leaves), self.map(stored), self.exact,
                against="what the same numbers give, each of them stored",
            )  # fmt: skip

    def _ones(self) -> Leaves:
        return tuple(a.new_ones(()).expand(a.shape) for a in self.g)

    def _special(self, first: Leaves) -> Iterator[Comparison]:
        noise = self._noise(first)
        ones = self._ones()
        base = _minus(self.map(_plus(ones, self.g)), first)
        yield self._close(
            self.map(tuple(a.contiguous() for a in ones)), base, noise, "linearity, for ones"
        )
        some = tuple(map(_every_second, self.g))
        halves = self.map(some), self.map(_minus(self.g, some))
        yield self._close(_plus(*halves), first, noise, "linearity, for zeros among the entries")
        nothing = tuple(map(torch.zeros_like, first))
        yield from self._sizes(first, noise)
        yield self._close(
            self.map(tuple(map(torch.zeros_like, self.g))), nothing, noise, "linearity, for zeros"
        )

    def _sizes(self, first: Leaves, noise: Sequence[float]) -> Iterator[Comparison]:
        """Multiply by powers of two, which is exact if nothing of half precision overflows."""
        rounded = (off > 100 * self.eps * _largest(a) for off, a in zip(noise, first, strict=True))
        if any(torch.finfo(a.dtype).eps >= _HALF for a in (*self.g, *first)) or any(rounded):
            return
        for power in (2.0**-30, 2.0**30):
            got = self.map(tuple(a * power for a in self.g))
            expected = tuple(a * power for a in first)
            # Some rules (of the exponential of a matrix, say) lose digits where sizes differ much;
            # what is looked for here loses all of them.
            scales = [
                max(_LOST * _largest(e), n * max(power, 1))
                for e, n in zip(expected, self.natural, strict=True)
            ]
            against = f"linearity, for an argument {power:.0e} as large"
            yield Comparison(got, expected, self._rtol, scales=scales, against=against)

    def _noise(self, first: Leaves) -> list[float]:
        """Measure how far from linear the map is anyway: by low precision inside, for example."""
        off = _minus(self.map(_plus(self.g, self.h)), _plus(first, self.map(self.h)))
        return list(map(_largest, off))

    def _close(
        self, got: Leaves, expected: Leaves, noise: Sequence[float], against: str
    ) -> Comparison:
        scales = [
            max(_largest(e), n) + 10 * off / self._rtol
            for e, n, off in zip(expected, self.natural, noise, strict=True)
        ]
        return Comparison(got, expected, self._rtol, scales=scales, against=against)

    @property
    def _rtol(self) -> float:
        return max(self.exact, 100 * self.eps)


def _copies(x: Leaves) -> Leaves:
    return tuple(a.clone() for a in x)


def _plus(x: Leaves, y: Leaves) -> Leaves:
    return tuple(a + b for a, b in zip(x, y, strict=True))


def _minus(x: Leaves, y: Leaves) -> Leaves:
    return tuple(a - b for a, b in zip(x, y, strict=True))


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(terms)).sum(0)


def _every_second(a: Tensor) -> Tensor:
    kept = torch.arange(a.numel(), device=a.device).view(a.shape) % 2 == 0
    return torch.where(kept, a, 0)


def _largest(x: Tensor) -> float:
    finite = x.detach().abs().nan_to_num(nan=0.0, posinf=0.0)
    return float(finite.max()) if x.numel() else 0.0
