"""Solution of sparse linear systems.

Derivation.  Let ``A X = B``.  Differentiating, ``dA X + A dX = dB``, so

    dX = A⁻¹ (dB - dA X).

With the cotangent G of X and ``W = A⁻ᴴ G``,

    <G, dX> = <A⁻ᴴ G, dB> - <A⁻ᴴ G, dA X> = <W, dB> - <W Xᴴ, dA>,

so the cotangent of B is W, and that of the values is ``-W Xᴴ`` where A stores an entry, an `sddmm`.
Nothing here asks for A to be symmetric.  All rules call this op again and the products, so
derivatives of every order come out; how the system is solved never enters.

The matrix is read off a stored one, S, as S, Sᵀ, conj(S) or Sᴴ, so that a factor of S serves all of
them.  What a singular A maps to zero, and what its adjoint does, changes places in the adjoint
system; with these, A⁻¹ is meant as in `tsgu_func.solvers.nullspace`.
"""

from __future__ import annotations

import torch

from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import structure_of
from tsgu_func.ops.handles import adjoint_key, root_of
from tsgu_func.ops.products import STORED, sddmm, spmm
from tsgu_func.ops.reporting import OUTPUTS, beside, empty, solve_by
from tsgu_func.registration.primitive import Primitive

__all__ = ["linear_solve"]

linear_solve = Primitive(
    "tsgu_func::linear_solve(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    f" bool transpose, bool conjugate, str solver, bool condition,"
    f' str argument="", Tensor? right=None, Tensor? left=None) -> {OUTPUTS}',
    groups={**STORED, "null": ("right", "left")},
)


@linear_solve.kernel
def _(values, B, S, transpose, conjugate, solver, condition, argument, null):
    A = StoredMatrix(structure_of(*S), values, transpose, conjugate)
    return solve_by(solver, A, B, argument, condition, null)


@linear_solve.fake
def _(B, S, solver):
    return empty(torch.empty_like(B, memory_format=torch.contiguous_format), B, solver)


@linear_solve.vjp("values", "B")
@considerate
def _(needs, ct, outs, values, S, transpose, conjugate, solver, null):
    if ct is None:
        return None, None
    adjoint = not transpose, not conjugate, adjoint_key(solver), False, "", *reversed(null)
    W, _ = linear_solve(values, ct, *S, *adjoint)
    if not needs[0]:
        return None, W
    # The cotangent of conj(S) is the conjugate of that of S; and as in spmm, what is at (i, j) in S
    # is at (j, i) in its transpose.
    X = outs[0]
    left, right = (W.conj(), X) if conjugate else (W, X.conj())
    left, right = (right, left) if transpose else (left, right)
    return sddmm(-left, right, *S), W


@linear_solve.jvp("values", "B")
@considerate
def _(tangents, outs, values, S, transpose, conjugate, solver, null):
    dS, dB = tangents
    X, report = outs
    right = dB
    if dS is not None:
        dA_X = spmm(dS.conj() if conjugate else dS, X, *S, transpose)
        right = -dA_X if dB is None else dB - dA_X
    dX, _ = linear_solve(values, right, *S, transpose, conjugate, solver, False, "", *null)
    return beside(dX, report)


@linear_solve.retain
def _(solver):
    return root_of(solver)


linear_solve.fold(values=1, B=2, columns="B")
linear_solve.autocast("float32")
