"""What the passes of an iterative solver come to."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.columns import column_norms
from tsgu_func.solvers.krylov.block import Block, Place

__all__ = ["Best", "Reached", "Run"]


class Best(NamedTuple):
    """The corrections of least residual so far, and this as the recurrence knows it."""

    change: Tensor
    norm: Tensor

    def after(self, state: Any) -> Best:
        """Return the better of these and of those of a state; nothing is copied if all are."""
        better = state.norm <= self.norm
        if bool(better.all()):
            return Best(state.change, state.norm)
        if not bool(better.any()):
            return self
        change = torch.where(better, state.change, self.change)
        return Best(change, torch.where(better, state.norm, self.norm))

    def at(self, place: Place) -> Best:
        """Return those at some members and columns."""
        return Best(*(place.take(x) for x in self))


class Reached(NamedTuple):
    """A solution, its scaled residual and the norm of that, a code, and iterations."""

    X: Tensor
    R: Tensor
    norm: Tensor
    code: Tensor
    steps: Tensor

    @classmethod
    def start(cls, block: Block, start: Tensor | None) -> Reached:
        """Return what a start is; by default zero."""
        X = torch.zeros_like(block.B) if start is None else start.clone()
        R = block.B / block.peak if start is None else block.residual(X)
        norm = column_norms(R)
        code = torch.zeros_like(norm, dtype=torch.int64)
        return cls(X, R, norm, code, torch.zeros_like(code))

    def at(self, place: Place) -> Reached:
        """Return what was reached at some members and columns."""
        return Reached(*(place.take(x) for x in self))

    def put(self, place: Place, part: Reached) -> Reached:
        """Return this with what was reached at some members and columns."""
        whole = Reached(*(x.clone() for x in self))
        for old, new in zip(whole, part, strict=True):
            place.put(old, new)
        return whole


class Run(NamedTuple):
    """What a pass arrived at, filled in by parts.

    Attributes
    ----------
    change : Tensor
        A scaled correction.
    alternative : Tensor
        Another, for columns where that is not better than none.
    code, steps : Tensor
        A `Result`, or zero; and iterations.
    """

    change: Tensor
    alternative: Tensor
    code: Tensor
    steps: Tensor

    @classmethod
    def empty(cls, R: Tensor) -> Run:
        """Return one that arrived nowhere from the residual R."""
        code = torch.zeros_like(R[..., :1, :], dtype=torch.int64)
        return cls(torch.zeros_like(R), torch.zeros_like(R), code, torch.zeros_like(code))

    def put(self, place: Place, *parts: Tensor) -> None:
        """Fill in some members and columns."""
        for whole, part in zip(self, parts, strict=True):
            place.put(whole, part)
