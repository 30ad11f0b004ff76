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

import torch
from torch import Tensor

from tsgu_func.kernels.sparse_products import trilinear
from tsgu_func.kernels.structure import structure_of
from tsgu_func.registration.dependence import spread
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


@spgemm.dependence("x")
def _(x, out, A, B, C, of):
    places = _meeting(A, B, C)
    return _spread(out, x, places[of], places[_NAMES.replace(of, "")[0]])


@spgemm.dependence("y")
def _(y, out, A, B, C, of):
    places = _meeting(A, B, C)
    return _spread(out, y, places[of], places[_NAMES.replace(of, "")[1]])


def _spread(out: Tensor, x: Tensor, to: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    batch = out.shape[:-1]
    return spread(out, batch, 1)[..., to], spread(x, batch, 1)[..., of]


def _meeting(*structures: tuple[Tensor, Tensor, int]) -> dict[str, Tensor]:
    """Return which entries of A, B and C meet in a term of T."""
    (crow_a, col_a, _), (crow_b, col_b, _), (crow_c, col_c, cols) = structures
    row_a, row_c = (_rows(crow) for crow in (crow_a, crow_c))
    count = crow_b.diff().long()[col_a.long()]  # terms of each entry of A, before C is asked
    a = torch.arange(len(col_a), device="cpu").repeat_interleave(count)
    within = torch.arange(len(a), device="cpu") - (count.cumsum(0) - count)[a]
    b = crow_b.long()[col_a.long()[a]] + within
    key, kept = row_a[a] * cols + col_b.long()[b], row_c * cols + col_c.long()
    c = torch.searchsorted(kept, key).clamp(max=max(len(kept) - 1, 0))
    there = kept[c] == key if len(kept) else torch.zeros(len(key), dtype=torch.bool, device="cpu")
    return {"A": a[there], "B": b[there], "C": c[there]}


def _rows(crow: Tensor) -> Tensor:
    return torch.arange(len(crow) - 1, device="cpu").repeat_interleave(crow.diff())


spgemm.linear_in("x", "y")
spgemm.fold(x=1, y=1)
spgemm.autocast("lower")
