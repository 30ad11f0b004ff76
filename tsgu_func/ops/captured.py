"""Whether a user's function uses a tensor that a transform watches, other than its arguments.

The function of an operator is called inside of kernels, where no transform is active.  A tensor
that it is closed over, or finds among the globals or in an object, and that ``torch.func`` has
wrapped, would end in an internal error there, or be taken for one of another level.  So the
function is called once before, where such a tensor can be told: on plain values, in so many levels
of an idle ``vmap`` as there are transforms, so that what its own transforms wrap has a level above
all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tsgu_func.registration.transforms import (
    depth,
    first_member,
    has_tangent,
    levels,
    outside_transforms,
    pytree,
)

__all__ = ["is_watched", "uses_captured"]


def is_watched() -> bool:
    """Say whether a transform is active, or eager forward mode."""
    return not torch.compiler.is_compiling() and (depth() > 0 or has_tangent(None))


def uses_captured(function: Callable[..., Any], *args: Any) -> bool:
    """Say whether ``function(*args)`` uses a tensor that a transform watches, but for the args."""
    found = _Finder(depth())
    args = pytree.tree_map(first_member, args)

    def called() -> None:
        with found:
            try:
                found.tangent = has_tangent(function(*args))
            except Exception:
                if not found.wrapped:  # else what went wrong is told
                    raise

    with outside_transforms(), torch.no_grad():
        _in_levels(called, found.depth)
    return found.wrapped or found.tangent


class _Finder(TorchFunctionMode):
    """Looks for tensors that are wrapped at one of the first levels."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth, self.wrapped, self.tangent = depth, False, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in pytree.tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and any(1 <= level <= self.depth for level in levels(x)):
                self.wrapped = True
                raise RuntimeError("a tensor of another level")
        return func(*args, **(kwargs or {}))


def _in_levels(function: Callable[[], None], count: int) -> None:
    """Call a function in so many levels of `vmap` over nothing."""
    if not count:
        function()
        return

    def level(x: Tensor) -> Tensor:
        _in_levels(function, count - 1)
        return x

    torch.func.vmap(level, randomness="different")(torch.zeros(1))
