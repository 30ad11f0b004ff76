"""A user's function of a vector as one op, which no transform looks into.

Derivation.  The vjp of ``y = g(x)`` is a function of a vector again, ``(x, ct) -> ct . dg/dx``, and
so is the jvp, ``(x, tangent) -> dg/dx . tangent``.  So with the op for g come the ops for these
two, for theirs, and so on: one op, named by what it calls, is closed under differentiation.  What
``torch.func`` makes of g is computed inside of the kernel, where no transform is active.

This is how a rule, which may call nothing but ops that have rules, can use derivatives of a user's
function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from tsgu_func.ops import keys
from tsgu_func.registration.primitive import Primitive
from tsgu_func.registration.transforms import outside_transforms

__all__ = ["Callback", "callback"]


class Callback:
    """A function of a vector of one size, with values of another; it is registered under a key."""

    def __init__(self, function: Callable[[Tensor], Tensor], given: int, returned: int) -> None:
        self.function, self.given, self.returned = function, given, returned
        self.key = keys.new_name(keys.name_of(function))
        keys.register(self)

    # What follows is closed over the function, and not over this: a cycle would outlive its use.

    @cached_property
    def vjp(self) -> Callback:
        """``(x, ct) -> ct . dg/dx``."""
        function, sizes = self.function, [self.given, self.returned]

        def pulled(both: Tensor) -> Tensor:
            x, ct = both.split(sizes)
            return torch.func.vjp(function, x)[1](ct)[0]

        return Callback(pulled, self.given + self.returned, self.given)

    @cached_property
    def jvp(self) -> Callback:
        """``(x, tangent) -> dg/dx . tangent``: the vjp of the vjp, which is linear in ct.

        Not by forward mode: PyTorch cannot nest its two kinds, and the eager one may be active.
        """
        function, given, returned = self.function, self.given, self.returned

        def pushed(both: Tensor) -> Tensor:
            x, tangent = both.split([given, given])

            def pulled(ct: Tensor) -> Tensor:
                return torch.func.vjp(function, x)[1](ct)[0]

            return torch.func.vjp(pulled, x.new_zeros(returned))[1](tangent)[0]

        return Callback(pushed, 2 * self.given, self.returned)


callback = Primitive("tsgu_func::callback(Tensor x, str function) -> Tensor")


@callback.kernel
def _(x, function):
    g = keys.named(function).function
    with outside_transforms():
        y = torch.func.vmap(g)(x) if x.ndim == 2 else g(x)
    return y.clone(memory_format=torch.contiguous_format)


@callback.fake
def _(x, function):
    return x.new_empty(*x.shape[:-1], keys.named(function).returned)


@callback.vjp("x")
def _(ct, x, function):
    return callback(torch.cat([x, ct], -1), keys.named(function).vjp.key)


@callback.jvp("x")
def _(tangent, x, function):
    return callback(torch.cat([x, tangent], -1), keys.named(function).jvp.key)


@callback.retain
def _(function):
    return keys.named(function)


callback.fold(x=1)
