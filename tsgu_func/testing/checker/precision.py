"""Results in low precision against those in double precision, within what rounding allows.

The bound.  An algorithm that is stable gives the exact result for arguments that are off by a few
rounding units.  How far the result then moves is measured, in double precision: the largest of a
few perturbations of that size with random signs.  A result may be off by `_FACTOR` times that, and
by as many rounding units of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import vjp

from tsgu_func.testing.checker.comparison import Comparison, largest
from tsgu_func.testing.checker.problem import Function, Leaves, Problem

__all__ = ["PRECISION", "Rounding"]

_FACTOR = 16.0
_TRIALS = 8
_WIDE = {torch.complex64: torch.complex128}


def widened(a: Tensor) -> Tensor:
    """Return a tensor in double precision."""
    return a.to(_WIDE.get(a.dtype, torch.complex128 if a.is_complex() else torch.float64))


def _lowered(a: Tensor, dtype: torch.dtype) -> Tensor:
    if a.is_complex() and not dtype.is_complex:
        dtype = torch.complex32 if dtype == torch.float16 else torch.complex64
    return a.to(dtype if a.is_complex() or not dtype.is_complex else dtype.to_real())


class Rounding:
    """A problem in double precision, at a point that a lower precision can hold."""

    def __init__(self, problem: Problem, dtype: torch.dtype) -> None:
        self.problem, self.dtype = problem, dtype
        self.low = tuple(_lowered(a, dtype) for a in problem.x)
        self.wide = tuple(map(widened, self.low))
        self.eps = torch.finfo(dtype).eps

    def compare(self, low: Leaves, of: Function) -> Comparison:
        """Compare what came out in low precision with what `of` gives in double precision."""
        expected = of(*self.wide)
        moved = [0.0] * len(expected)
        for trial in range(_TRIALS):
            near = of(*(self._perturbed(a, trial) for a in self.wide))
            gaps = [largest(n - e) for n, e in zip(near, expected, strict=True)]
            moved = [max(m, g) for m, g in zip(moved, gaps, strict=True)]
        scales = [
            _FACTOR * (m / self.eps + largest(e)) for m, e in zip(moved, expected, strict=True)
        ]
        narrow = tuple(_lowered(e, self.dtype) for e in expected)
        # The dtype is judged, too: what is double in double precision is to be low here.
        return Comparison(
            low,
            narrow,
            self.eps,
            scales=scales,
            against=f"double precision, rounded to {self.dtype}",
        )

    def _perturbed(self, a: Tensor, trial: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(trial)
        signs = torch.randint(0, 2, a.shape, generator=generator, device="cpu").to(a.device) * 2 - 1
        return a * (1 + self.eps * signs)


def _value(r: Rounding) -> Iterator[Comparison]:
    yield r.compare(r.problem.function(*r.low), r.problem.function)


def _pullback(r: Rounding) -> Iterator[Comparison]:
    f = r.problem.function
    ct = tuple(_lowered(c, r.dtype) for c in r.problem.directions().ct_out[0])

    def pulled(*x: Tensor) -> Leaves:
        return vjp(f, *x)[1](tuple(map(widened, ct)))

    out = f(*r.low)
    pull = vjp(f, *r.low)[1]
    yield r.compare(pull(tuple(c.to(o.dtype) for c, o in zip(ct, out, strict=True))), pulled)


PRECISION: dict[str, Callable[[Rounding], Iterator[Comparison]]] = {
    "value": _value,
    "r": _pullback,
}
