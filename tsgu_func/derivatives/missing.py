"""Entries of a Jacobian that a pattern lacks: found by one product, named by a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from tsgu_func.derivatives.compression import Function, directional
from tsgu_func.derivatives.evaluation import SparseJacobian
from tsgu_func.derivatives.flat import (
    Layout,
    bound,
    layout_of_arguments,
    layout_of_result,
    selected,
)
from tsgu_func.derivatives.verification import differences, direction, precision
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.registration.transforms import depth, is_tracing, pytree

__all__ = ["NotFiniteError", "check_entries"]

_NAMED = 8  # rows, and columns in each, that a message names
_ROUNDED = 64  # units of rounding of a row's largest entry, which are no entry


class NotFiniteError(ValueError):
    """Derivatives are not finite, so nothing can be found out about them."""


class _Point(NamedTuple):
    """A function, where it is differentiated, and what its rows and columns are."""

    function: Function
    chosen: Any
    columns: Layout
    rows: Layout

    @property
    def is_mixed(self) -> bool:
        """Whether real and complex numbers meet, where reverse mode tells only a part."""
        kinds = (self.columns, self.rows)
        return any(k.is_complex for k in kinds) and any(k.is_real for k in kinds)

    def pushed(self, v: Tensor) -> Tensor:
        """Multiply the Jacobian with a vector, in forward mode."""
        return self.rows.ravel(directional(self.function, self.chosen, self.columns.unravel(v))[1])

    def pulled(self, u: Tensor) -> Tensor:
        """Multiply the adjoint of the Jacobian with a vector."""
        pull = vjp(lambda at: self.function(at)[0], self.chosen)[1]
        return self.columns.ravel(pull(self.rows.unravel(u))[0])

    def pulled_twice(self, v: Tensor) -> Tensor:
        """Multiply the Jacobian with a vector, as the adjoint of its adjoint."""
        u = torch.zeros(self.rows.size, dtype=self.rows.dtype, device=self.rows.device)
        return vjp(self.pulled, u)[1](v.to(self.columns.dtype))[0]


def check_entries(jac: SparseJacobian, args: tuple[Any, ...], seed: int) -> None:
    """Compare products of a Jacobian with random vectors with those of its function.

    Raises
    ------
    ValueError
        If they differ, or as a `NotFiniteError`.
    RuntimeError
        Under transforms and in graphs, where numbers cannot be looked at.
    """
    if is_tracing() or depth():
        raise RuntimeError(
            "check_pattern looks at numbers, which it cannot under a transform of torch.func or in "
            "a compiled function: call it outside"
        )
    options = jac.options
    with torch.no_grad():
        A = jac(*args)[0] if options.has_aux else jac(*args)
        point = _point(jac, args)
        generator = torch.Generator("cpu").manual_seed(seed)
        product = point.pulled_twice if options.mode == "reverse" else point.pushed
        wrong = _wrong("row", product, point, A, point.columns, generator)
        if len(wrong):
            raise ValueError(_lacking(point, A.pattern, wrong))
        if options.mode in ("forward", "reverse") or point.is_mixed:
            return
        adjoint = A.with_values(A.values.conj()).T
        wrong = _wrong("column", point.pulled, point, adjoint, point.rows, generator)
        if len(wrong):
            raise ValueError(_differ("column", wrong))


def _wrong(
    name: str,
    product: Callable[[Tensor], Tensor],
    point: _Point,
    A: SparseMatrix,
    along: Layout,
    generator: torch.Generator,
) -> Tensor:
    """Return in which rows a matrix does not do what a product does, to a random vector."""
    v = direction(along, generator)
    found = differences(
        lambda w: _as_double(product(w)),
        v,
        expected=_multiplied(A, A.values, v),
        scale=_multiplied(A, A.values.abs(), v.abs()),
        unit=precision(point.columns, point.rows),
        generator=generator,
    )
    if len(found.unknown):
        raise NotFiniteError(
            f"nothing can be said of {_listed(name, found.unknown)}, where derivatives are "
            f"not finite at this point: check at another one"
        )
    return found.wrong


def _point(jac: SparseJacobian, args: tuple[Any, ...]) -> _Point:
    argnums = jac.options.argnums
    with_aux = bound(jac.f, args, argnums, jac.options.has_aux)
    point = pytree.tree_map(Tensor.detach, selected(args, argnums))

    def function(at: Any) -> tuple[Any, list[Tensor]]:
        return with_aux(at)[0], []

    rows = layout_of_result(function(point)[0])
    return _Point(function, point, layout_of_arguments(args, argnums), rows)


def _as_double(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _multiplied(A: SparseMatrix, values: Tensor, v: Tensor) -> Tensor:
    """Multiply with other values in the place of those of A, in double precision."""
    row, col = A.pattern.places()
    products = _as_double(values) * _as_double(v)[col]
    return products.new_zeros(A.shape[0]).index_add(0, row, products)


def _lacking(point: _Point, pattern: SparsityPattern, wrong: Tensor) -> str:
    """Say which entries are missing in rows that are wrong.

    Where rows were compressed, an entry that is missing in one of them was added to another.
    """
    try:
        named = [told for i in wrong[: 2 * _NAMED].tolist() if (told := _row(point, pattern, i))]
    except (RuntimeError, NotImplementedError) as error:  # there may be no reverse mode
        reason = str(error).partition("\n")[0]
        named = [f"{_listed('row', wrong)} (of which columns is not known: {reason})"]
    if not named:
        return _differ("row", wrong)
    more = len(wrong) - 2 * _NAMED
    others = f"; and {more} more rows are wrong" if more > 0 else ""
    return (
        f"the pattern lacks entries of the Jacobian, which makes others wrong: {'; '.join(named)}"
        f"{others}.  jacobian_pattern(f, x) finds a pattern that lacks none"
    )


def _differ(name: str, wrong: Tensor) -> str:
    return (
        f"the Jacobian that was evaluated is wrong in {_listed(name, wrong)}, though no entry is "
        f"missing there: the rules of f for forward and for reverse mode differ, or it is not "
        f"complex differentiable"
    )


def _row(point: _Point, pattern: SparsityPattern, i: int) -> str:
    """Say which columns are missing in a row; nothing if none are."""
    u = torch.zeros(point.rows.size, dtype=point.rows.dtype, device=point.rows.device)
    u[i] = 1
    entries = point.pulled(u).abs()
    least = _ROUNDED * precision(point.columns, point.rows) * entries.max()
    row, col = pattern.places()
    entries[col[row == i]] = 0
    missing = (entries > least).nonzero()[:, 0]
    return f"row {i} lacks {_listed('column', missing)}" if len(missing) else ""


def _listed(name: str, indices: Tensor) -> str:
    few = ", ".join(map(str, indices[:_NAMED].tolist()))
    more = len(indices) - _NAMED
    return f"{name}{'s' * (len(indices) > 1)} {few}{f' and {more} more' if more > 0 else ''}"
