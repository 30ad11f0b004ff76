"""Systems with a matrix that is known by its products alone.

Derivation.  Let ``A(θ) X = B``, where a function computes ``A(θ) x``, linear in x.  As for a stored
matrix, with the cotangent G of X and ``W = A⁻ᴴ G``,

    <G, dX> = <W, dB> - <W, dA X>,

and the last term is what the function's own vjp with respect to θ makes of W, at X.  Where what is
solved is ``Aᴴ Z = B``, with ``W = A⁻¹ G``, it is ``<W, dAᴴ Z> = <dA W, Z>``: the vjp at W, of Z.
"""

from __future__ import annotations

import torch

from tsgu_func.ops import keys
from tsgu_func.ops.forms import pulled, pushed
from tsgu_func.ops.handles import root_of
from tsgu_func.ops.reporting import OUTPUTS, beside, empty, solve_by
from tsgu_func.registration.primitive import Primitive
from tsgu_func.registration.transforms import outside_transforms

__all__ = ["operator_solve"]

operator_solve = Primitive(
    "tsgu_func::operator_solve(Tensor parameters, Tensor B, str function, str solver,"
    f' bool adjoint, str argument="") -> {OUTPUTS}',
    groups={"by": ("function", "solver")},
)


@operator_solve.kernel
def _(parameters, B, by, adjoint, argument):
    function, solver = by
    with outside_transforms():
        A = keys.named(function).matrix(parameters, B)
        return solve_by(solver, A.mH if adjoint else A, B, argument)


@operator_solve.fake
def _(B, by):
    return empty(torch.empty_like(B, memory_format=torch.contiguous_format), B, by[1])


@operator_solve.vjp("parameters", "B")
def _(needs, ct, outs, parameters, by, adjoint):
    if ct is None:
        return None, None
    W, _ = operator_solve(parameters, ct, *by, not adjoint)
    if not needs[0]:
        return None, W
    at, of = (W, outs[0]) if adjoint else (outs[0], W)
    return -pulled(by[0], parameters, at, of), W


@operator_solve.jvp("parameters", "B")
def _(tangents, outs, parameters, by, adjoint):
    moved, right = tangents
    X, report = outs
    if moved is not None:
        dA_X = pushed(by[0], adjoint, parameters, moved, X)
        right = -dA_X if right is None else right - dA_X
    dX, _ = operator_solve(parameters, right, *by, adjoint)
    return beside(dX, report)


@operator_solve.retain
def _(by):
    return keys.named(by[0]), root_of(by[1])


operator_solve.fold(parameters=1, B=2, columns="B")
