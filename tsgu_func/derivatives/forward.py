"""Forward mode that takes no derivative for zero for want of a rule.

An op of ``torch.library`` need not have a rule for forward mode: ``custom_op`` knows none, and an
op without a kernel for autograd has none at all.  PyTorch raises for its own ops and for an
``autograd.Function``; of these ops it silently returns results without a tangent: constants.  The
``jvp`` of an ``autograd.Function`` is one as well for another ``jvp`` around it.
"""

from __future__ import annotations

import contextlib
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tsgu_func.registration.primitive import primitive_of
from tsgu_func.registration.transforms import (
    CALL_OF_FUNCTION,
    OPS,
    DispatchMode,
    constant_when_traced,
    depth,
    has_tangent_at,
    overloads,
    pytree,
)

__all__ = ["NoForwardRuleError", "NoTangentLost"]

_OF_PYTORCH = ("aten", "prims", "prim")


class NoForwardRuleError(NotImplementedError):
    """Forward mode would take a derivative for zero that is not."""


class NoTangentLost(TorchFunctionMode):
    """A mode in which an op raises that returns constants where an argument has a tangent.

    It is entered inside of a ``jvp``, whose tangents are meant.  While the compiler traces, nobody
    can look at tangents: such an op is refused there if it takes and returns numbers at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.level = None if torch.compiler.is_compiling() else depth()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is CALL_OF_FUNCTION:
            self._check_moved_once(args)
            return func(*args, **kwargs)
        foreign = _foreign(func) if isinstance(func, OPS) else _SILENT.get(func)
        # What runs inside of a function of PyTorch that is written in Python is not met here.
        composed = isinstance(func, FunctionType) if foreign is None else foreign.is_composed
        with _NoForeignOp() if composed and self.level is not None else contextlib.nullcontext():
            out = func(*args, **kwargs)
        if foreign is None or not self._moves((args, kwargs)):
            return out
        if foreign.writes or self._is_constant(out):
            raise _lost(foreign.name)
        return out

    def _check_moved_once(self, args: tuple[Any, ...]) -> None:
        """Raise if an ``autograd.Function`` is met by a ``jvp`` of a ``jvp``."""
        if self.level is None or not self._moves(args):
            return
        numbers = [x for x in pytree.tree_leaves(args) if _is_number(x)]
        if any(has_tangent_at(x, outer) for x in numbers for outer in range(1, self.level)):
            raise NoForwardRuleError(
                f"{args[0].__name__} is an autograd.Function, whose jvp is a constant for PyTorch "
                f"in a jvp around it: take one of the two derivatives in reverse mode (a Hessian's "
                f"mode is 'forward-reverse' by default), or make it a tsgu_func.Primitive"
            )

    def _is_constant(self, out: Any) -> bool:
        """Whether numbers were returned, and none of them has a tangent."""
        returned = any(map(_is_number, pytree.tree_leaves(out)))
        return returned and (self.level is None or not self._moves(out))

    def _moves(self, tree: Any) -> bool:
        """Whether any tensor has a tangent."""
        numbers = filter(_is_number, pytree.tree_leaves(tree))
        return any(self.level is None or has_tangent_at(x, self.level) for x in numbers)


class _NoForeignOp(DispatchMode):
    """A mode for ops that are composed of others, among which there is none without a rule."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        foreign = _foreign(func)
        if foreign is not None and any(map(_is_number, pytree.tree_leaves((args, kwargs)))):
            raise _lost(foreign.name)
        return func(*args, **(kwargs or {}))


class _Foreign(NamedTuple):
    """What is to be known of an op that is neither PyTorch's nor a primitive."""

    name: str
    writes: bool
    is_composed: bool


# Ops of PyTorch that behave alike: a product that is scattered has no tangent, and says nothing.
_SILENT = dict.fromkeys(
    (torch.scatter_reduce, Tensor.scatter_reduce, Tensor.scatter_reduce_),
    _Foreign("aten::scatter_reduce", writes=False, is_composed=False),
)


@constant_when_traced
def _foreign(func: Any) -> _Foreign | None:
    """Return what is to be known of an op; None of one that has all the rules that it needs."""
    ops = overloads(func)
    if ops[0].namespace in _OF_PYTORCH or primitive_of(ops[0]) is not None:
        return None
    writes = any(op._schema.is_mutable for op in ops)
    return _Foreign(ops[0]._schema.name, writes, any(op._can_decompose() for op in ops))


def _lost(name: str) -> NoForwardRuleError:
    return NoForwardRuleError(
        f"{name} has no derivative in forward mode, which PyTorch takes for zero without a word: "
        f"give it one, as a tsgu_func.Primitive or an autograd.Function with a jvp; or pass "
        f"mode='reverse' (for a Hessian 'reverse-reverse'), where torch.func can differentiate it"
    )


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
