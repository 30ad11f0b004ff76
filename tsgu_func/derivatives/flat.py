"""Pytrees as one vector: the rows and columns of a Jacobian.

The order is the *raveled* one: the leaves of a tree one after the other, as ``torch.func`` orders
them (tuples and lists by position, dicts as they were filled), each of them read row by row.
Several arguments come in the order in which `argnums` names them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsgu_func.registration.transforms import pytree

__all__ = [
    "Argnums",
    "Layout",
    "bound",
    "check_argnums",
    "layout_of_arguments",
    "layout_of_result",
    "of_vector",
    "plain",
    "replaced",
    "selected",
]

Argnums = int | tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How the leaves of a pytree lie in one vector.

    Two layouts are equal where trees, shapes, dtypes and device are: of tensors that have the same
    layout, every function has a Jacobian of the same shape.

    Attributes
    ----------
    spec : TreeSpec
        The structure of the tree.
    shapes, dtypes : tuple
        Of each leaf.
    device : torch.device
        Where all leaves are.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.derivatives.flat import Layout
    >>> tree = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor(5.0)}
    >>> layout = Layout.of(tree)
    >>> layout.ravel(tree)
    tensor([1., 2., 3., 4., 5.])
    >>> layout.unravel(torch.arange(5.0))["a"]
    tensor([[0., 1.],
            [2., 3.]])
    >>> layout
    Layout(size=5: ['a'] float32 (2, 2), ['b'] float32 ())
    """

    spec: Any
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    device: torch.device

    @classmethod
    def of(cls, tree: Any, name: str = "the argument", hint: str = "") -> Layout:
        """Return the layout of a tree of tensors.

        Parameters
        ----------
        tree : pytree of Tensor
            Floating point or complex leaves, on one device.
        name, hint : str
            What errors call the tree, and what they say can be done.

        Raises
        ------
        TypeError
            If a leaf is not such a tensor, with the place of the leaf.
        ValueError
            If there is no leaf, or they are on several devices.
        """
        leaves, spec = pytree.tree_flatten(tree)
        for number, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
                raise TypeError(_not_a_number(tree, number, name, hint))
        if not leaves:
            raise ValueError(f"{name} holds no tensor: there is nothing to differentiate")
        devices = [leaf.device for leaf in leaves]
        if any(device != devices[0] for device in devices):
            raise ValueError(
                f"the tensors of {name} are on one device, that of the matrix; got "
                f"{', '.join(dict.fromkeys(map(str, devices)))}"
            )
        shapes = tuple([leaf.shape for leaf in leaves])
        return cls(spec, shapes, tuple([leaf.dtype for leaf in leaves]), devices[0])

    @property
    def sizes(self) -> list[int]:
        """Number of elements of each leaf."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Number of elements of all leaves: the length of the vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """To which the leaves are promoted in the vector, as by ``torch.result_type``."""
        return functools.reduce(torch.promote_types, self.dtypes)

    @property
    def is_complex(self) -> bool:
        """Whether any leaf is complex."""
        return any(dtype.is_complex for dtype in self.dtypes)

    @property
    def is_real(self) -> bool:
        """Whether any leaf is real."""
        return not all(dtype.is_complex for dtype in self.dtypes)

    def ravel(self, tree: Any) -> Tensor:
        """Return the leaves of a tree in one vector (size,), in their common dtype.

        Raises
        ------
        ValueError
            If the tree has another layout.
        """
        leaves, spec = pytree.tree_flatten(tree)
        shapes = [leaf.shape for leaf in leaves]
        if spec != self.spec or shapes != list(self.shapes):
            raise ValueError(f"what is raveled has the layout {self}; got {_sketch(spec, shapes)}")
        dtype = self.dtype
        flat = [leaf.reshape(-1).to(dtype) for leaf in leaves]
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def unravel(self, vector: Tensor) -> Any:
        """Return the tree that a vector (size,) stands for, each leaf in its own dtype.

        Of a complex vector, real leaves are the real part where others are complex.

        Raises
        ------
        ValueError
            If the vector has another length, or is complex where no leaf is.
        """
        if vector.shape != (self.size,):
            raise ValueError(
                f"what is unraveled is a vector of {self.size} elements, for {self}; got shape "
                f"{tuple(vector.shape)}"
            )
        if vector.is_complex() and not self.is_complex:
            raise ValueError(
                f"a complex vector cannot be unraveled to real tensors: take its real part "
                f"(.real), if that is what is meant; the layout is {self}"
            )
        parts = vector.split(self.sizes)
        leaves = [
            _as_dtype(part.reshape(shape), dtype)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]
        return pytree.tree_unflatten(leaves, self.spec)

    def __repr__(self) -> str:
        paths = _paths(self.spec)
        leaves = [
            f"{path} {str(dtype).removeprefix('torch.')} {tuple(shape)}".strip()
            for path, shape, dtype in zip(paths, self.shapes, self.dtypes, strict=True)
        ]
        return f"Layout(size={self.size}: {', '.join(leaves)})"


def _as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.real if x.is_complex() and not dtype.is_complex else x).to(dtype)


def _paths(spec: Any) -> list[str]:
    """Return where each leaf is, as it is written in Python: ``[0]['weight']``."""
    tree = pytree.tree_unflatten([0] * spec.num_leaves, spec)
    return [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def _sketch(spec: Any, shapes: Sequence[Any]) -> str:
    parts = [f"{p} {tuple(s)}".strip() for p, s in zip(_paths(spec), shapes, strict=True)]
    return ", ".join(parts)


def _not_a_number(tree: Any, number: int, name: str, hint: str) -> str:
    path, leaf = pytree.tree_flatten_with_path(tree)[0][number]
    kind = f"a tensor of {leaf.dtype}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
    place = f"{name}{pytree.keystr(path)}"
    return (
        f"{name} is differentiated, so all of it is floating point or complex tensors; {place} is "
        f"{kind}{hint and f': {hint}'}"
    )


# ------------------------------------------------------------------------------------- arguments

_OTHERS = "leave it out of argnums, or let the function be closed over it"
_AUX = "return it beside the result, as (result, aux), with has_aux=True"


def check_argnums(argnums: Any) -> Argnums:
    """Return `argnums` as an int or a tuple of ints.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If it is empty.
    """
    whole = argnums if isinstance(argnums, tuple) else (argnums,)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in whole):
        raise TypeError(f"argnums is an int or a tuple of ints; got {argnums!r}")
    if not whole:
        raise ValueError("argnums is empty: it names the arguments to differentiate")
    return argnums


def selected(args: tuple[Any, ...], argnums: Argnums) -> Any:
    """Return the arguments that are differentiated: one of them, or a tuple.

    Raises
    ------
    ValueError
        If there is no such argument, or one is named twice.
    """
    places = _places(args, argnums)
    return tuple([args[i] for i in places]) if isinstance(argnums, tuple) else args[places[0]]


def plain(chosen: Any) -> Any:
    """Return what is differentiated as tensors that PyTorch's forward mode takes.

    It refuses those whose elements share memory, as after ``expand``, and lazy conjugates.
    """
    return pytree.tree_map(_plain, chosen)


def _plain(x: Tensor) -> Tensor:
    if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
        x = x.contiguous()
    return x.resolve_conj().resolve_neg()


def replaced(args: tuple[Any, ...], argnums: Argnums, chosen: Any) -> tuple[Any, ...]:
    """Return all arguments, with others for those that are differentiated."""
    new = list(args)
    values = chosen if isinstance(argnums, tuple) else (chosen,)
    for i, value in zip(_places(args, argnums), values, strict=True):
        new[i] = value
    return tuple(new)


def _places(args: tuple[Any, ...], argnums: Argnums) -> list[int]:
    """Return where the arguments are, counted from the front."""
    count = len(args)
    whole = argnums if isinstance(argnums, tuple) else (argnums,)
    for i in whole:
        if not -count <= i < count:
            raise ValueError(
                f"argnums={argnums} names argument {i}, and the function was called with {count} "
                f"positional argument{'s' * (count != 1)}"
            )
    places = [i % count for i in whole]
    if len(set(places)) != len(places):
        raise ValueError(f"argnums={argnums} names an argument twice, for {count} arguments")
    return places


def layout_of_arguments(args: tuple[Any, ...], argnums: Argnums) -> Layout:
    """Return the layout of the arguments that are differentiated: the columns of a Jacobian."""
    name = f"args[{argnums}]" if isinstance(argnums, int) else f"args of argnums={argnums}"
    return Layout.of(selected(args, argnums), name, _OTHERS)


def layout_of_result(result: Any) -> Layout:
    """Return the layout of what a function returned: the rows of a Jacobian."""
    return Layout.of(result, "the result", _AUX)


def bound(
    f: Callable[..., Any], args: tuple[Any, ...], argnums: Argnums, has_aux: bool
) -> Callable[[Any], tuple[Any, Any]]:
    """Return f as a function of the arguments that are differentiated, with its result and aux.

    Aux is None where there is none.
    """

    def of_chosen(chosen: Any) -> tuple[Any, Any]:
        returned = f(*replaced(args, argnums, chosen))
        if not has_aux:
            return returned, None
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise TypeError(
                f"with has_aux=True the function returns a pair (result, aux); got "
                f"{type(returned).__name__}"
            )
        return returned

    return of_chosen


def of_vector(
    f: Callable[..., Any], args: tuple[Any, ...], argnums: Argnums, has_aux: bool
) -> tuple[Callable[[Tensor], Tensor], Layout]:
    """Return f as a function of one vector to one vector, and the layout of the former.

    What it returns as aux is left away.
    """
    layout = layout_of_arguments(args, argnums)
    of_chosen = bound(f, args, argnums, has_aux)

    def function(vector: Tensor) -> Tensor:
        result = of_chosen(layout.unravel(vector))[0]
        return layout_of_result(result).ravel(result)

    return function, layout
