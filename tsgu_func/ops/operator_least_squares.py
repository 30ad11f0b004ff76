"""Least-squares solution of tall systems with a matrix that is known by its products alone.

Derivation.  As for a stored matrix (see `least_squares`), with ``Y = (Aᴴ)⁺ G``, ``H = A⁺ Y`` and
the residual ``R = B - A X``,

    <G, dX> = <Y, dB> + <R, dA H> - <Y, dA X>,

and for the op of least norm, ``Y = (Aᴴ)⁺ G`` with the cotangent C and ``Z = A⁺ C``,

    <C, dY> = <Z, dG> + <C - A Z, dA H> - <Y, dA Z>.

Both terms in dA are one vjp of the function with respect to the parameters, at twice the columns.
"""

from __future__ import annotations

import torch

from tsgu_func.ops import keys
from tsgu_func.ops.forms import applied, pulled, pushed
from tsgu_func.ops.handles import root_of
from tsgu_func.ops.reporting import OUTPUTS, beside, empty, solve_by
from tsgu_func.registration.primitive import Primitive
from tsgu_func.registration.transforms import outside_transforms

__all__ = ["operator_least_norm", "operator_least_squares"]

_GROUPS = {"by": ("function", "solver")}

# ------------------------------------------------------------------------ operator_least_squares

operator_least_squares = Primitive(
    "tsgu_func::operator_least_squares(Tensor parameters, Tensor B, str function, str solver,"
    f' str argument="") -> {OUTPUTS}',
    groups=_GROUPS,
)


@operator_least_squares.kernel
def _(parameters, B, by, argument):
    function, solver = by
    with outside_transforms():
        return solve_by(solver, keys.named(function).matrix(parameters, B), B, argument)


@operator_least_squares.fake
def _(B, by):
    return empty(B.new_empty(*B.shape[:-2], _shape(by)[1], B.shape[-1]), B, by[1])


@operator_least_squares.vjp("parameters", "B")
def _(needs, ct, outs, parameters, B, by):
    if ct is None:
        return None, None
    Y, _ = operator_least_norm(parameters, ct, *by)
    if not needs[0]:
        return None, Y
    X = outs[0]
    R = B - applied(by[0], False, parameters, X)
    H, _ = operator_least_squares(parameters, Y, *by)
    return _pulled(by, parameters, (H, R), (X, Y)), Y


@operator_least_squares.jvp("parameters", "B")
def _(tangents, outs, parameters, B, by):
    moved, right = tangents
    X, report = outs
    if moved is not None:
        R = B - applied(by[0], False, parameters, X)
        dAh_R = pushed(by[0], True, parameters, moved, R)
        dA_X = pushed(by[0], False, parameters, moved, X)
        into_range, _ = operator_least_norm(parameters, dAh_R, *by)
        change = into_range - dA_X
        right = change if right is None else right + change
    dX, _ = operator_least_squares(parameters, right, *by)
    return beside(dX, report)


@operator_least_squares.retain
def _(by):
    return keys.named(by[0]), root_of(by[1])


operator_least_squares.fold(parameters=1, B=2, columns="B")

# --------------------------------------------------------------------------- operator_least_norm

operator_least_norm = Primitive(
    "tsgu_func::operator_least_norm(Tensor parameters, Tensor G, str function, str solver,"
    f' str argument="") -> {OUTPUTS}',
    groups=_GROUPS,
)


@operator_least_norm.kernel
def _(parameters, G, by, argument):
    function, solver = by
    with outside_transforms():
        A = keys.named(function).matrix(parameters, G)
        return solve_by(solver, A.mH, G, argument)


@operator_least_norm.fake
def _(G, by):
    return empty(G.new_empty(*G.shape[:-2], _shape(by)[0], G.shape[-1]), G, by[1])


@operator_least_norm.vjp("parameters", "G")
def _(needs, ct, outs, parameters, by):
    if ct is None:
        return None, None
    Z, _ = operator_least_squares(parameters, ct, *by)
    if not needs[0]:
        return None, Z
    Y = outs[0]
    E = ct - applied(by[0], False, parameters, Z)
    H, _ = operator_least_squares(parameters, Y, *by)
    return _pulled(by, parameters, (H, E), (Z, Y)), Z


@operator_least_norm.jvp("parameters", "G")
def _(tangents, outs, parameters, by):
    moved, right = tangents
    Y, report = outs
    if moved is not None:
        dAh_Y = pushed(by[0], True, parameters, moved, Y)
        right = -dAh_Y if right is None else right - dAh_Y
    dY, _ = operator_least_norm(parameters, right, *by)
    if moved is None:
        return beside(dY, report)
    H, _ = operator_least_squares(parameters, Y, *by)
    dA_H = pushed(by[0], False, parameters, moved, H)
    along, _ = operator_least_squares(parameters, dA_H, *by)
    return beside(dY + dA_H - applied(by[0], False, parameters, along), report)


@operator_least_norm.retain
def _(by):
    return keys.named(by[0]), root_of(by[1])


operator_least_norm.fold(parameters=1, G=2, columns="G")


def _shape(by):
    return keys.named(by[0]).products.shape


def _pulled(by, parameters, plus, minus):
    """Return the cotangent of the parameters that ``<R, dA H> - <Y, dA X>`` stands for."""
    (H, R), (X, Y) = plus, minus
    return pulled(by[0], parameters, torch.cat([H, X], -1), torch.cat([R, -Y], -1))
