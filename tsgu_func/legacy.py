"""The ``autograd.Function`` face of a function, for code that calls ``.apply``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

__all__ = ["OpFunction"]


class _Plain(type(torch.autograd.Function)):
    """A kind of its own, so that the compiler takes `apply` for the plain function that it is.

    What it takes for an ``autograd.Function`` it records with the `backward` of the class; here
    there is none.
    """


class OpFunction(torch.autograd.Function, metaclass=_Plain):
    """A function whose derivatives are those of the primitives that it calls.

    `apply` is the function itself: a primitive records at every level of a nesting, while an
    ``autograd.Function`` recorded as such is zero under forward over forward.  So there is nothing
    to set up for a backward pass, and a batch is what the primitives make of it.
    """

    apply: ClassVar[Callable[..., Any]]  # pyright: ignore[reportIncompatibleMethodOverride]
    forward: ClassVar[Callable[..., Any]]  # pyright: ignore[reportIncompatibleMethodOverride]
