"""The logarithm of the determinant of a sparse matrix, from a factor that tells it.

Derivation.  From Jacobi's formula, ``d det S = det S tr(S⁻¹ dS)``,

    d log|det S| = Re tr(S⁻¹ dS) = <S⁻ᴴ, dS>,

and since dS vanishes where nothing is stored, only the entries of ``S⁻ᴴ`` at these places count.
They are found by solving for the columns of the identity, some at a time: each of these solves has
rules, so derivatives of every order come out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels.checks import check_computable, check_finite
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import structure_of
from tsgu_func.ops.handles import handle_of, root_of
from tsgu_func.ops.products import STORED, sddmm
from tsgu_func.ops.solve import linear_solve
from tsgu_func.registration.primitive import Primitive

__all__ = ["logabsdet"]

_COLUMNS = 64  # of the identity that are solved for at once

logabsdet = Primitive(
    "tsgu_func::logabsdet(Tensor values, Tensor crow, Tensor col, SymInt cols, str solver)"
    " -> Tensor",
    groups=STORED,
)


@logabsdet.kernel
def _(values, S, solver):
    check_computable(values)
    check_finite("A", values)
    A = StoredMatrix(structure_of(*S), values)
    if not A.shape[0]:  # the empty product
        return values.new_zeros(values.shape[:-1], dtype=values.dtype.to_real())
    return handle_of(solver).logabsdet(A)


@logabsdet.fake
def _(values, S, solver):
    return values.new_empty(values.shape[:-1], dtype=values.dtype.to_real())


@logabsdet.vjp("values")
def _(ct, values, S, solver):
    return ct.unsqueeze(-1) * _inverse_adjoint(values, S, solver)


@logabsdet.jvp("values")
def _(tangent, values, S, solver):
    return _real_product(_inverse_adjoint(values, S, solver), tangent)


@logabsdet.retain
def _(solver):
    return root_of(solver)


logabsdet.fold(values=1)
logabsdet.autocast("float32")


def _inverse_adjoint(values: Tensor, S: tuple, solver: str) -> Tensor:
    """Return the entries of S⁻ᴴ where S stores one: O(n) solves, O(n) memory for a block."""
    n = S[2]
    entries = torch.zeros_like(values)
    for start in range(0, n, _COLUMNS):
        E = _identity(values, n, range(start, min(start + _COLUMNS, n)))
        X, _ = linear_solve(values, E, *S, True, True, solver, False)
        entries = entries + sddmm(X, E, *S)
    return entries


def _identity(values: Tensor, n: int, columns: range) -> Tensor:
    """Return some columns of the identity, for each member of a batch of values."""
    place = torch.arange(n, device=values.device).unsqueeze(-1)
    column = torch.arange(columns.start, columns.stop, device=values.device)
    E = (place == column).to(values.dtype)
    return E.expand(*values.shape[:-1], *E.shape)


def _real_product(x: Tensor, y: Tensor) -> Tensor:
    """Return ``Re <x, y>`` along the last axis, written without lazy conjugation."""
    if not x.is_complex():
        return (x * y).sum(-1)
    x, y = torch.view_as_real(x.resolve_conj()), torch.view_as_real(y.resolve_conj())
    return (x * y).sum((-2, -1))
