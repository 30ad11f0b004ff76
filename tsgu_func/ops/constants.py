"""Python objects as constants of a compiled graph, guarded by what they are.

A function that the compiler may call while it traces (`constant_when_traced`) returns what the
graph then holds as a constant.  The compiler guards such a call badly: functions by their code
alone, so that a closure which differs only in what it is closed over passes for the first one;
objects that are made inside of the compiled function not at all, and it hands over an empty shell.

So an object is taken apart by code that is traced, `taken_apart`, which asks for the `id` of
whatever has an identity (on that the compiler does guard), and reads the fields of what was made
inside.  What comes of it is a flat tuple, whose items the compiler can convert; `put_together`,
which is called with it and not traced, returns the object.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
from typing import Any

import torch
from torch import Tensor

from tsgu_func.registration.transforms import constant_when_traced

__all__ = ["put_together", "taken_apart"]

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type)
_CONSTANTS = (bool, complex, str, bytes, type(None), torch.dtype, torch.device)
_NUMBERS = (*_CONSTANTS, int, float)

# Before PyTorch 2.13 the compiler does not guard on the `id` of a function, and for an object that
# is made inside of the compiled function it is that of the shell.
_GUARDED = torch.__version__ >= "2.13"  # as versions are compared


def taken_apart(x: Any) -> tuple[Any, ...]:
    """Return what `put_together` makes an equal object of: a head, then all that belongs to it."""
    if isinstance(x, Tensor):
        raise TypeError(
            "a tensor among the options of a solver cannot be part of a compiled graph: let the "
            "solver be a function that is closed over it"
        )
    if isinstance(x, _CONSTANTS):
        return ("itself", x)
    # Numbers that change would become symbols; what is made of them here, the compiler guards.
    if isinstance(x, int):
        return ("itself", operator.index(x))
    if isinstance(x, float):
        return ("float", x.hex())
    if isinstance(x, types.MethodType):
        return ("method", *taken_apart(x.__func__), *taken_apart(x.__self__))
    if isinstance(x, functools.partial):
        flat = ("partial", *taken_apart(x.func), *taken_apart(tuple(x.args)))
        return (*flat, *taken_apart(dict(x.keywords)))
    if isinstance(x, (tuple, list)):
        flat = ("sequence", type(x), len(x))
        for item in x:
            flat = (*flat, *taken_apart(item))
        return flat
    if isinstance(x, dict):
        flat = ("dict", len(x))
        for key in x:
            flat = (*flat, key, *taken_apart(x[key]))
        return flat
    if isinstance(x, types.FunctionType) and x.__code__.co_freevars and _can_be_named(x):
        repr(x)  # breaks the graph if x holds a tensor: make x outside, or pass it in parameters
    if isinstance(x, types.FunctionType) and not _GUARDED:
        _guard(x)
    if not isinstance(x, _FUNCTIONS) and _made_inside(x, id(x), _size(x)):
        flat = ("dataclass", type(x))
        for name in _field_names(type(x)):
            flat = (*flat, *taken_apart(getattr(x, name)))
        return flat
    return ("known", x, id(x))


def _can_be_named(function: Any) -> bool:
    """Say whether `repr` of a function does not break the graph.

    Of a function that the compiler has read as code, `repr` makes one where what it is closed over
    are constants, and breaks the graph where they are not: handed over as it is, it is an internal
    error.  Before PyTorch 2.13 it breaks the graph for one that is known from outside, too.
    """
    return _GUARDED or len(_cells(function)) == 0


def _guard(function: Any) -> None:
    """Have the compiler guard on which function this is, by the cells and the defaults it has."""
    for cell in _cells(function):
        id(cell)
    defaults, by_name = _defaults(function)
    for default in (*defaults, *by_name.values()):
        if isinstance(default, Tensor):
            id(default)
        else:
            taken_apart(default)


def _cells(function: Any) -> tuple[Any, ...]:
    try:
        cells = function.__closure__
    except AttributeError:  # it is made inside
        return ()
    return () if cells is None else cells


def _defaults(function: Any) -> tuple[Any, Any]:
    try:
        return function.__defaults__ or (), function.__kwdefaults__ or {}
    except AttributeError:  # it is made inside: `_check_made_inside` looks at them
        return (), {}


def _size(x: Any) -> int:
    """Return how many attributes x has, where the compiler does not tell by its ``id``."""
    return -1 if _GUARDED else len(getattr(x, "__dict__", ()))


def put_together(flat: tuple[Any, ...]) -> Any:
    """Return the object that was taken apart."""
    x, rest = _next(flat)
    if rest:
        raise ValueError(f"{len(rest)} items belong to nothing")
    return x


def _next(flat: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return the first object, and what follows it."""
    head, first, rest = flat[0], flat[1], flat[2:]
    if head == "itself":
        return first, rest
    if head == "float":
        return float.fromhex(first), rest
    if head == "known":
        if isinstance(first, types.FunctionType) and id(first) != rest[0]:
            _check_made_inside(first)
        return first, rest[1:]
    if head == "method":
        (function, owner), rest = _several(flat[1:], 2)
        return types.MethodType(function, owner), rest
    if head == "partial":
        (function, args, options), rest = _several(flat[1:], 3)
        return functools.partial(function, *args, **options), rest
    if head == "dataclass":
        names = _field_names(first)
        values, rest = _several(rest, len(names))
        return _new(first, dict(zip(names, values, strict=True))), rest
    if head == "dict":
        items: dict[Any, Any] = {}
        for _ in range(first):
            items[rest[0]], rest = _next(rest[1:])
        return items, rest
    values, rest = _several(rest[1:], rest[0])
    return (first(*values) if hasattr(first, "_fields") else first(values)), rest


def _several(flat: tuple[Any, ...], count: int) -> tuple[list[Any], tuple[Any, ...]]:
    values = []
    for _ in range(count):
        value, flat = _next(flat)
        values.append(value)
    return values, flat


def _new(cls: Any, values: dict[str, Any]) -> Any:
    """Make a dataclass of its fields, as it was when they were read: it has been checked."""
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@constant_when_traced
def _made_inside(x: Any, identity: int, size: int) -> bool:
    """Say whether x was made by the function that is being compiled.

    What is handed over then is a shell without attributes, whose `id` is not the one that traced
    code was told.  Before PyTorch 2.13 it is: there the attributes are counted, and slots tried.
    """
    inside = id(x) != identity
    if not _GUARDED:
        fields = dataclasses.fields(x) if dataclasses.is_dataclass(x) else ()
        inside = inside or _size(x) != size or any(not hasattr(x, f.name) for f in fields)
    if inside and not dataclasses.is_dataclass(x):
        raise TypeError(
            f"the compiler cannot read a {type(x).__name__} that is made inside of a compiled "
            f"function: make it outside, or make its class a dataclass"
        )
    return inside


@constant_when_traced
def _field_names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _check_made_inside(function: Any) -> None:
    """Refuse a function made inside that is closed over more than numbers and strings.

    On those the compiler guards; on the identity of anything else it does not.
    """
    cells = {
        name: cell.cell_contents
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        )
    }
    defaults = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    for name, held in (cells | defaults).items():
        if not isinstance(held, _NUMBERS):
            raise TypeError(
                f"{function.__qualname__} is made inside of a compiled function and holds "
                f"{name!r}, a {type(held).__name__}: the compiler would not notice another one; "
                f"make the function outside, or take functools.partial of one made outside"
            )
