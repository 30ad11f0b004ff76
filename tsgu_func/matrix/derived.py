"""Patterns that follow from other patterns, made once and then found again.

The sum of two matrices, their product, some of the rows of one: where the result stores entries
depends on patterns alone, and not on values.  So it is found once for given patterns, outside of
all transforms, and the values follow by operations of PyTorch.  While a function is compiled, the
compiler takes what was found for a constant, and guards the identity of the patterns that it was
found for.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from tsgu_func.cache import Store
from tsgu_func.kernels.structure import Structure
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.ops.constants import put_together, taken_apart
from tsgu_func.registration.transforms import constant_when_traced, outside_transforms

__all__ = ["derived"]

T = TypeVar("T")


class _Shelf:
    """What graphs hold, an attribute each: the compiler guards that, and of a dict all keys."""


_shelf = _Shelf()
_kept = Store("derived patterns", most=128, rank=0)
_in_graphs = Store("patterns in graphs", most=256)


def derived(make: Callable[..., T], *given: Any) -> T:
    """Return ``make(*given)``, kept from before where it was made for the same.

    Parameters
    ----------
    make : callable
        A function of a module, which returns patterns, index tensors, or tuples of them.
    *given
        Patterns, with the first of which ends what is kept; numbers, strings, bytes, and tuples.
    """
    if torch.compiler.is_compiling():
        return getattr(_shelf, _name_on_shelf(make, *taken_apart(_opened(given))))
    key = (make, *_identities(given))
    if (kept := _kept.get(key)) is not None:
        return kept.piece
    with outside_transforms():
        piece = make(*given)
    _kept.keep(key, _Kept(piece), _owner(given))
    return piece


@constant_when_traced
def _name_on_shelf(make: Callable[..., Any], *flat: Any) -> str:
    given = _closed(put_together(flat))
    said = f"{make.__module__}.{make.__qualname__}{_identities(given)}".encode()
    name = f"{make.__name__}_{hashlib.blake2b(said, digest_size=16).hexdigest()}"
    if not hasattr(_shelf, name):
        with outside_transforms():
            piece = make(*given)
        setattr(_shelf, name, piece)
        kept = _Kept(piece)
        weakref.finalize(kept, vars(_shelf).pop, name, None)
        _in_graphs.keep(name, kept, _owner(given))
    return name


class _Kept:
    def __init__(self, piece: Any) -> None:
        self.piece, self.bytes = piece, _bytes(piece)


def _owner(given: Any) -> Structure | None:
    """Return the structure of the first pattern."""
    for x in given:
        if isinstance(x, SparsityPattern):
            return x.structure
        if isinstance(x, tuple) and (found := _owner(x)) is not None:
            return found
    return None


class _Opened(NamedTuple):
    """A pattern as the compiler can take it: a transpose is made inside of what it compiles."""

    structure: Structure
    transposed: bool


def _opened(x: Any) -> Any:
    if isinstance(x, SparsityPattern):
        return _Opened(x.structure, x.transposed)
    return tuple(_opened(item) for item in x) if isinstance(x, tuple) else x


def _closed(x: Any) -> Any:
    if isinstance(x, _Opened):
        return SparsityPattern.of_structure(*x)
    return tuple(_closed(item) for item in x) if isinstance(x, tuple) else x


def _identities(x: Any) -> Any:
    """Return what names the same things and keeps none of them."""
    if isinstance(x, SparsityPattern):
        return (x.structure.serial, x.transposed)
    if isinstance(x, bytes):
        return hashlib.blake2b(x, digest_size=16).digest()
    return tuple(_identities(item) for item in x) if isinstance(x, tuple) else x


def _bytes(piece: Any) -> int:
    if isinstance(piece, tuple):
        return sum(_bytes(part) for part in piece)
    return getattr(piece, "nbytes", 0)
