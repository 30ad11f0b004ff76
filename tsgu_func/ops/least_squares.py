"""Least-squares solution of sparse, tall systems.

Derivation (Golub and Pereyra, *The Differentiation of Pseudo-Inverses and Nonlinear Least Squares
Problems Whose Variables Separate*, SIAM J. Numer. Anal. 10(2), 1973).  Let A be m x n with full
column rank, and X = A⁺ B the minimizer of |A X - B|, with the residual R = B - A X.  From the
normal equations ``Aᴴ A X = Aᴴ B``,

    dX = A⁺ (dB - dA X) + (Aᴴ A)⁻¹ dAᴴ R,      (Aᴴ A)⁻¹ = A⁺ (Aᴴ)⁺.

With the cotangent G of X, ``Y = (Aᴴ)⁺ G`` and ``H = (Aᴴ A)⁻¹ G = A⁺ Y``,

    <G, dX> = <Y, dB> + <R Hᴴ - Y Xᴴ, dA>.

Y is the solution of ``Aᴴ Y = G`` of least norm, ``Y = A H``.  It is an op of its own, because its
derivative is not that of a least-squares solution.  From ``Aᴴ Y = G``, and from
``dY = dA H + A dH`` for the part of dY outside of the range of A, onto which ``P = A A⁺`` projects,

    dY = (Aᴴ)⁺ (dG - dAᴴ Y) + (I - P) dA H,

and with the cotangent C of Y and ``Z = A⁺ C``,

    <C, dY> = <Z, dG> + <(C - A Z) Hᴴ - Y Zᴴ, dA>.

The two ops and the products are closed under differentiation.
"""

from __future__ import annotations

import torch

from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import structure_of
from tsgu_func.ops.handles import root_of
from tsgu_func.ops.products import STORED, sddmm, spmm
from tsgu_func.ops.reporting import OUTPUTS, beside, empty, solve_by
from tsgu_func.registration.primitive import Primitive

__all__ = ["least_norm", "least_squares"]

# Both ops have the keys of both solvers, because the rules of each call the other.
_GROUPS = {**STORED, "by": ("solver", "adjoint")}

# ---------------------------------------------------------------------------- least_squares

least_squares = Primitive(
    "tsgu_func::least_squares(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    f" bool transpose, str solver, str adjoint,"
    f' str argument="") -> {OUTPUTS}',
    groups=_GROUPS,
)


@least_squares.kernel
def _(values, B, S, transpose, by, argument):
    A = StoredMatrix(structure_of(*S), values, transpose)
    return solve_by(by[0], A, B, argument)


@least_squares.fake
def _(B, S, transpose, by):
    crow, _, cols = S
    unknowns = crow.shape[0] - 1 if transpose else cols
    return empty(B.new_empty(*B.shape[:-2], unknowns, B.shape[-1]), B, by[0])


@least_squares.vjp("values", "B")
@considerate
def _(needs, ct, outs, values, B, S, transpose, by):
    if ct is None:
        return None, None
    Y, _ = least_norm(values, ct, *S, transpose, *by)
    if not needs[0]:
        return None, Y
    X = outs[0]
    R = B - spmm(values, X, *S, transpose)
    H, _ = least_squares(values, Y, *S, transpose, *by)
    return _outer(R, H, Y, X, S, transpose), Y


@least_squares.jvp("values", "B")
@considerate
def _(tangents, outs, values, B, S, transpose, by):
    dS, dB = tangents
    X, report = outs
    right = dB
    if dS is not None:
        R = B - spmm(values, X, *S, transpose)
        dAh_R = spmm(dS.conj(), R, *S, not transpose)
        into_range, _ = least_norm(values, dAh_R, *S, transpose, *by)
        moved = into_range - spmm(dS, X, *S, transpose)
        right = moved if dB is None else dB + moved
    dX, _ = least_squares(values, right, *S, transpose, *by)
    return beside(dX, report)


@least_squares.retain
def _(by):
    return tuple(map(root_of, by))


least_squares.fold(values=1, B=2, columns="B")
least_squares.autocast("float32")

# ------------------------------------------------------------------------------- least_norm

least_norm = Primitive(
    "tsgu_func::least_norm(Tensor values, Tensor G, Tensor crow, Tensor col, SymInt cols,"
    f' bool transpose, str solver, str adjoint, str argument="") -> {OUTPUTS}',
    groups=_GROUPS,
)


@least_norm.kernel
def _(values, G, S, transpose, by, argument):
    A = StoredMatrix(structure_of(*S), values, transpose)
    return solve_by(by[1], A.mH, G, argument)


@least_norm.fake
def _(G, S, transpose, by):
    crow, _, cols = S
    equations = cols if transpose else crow.shape[0] - 1
    return empty(G.new_empty(*G.shape[:-2], equations, G.shape[-1]), G, by[1])


@least_norm.vjp("values", "G")
@considerate
def _(needs, ct, outs, values, S, transpose, by):
    if ct is None:
        return None, None
    Z, _ = least_squares(values, ct, *S, transpose, *by)
    if not needs[0]:
        return None, Z
    Y = outs[0]
    E = ct - spmm(values, Z, *S, transpose)
    H, _ = least_squares(values, Y, *S, transpose, *by)
    return _outer(E, H, Y, Z, S, transpose), Z


@least_norm.jvp("values", "G")
@considerate
def _(tangents, outs, values, S, transpose, by):
    dS, right = tangents
    Y, report = outs
    if dS is not None:
        dAh_Y = spmm(dS.conj(), Y, *S, not transpose)
        right = -dAh_Y if right is None else right - dAh_Y
    dY, _ = least_norm(values, right, *S, transpose, *by)
    if dS is None:
        return beside(dY, report)
    H, _ = least_squares(values, Y, *S, transpose, *by)
    dA_H = spmm(dS, H, *S, transpose)
    along, _ = least_squares(values, dA_H, *S, transpose, *by)
    return beside(dY + dA_H - spmm(values, along, *S, transpose), report)


@least_norm.retain
def _(by):
    return tuple(map(root_of, by))


least_norm.fold(values=1, G=2, columns="G")
least_norm.autocast("float32")


def _outer(R, H, Y, X, S, transpose):
    """Return ``R Hᴴ - Y Xᴴ`` where S stores an entry, in one pass."""
    tall, flat = torch.cat([R, -Y], -1), torch.cat([H, X], -1).conj()
    # What is at (i, j) in S is at (j, i) in its transpose.
    left, right = (flat, tall) if transpose else (tall, flat)
    return sddmm(left, right, *S)
