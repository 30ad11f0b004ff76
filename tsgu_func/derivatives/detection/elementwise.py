"""Rules of ops that take each element for itself, with broadcasting."""

from __future__ import annotations

import numpy as np

from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets, nothing
from tsgu_func.derivatives.detection.table import rule, spread, unite

__all__: list[str] = []


def broadcast(x: Operand, out: Operand) -> Sets | None:
    """Return the sets of an operand in the shape of the output; None if it depends on nothing."""
    return spread(x.sets, x.shape, out.shape) if x.depends else None


@rule(
    *("pointwise", "_to_copy", "clone", "copy", "detach", "alias", "lift_fresh", "contiguous"),
    *("_conj_physical", "_fw_primal", "fill", "conj_physical", "nan_to_num", "rsub"),
    *("native_dropout_backward", "_resize_output", "complex", "polar", "angle"),
    *("threshold_backward", "hardtanh_backward", "elu_backward", "leaky_relu_backward"),
    *("softplus_backward", "hardsigmoid_backward", "hardswish_backward", "hardshrink_backward"),
    *("softshrink_backward", "mish_backward", "log_sigmoid_backward", "celu", "tanh_backward"),
    *("_prelu_kernel", "_prelu_kernel_backward", "infinitely_differentiable_gelu_backward"),
)
def _(operands, outs, inputs):
    # An op of several outputs depends on all its arguments in each: `_prelu_kernel_backward`.
    return [unite((broadcast(x, out) for x in operands), out.count, inputs) for out in outs]


@rule("where")
def _(condition, self, other, out, inputs):
    parts = [broadcast(x, out) if isinstance(x, Operand) else None for x in (self, other)]
    if condition.value is not None:
        chosen = np.broadcast_to(condition.value.numpy(), out.shape).ravel()
        parts = [_only(part, which) for part, which in zip(parts, (chosen, ~chosen), strict=True)]
    return unite(parts, out.count, inputs)


@rule("masked_fill")
def _(self, mask, value, out, inputs):
    parts = [broadcast(self, out)]
    if isinstance(value, Operand):
        parts.append(broadcast(value, out))
    if mask.value is not None:
        filled = np.broadcast_to(mask.value.numpy(), out.shape).ravel()
        parts = [_only(p, which) for p, which in zip(parts, (~filled, filled), strict=False)]
    return unite(parts, out.count, inputs)


def _only(sets: Sets | None, which: np.ndarray) -> Sets | None:
    """Return the sets of some elements, and empty ones for the others."""
    return None if sets is None else sets.take(np.where(which, np.arange(len(which)), -1))


@rule("zero", "uniform", "normal", "bernoulli", "exponential", "random")
def _(outs, inputs):
    return [nothing(out.count, inputs) for out in outs]
