"""Small functions of functions, and numbers that no symmetry hides in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., Tensor]


def wave(*shape: int, seed: int = 0) -> Tensor:
    """Return numbers, the same at each call, in a way that can be traced."""
    size = torch.Size(shape).numel()
    return torch.sin(torch.arange(1.0, size + 1, dtype=torch.float64) * (1.7 + seed)).view(shape)


def bent(f: Function) -> Function:
    """Make f nonlinear, so that higher derivatives mix the rules."""
    return lambda *x: torch.sin(f(*x)) * wave(*f(*x).shape)


def scalar(f: Function) -> Function:
    return lambda *x: bent(f)(*x).sum()


def argnums(x: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(x)))


def leaves(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.detach().clone().requires_grad_() for a in x)


def stacked(x: tuple[Tensor, ...], which: tuple[bool, ...], dim: int = 0) -> tuple[Tensor, ...]:
    """Make a batch of three out of some of the arguments."""
    return tuple(
        torch.stack([a * (1 + 0.3 * i) for i in range(3)], dim) if w else a
        for a, w in zip(x, which, strict=True)
    )


class Calls(torch.nn.Module):
    """A module that calls a function, for what is exported."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: object) -> object:
        return self.function(*args)
