"""A matrix as a pytree: its values are the one leaf, its pattern is static."""

from __future__ import annotations

from typing import Any, cast

import optree

from tsgu_func.registration.transforms import pytree

__all__ = ["register"]


def register(matrix: Any) -> None:
    """Register the class of matrices with the pytrees of PyTorch and of optree."""

    def unflatten(children: Any, pattern: Any) -> Any:
        (values,) = children
        return matrix._of(pattern, values)

    def flatten_with_keys(A: Any) -> tuple[list[tuple[Any, Any]], Any]:
        return [(pytree.GetAttrKey("values"), A.values)], A.pattern

    pytree.register_pytree_node(
        matrix,
        lambda A: ([A.values], A.pattern),
        unflatten,
        serialized_type_name="tsgu_func.SparseMatrix",
        flatten_with_keys_fn=flatten_with_keys,
    )
    cast(Any, optree.register_pytree_node)(
        matrix,
        lambda A: ((A.values,), A.pattern, ("values",)),
        lambda pattern, children: unflatten(children, pattern),
        path_entry_type=optree.GetAttrEntry,
        namespace="tsgu_func",
    )
