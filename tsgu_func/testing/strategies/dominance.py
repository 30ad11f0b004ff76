"""Matrices whose diagonal outweighs the rest, which most kinds are made of.

The diagonal has entries of modulus 1 to 2.  The rows and columns of the rest sum, in modulus, to at
most 1/2 each.  The norm of the rest is then at most 1/2, as ``|N|₂² <= |N|₁ |N|∞``, so singular
values lie between 1/2 and 5/2, and the condition number is at most 5.  Triangles of such a matrix
are such matrices too.

The same holds with blocks ``[[0, d], [-conj(d), 0]]`` in place of a diagonal, whose singular values
are the modulus of d.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsgu_func.testing.strategies.coordinates import Entries, joined, kept

__all__ = ["Numbers", "mirrored", "moduli", "phases", "shrunk", "with_diagonal", "with_pairs"]

Numbers = Callable[[tuple[int, ...], torch.dtype, int], Tensor]


def mirrored(e: Entries, sign: int = 1) -> Entries:
    """Add to each entry beside the diagonal its mirror image, conjugated and times a sign.

    Duplicates keep their order, so that their sums are mirror images to the last bit.
    """
    off = kept(e, e.row != e.col)
    return joined(e, off.col, off.row, sign * off.values.conj().resolve_conj())


def shrunk(e: Entries) -> Entries:
    """Divide by a power of two, one for each member, so that row and column sums are at most 1/2.

    Entries of the diagonal do not count.
    """
    size = (e.values * (e.row != e.col)).abs().double()
    largest = size.new_full(size.shape[:-1], 0.5)
    for index, length in ((e.row, e.shape[0]), (e.col, e.shape[1])):
        sums = size.new_zeros(*size.shape[:-1], length).index_add(-1, index, size)
        largest = largest if not length else torch.maximum(largest, sums.amax(-1))
    mantissa, exponent = torch.frexp(2 * largest)
    exponent = exponent - (mantissa == 0.5).int()
    factor = torch.ldexp(torch.ones_like(largest), -exponent).to(e.values.dtype)
    return e._replace(values=e.values * factor.unsqueeze(-1))


def moduli(raw: Tensor) -> Tensor:
    """Return numbers from 1 to 2 for any numbers, of their dtype."""
    return (1 + raw.abs() % 1).to(raw.dtype)


def phases(raw: Tensor) -> Tensor:
    """Return numbers of modulus one for any numbers."""
    return torch.where(raw == 0, torch.ones_like(raw), raw.sgn())


def with_diagonal(e: Entries, diagonal: Tensor) -> Entries:
    """Add a diagonal.  Entries that are there already get an equal share of it, whatever they are.

    The last entry at each place of the diagonal is behind all others.
    """
    m = e.shape[1]
    on = e.row == e.col
    every = torch.arange(m, dtype=e.row.dtype)
    shares = 1 + torch.bincount(e.row[on], minlength=m)
    share = diagonal / shares
    # Beside the diagonal any column serves, as what is looked up there is not used.
    column = torch.where(on, e.col, 0)
    values = torch.where(on, share[..., column], e.values) if m else e.values
    return joined(e._replace(values=values), every, every, share)


def with_pairs(e: Entries, numbers: Tensor) -> Entries:
    """Add d and -conj(d) at (2 i, 2 i + 1) and its mirror image, for each number d."""
    first = torch.arange(0, e.shape[0], 2, dtype=e.row.dtype)
    e = joined(e, first, first + 1, numbers)
    return joined(e, first + 1, first, -numbers.conj().resolve_conj())
