"""Solution with the upper or the lower triangle of a stored matrix, or its transpose.

    T X = B or Tᵀ X = B        O(nnz p) time, O(n p) memory

On the CPU compiled substitution does the work, one loop for T and one for its transpose, which is
never built; elsewhere PyTorch's CSR triangular solve, a batch as one block-diagonal matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled, threads
from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.products import block_diagonal, csr_tensor
from tsgu_func.kernels.structure import Structure, compress, unsigned

__all__ = ["Triangle", "diagonal_of", "sides", "solve", "triangle_of", "used"]

# Less work than this is done before another thread has started.
_WORTH_A_THREAD = 1 << 15
_ZERO = "an entry of the diagonal is zero"


class Triangle(NamedTuple):
    """One triangle of a structure.

    Attributes
    ----------
    start, stop : Tensor, shape (n,)
        Which entries of each row are in it, beside the diagonal.
    diagonal : Tensor, shape (n,)
        Place of the diagonal entry; any place where there is none.
    stored : Tensor of bool, shape (n,)
        Whether there is one.
    number : int
        How many there are.
    """

    start: Tensor
    stop: Tensor
    diagonal: Tensor
    stored: Tensor
    number: int


def triangle_of(structure: Structure, upper: bool) -> Triangle:
    """Return a triangle; found once for a structure.  O(nnz) time."""
    return structure.derive(("triangle", upper), lambda s: _triangle(s, upper))


def _triangle(s: Structure, upper: bool) -> Triangle:
    diagonal, stored = s.derive("diagonal", _diagonal)
    # Columns increase within a row: what comes before the diagonal is the lower triangle.
    start, stop = (diagonal + stored, s.crow[1:]) if upper else (s.crow[:-1], diagonal)
    place = torch.where(stored, diagonal, 0)
    start, stop, place = (x.to(s.col.dtype).contiguous() for x in (start, stop, place))
    return Triangle(start, stop, place, stored, int(stored.sum()))


def _diagonal(s: Structure) -> tuple[Tensor, Tensor]:
    """Return where in each row the diagonal is or would be, and whether it is stored."""
    if s.col.device.type == "cpu":
        place, stored = compiled.inspection.diagonal(unsigned(s.crow), unsigned(s.col))
        return torch.from_numpy(place.view(f"i{place.itemsize}")), torch.from_numpy(stored)
    before = torch.zeros(s.rows, dtype=torch.long, device=s.col.device)
    before.index_add_(0, s.row, (s.col < s.row).long())
    stored = torch.zeros(s.rows, dtype=torch.bool, device=s.col.device)
    stored[s.row[s.col == s.row].long()] = True
    return s.crow[:-1] + before, stored


def sides(s: Structure) -> tuple[bool, bool]:
    """Say whether something is stored below the diagonal, and above it."""
    below, above = (triangle_of(s, upper) for upper in (False, True))
    return bool((below.start < below.stop).any()), bool((above.start < above.stop).any())


def diagonal_of(structure: Structure, values: Tensor) -> Tensor:
    """Return the diagonal, (n,) or (b, n): zero where no entry is stored."""
    if not structure.nnz:
        return values.new_zeros(*values.shape[:-1], structure.rows)
    t = triangle_of(structure, upper=False)
    return torch.where(t.stored, values.index_select(-1, t.diagonal.long()), 0)


def used(structure: Structure, upper: bool, strict: bool) -> Tensor:
    """Return which entries are in a triangle, with or without the diagonal: bool (nnz,)."""

    def make(s: Structure) -> Tensor:
        row, col = (s.row, s.col) if upper else (s.col, s.row)
        return row < col if strict else row <= col

    return structure.derive(("used", upper, strict), make)


@considerate
def solve(
    structure: Structure, values: Tensor, B: Tensor, *, upper: bool, transpose: bool, unit: bool
) -> Tensor:
    """Solve for B (n, p) or (b, n, p), with values (nnz,) or (b, nnz).

    The diagonal is stored, or one if `unit`.

    Raises
    ------
    ZeroDivisionError
        If one of its entries is zero.
    """
    if B.shape[-2] != structure.rows or values.shape[:-1] != B.shape[:-2]:
        raise ValueError(
            f"B has {structure.rows} rows, and the batch of the values; got shape "
            f"{tuple(B.shape)} for values of shape {tuple(values.shape)}"
        )
    if B.device.type != "cpu":
        return _solve_torch(structure, values, B, upper, transpose, unit)
    return _solve_loops(structure, values, B, upper, transpose, unit)


def _solve_loops(
    s: Structure, values: Tensor, B: Tensor, upper: bool, transpose: bool, unit: bool
) -> Tensor:
    # The loops solve in place, in a copy that belongs to nobody else.
    X = B.clone(memory_format=torch.contiguous_format)
    if not X.numel():
        _check_diagonal(s, values, unit)
        return X
    x = X.view(-1, *X.shape[-2:]).numpy()
    v = values.reshape(len(x), s.nnz).contiguous().numpy()
    t = triangle_of(s, upper)
    start, stop, col = (unsigned(index) for index in (t.start, t.stop, s.col))
    place = None if unit else unsigned(t.diagonal)
    singular = np.zeros(1, bool)
    substitute = compiled.substitution.by_columns if transpose else compiled.substitution.by_rows
    arguments = start, stop, col, v, place, x, upper != transpose, singular
    lanes = len(x) * x.shape[-1]
    parts = min(threads.workers(), lanes, 1 + s.nnz * lanes // _WORTH_A_THREAD)
    threads.run_parts(
        lambda first, last: substitute(*arguments, first, last),
        [lanes * part // parts for part in range(parts + 1)],
    )
    if singular[0]:
        raise ZeroDivisionError(_ZERO)
    return X


def _check_diagonal(s: Structure, values: Tensor, unit: bool) -> None:
    if not unit and bool((diagonal_of(s, values) == 0).any()):
        raise ZeroDivisionError(_ZERO)


# ------------------------------------------------------------------------------ other devices


def _solve_torch(
    s: Structure, values: Tensor, B: Tensor, upper: bool, transpose: bool, unit: bool
) -> Tensor:
    """Solve with T = D U, where U has a unit diagonal that need not be stored."""
    strict, order = s.derive(("strict", upper), lambda s: _strict(s, upper))
    if unit:
        return _unit_solve(strict, values.index_select(-1, order), B, upper, transpose)
    _check_diagonal(s, values, unit)
    diagonal = diagonal_of(s, values)
    v = values.index_select(-1, order) / diagonal.index_select(-1, strict.row)
    if not transpose:
        return _unit_solve(strict, v, B / diagonal.unsqueeze(-1), upper, transpose)
    return _unit_solve(strict, v, B, upper, transpose) / diagonal.unsqueeze(-1)


def _unit_solve(s: Structure, v: Tensor, B: Tensor, upper: bool, transpose: bool) -> Tensor:
    if not (s.nnz and B.numel()):
        return B.clone()
    if B.ndim == 3:
        blocks = block_diagonal(s, B.shape[0])
        X = _unit_solve(blocks, v.flatten(), B.flatten(0, 1), upper, transpose)
        return X.unflatten(0, B.shape[:2])
    A = csr_tensor(s, v)
    return torch.triangular_solve(B, A, upper, transpose, unitriangular=True).solution


def _strict(s: Structure, upper: bool) -> tuple[Structure, Tensor]:
    """Return the triangle without its diagonal, and which entries of the structure these are."""
    order = used(s, upper, strict=True).nonzero().squeeze(-1)
    crow = compress(s.row[order], s.rows).to(s.crow.dtype)
    return Structure(crow, s.col[order], s.cols), order
