"""A function of pytrees, seen as one of a tuple of tensors; and what it is probed with.

Every check works on a `Problem`: the tensors that a function is differentiated with respect to, the
function of just these, and directions drawn from a seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

__all__ = [
    "Directions",
    "Function",
    "Leaves",
    "Problem",
    "UnknownNameError",
    "inner",
    "leaves_of",
    "problem_of",
    "size",
]

Leaves = tuple[Tensor, ...]
Function = Callable[..., Leaves]

_NAMESPACE: Any = "tsgu_func"  # where SparseMatrix is registered
_MEMBERS = 3  # of a batch: two could be swapped and come out right on average


class Directions(NamedTuple):
    """What a function is probed with; tensors, so that a compiler may be given them.

    Level k is for the k-th derivative, from the inside.  Directions are as long as what they
    change, and cotangents as short as what they weigh is long: so each derivative along them has
    about the size of one.
    """

    u: tuple[Leaves, ...]
    ct_out: tuple[Leaves, ...]
    ct_in: tuple[Leaves, ...]
    scale: Leaves
    members: tuple[Leaves, ...]
    randomness: str = "error"  # of vmap


@dataclass(frozen=True)
class Problem:
    """A function of tensors at a point.

    `function` and `reference` take the leaves and return the leaves of what comes out that are
    floating or complex and not declared constant; `value` and `reference_value` return all
    tensors, integers too.  `masks` says which entries of a direction are kept: a
    counterexample becomes smaller by taking some away.
    """

    function: Function
    value: Function
    x: Leaves
    names: tuple[str, ...]
    rebuild: Callable[[Sequence[Any]], Any]
    seed: int = 0
    order: int = 2
    reference: Function | None = None
    reference_value: Function | None = None
    randomness: str = "error"
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the leaves."""
        dtype = self.x[0].dtype
        for a in self.x[1:]:
            dtype = torch.promote_types(dtype, a.dtype)
        return dtype

    @property
    def eps(self) -> float:
        """The rounding unit of the least precise leaf."""
        return max(torch.finfo(a.dtype).eps for a in self.x)

    def given(self) -> Leaves:
        """Return all tensors among the arguments, also those that are not differentiated."""
        return tensors_of(self.rebuild(self.x))

    def at(self, x: Sequence[Tensor]) -> Problem:
        """Return the same problem at another point."""
        return replace(self, x=tuple(x))

    def keep(self, name: str, mask: Tensor) -> Problem:
        """Return the same problem with fewer entries in one of its directions."""
        return replace(self, masks={**self.masks, name: mask})

    def directions(self) -> Directions:
        """Draw what to probe with: the same at each call."""
        out = self.function(*self.x)
        levels = range(max(self.order, 2))
        draw = self._draw
        return Directions(
            u=tuple(
                tuple(draw(f"u{k}.{i}", a, size(a)) for i, a in enumerate(self.x)) for k in levels
            ),
            ct_out=tuple(
                tuple(draw(f"ct_out{k}.{i}", a, 1 / size(a)) for i, a in enumerate(out))
                for k in levels
            ),
            ct_in=tuple(
                tuple(draw(f"ct_in{k}.{i}", a, size(a)) for i, a in enumerate(self.x))
                for k in levels
            ),
            # Of as many axes as what it scales: what is given a float64 tensor without axes is
            # compiled twice by PyTorch, with its number as a variable and then as a constant.
            scale=tuple(a.new_full((1,) * a.ndim, size(a), dtype=a.real.dtype) for a in out),
            members=tuple(tuple(self._member(m, i, a) for i, a in enumerate(self.x))
                          for m in range(_MEMBERS)),
            randomness=self.randomness,
        )  # fmt: skip

    def _draw(self, name: str, like: Tensor, length: float) -> Tensor:
        direction = _normal(like, f"{self.seed}.{name}") * length
        mask = self.masks.get(name)
        return direction if mask is None else direction * mask.to(direction.dtype)

    def _member(self, m: int, i: int, a: Tensor) -> Tensor:
        # Near multiples of the point, so that what is definite or triangular stays so.
        noise = 0.02 * _normal(a, f"{self.seed}.member{m}.{i}").real
        return a.detach() * (1 + 0.3 * m) * (1 + noise)


def size(x: Tensor) -> float:
    """Return the root mean square of the entries, or one where there is nothing to measure."""
    if not x.numel():
        return 1.0
    largest = float(x.detach().abs().max())
    if largest == 0 or not largest < float("inf"):
        return 1.0
    return largest * float((x.detach().abs() / largest).square().mean().sqrt())


