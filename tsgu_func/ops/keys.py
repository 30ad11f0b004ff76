"""How an op names a Python object: a solver, a user's function, an operator.

An op of ``torch.library`` takes tensors, numbers and strings.  So it names all else by a key, a
string, and there are two kinds of those:

*Descriptions*, such as ``CG(preconditioner=IC0(), rtol=1e-08)``, of objects of this library.  They
say all there is to say, so what they stand for can be made from them, in any process.

*Names*, such as ``lambda@3f0c9a1b:7``, of everything else.  A name ends with a token of the process
and a number, so it is never given twice, and what it stands for is found as long as anybody holds
it.  What autograd records holds it (`Primitive.retain`).  A graph holds the key and nothing else;
what it stands for is kept for it, in a store that is bounded and that `clear_cache` empties.
"""

from __future__ import annotations

import itertools
import os
import secrets
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.ops.constants import put_together, taken_apart
from tsgu_func.registration.transforms import constant_when_traced, is_tracing

__all__ = ["Named", "is_name", "key_of", "name_of", "named", "new_name", "register", "tensors_of"]


class Named(Protocol):
    """What a key stands for."""

    @property
    def key(self) -> str:
        """The key."""
        ...


_living: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
# What graphs name, and may be held by nobody else.
_in_graphs = Store("functions in graphs", most=256)
_numbers = itertools.count()
_DEEP = 4  # levels of attributes and closures in which tensors are looked for
_tokens = [secrets.token_hex(4)]  # of this process, and of those that it was forked from
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=lambda: _tokens.append(secrets.token_hex(4)))


def new_name(called: str) -> str:
    """Return a name that nothing else ever has."""
    return f"{called}@{_tokens[-1]}:{next(_numbers)}"


def is_name(key: str) -> bool:
    """Say whether a key is a name, and not a description."""
    return "@" in key


def name_of(x: Any) -> str:
    """Return what a function or an object is called, for its key and in messages."""
    qualname = getattr(x, "__qualname__", None) or type(x).__qualname__
    return f"{getattr(x, '__module__', None) or type(x).__module__}.{qualname}"


def register(x: Any) -> Any:
    """Let `named` find x by its key, as long as somebody holds x."""
    return _living.setdefault(x.key, x)


def named(key: str) -> Any:
    """Return what a name stands for."""
    if (found := _living.get(key)) is not None:
        return found
    called, _, token = key.partition("@")
    if token.partition(":")[0] not in _tokens:
        raise LookupError(
            f"this graph calls {called} of the process that made it, which no graph can bring "
            f"along: make the graph in this process, or use a solver of tsgu_func.solvers, which "
            f"can be saved"
        )
    raise LookupError(
        f"this graph calls {called}, which is gone: nobody holds it, and what is kept for graphs "
        f"was cleared or has made room for others; hold it as long as the graph, or make the graph "
        f"again"
    )


def key_of(make: Callable[..., Named], *args: Any) -> tuple[str, Named | None]:
    """Return the key of ``make(*args)``, and what has to be held until the op has been called.

    While a graph is traced, what the key stands for is kept for that graph; the compiler makes
    another one for arguments that are not the same objects.
    """
    if torch.compiler.is_compiling():
        return _constant_key(make, *taken_apart(args)), None
    x = make(*args)
    if is_tracing():
        _keep(x)
    return x.key, x


@constant_when_traced
def _constant_key(make: Callable[..., Named], *flat: Any) -> str:
    return _keep(make(*put_together(flat))).key


def _keep(x: Named) -> Named:
    if is_name(x.key):
        _in_graphs.keep(x.key, _InGraph(x))
    return x


class _InGraph:
    """What a graph names, and the size of the tensors that it can be seen to hold."""

    def __init__(self, x: Any) -> None:
        self.x, self.bytes = x, sum(t.nbytes for t in tensors_of(x))


def tensors_of(x: Any, depth: int = _DEEP) -> list[Tensor]:
    """Return the dense tensors that x has for attributes, or is closed over, some levels deep."""
    if isinstance(x, Tensor):
        return [x] if x.layout == torch.strided else []
    if not depth:
        return []
    held = list(getattr(x, "__dict__", {}).values())
    for cell in getattr(x, "__closure__", None) or ():
        held += _contents(cell)
    if isinstance(x, (tuple, list)):
        held += x
    if isinstance(x, dict):
        held += x.values()
    held += getattr(x, "args", ()) if callable(x) else ()
    return [tensor for item in held for tensor in tensors_of(item, depth - 1)]


def _contents(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # a name that is not bound yet
        return []
