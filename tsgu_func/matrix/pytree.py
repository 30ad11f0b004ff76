"""Classes that are pytrees of one child, beside something static."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import optree

from tsgu_func.registration.transforms import pytree

__all__ = ["register"]


def register(
    cls: type, child: str, static: str, build: Callable[[Any, Any], Any], name: str | None = None
) -> None:
    """Register a class with the pytrees of PyTorch and of optree (namespace "tsgu_func").

    Parameters
    ----------
    cls : type
    child, static : str
        Attributes: the one that transforms see into, and the one that they compare.
    build : callable
        ``build(child, static)`` makes an object; it must not look at the child, which may be a
        placeholder.
    name : str, optional
        By which a saved graph calls the class.
    """
    given = {} if name is None else {"serialized_type_name": name}
    pytree.register_pytree_node(
        cls,
        lambda x: ([getattr(x, child)], getattr(x, static)),
        lambda children, held: build(next(iter(children)), held),
        flatten_with_keys_fn=lambda x: (
            [(pytree.GetAttrKey(child), getattr(x, child))],
            getattr(x, static),
        ),
        **given,
    )
    cast(Any, optree.register_pytree_node)(
        cls,
        lambda x: ((getattr(x, child),), getattr(x, static), (child,)),
        lambda held, children: build(children[0], held),
        path_entry_type=optree.GetAttrEntry,
        namespace="tsgu_func",
    )
