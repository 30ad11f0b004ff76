"""A call of a user's function, as a function from tensors to tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tsgu_func.registration.transforms import pytree

__all__ = ["Call"]


class Call:
    """A call whose tensors can be replaced.

    Attributes
    ----------
    inputs : list of Tensor
        The leaves of the arguments that are differentiated with respect to.
    others : list of Tensor
        The tensors among the leaves of all other arguments.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: Sequence[Any],
        argnums: int | tuple[int, ...],
        has_aux: bool,
        scalar: bool,
    ) -> None:
        self.f, self.has_aux, self.scalar = f, has_aux, scalar
        self.numbers = _numbers(argnums, len(args))
        rest = [k for k in range(len(args)) if k not in self.numbers]
        self.order = [*self.numbers, *rest]
        self.inputs, self.spec = pytree.tree_flatten(tuple(args[k] for k in self.numbers))
        self.rest, self.rest_spec = pytree.tree_flatten(tuple(args[k] for k in rest))
        self.others = [x for x in self.rest if isinstance(x, Tensor)]
        for x in self.inputs:
            _check(x, "what f is differentiated with respect to")

    @property
    def device(self) -> torch.device:
        """Where the pattern belongs."""
        device = self.inputs[0].device if self.inputs else torch.device("cpu")
        return torch.device("cpu") if device.type == "meta" else device

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Call f with other tensors: first those in the place of inputs, then those of others."""
        inputs, others = tensors[: len(self.inputs)], iter(tensors[len(self.inputs) :])
        rest = [next(others) if isinstance(x, Tensor) else x for x in self.rest]
        first = pytree.tree_unflatten(inputs, self.spec)
        parts = *first, *pytree.tree_unflatten(rest, self.rest_spec)
        given = dict(zip(self.order, parts, strict=True))
        return self._outputs(self.f(*(given[k] for k in range(len(given)))))

    def _outputs(self, out: Any) -> list[Tensor]:
        if self.has_aux:
            if not isinstance(out, (tuple, list)) or len(out) != 2:
                raise TypeError(
                    f"with has_aux=True f returns a pair of its output and anything else; got "
                    f"{type(out).__name__}"
                )
            out = out[0]
        found = pytree.tree_leaves(out)
        for x in found:
            _check(x, "what f returns", integers=True)
        if self.scalar and (len(found) != 1 or found[0].shape):
            shapes = ", ".join(str(tuple(x.shape)) for x in found)
            raise ValueError(
                f"a Hessian is that of a function with one number for output, a tensor of shape "
                f"(); got {len(found)} of shape {shapes}: sum what f returns, or take the Jacobian"
            )
        return found


def _numbers(argnums: int | tuple[int, ...], count: int) -> list[int]:
    """Return which arguments are meant, counted from the front."""
    given = (argnums,) if isinstance(argnums, int) else argnums
    if (
        not isinstance(given, (tuple, list))
        or not given
        or any(not isinstance(k, int) or isinstance(k, bool) for k in given)
    ):
        raise TypeError(f"argnums is an int or a tuple of ints; got {argnums!r}")
    if any(not -count <= k < count for k in given):
        raise ValueError(f"f was given {count} arguments, and argnums={argnums!r} asks for another")
    found = [k % count for k in given]
    if len(set(found)) < len(found):
        raise ValueError(f"argnums names each argument once; got {argnums!r}")
    return found


def _check(x: Any, what: str, integers: bool = False) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} is a tensor, or a pytree of tensors; got {type(x).__name__}")
    if not (integers or x.is_floating_point() or x.is_complex()):
        raise TypeError(f"{what} is of floating-point or complex numbers; got {x.dtype}")
    if x.layout != torch.strided:
        raise TypeError(f"{what} is a dense tensor; got one of layout {x.layout}")
