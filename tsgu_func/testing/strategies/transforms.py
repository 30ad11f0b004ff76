"""Stacks of ``torch.func`` transforms, and the same by plain autograd and loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jvp, vjp, vmap

from tsgu_func.testing.strategies.options import Bounds, bounds, one_of_names

__all__ = ["LEVELS", "TransformStack", "transform_stacks"]

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]
LEVELS = ("vmap", "jvp", "vjp")
_FACTORS = (1.0, 0.75, -0.5)  # of the members of a batch: the point, and multiples of it


class TransformStack(NamedTuple):
    """A nesting of transforms of torch.func.

    Each transform turns a function of tensors into another function of the same tensors: ``jvp``
    and ``vjp`` along directions that follow from the shapes, and ``vmap`` over three multiples of
    the tensors.

    Attributes
    ----------
    names : tuple of str
        The transforms, from the outside to the inside.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies import TransformStack
    >>> stack = TransformStack(("vmap", "jvp"))
    >>> x = torch.tensor([1.0, 2.0])
    >>> stack, [tuple(a.shape) for a in stack.apply(torch.sin, x)]
    (vmap(jvp(f)), [(3, 2)])
    >>> torch.testing.assert_close(stack.apply(torch.sin, x), stack.by_hand(torch.sin, x))
    """

    names: tuple[str, ...]

    def __repr__(self) -> str:
        return "(".join((*self.names, "f")) + ")" * len(self.names)

    def apply(self, fn: Callable[..., Any], *x: Tensor) -> Tensors:
        """Apply the transforms of torch.func to f, and return the result at x."""
        return self._nested(fn, _BY_FUNC)(*x)

    def by_hand(self, fn: Callable[..., Any], *x: Tensor) -> Tensors:
        """Compute the same with ``torch.autograd.grad`` and a loop, without torch.func."""
        leaves = [a.detach().requires_grad_() for a in x]
        return tuple(a.detach() for a in self._nested(fn, _BY_HAND)(*leaves))

    def _nested(
        self, fn: Callable[..., Any], levels: dict[str, Callable[[Function], Function]]
    ) -> Function:
        g = _tupled(fn)
        for name in reversed(self.names):
            g = levels[name](g)
        return g


def _tupled(fn: Callable[..., Any]) -> Function:
    def function(*x: Tensor) -> Tensors:
        out = fn(*x)
        return (out,) if isinstance(out, Tensor) else tuple(out)

    return function


def _directions(x: Sequence[Tensor], phase: float) -> Tensors:
    """Return tensors like some: of no random numbers, which vmap would refuse."""
    return tuple(
        (torch.arange(1, a.numel() + 1, device=a.device) + phase).sin().to(a.dtype).view(a.shape)
        for a in x
    )


def _jvp(f: Function) -> Function:
    return lambda *x: jvp(f, x, _directions(x, 0.5))[1]


def _vjp(f: Function) -> Function:
    def pulled(*x: Tensor) -> Tensors:
        out, pull, *_ = vjp(f, *x)
        return pull(_directions(out, 0.25))

    return pulled


def _vmap(f: Function) -> Function:
    return lambda *x: vmap(f)(*(torch.stack([a * k for k in _FACTORS]) for a in x))


def _pulled_by_hand(out: Tensors, x: Sequence[Tensor], ct: Tensors) -> Tensors:
    some = [(o, c) for o, c in zip(out, ct, strict=True) if o.requires_grad]
    if not some:
        return tuple(torch.zeros_like(a) for a in x)
    outs, cts = zip(*some, strict=True)
    return torch.autograd.grad(
        outs, x, cts, create_graph=True, allow_unused=True, materialize_grads=True
    )


def _vjp_by_hand(f: Function) -> Function:
    def pulled(*x: Tensor) -> Tensors:
        out = f(*x)
        return _pulled_by_hand(out, x, _directions(out, 0.25))

    return pulled


def _jvp_by_hand(f: Function) -> Function:
    # The pullback is linear in the cotangent: its own pullback pushes forward.
    def pushed(*x: Tensor) -> Tensors:
        out = f(*x)
        ct = tuple(torch.zeros_like(o).requires_grad_() for o in out)
        return _pulled_by_hand(_pulled_by_hand(out, x, ct), ct, _directions(x, 0.5))

    return pushed


def _loop(f: Function) -> Function:
    def looped(*x: Tensor) -> Tensors:
        each = [f(*(a * k for a in x)) for k in _FACTORS]
        return tuple(torch.stack(members) for members in zip(*each, strict=True))

    return looped


_BY_FUNC = {"vmap": _vmap, "jvp": _jvp, "vjp": _vjp}
_BY_HAND = {"vmap": _loop, "jvp": _jvp_by_hand, "vjp": _vjp_by_hand}


def transform_stacks(
    depth: Bounds = (1, 3), *, order: Bounds = (0, 2), levels: Sequence[str] = LEVELS
) -> st.SearchStrategy[TransformStack]:
    """Draw nestings of the transforms of torch.func, such as ``vmap(jvp(vjp(f)))``.

    Parameters
    ----------
    depth : int or (int, int)
        The smallest and the largest number of transforms.
    order : int or (int, int)
        The smallest and the largest number of derivatives among them.
    levels : sequence of {"vmap", "jvp", "vjp"}
        Which transforms are used.

    Returns
    -------
    SearchStrategy of TransformStack

    Raises
    ------
    TypeError
        If a bound is neither a number nor a pair.
    ValueError
        If bounds are not in order, or there is no such transform.

    Examples
    --------
    A property that holds for every nesting, and the smallest nesting for which another does not:

    >>> import torch
    >>> from hypothesis import find, given, settings
    >>> from tsgu_func.testing.strategies import transform_stacks
    >>> x = torch.tensor([0.5, 2.0], dtype=torch.float64)
    >>> @settings(deadline=None)
    ... @given(transform_stacks())
    ... def test_tanh(stack):
    ...     torch.testing.assert_close(
    ...         stack.apply(torch.tanh, x), stack.by_hand(torch.tanh, x))
    >>> test_tanh()
    >>> find(transform_stacks(order=2), lambda stack: "vmap" in stack.names).names.count("vmap")
    1
    """
    least, most = bounds("depth", depth)
    least_order, most_order = bounds("order", order)
    for level in levels:
        one_of_names("levels", level, LEVELS)
    drawn = st.lists(st.sampled_from(tuple(levels)), min_size=least, max_size=most)
    stacks = drawn.map(lambda names: TransformStack(tuple(names)))
    return stacks.filter(
        lambda s: least_order <= len(s.names) - s.names.count("vmap") <= most_order
    )
