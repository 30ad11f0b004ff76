"""Some of the entries of a pattern: of chosen rows or columns, of a triangle, of a mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.structure import Structure
from tsgu_func.matrix.assembly import compressed_coo, owned
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.subscripts import Span, positions

__all__ = ["Line", "Selected", "line", "marked", "selected", "triangle"]


class Selected(NamedTuple):
    """Where some of the entries are, and which these are, in the order of the values."""

    pattern: SparsityPattern
    order: Tensor


class Line(NamedTuple):
    """Which entries are those of one row or column, and where they are in it."""

    order: Tensor
    place: Tensor


def selected(p: SparsityPattern, by_col: bool, picked: Span | bytes) -> Selected:
    """Return chosen rows, or columns, in the order in which they are chosen.

    O(what is chosen) time for rows of a pattern that is compressed by rows, and for columns of a
    transpose; the others are found in the transpose of the indices, which is made once, in O(nnz).
    """
    _check_numbers(p)
    s, order = p.structure.oriented(p.transposed != by_col)
    found, taken = _rows(s, positions(picked, str(p.device)))
    if order is not None:  # compressed the other way, as p is
        found, back = found.transpose
        taken = order[taken[back]]
    return Selected(SparsityPattern.of_structure(found, p.transposed), taken)


def _rows(s: Structure, index: Tensor) -> tuple[Structure, Tensor]:
    start, end = s.crow[index].long(), s.crow[index + 1].long()
    crow = torch.cat([start.new_zeros(1), (end - start).cumsum(0)])
    shift = torch.repeat_interleave(start - crow[:-1], end - start)
    taken = shift + torch.arange(len(shift), device=index.device)
    return owned(crow, s.col[taken], s.cols), taken


def line(p: SparsityPattern, by_col: bool, k: int) -> Line:
    """Return the entries of row k, or of column k."""
    _check_numbers(p)
    s, order = p.structure.oriented(p.transposed != by_col)
    start, end = s.crow[k : k + 2].tolist()
    here = torch.arange(start, end, device=p.device)
    return Line(here if order is None else order[start:end], s.col[start:end])


def triangle(p: SparsityPattern, upper: bool, k: int) -> Selected:
    """Return the entries on diagonal k and above it, or below."""
    row, col = p.places()
    distance = col.long() - row
    return marked(p, distance >= k if upper else distance <= k)


def marked(p: SparsityPattern, mask: Tensor) -> Selected:
    """Return the entries that a mask marks, which are in order."""
    _check_numbers(p)
    s = p.structure
    found = compressed_coo(s.row[mask], s.col[mask], (s.rows, s.cols)).structure
    return Selected(SparsityPattern.of_structure(found, p.transposed), mask.nonzero().squeeze(-1))


def _check_numbers(p: SparsityPattern) -> None:
    if p.device.type == "meta":
        raise ValueError(
            "a pattern on the meta device keeps no numbers to select by: select before the matrix "
            "is moved with .to('meta')"
        )
