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

from tsgu_func.kernels.structure import structure_of
from tsgu_func.ops import keys
from tsgu_func.ops.products import sddmm, spmm
from tsgu_func.ops.reporting import OUTPUTS, empty_report, report, still
from tsgu_func.ops.solve import solve_stored
from tsgu_func.registration.primitive import Primitive
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["least_norm", "least_squares", "reported_least_squares"]

# ---------------------------------------------------------------------------- least_squares

least_squares = Primitive(
    "tsgu_func::least_squares(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose, str solver, str adjoint) -> Tensor"
)


@least_squares.kernel
def _(values, B, crow, col, cols, transpose, solver, adjoint):
    return solve_stored(StoredMatrix(structure_of(crow, col, cols), values, transpose), B, solver)


@least_squares.fake
def _(values, B, crow, col, cols, transpose, solver, adjoint):
    unknowns = crow.shape[0] - 1 if transpose else cols
    return B.new_empty(*B.shape[:-2], unknowns, B.shape[-1])


def cotangents_of_minimizer(needs, ct, X, values, B, crow, col, cols, transpose, solver, adjoint):
    """Return the cotangents of the values and of B."""
    Y = least_norm(values, ct, crow, col, cols, transpose, solver, adjoint)
    if not needs[0]:
        return None, Y
    R = B - spmm(values, X, crow, col, cols, transpose)
    H = least_squares(values, Y, crow, col, cols, transpose, solver, adjoint)
    return _outer(R, H, Y, X, crow, col, cols, transpose), Y


@least_squares.vjp("values", "B")
def _(needs, ct, out, values, B, crow, col, cols, transpose, solver, adjoint):
    return cotangents_of_minimizer(
        needs, ct, out, values, B, crow, col, cols, transpose, solver, adjoint
    )


def tangent_of_minimizer(tangents, X, values, B, crow, col, cols, transpose, solver, adjoint):
    """Return the tangent of X."""
    dS, dB = tangents
    right = dB
    if dS is not None:
        R = B - spmm(values, X, crow, col, cols, transpose)
        dAh_R = spmm(dS.conj(), R, crow, col, cols, not transpose)
        moved = least_norm(values, dAh_R, crow, col, cols, transpose, solver, adjoint)
        moved = moved - spmm(dS, X, crow, col, cols, transpose)
        right = moved if dB is None else dB + moved
    return least_squares(values, right, crow, col, cols, transpose, solver, adjoint)


@least_squares.jvp("values", "B")
def _(tangents, out, values, B, crow, col, cols, transpose, solver, adjoint):
    return tangent_of_minimizer(
        tangents, out, values, B, crow, col, cols, transpose, solver, adjoint
    )


@least_squares.retain
def _(solver, adjoint):
    return keys.root_of(solver), keys.root_of(adjoint)


least_squares.fold(values=1, B=2, columns="B")
least_squares.autocast("float32")

# ------------------------------------------------------------------------------- least_norm

least_norm = Primitive(
    "tsgu_func::least_norm(Tensor values, Tensor G, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose, str solver, str adjoint) -> Tensor"
)


@least_norm.kernel
def _(values, G, crow, col, cols, transpose, solver, adjoint):
    A = StoredMatrix(structure_of(crow, col, cols), values, transpose)
    return solve_stored(A.mH, G, adjoint, "G")


@least_norm.fake
def _(values, G, crow, col, cols, transpose, solver, adjoint):
    equations = cols if transpose else crow.shape[0] - 1
    return G.new_empty(*G.shape[:-2], equations, G.shape[-1])


@least_norm.vjp("values", "G")
def _(needs, ct, out, values, crow, col, cols, transpose, solver, adjoint):
    Z = least_squares(values, ct, crow, col, cols, transpose, solver, adjoint)
    if not needs[0]:
        return None, Z
    E = ct - spmm(values, Z, crow, col, cols, transpose)
    H = least_squares(values, out, crow, col, cols, transpose, solver, adjoint)
    return _outer(E, H, out, Z, crow, col, cols, transpose), Z


@least_norm.jvp("values", "G")
def _(tangents, out, values, crow, col, cols, transpose, solver, adjoint):
    dS, dG = tangents
    if dS is None:
        return least_norm(values, dG, crow, col, cols, transpose, solver, adjoint)
    dAh_Y = spmm(dS.conj(), out, crow, col, cols, not transpose)
    right = -dAh_Y if dG is None else dG - dAh_Y
    H = least_squares(values, out, crow, col, cols, transpose, solver, adjoint)
    dA_H = spmm(dS, H, crow, col, cols, transpose)
    along = least_squares(values, dA_H, crow, col, cols, transpose, solver, adjoint)
    outside = dA_H - spmm(values, along, crow, col, cols, transpose)
    return least_norm(values, right, crow, col, cols, transpose, solver, adjoint) + outside


@least_norm.retain
def _(solver, adjoint):
    return keys.root_of(solver), keys.root_of(adjoint)


least_norm.fold(values=1, G=2, columns="G")
least_norm.autocast("float32")


def _outer(R, H, Y, X, crow, col, cols, transpose):
    """Return ``R Hᴴ - Y Xᴴ`` where S stores an entry, in one pass."""
    tall, flat = torch.cat([R, -Y], -1), torch.cat([H, X], -1).conj()
    # What is at (i, j) in S is at (j, i) in its transpose.
    left, right = (flat, tall) if transpose else (tall, flat)
    return sddmm(left, right, crow, col, cols)


# ------------------------------------------------------------------- reported_least_squares

reported_least_squares = Primitive(
    "tsgu_func::reported_least_squares(Tensor values, Tensor B, Tensor crow, Tensor col,"
    f" SymInt cols, bool transpose, str solver) -> {OUTPUTS}"
)


@reported_least_squares.kernel
def _(values, B, crow, col, cols, transpose, solver):
    return report(StoredMatrix(structure_of(crow, col, cols), values, transpose), B, solver)


@reported_least_squares.fake
def _(values, B, crow, col, cols, transpose, solver):
    unknowns = crow.shape[0] - 1 if transpose else cols
    return empty_report(B.new_empty(*B.shape[:-2], unknowns, B.shape[-1]), B)


@reported_least_squares.vjp("values", "B")
def _(needs, ct, outs, values, B, crow, col, cols, transpose, solver):
    if ct is None:
        return None, None
    return cotangents_of_minimizer(
        needs, ct, outs[0], values, B, crow, col, cols, transpose, solver, solver
    )


@reported_least_squares.jvp("values", "B")
def _(tangents, outs, values, B, crow, col, cols, transpose, solver):
    X, *told = outs
    moved = tangent_of_minimizer(tangents, X, values, B, crow, col, cols, transpose, solver, solver)
    return moved, *still(told)


@reported_least_squares.retain
def _(solver):
    return keys.root_of(solver)


reported_least_squares.fold(values=1, B=2, columns="B")
reported_least_squares.autocast("float32")
