"""Solution of sparse triangular systems.

Derivation.  Let T be a triangle of the stored matrix S and ``T X = B``.  As for any system,

    dX = T⁻¹ (dB - dT X),      <G, dX> = <W, dB> - <W Xᴴ, dT>   with   W = T⁻ᴴ G.

The cotangent of S is that of T where T takes its entries from S, and zero in the other triangle.
`triangle` is this projection of the values; it is linear and its own adjoint, so with `spmm` and
`sddmm` the set of ops is closed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels import triangular
from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.structure import Structure, structure_of
from tsgu_func.ops.products import STORED, sddmm, spmm
from tsgu_func.registration.dependence import positions
from tsgu_func.registration.primitive import Primitive
from tsgu_func.solvers.protocol import SolveError

__all__ = ["triangle", "triangular_solve"]

# --------------------------------------------------------------------------------- triangle

triangle = Primitive(
    "tsgu_func::triangle(Tensor values, Tensor crow, Tensor col, SymInt cols,"
    " bool upper) -> Tensor",
    groups=STORED,
)


@triangle.kernel
def _(values, S, upper):
    used = triangular.used(structure_of(*S), upper, strict=False)
    return torch.where(used, values, values.new_zeros(()))


@triangle.fake
def _(values, S, upper):
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@triangle.vjp("values")
@considerate
def _(ct, S, upper):
    return triangle(ct, *S, upper)


@triangle.dependence("values")
def _(values, S, upper):
    there = triangular.used(structure_of(*S), upper, strict=False)
    place = positions(values)[..., there]
    return place, place


triangle.linear_in("values")
triangle.fold(values=1)

# ------------------------------------------------------------------------- triangular_solve

triangular_solve = Primitive(
    "tsgu_func::triangular_solve(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose, bool upper, bool unit) -> Tensor",
    groups=STORED,
)


@triangular_solve.kernel
def _(values, B, S, transpose, upper, unit):
    s = structure_of(*S)
    _check_stored(s, unit)
    try:
        return triangular.solve(s, values, B, upper=upper, transpose=transpose, unit=unit)
    except ZeroDivisionError:
        raise _has_zero(triangular.diagonal_of(s, values)) from None


@triangular_solve.fake
def _(values, B, S, transpose, upper, unit):
    return torch.empty_like(B, memory_format=torch.contiguous_format)


@triangular_solve.vjp("values", "B")
@considerate
def _(needs, ct, out, values, S, transpose, upper, unit):
    W = triangular_solve(values.conj(), ct, *S, not transpose, upper, unit)
    if not needs[0]:
        return None, W
    # What is at (i, j) in S is at (j, i) in its transpose.
    X, Y = (out.conj(), W) if transpose else (W, out.conj())
    return triangle(sddmm(-X, Y, *S), *S, upper), W


@triangular_solve.jvp("values", "B")
@considerate
def _(tangents, out, values, S, transpose, upper, unit):
    dS, dB = tangents
    right = dB
    if dS is not None:
        dT_X = spmm(triangle(dS, *S, upper), out, *S, transpose)
        right = -dT_X if dB is None else dB - dT_X
    return triangular_solve(values, right, *S, transpose, upper, unit)


triangular_solve.fold(values=1, B=2, columns="B")
triangular_solve.autocast("float32")


def _check_stored(s: Structure, unit: bool) -> None:
    """Check that the diagonal is stored; or that it is not, if it is one."""
    t = triangular.triangle_of(s, upper=True)
    if unit and t.number:
        row = int(t.stored.nonzero()[0])
        raise ValueError(
            f"with unitriangular=True the diagonal is one and not stored, but row {row} stores a "
            f"diagonal entry: leave the diagonal out, or set unitriangular=False"
        )
    if not unit and t.number < s.rows:  # such a row has no solution, or infinitely many
        row = int((~t.stored).nonzero()[0])
        raise SolveError(
            f"the matrix is singular: row {row} stores no diagonal entry (unitriangular=True takes "
            f"the diagonal to be one)"
        )


def _has_zero(diagonal: Tensor) -> SolveError:
    *member, row = (int(i) for i in (diagonal == 0).nonzero()[0])
    of = f" of member {member[0]} of the batch" if member else ""
    return SolveError(f"the matrix is singular: the diagonal entry of row {row}{of} is zero")