def inner(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """Return Re <x, y>, summed over the leaves."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(x, y, strict=True):
        product = a.conj() * b
        total = total + (product.real if product.is_complex() else product).sum()
    return total


def _normal(like: Tensor, key: str) -> Tensor:
    # Drawn on the CPU and in double precision: the same numbers everywhere.
    generator = torch.Generator("cpu").manual_seed(_hash(key))
    wide = torch.complex128 if like.is_complex() else torch.float64
    drawn = torch.randn(like.shape, dtype=wide, generator=generator, device="cpu")
    return drawn.to(device=like.device, dtype=like.dtype)


def _hash(key: str) -> int:
    value = 14695981039346656037  # FNV-1a: Python's own hash of a string differs by process
    for byte in key.encode():
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


# ----------------------------------------------------------------------------------- pytrees


def problem_of(
    fn: Callable[..., Any],
    args: Any,
    *,
    dtype: torch.dtype | None = None,
    constant: Sequence[str] = (),
    **options: Any,
) -> Problem:
    """See a function of pytrees as one of its floating and complex tensors.

    With `dtype` those are converted to it (from real to complex: with an imaginary part of the same
    size).  What is named in `constant` is not differentiated: ``args[1]``, ``out['mean']``.
    """
    args = args if isinstance(args, tuple) else (args,)
    leaves = optree.tree_leaves(args, namespace=_NAMESPACE)
    names = [a.codify("args") for a in optree.tree_accessors(args, namespace=_NAMESPACE)]
    build = _builder(args, itertools.count())
    still = [c for c in constant if not _is_output(c)]
    _refuse_unknown(still, names)
    moving = [
        i for i, a in enumerate(leaves) if _is_moving(a, names[i]) and not _within(names[i], still)
    ]
    if not moving:
        raise TypeError(
            f"args holds no floating or complex tensor to differentiate with respect to; got "
            f"{[type(a).__name__ for a in leaves]}"
        )

    def rebuild(x: Sequence[Any]) -> Any:
        every = list(leaves)
        for i, a in zip(moving, x, strict=True):
            every[i] = a
        return build(every)

    def flat(function: Callable[..., Any]) -> Function:
        return lambda *x: leaves_of(function(*rebuild(x)))

    def whole(function: Callable[..., Any]) -> Function:
        return lambda *x: tensors_of(function(*rebuild(x)))

    def varying(function: Callable[..., Any]) -> Function:
        kept = _Varying([c for c in constant if _is_output(c)])
        return (lambda *x: kept(function(*rebuild(x)))) if kept.constant else flat(function)

    given = [leaves[i].detach() for i in moving]
    x = tuple(a.clone() if dtype is None else _converted(a, dtype, i) for i, a in enumerate(given))
    reference = options.pop("reference", None)
    return Problem(
        varying(fn),
        whole(fn),
        x,
        tuple(names[i] for i in moving),
        rebuild,
        reference=None if reference is None else varying(reference),
        reference_value=None if reference is None else whole(reference),
        **options,
    )


class UnknownNameError(ValueError):
    """A name in `constant` is none of an argument or a result."""


def _refuse_unknown(constant: Sequence[str], names: Sequence[str]) -> None:
    """Refuse what names none of the tensors."""
    for c in constant:
        if not any(_within(name, [c]) for name in names):
            raise UnknownNameError(f"constant holds some of {', '.join(names)}; got {c!r}")


def _is_output(name: str) -> bool:
    return name.startswith("out")


def _within(name: str, parts: Sequence[str]) -> bool:
    return any(name == p or name.startswith((f"{p}[", f"{p}.")) for p in parts)


class _Varying:
    """Takes the leaves of a result that are not declared constant."""

    def __init__(self, constant: Sequence[str]) -> None:
        self.constant = constant
        self.kept: list[int] | None = None

    def __call__(self, out: Any) -> Leaves:
        if self.kept is None:  # at the first call, which is never inside of the compiler
            self.kept = self._found(out)
        leaves = optree.tree_leaves(out, namespace=_NAMESPACE)
        return leaves_of([leaves[i] for i in self.kept])

    def _found(self, out: Any) -> list[int]:
        names = [a.codify("out") for a in optree.tree_accessors(out, namespace=_NAMESPACE)]
        _refuse_unknown(self.constant, names)
        return [i for i, name in enumerate(names) if not _within(name, self.constant)]


def leaves_of(out: Any) -> Leaves:
    """Return the floating and complex tensors in a pytree."""
    return tuple(a for a in tensors_of(out) if a.is_floating_point() or a.is_complex())


def tensors_of(out: Any) -> Leaves:
    """Return all tensors in a pytree."""
    leaves = [out] if isinstance(out, Tensor) else optree.tree_leaves(out, namespace=_NAMESPACE)
    return tuple(a for a in leaves if isinstance(a, Tensor))


def _builder(tree: Any, count: Iterator[int]) -> Callable[[Sequence[Any]], Any]:
    """Return what puts leaves in the places of those of a tree.

    Closures in place of ``treespec.unflatten``, into which ``torch.compile`` cannot look.
    """
    if optree.tree_is_leaf(tree, namespace=_NAMESPACE):
        i = next(count)
        return lambda leaves: leaves[i]
    children, metadata, keys, unflatten = optree.tree_flatten_one_level(tree, namespace=_NAMESPACE)
    parts = [_builder(child, count) for child in children]
    if type(tree) is dict:
        return lambda leaves: {k: part(leaves) for k, part in zip(keys, parts, strict=True)}
    return lambda leaves: unflatten(metadata, tuple([part(leaves) for part in parts]))


def _is_moving(a: Any, name: str) -> bool:
    if not isinstance(a, Tensor):
        return False
    if a.layout != torch.strided:
        raise TypeError(
            f"{name} is a {a.layout} tensor, which torch.func cannot transform: pass a "
            f"tsgu_func.SparseMatrix, or its values and put them in place inside the function"
        )
    return a.is_floating_point() or a.is_complex()


def _converted(a: Tensor, dtype: torch.dtype, i: int) -> Tensor:
    if a.is_complex() and not dtype.is_complex:
        raise ValueError(
            f"complex arguments are checked in a complex dtype; got dtypes with {dtype}"
        )
    if dtype.is_complex and not a.is_complex():
        a = torch.complex(a.double(), 0.5 * size(a) * _normal(a.double(), f"imaginary.{i}"))
    return a.to(dtype, copy=True)
