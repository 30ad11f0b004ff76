"""Products of a Jacobian with the seeds of a colouring, and what they say about its entries.

A seed is the sum of the unit vectors of one colour.  The product of the Jacobian with it is a sum
of columns of which no two store an entry in one row, so each of its elements *is* an entry, or
zero: a colouring knows where every entry lies in the products, and one gather brings them into the
order of the pattern (Curtis, Powell and Reid, *On the estimation of sparse Jacobian matrices*,
1974).  Rows are treated as columns of the transpose; of a symmetric matrix, an entry may be read in
the place of its mirror image (Coleman and Moré, *Estimation of sparse Hessian matrices and graph
coloring problems*, 1984).

Products are a ``vmap`` over seeds of ``jvp`` or ``vjp``, and the gather is PyTorch's own: so the
values go through every transform, to any order.  O(colors x n + nnz) memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from tsgu_func.derivatives.batching import NoneMappedWrongly
from tsgu_func.derivatives.flat import Layout, layout_of_result
from tsgu_func.derivatives.forward import NoTangentLost
from tsgu_func.registration.transforms import pytree

if TYPE_CHECKING:
    from tsgu_func.coloring import Coloring

__all__ = [
    "Function",
    "Products",
    "decompressed",
    "directional",
    "evaluated",
    "mapped",
    "parted",
    "pulled",
    "pushed",
]

# A function of the arguments that are differentiated, which returns its result and aux.
Function = Callable[[Any], tuple[Any, Any]]


class Products(NamedTuple):
    """Products with seeds, and what else came of evaluating the function.

    Attributes
    ----------
    products : Tensor, shape (seeds, rows) or (seeds, columns)
    rows : Layout
        Of the function's result.
    aux : pytree
    """

    products: Tensor
    rows: Layout
    aux: Any


# -------------------------------------------------------------------------------------- products


def pushed(
    function: Function,
    chosen: Any,
    columns: Layout,
    seeds: Tensor,
    *,
    chunk_size: int | None,
    check: Callable[[Layout], None],
) -> Products:
    """Multiply a Jacobian with vectors: one ``jvp`` for each.

    Parameters
    ----------
    function : callable
        ``function(chosen) -> (result, aux)``.
    chosen : pytree of Tensor
        Where it is differentiated.
    columns : Layout
        That of `chosen`.
    seeds : Tensor, shape (seeds, columns.size)
        At least one.
    chunk_size : int, optional
        How many are computed at once; with 1, ``vmap`` is not used.
    check : callable
        ``check(rows)`` raises if the result is not as it is expected to be.
    """
    of_tensors, seen = parted(function)

    def push(seed: Tensor) -> tuple[Tensor, ...]:
        result, tangent, tensors = directional(of_tensors, chosen, columns.unravel(seed))
        seen.rows = layout_of_result(result)
        check(seen.rows)
        return seen.rows.ravel(tangent), *tensors

    products, *tensors = mapped(push, (seeds,), chunk_size)
    return Products(products, seen.rows, seen.joined([x[0] for x in tensors]))


def pulled(
    function: Function,
    chosen: Any,
    columns: Layout,
    seeds: Tensor,
    *,
    chunk_size: int | None,
    check: Callable[[Layout], None],
) -> Products:
    """Multiply the transpose of a Jacobian with vectors (seeds, rows): one ``vjp`` for each.

    The function is evaluated once.
    """
    of_tensors, seen = parted(function)

    def watched(at: Any) -> tuple[Any, Any]:
        with NoneMappedWrongly() if chunk_size != 1 else contextlib.nullcontext():
            return of_tensors(at)

    done: Any = vjp(watched, chosen, has_aux=True)
    result, pull, tensors = done
    rows = layout_of_result(result)
    check(rows)

    def pulled_back(seed: Tensor) -> tuple[Tensor]:
        # A vjp is a product with the adjoint: of a holomorphic function, the conjugate.
        return (columns.ravel(pull(rows.unravel(seed))[0]).conj(),)

    (products,) = mapped(pulled_back, (seeds,), chunk_size)
    return Products(products, rows, seen.joined(tensors))


def evaluated(function: Function, chosen: Any, check: Callable[[Layout], None]) -> Products:
    """Evaluate a function of which no product is needed."""
    result, aux = function(chosen)
    rows = layout_of_result(result)
    check(rows)
    return Products(torch.empty(0, rows.size, dtype=rows.dtype, device=rows.device), rows, aux)


def directional(function: Function, at: Any, along: Any) -> tuple[Any, Any, Any]:
    """Return the result of a function, its derivative along a tree of tangents, and its aux."""

    def watched(at: Any) -> tuple[Any, Any]:
        with NoTangentLost():
            return function(at)

    done: Any = jvp(watched, (at,), (along,), has_aux=True)
    return done


def mapped(
    product: Callable[..., Sequence[Tensor]], batches: Sequence[Tensor], chunk_size: int | None
) -> list[Tensor]:
    """Apply a function to each member of a batch, so many at once; results are stacked."""
    if chunk_size == 1:
        members = zip(*[batch.unbind() for batch in batches], strict=True)
        done = [product(*member) for member in members]
        return [torch.stack(results) for results in zip(*done, strict=True)]
    size = chunk_size or len(batches[0])
    chunks = zip(*[batch.split(size) for batch in batches], strict=True)
    done: list[Sequence[Tensor]] = [vmap(product)(*chunk) for chunk in chunks]
    return [_joined(results) for results in zip(*done, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([*parts]) if len(parts) > 1 else parts[0]


# ------------------------------------------------------------------------------------------- aux


class _Seen:
    """What a function returned beside tensors, while it was under a transform."""

    rows: Layout
    spec: Any
    others: list[Any]

    def joined(self, tensors: Sequence[Tensor]) -> Any:
        """Return aux: its tensors, which went through the transform, and all else."""
        left = list(tensors)
        leaves = [left.pop(0) if other is _TENSOR else other for other in self.others]
        return pytree.tree_unflatten(leaves, self.spec)


_TENSOR = object()


def parted(function: Function) -> tuple[Function, _Seen]:
    """Return a function whose aux is a list of tensors, and where the rest of aux is put."""
    seen = _Seen()

    def of_tensors(chosen: Any) -> tuple[Any, list[Tensor]]:
        result, aux = function(chosen)
        leaves, seen.spec = pytree.tree_flatten(aux)
        seen.others = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return result, [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    return of_tensors, seen


# --------------------------------------------------------------------------------------- entries


def decompressed(coloring: Coloring, *products: Tensor) -> Tensor:
    """Bring entries from products into the order of the pattern.

    Parameters
    ----------
    coloring : Coloring
        On the device of the products.
    *products : Tensor
        With the forward seeds, and with the reverse seeds; those that there are.

    Returns
    -------
    Tensor, shape (nnz,)
    """
    parts = [x.reshape(-1) for x in products]
    flat = parts[0] if len(parts) == 1 else torch.cat(parts)
    return flat.index_select(0, coloring.places())
