"""A function of a vector as one op, which no transform looks into.

Derivation.  The vjp of ``y = g(x)`` is a function of a vector again, ``(x, ct) -> ct . dg/dx``, and
so is the jvp, ``(x, tangent) -> dg/dx . tangent``.  So with the op for g come the ops for these
two, for theirs, and so on: one op, named by what it calls, is closed under differentiation.  What
``torch.func`` makes of g is computed inside of the kernel, where no transform is active.

This is how a rule, which may call nothing but ops that have rules, can use derivatives of a user's
function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from tsgu_func.ops import keys
from tsgu_func.registration.primitive import Primitive
from tsgu_func.registration.transforms import outside_transforms

__all__ = ["OpaqueFunction", "opaque_call"]


class OpaqueFunction:
    """A function of a vector of one size, with values of another; it is registered under a key."""

    _numbers = itertools.count()

    def __init__(self, function: Callable[[Tensor], Tensor], given: int, returned: int) -> None:
        self.function, self.given, self.returned = function, given, returned
        self.key = f"opaque:{next(self._numbers)}"
        keys.register_operator(self)

    @cached_property
    def vjp(self) -> OpaqueFunction:
        """``(x, ct) -> ct . dg/dx``."""

        def pulled(both: Tensor) -> Tensor:
            x, ct = both.split([self.given, self.returned])
            return torch.func.vjp(self.function, x)[1](ct)[0]

        return OpaqueFunction(pulled, self.given + self.returned, self.given)

    @cached_property
    def jvp(self) -> OpaqueFunction:
        """``(x, tangent) -> dg/dx . tangent``: the vjp of the vjp, which is linear in ct.

        Not by forward mode: PyTorch cannot nest its two kinds, and the eager one may be active.
        """

        def pushed(both: Tensor) -> Tensor:
            x, tangent = both.split([self.given, self.given])

            def pulled(ct: Tensor) -> Tensor:
                return torch.func.vjp(self.function, x)[1](ct)[0]

            return torch.func.vjp(pulled, x.new_zeros(self.returned))[1](tangent)[0]

        return OpaqueFunction(pushed, 2 * self.given, self.returned)


opaque_call = Primitive("tsgu_func::opaque_call(Tensor x, str function) -> Tensor")


@opaque_call.kernel
def _(x, function):
    g = keys.handle_of(function).function
    with outside_transforms():
        y = torch.func.vmap(g)(x) if x.ndim == 2 else g(x)
    return y.clone(memory_format=torch.contiguous_format)


@opaque_call.fake
def _(x, function):
    return x.new_empty(*x.shape[:-1], keys.handle_of(function).returned)


@opaque_call.vjp("x")
def _(ct, x, function):
    return opaque_call(torch.cat([x, ct], -1), keys.handle_of(function).vjp.key)


@opaque_call.jvp("x")
def _(tangent, x, function):
    return opaque_call(torch.cat([x, tangent], -1), keys.handle_of(function).jvp.key)


@opaque_call.retain
def _(function):
    return keys.handle_of(function)


opaque_call.fold(x=1)
