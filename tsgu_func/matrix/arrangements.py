"""Where matrices store entries that are put together from others: side by side, stacked, kron."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.matrix.assembly import compressed_coo
from tsgu_func.matrix.pattern import Assembly, SparsityPattern, assembled

__all__ = ["Spread", "Tile", "kronecker", "spread", "tiled"]

Tile = tuple[SparsityPattern, int, int]  # and the row and the column where it begins


class Spread(NamedTuple):
    """The union of patterns, and where in it the entries of each of them are."""

    pattern: SparsityPattern
    places: tuple[Tensor, ...]


def tiled(tiles: tuple[Tile, ...], shape: tuple[int, int]) -> Assembly:
    """Return what brings the values of tiles, one after the other, to where they are in a whole.

    O(nnz log nnz) time; O(nnz) where the tiles are below each other.
    """
    places = [(row.long() + i, col.long() + j) for p, i, j in tiles for row, col in [p.places()]]
    row, col = (torch.cat(parts) for parts in zip(*places, strict=True))
    return assembled(compressed_coo(row, col, shape), len(row))


def spread(*patterns: SparsityPattern) -> Spread:
    """Return where any of the patterns stores an entry.  O(nnz log nnz) time for all of them."""
    places = zip(*(p.places() for p in patterns), strict=True)
    row, col = (torch.cat(parts) for parts in places)
    found, order, slot = compressed_coo(row, col, patterns[0].shape)
    given = torch.arange(len(row), device=row.device)
    order, slot = (given if x is None else x for x in (order, slot))
    slots = torch.empty_like(slot).scatter_(0, order, slot).split([p.nnz for p in patterns])
    return Spread(SparsityPattern.of_structure(found), tuple(x.clone() for x in slots))


def kronecker(p: SparsityPattern, q: SparsityPattern) -> Assembly:
    """Return what brings the products of entries of p and q to where those are in ``kron``.

    The products come with the entries of q running faster.
    """
    row, col = (
        (x.long().unsqueeze(1) * size + y).flatten()
        for x, y, size in zip(p.places(), q.places(), q.shape, strict=True)
    )
    shape = (p.shape[0] * q.shape[0], p.shape[1] * q.shape[1])
    return assembled(compressed_coo(row, col, shape), len(row))
