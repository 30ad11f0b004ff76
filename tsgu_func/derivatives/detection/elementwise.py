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


@rule("mul", "multiply")
def _(operands, out, inputs):
    """Leave out what a mask sets to zero; weights are not looked at, see `Operand`."""
    total = unite((broadcast(x, out) for x in operands), out.count, inputs)
    for x in operands:
        if x.value is not None and not x.value.all():
            total = _only(total, np.broadcast_to(x.value.numpy() != 0, out.shape).ravel())
    return total


@rule("where")
def _(condition, self, other, out, inputs):
    true, false = (broadcast(x, out) if isinstance(x, Operand) else None for x in (self, other))
    return _chosen(condition, true, false, out, inputs)


@rule("masked_fill")
def _(self, mask, value, out, inputs):
    filled = broadcast(value, out) if isinstance(value, Operand) else None
    return _chosen(mask, filled, broadcast(self, out), out, inputs)


def _chosen(
    condition: Operand, true: Sets | None, false: Sets | None, out: Operand, inputs: int
) -> Sets:
    """Return what is chosen by a condition; by one that is not known, both."""
    parts = [nothing(out.count, inputs) if sets is None else sets for sets in (true, false)]
    if condition.value is not None:
        which = np.broadcast_to(condition.value.numpy(), out.shape).ravel()
        parts = [_only(parts[0], which), _only(parts[1], ~which)]
    return unite(parts, out.count, inputs)


def _only(sets: Sets, which: np.ndarray) -> Sets:
    """Return the sets of some elements, and empty ones for the others."""
    return sets.take(np.where(which, np.arange(len(which)), -1))


@rule("zero", "uniform", "normal", "bernoulli", "exponential", "random")
def _(outs, inputs):
    return [nothing(out.count, inputs) for out in outs]
