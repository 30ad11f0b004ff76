"""Right functions with their rules, and what makes an op of them: a mistake is one rule changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

__all__ = ["BASES", "WEIGHED", "Base", "custom_op", "function"]

Leaves = tuple[Tensor, ...]
Needs = tuple[bool, ...]  # which arguments require a gradient

_numbers = count()


@dataclass(frozen=True)
class Base:
    """A function, its rules, and a point.

    ``value(*x)`` returns one tensor or two; ``vjp(cts, x, needs)`` a gradient for each argument;
    ``jvp(tangents, x)`` tangents of what comes out; ``batch(size, dims, x)``, if not the generic
    rule is to be used, what ``vmap`` of an ``autograd.Function`` returns.  ``kept`` is what the
    function saves for the rules.
    """

    name: str
    args: Leaves
    value: Callable[..., Any]
    vjp: Callable[[Leaves, Leaves, Needs], tuple[Tensor | None, ...]]
    jvp: Callable[[tuple[Tensor | None, ...], Leaves], Any] | None
    batch: Callable[..., Any] | None = None
    outs: int = 1

    def with_args(self, *args: Tensor) -> Base:
        """Return the same function at another point."""
        return replace(self, args=args)


def function(base: Base) -> Callable[..., Any]:
    """Make an ``autograd.Function`` of it, and return its ``apply``."""

    def forward(*x: Tensor) -> Any:
        return base.value(*x)

    def setup_context(ctx: Any, inputs: Leaves, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    def backward(ctx: Any, *cts: Tensor) -> Any:
        if all(c is None for c in cts):
            return (None,) * len(base.args)
        return base.vjp(cts, ctx.saved_tensors, ctx.needs_input_grad)

    members: dict[str, Any] = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "generate_vmap_rule": base.batch is None,
    }
    if (push := base.jvp) is not None:
        members["jvp"] = staticmethod(lambda ctx, *tangents: push(tangents, ctx.saved_tensors))
    if (batch := base.batch) is not None:
        members["vmap"] = staticmethod(lambda info, dims, *x: batch(info.batch_size, dims, *x))
    return type(f"Planted{next(_numbers)}", (torch.autograd.Function,), members).apply


def custom_op(base: Base, right: Base) -> Any:
    """Make an op of ``torch.library`` of it, with ``register_autograd``, and shapes as they are."""
    names = [f"x{i}" for i in range(len(base.args))]
    result = "Tensor" if base.outs == 1 else f"({', '.join(['Tensor'] * base.outs)})"
    schema = f"({', '.join(f'Tensor {name}' for name in names)}) -> {result}"
    name = f"planted::function{next(_numbers)}"
    op = torch.library.custom_op(name, base.value, mutates_args=(), schema=schema)

    def backward(ctx: Any, *cts: Tensor) -> Any:
        return base.vjp(cts, ctx.saved_tensors, ctx.needs_input_grad)

    op.register_fake(right.value)
    op.register_autograd(
        backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    )
    if (batch := base.batch) is not None:
        op.register_vmap(lambda info, dims, *x: batch(info.batch_size, dims, *x))
    return op


# ------------------------------------------------------------------------------- right functions


def _cube_vjp(cts: Leaves, x: Leaves, needs: Needs) -> tuple[Tensor | None, ...]:
    return (3 * cts[0] * x[0].conj() ** 2,)


def _cube_jvp(tangents: tuple[Tensor | None, ...], x: Leaves) -> Any:
    assert tangents[0] is not None
    return 3 * tangents[0] * x[0] ** 2


def _product(x: Tensor, y: Tensor) -> Tensor:
    return x @ y


def _product_vjp(cts: Leaves, x: Leaves, needs: Needs) -> tuple[Tensor | None, ...]:
    return cts[0] @ x[1].mH, x[0].mH @ cts[0]


def _product_jvp(tangents: tuple[Tensor | None, ...], x: Leaves) -> Any:
    first, second = tangents
    terms = [] if first is None else [first @ x[1]]
    terms += [] if second is None else [x[0] @ second]
    return sum(terms[1:], terms[0])


def _weighed_vjp(cts: Leaves, x: Leaves, needs: Needs) -> tuple[Tensor | None, ...]:
    return 2 * cts[0] * (x[0] * x[1]).conj(), cts[0] * x[0].conj() ** 2


def _weighed_jvp(tangents: tuple[Tensor | None, ...], x: Leaves) -> Any:
    first, second = tangents
    terms = [] if first is None else [2 * first * x[0] * x[1]]
    terms += [] if second is None else [x[0] ** 2 * second]
    return sum(terms[1:], terms[0])


def _both(x: Tensor) -> Leaves:
    return torch.sin(x), x**2


def _both_vjp(cts: Leaves, x: Leaves, needs: Needs) -> tuple[Tensor | None, ...]:
    first, second = (torch.zeros_like(x[0]) if c is None else c for c in cts)
    return (first * torch.cos(x[0]).conj() + 2 * second * x[0].conj(),)


def _both_jvp(tangents: tuple[Tensor | None, ...], x: Leaves) -> Any:
    assert tangents[0] is not None
    return torch.cos(x[0]) * tangents[0], 2 * x[0] * tangents[0]


def _drawn(*shape: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(len(shape))
    x = torch.rand(shape, dtype=torch.float64, device="cpu", generator=generator)
    return torch.where(x < 0.5, x - 1.3, x + 0.3)  # of both signs, none near zero


_CUBE = Base("cube", (_drawn(4),), lambda x: x**3, _cube_vjp, _cube_jvp)
_PRODUCT = Base("matmul", (_drawn(2, 3), _drawn(3, 2) * 0.7), _product, _product_vjp, _product_jvp)
_BOTH = Base("sin and square", (_drawn(3),), _both, _both_vjp, _both_jvp, outs=2)
WEIGHED = Base(
    "weighed squares", (_drawn(3), _drawn(3, 1)[:, 0]), lambda x, y: x**2 * y,
    _weighed_vjp, _weighed_jvp,
)  # fmt: skip
BASES: Mapping[str, Base] = {base.name: base for base in (_CUBE, _PRODUCT, _BOTH)}
