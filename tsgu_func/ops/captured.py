"""Whether a user's function uses a tensor that a transform watches, other than its arguments.

The function of an operator is called inside of kernels, where no transform is active.  A tensor
that it is closed over, or finds among the globals or in an object, and that ``torch.func`` has
wrapped, would end in an internal error there, or be taken for one of another level.  So the
function is called once before, where such a tensor can be told: on plain values, in so many levels
of an idle ``vmap`` as there are transforms, so that what its own transforms wrap has a level above
all of them.

A function that solves is too dear to be called twice, and may do more than an idle ``vmap`` stands.
It is looked at while a kernel calls it (`call_watched`).  There no transform is active but its own,
so a tensor with a level that none of them has is another's; where its own have one, what it is
closed over and what it finds among the globals are told by what they are.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tsgu_func.ops import keys
from tsgu_func.registration.transforms import (
    depth,
    first_member,
    has_tangent,
    levels,
    outside_transforms,
    pytree,
    seen_by_autograd,
)

__all__ = ["NOBODY", "Watch", "call_watched", "is_watched", "observed", "uses_captured", "watch"]

CURE = (
    "uses a tensor that is being differentiated or mapped over, and that is neither A nor B, where "
    "no derivative would be seen: make it part of A or B, or detach it"
)


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

    def is_captured(self, x: Tensor) -> bool:
        return any(1 <= level <= self.depth for level in levels(x))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # An attribute tells nothing of the values, or is a tensor of the same level.
        found = () if func.__name__ == "__get__" else pytree.tree_leaves((args, kwargs))
        for x in found:
            if isinstance(x, Tensor) and self.is_captured(x):
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

    nothing = torch.zeros(1, dtype=torch.float32, device="cpu")
    torch.func.vmap(level, randomness="different")(nothing)


# ------------------------------------------------------------------------- while a kernel calls it


class Watch(NamedTuple):
    """Who looks on where a function is handed over: eager autograd, transforms."""

    recorded: bool
    transformed: bool


NOBODY = Watch(False, False)


def watch() -> Watch:
    """Return who looks on here."""
    return Watch(torch.is_grad_enabled(), is_watched())


def call_watched(watch: Watch, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function inside of a kernel; raise if it uses a tensor that is watched."""
    X, uses = observed(watch, function, *args, **options)
    if uses:
        # No ValueError: what only traces a graph takes those for the fault of its placeholders.
        raise RuntimeError(f"{keys.name_of(function)} {CURE}")
    return X


def observed(
    watch: Watch, function: Callable[..., Any], *args: Any, **options: Any
) -> tuple[Any, bool]:
    """Call a function inside of a kernel, and say whether it uses a tensor that is watched."""
    if watch == NOBODY:
        return function(*args, **options), False
    finder = _FinderInside(function)
    X: Any = None
    with seen_by_autograd(watch.recorded):
        try:
            with finder if watch.transformed else contextlib.nullcontext():
                X = function(*args, **options)
        except Exception:
            if not finder.wrapped:  # else what went wrong is told
                raise
        found = [x for x in pytree.tree_leaves(X) if isinstance(x, Tensor)]
        tracked = any(x.requires_grad or has_tangent(x) for x in found)
    return X, finder.wrapped or tracked


class _FinderInside(_Finder):
    """Looks for tensors that are wrapped by another transform than those of the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(0)
        self.function = function

    @cached_property
    def held(self) -> set[int]:
        return {id(x) for x in _held(self.function) if any(levels(x))}

    def is_captured(self, x: Tensor) -> bool:
        inner = depth()
        return id(x) in self.held or any(level > inner for level in levels(x))


def _held(function: Any) -> Iterator[Tensor]:
    """Go through the tensors that a function holds or finds among the globals."""
    yield from keys.tensors_of(function)
    if isinstance(function, types.FunctionType):
        found = map(function.__globals__.get, _names(function.__code__))
        yield from (x for x in found if isinstance(x, Tensor))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)
