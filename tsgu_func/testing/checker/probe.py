"""What checks of a function share: its problem, its directions, and its finite differences."""

from __future__ import annotations

from functools import cached_property

import torch
from torch.func import vjp

from tsgu_func.testing.checker.comparison import Tolerance, largest
from tsgu_func.testing.checker.differences import Estimate, along
from tsgu_func.testing.checker.problem import Directions, Function, Leaves, Problem, size
from tsgu_func.testing.checker.transforms import backward, bent, derivative

__all__ = ["Probe", "old_style", "only"]


def old_style(error: Exception) -> bool:
    """Whether PyTorch says that torch.func takes no autograd.Function whose forward has ctx."""
    return "override the setup_context staticmethod" in str(error)


class Probe:
    """A problem, its directions, and the finite differences that all checks share.

    With a `reach` below one the differences are taken over shorter distances; and then a slope that
    is zero is no evidence, since nothing may have moved at all.
    """

    def __init__(
        self, problem: Problem, rtol: float | None, atol: float | None, reach: float = 1.0
    ) -> None:
        self.problem, self.rtol, self.atol, self.reach = problem, rtol, atol, reach
        self.f, self.x = problem.function, problem.x
        self._slopes: dict[tuple[str, int | None], Estimate] = {}
        self._closer: dict[float, Probe] = {}

    @cached_property
    def out(self) -> Leaves:
        """What comes out at the point."""
        return self.f(*self.x)

    def closer(self, reach: float) -> Probe:
        """Return what takes its differences over shorter distances."""
        if reach not in self._closer:
            self._closer[reach] = Probe(self.problem, self.rtol, self.atol, reach)
        return self._closer[reach]

    @cached_property
    def eps(self) -> float:
        """The rounding unit of the least precise tensor that goes in or comes out."""
        return max(torch.finfo(a.dtype).eps for a in (*self.x, *self.out))

    @cached_property
    def mixed(self) -> bool:
        """Whether tensors of several precisions go in and come out."""
        return len({a.real.dtype for a in (*self.x, *self.out)}) > 1

    @cached_property
    def tolerance(self) -> Tolerance:
        """What the precision allows."""
        return Tolerance.of(self.eps, self.rtol, self.atol)

    @cached_property
    def w(self) -> Directions:
        """The directions."""
        return self.problem.directions()

    def slope(self, inner_modes: str, leaf: int | None = None) -> Estimate:
        """Differentiate a derivative once more by finite differences, along all leaves or one."""
        key = inner_modes, leaf
        if key not in self._slopes:
            f = bent(self.f, self.w) if inner_modes else self.f
            g = self._inside(f, inner_modes)
            u = tuple(self.reach * a for a in only(self.w.u[len(inner_modes)], leaf))
            found = along(g, self.x, u, 0.01 * self.tolerance.differences, self.eps)
            self._slopes[key] = self._scaled(found, inner_modes)
        return self._slopes[key]

    def _inside(self, f: Function, inner_modes: str) -> Function:
        if inner_modes == "r" and self._has_ctx:
            return lambda *x: backward(f, x, self.w)
        return derivative(f, inner_modes, self.w)

    @cached_property
    def _has_ctx(self) -> bool:
        """Whether it is an old autograd.Function, which only PyTorch's own backward takes."""
        try:
            vjp(self.f, *self.x)
        except RuntimeError as error:
            return old_style(error)
        return False

    def _scaled(self, found: Estimate, inner_modes: str) -> Estimate:
        if self.reach < 1:
            value = tuple(v / self.reach for v in found.value)
            error = tuple(e / self.reach for e in found.error)
            return Estimate(value, error, (0.0,) * len(value))
        sizes = map(max, found.sizes, self.natural(inner_modes))
        return found._replace(sizes=tuple(sizes))

    def natural(self, modes: str = "") -> tuple[float, ...]:
        """Return the sizes that derivatives along these directions have, if none vanishes."""
        if "r" not in modes:
            return tuple(map(largest, self.out))
        return tuple(self.weight / size(a) for a in self.x)

    @cached_property
    def weight(self) -> float:
        """The size of a number that a cotangent makes of what comes out."""
        return sum(float(c.abs().sum()) * s
                   for c, s in zip(self.w.ct_out[0], self.natural(), strict=True))  # fmt: skip


def only(u: Leaves, leaf: int | None) -> Leaves:
    """Return a direction along one argument alone; along all, if `leaf` is None."""
    if leaf is None:
        return u
    return tuple(a if i == leaf else torch.zeros_like(a) for i, a in enumerate(u))
