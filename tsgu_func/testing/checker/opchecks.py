"""PyTorch's own checks of the custom ops that a function calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from tsgu_func.testing.checker.problem import Function, Leaves

__all__ = ["check_custom_ops", "custom_calls"]

_Overload = type(torch.ops.aten.sin.default)
_OWN = ("aten", "prims", "prim", "inductor", "higher_order")


def custom_calls(f: Function, x: Leaves) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Return each call of an op that is not PyTorch's own, with its arguments."""
    calls: list[Any] = []

    class Recorder(torch.fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            namespace = getattr(target, "namespace", "aten")
            if isinstance(target, _Overload) and namespace not in _OWN:
                calls.append((target, args, dict(kwargs)))
            return super().call_function(target, args, kwargs)

    Recorder(make_fx(f)(*x)).run(*x)
    return calls


def check_custom_ops(f: Function, x: Leaves) -> None:
    """Run ``torch.library.opcheck`` on each call; raise what it raises."""
    for op, args, kwargs in custom_calls(f, x):
        for needed in (False, True):
            torch.library.opcheck(op, tuple(_prepared(a, needed) for a in args), kwargs)


def _prepared(a: Any, needed: bool) -> Any:
    if not isinstance(a, Tensor):
        return a
    moving = a.is_floating_point() or a.is_complex()
    return a.detach().clone().requires_grad_(needed and moving)
