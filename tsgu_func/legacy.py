"""The ``autograd.Function`` face of an op, for code that calls ``.apply``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["OpFunction"]


class OpFunction(torch.autograd.Function):
    """A function whose derivatives are those of the primitives that its `forward` calls.

    `apply` goes straight to them: a primitive records at every level of a nesting, while an
    ``autograd.Function`` recorded as such is zero under forward over forward.  So there is nothing
    to set up for a backward pass, and a batch is what the primitives make of it.
    """

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Apply, differentiably under every transform."""
        return cls.forward(*args, **kwargs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing: the primitives keep what their rules use."""

    @classmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, info: Any, in_dims: Sequence[Any], *args: Any
    ) -> Any:
        """Map the primitives."""
        return torch.func.vmap(cls.forward, tuple(in_dims), randomness=info.randomness)(*args), 0
