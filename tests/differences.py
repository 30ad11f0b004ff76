"""Finite differences along a direction: the oracle of the property tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

Function = Callable[..., Tensor]


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Return Re <x, y>."""
    product = x.conj() * y
    return product.sum().real if product.is_complex() else product.sum()


def difference(f: Function, x: Sequence[Tensor], u: Sequence[Tensor], h: float = 1e-3) -> Tensor:
    """Differentiate f at x along u: central differences with one Richardson extrapolation.

    The error is O(h⁴) of truncation and O(eps / h) of rounding, 1e-12 each for smooth functions of
    size one in double precision.
    """

    def central(h: float) -> Tensor:
        ahead = f(*(a + h * d for a, d in zip(x, u, strict=True)))
        return (ahead - f(*(a - h * d for a, d in zip(x, u, strict=True)))) / (2 * h)

    return (4 * central(h / 2) - central(h)) / 3


def assert_derivatives(f: Function, x: Sequence[Tensor], seed: int = 0) -> None:
    """Check jvp and vjp, and the jvp and vjp of both, against differences."""
    generator = torch.Generator().manual_seed(seed)

    def like(y: Tensor) -> Tensor:
        return torch.randn(y.shape, dtype=y.dtype, generator=generator)

    u, v = tuple(map(like, x)), tuple(map(like, x))
    ct = like(f(*x))

    def pushed(*x: Tensor) -> Tensor:
        return torch.func.jvp(f, x, u)[1]

    def pulled(*x: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(f, *x)[1](ct)

    def pulled_along(*x: Tensor) -> Tensor:
        return sum((inner(g, d) for g, d in zip(pulled(*x), v, strict=True)), torch.zeros(()))

    close: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6, "check_dtype": False}
    assert_close(pushed(*x), difference(f, x, u), **close)
    assert_close(pulled_along(*x), inner(ct, difference(f, x, v)), **close)
    assert_close(torch.func.jvp(pushed, x, v)[1], difference(pushed, x, v), **close)
    assert_close(torch.func.jvp(pulled_along, x, u)[1], difference(pulled_along, x, u), **close)
    for g in (pushed, pulled_along):
        out, pull = torch.func.vjp(g, *x)
        w = like(out)
        slope = sum((inner(a, d) for a, d in zip(pull(w), u, strict=True)), torch.zeros(()))
        assert_close(slope, inner(w, difference(g, x, u)), **close)
