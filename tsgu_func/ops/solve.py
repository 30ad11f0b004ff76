"""Solution of sparse linear systems.

Derivation.  Let ``A X = B``.  Differentiating, ``dA X + A dX = dB``, so

    dX = A⁻¹ (dB - dA X).

With the cotangent G of X and ``W = A⁻ᴴ G``,

    <G, dX> = <A⁻ᴴ G, dB> - <A⁻ᴴ G, dA X> = <W, dB> - <W Xᴴ, dA>,

so the cotangent of B is W, and that of the values is ``-W Xᴴ`` where A stores an entry, an `sddmm`.
Nothing here asks for A to be symmetric.  All rules call this op again and the products, so
derivatives of every order come out; how the system is solved never enters.

The matrix is read off a stored one, S, as S, Sᵀ, conj(S) or Sᴴ, so that a factor of S serves all of
them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels.checks import check_computable, check_finite
from tsgu_func.kernels.structure import structure_of
from tsgu_func.ops import keys
from tsgu_func.ops.products import sddmm, spmm
from tsgu_func.ops.reporting import OUTPUTS, empty_report, report, still
from tsgu_func.registration.primitive import Primitive
from tsgu_func.solvers.stored import StoredMatrix

__all__ = ["generic_solve", "reported_solve"]

# ---------------------------------------------------------------------------- generic_solve

generic_solve = Primitive(
    "tsgu_func::generic_solve(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose, bool conjugate, str solver) -> Tensor"
)


@generic_solve.kernel
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    A = StoredMatrix(structure_of(crow, col, cols), values, transpose, conjugate)
    return solve_stored(A, B, solver)


@generic_solve.fake
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    return torch.empty_like(B, memory_format=torch.contiguous_format)


def cotangents(needs, ct, X, values, crow, col, cols, transpose, conjugate, solver):
    """Return the cotangents of the values and of B."""
    W = generic_solve(
        values, ct, crow, col, cols, not transpose, not conjugate, keys.adjoint_key(solver)
    )
    if not needs[0]:
        return None, W
    # The cotangent of conj(S) is the conjugate of that of S; and as in spmm, what is at (i, j) in S
    # is at (j, i) in its transpose.
    left, right = (W.conj(), X) if conjugate else (W, X.conj())
    left, right = (right, left) if transpose else (left, right)
    return sddmm(-left, right, crow, col, cols), W


@generic_solve.vjp("values", "B")
def _(needs, ct, out, values, crow, col, cols, transpose, conjugate, solver):
    return cotangents(needs, ct, out, values, crow, col, cols, transpose, conjugate, solver)


def tangent_of_solution(tangents, X, values, crow, col, cols, transpose, conjugate, solver):
    """Return the tangent of X."""
    dS, dB = tangents
    right = dB
    if dS is not None:
        dA_X = spmm(dS.conj() if conjugate else dS, X, crow, col, cols, transpose)
        right = -dA_X if dB is None else dB - dA_X
    return generic_solve(values, right, crow, col, cols, transpose, conjugate, solver)


@generic_solve.jvp("values", "B")
def _(tangents, out, values, crow, col, cols, transpose, conjugate, solver):
    return tangent_of_solution(tangents, out, values, crow, col, cols, transpose, conjugate, solver)


@generic_solve.retain
def _(solver):
    return keys.root_of(solver)


generic_solve.fold(values=1, B=2, columns="B")
generic_solve.autocast("float32")


def solve_stored(A: StoredMatrix, B: Tensor, solver: str, name: str = "B") -> Tensor:
    """Solve with what a key stands for, which is asked only where there is something to solve."""
    check_computable(A.values)
    check_finite("A", A.values)
    check_finite(name, B)
    if not (B.numel() and A.shape[1]):
        return B.new_zeros(*B.shape[:-2], A.shape[1], B.shape[-1])
    return keys.handle_of(solver).solve(A, B)


# --------------------------------------------------------------------------- reported_solve

reported_solve = Primitive(
    "tsgu_func::reported_solve(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    f" bool transpose, bool conjugate, str solver) -> {OUTPUTS}"
)


@reported_solve.kernel
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    A = StoredMatrix(structure_of(crow, col, cols), values, transpose, conjugate)
    return report(A, B, solver)


@reported_solve.fake
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    return empty_report(torch.empty_like(B, memory_format=torch.contiguous_format), B)


@reported_solve.vjp("values", "B")
def _(needs, ct, outs, values, crow, col, cols, transpose, conjugate, solver):
    if ct is None:
        return None, None
    return cotangents(needs, ct, outs[0], values, crow, col, cols, transpose, conjugate, solver)


@reported_solve.jvp("values", "B")
def _(tangents, outs, values, crow, col, cols, transpose, conjugate, solver):
    X, *told = outs
    moved = tangent_of_solution(tangents, X, values, crow, col, cols, transpose, conjugate, solver)
    return moved, *still(told)


@reported_solve.retain
def _(solver):
    return keys.root_of(solver)


reported_solve.fold(values=1, B=2, columns="B")
reported_solve.autocast("float32")
