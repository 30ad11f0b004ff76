"""Parts of a batched system: some members of the batch, some columns of each.

A tensor here is ``(n, p)``, or ``(b, n, p)`` for a batch of b matrices; a number of each column is
``(1, p)`` or ``(b, 1, p)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.judgement import Measured, measured
from tsgu_func.solvers.protocol import Preconditioner, SolveError
from tsgu_func.solvers.system import as_operator, check_finite

__all__ = ["Block", "Equations", "Functions", "Judge", "Place", "Problem"]

Function = Callable[[Tensor], Tensor]


class Place(NamedTuple):
    """Which members and which columns: a rectangle of the two; `members` is None without a batch.

    Both are None where it is the whole.
    """

    members: Tensor | None
    columns: Tensor | None

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.members is None and self.columns is None

    @classmethod
    def of(cls, mask: Tensor) -> Place:
        """Return the smallest place that holds all that is set in a mask ``(*batch, 1, p)``."""
        if bool(mask.all()):
            return cls(None, None)
        columns = mask.flatten(0, -2).any(0).nonzero().squeeze(-1)
        if mask.ndim == 2:
            return cls(None, columns)
        return cls(mask.flatten(1).any(1).nonzero().squeeze(-1), columns)

    def take(self, X: Tensor, axis: int = -1) -> Tensor:
        """Return what is here of a tensor whose columns lie along `axis`."""
        if self.members is not None:
            X = X.index_select(0, self.members)
        return X if self.columns is None else X.index_select(axis, self.columns)

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write here."""
        if self.columns is None:
            whole.copy_(part)
        elif self.members is None:
            whole[..., self.columns] = part
        else:
            whole[self.members.unsqueeze(1), :, self.columns] = part.mT

    def within(self, inner: Place) -> Place:
        """Return a place of this one as a place of the whole."""
        return Place(_inside(self.members, inner.members), _inside(self.columns, inner.columns))


def _inside(outer: Tensor | None, inner: Tensor | None) -> Tensor | None:
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer[inner]


class Problem(NamedTuple):
    """What a recurrence works with.

    Attributes
    ----------
    multiply : ``X -> A X``
    precondition : ``R -> M⁻¹ R``, or None
    goal : Tensor
        Norm of the residual at which a column has converged.
    """

    multiply: Any
    precondition: Function | None
    goal: Tensor


class Judge:
    """Measures what a solution leaves of ``A X = B``; a loop ends with one it has measured."""

    def __init__(self, A: StoredMatrix) -> None:
        self._A = A
        self._last: tuple[Tensor, Measured] | None = None

    def __call__(self, X: Tensor, B: Tensor) -> Measured:
        """Measure X, unless it is the last that was: nobody writes into that."""
        if self._last is None or self._last[0] is not X:
            self._last = X, measured(self._A, X, B)
        return self._last[1]


@dataclass(frozen=True)
class Equations:
    """A matrix, or a batch of them, what preconditions each, and what measures solutions.

    There is no judge of a matrix that is known by its products alone.
    """

    A: Any
    preconditioner: Preconditioner | None
    parts: tuple[Any, ...]  # of the preconditioner, one for each member
    judge: Judge | None

    @classmethod
    def of(cls, A: Any, preconditioner: Preconditioner | None, parts: tuple[Any, ...]) -> Equations:
        """Return those with a matrix."""
        return cls(A, preconditioner, parts, Judge(A) if isinstance(A, StoredMatrix) else None)

    @property
    def shift(self) -> float:
        """What was added to a diagonal to complete the preconditioner, relative to it."""
        return max((getattr(part, "shift", 0.0) for part in self.parts), default=0.0)

    def members(self, index: Tensor) -> Equations:
        """Return those of some members of the batch."""
        parts = tuple(self.parts[int(i)] for i in index) if self.parts else ()
        A = replace(self.A, values=self.A.values[index])
        return Equations.of(A, self.preconditioner, parts)

    @property
    def precondition(self) -> Function | None:
        """``R -> M⁻¹ R``, member by member; None without a preconditioner."""
        return None if self.preconditioner is None else self._apply

    def _apply(self, R: Tensor) -> Tensor:
        assert self.preconditioner is not None
        apply = self.preconditioner.apply
        which = {"transpose": self.A.transpose, "conjugate": self.A.conjugate}
        if R.ndim == 2:
            return _checked(self.preconditioner, apply(self.parts[0], R, **which), R)
        applied = [(apply(*pair, **which), pair[1]) for pair in zip(self.parts, R, strict=True)]
        return torch.stack([_checked(self.preconditioner, Z, r) for Z, r in applied])


def _checked(preconditioner: Preconditioner, Z: Any, R: Tensor) -> Tensor:
    """Return what a preconditioner made of R, if it can be that."""
    if isinstance(Z, Tensor) and (Z.shape, Z.dtype, Z.device) == (R.shape, R.dtype, R.device):
        return Z
    got = f"{tuple(Z.shape)}, {Z.dtype}, {Z.device}" if isinstance(Z, Tensor) else type(Z).__name__
    raise SolveError(
        f"{preconditioner!r} returns a tensor of shape {tuple(R.shape)} and {R.dtype} on "
        f"{R.device} for R of that shape; got {got}"
    )


@dataclass(frozen=True)
class Functions:
    """A matrix that a function multiplies with, and what preconditions it: all members at once."""

    precondition: Function | None
    judge: ClassVar[None] = None


@dataclass(frozen=True)
class Block:
    """Some members and columns of a system, and how small their residuals must be."""

    equations: Any  # Equations, or Functions
    multiply: Any
    B: Tensor
    peak: Tensor  # what residuals and corrections are scaled by
    unit: Tensor  # norm of B, scaled
    goal: Tensor  # norm of the residual, scaled

    @property
    def problem(self) -> Problem:
        """What a recurrence works with."""
        return Problem(self.multiply, self.equations.precondition, self.goal)

    @property
    def narrows(self) -> bool:
        """Whether a part of it can be multiplied with: a function asks for all that it knows."""
        return isinstance(self.equations, Equations)

    def residual(self, X: Tensor) -> Tensor:
        """Return (B - A X) / peak."""
        judge = self.equations.judge
        R = self.B - self.multiply(X) if judge is None else judge(X, self.B).R
        R = R / self.peak
        check_finite(self.multiply, R, R)
        return R

    def at(self, place: Place) -> Block:
        """Return a part of it."""
        parts = (place.take(x) for x in (self.B, self.peak, self.unit, self.goal))
        equations, multiply = self.equations, self.multiply
        if place.members is not None and len(place.members) < len(self.goal):
            equations = equations.members(place.members)
            multiply = as_operator(equations.A, multiply.name, False, multiply.rows)
        return Block(equations, multiply, *parts)
