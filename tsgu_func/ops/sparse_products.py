"""The product of two sparse matrices, at given entries.

Derivation.  Let A, B and C store values a, b, c, and let

    T(a, b, c) = sum of a_ik b_kj c_ij  over the i, k, j at which all three store entries.

The product ``A B`` at the entries of C is the derivative of T in c.  It is linear in a and in b;
with its cotangent G, ``<G, A dB> = Re T(conj a, G, db)`` with the roles taken accordingly, so

    the cotangent of a is the derivative of T in a, at conj(b) and G,
    the cotangent of b is the derivative of T in b, at conj(a) and G.

These are the same op, which is told whose values to return.  So is what their cotangents are: one
op is closed under differentiation, and every derivative keeps a pattern.
"""

from __future__ import annotations

from torch import Tensor

from tsgu_func.kernels.sparse_products import trilinear
from tsgu_func.kernels.structure import structure_of
from tsgu_func.registration.primitive import Primitive

__all__ = ["spgemm"]

_NAMES = "ABC"
_STRUCTURES = {S: tuple(f"{part}_{S}" for part in ("crow", "col", "cols")) for S in _NAMES}

spgemm = Primitive(
    "tsgu_func::spgemm(Tensor x, Tensor y"
    + "".join(f", Tensor crow_{S}, Tensor col_{S}, SymInt cols_{S}" for S in _NAMES)
    + ", str of) -> Tensor",
    groups=_STRUCTURES,
)


@spgemm.kernel
def _(x, y, A, B, C, of):
    a, b, c = (structure_of(*S) for S in (A, B, C))
    return trilinear(a, b, c, x, y, of=of)


@spgemm.fake
def _(x, y, A, B, C, of):
    _, col, _ = (A, B, C)[_NAMES.index(of)]
    return x.new_empty(*x.shape[:-1], col.shape[0])


def _derivative(
    of: str, given: dict[str, Tensor], *structures: tuple[Tensor, Tensor, int]
) -> Tensor:
    """Return the derivative of T in the values of one matrix, given those of the others."""
    x, y = (given[S] for S in _NAMES if of != S)
    return spgemm(x, y, *(part for S in structures for part in S), of)


@spgemm.vjp("x")
def _(ct, y, A, B, C, of):
    first, second = _NAMES.replace(of, "")
    return _derivative(first, {of: ct, second: y.conj()}, A, B, C)


@spgemm.vjp("y")
def _(ct, x, A, B, C, of):
    first, second = _NAMES.replace(of, "")
    return _derivative(second, {of: ct, first: x.conj()}, A, B, C)


spgemm.linear_in("x", "y")
spgemm.fold(x=1, y=1)
spgemm.autocast("lower")
