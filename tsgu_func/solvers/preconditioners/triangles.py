"""Approximations by two unit triangles and a diagonal between them: states, and how they solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.structure import Structure, unsigned
from tsgu_func.kernels.triangular import triangle_of
from tsgu_func.solvers.protocol import SolveError

__all__ = ["LDLH", "LDU", "Halves", "UpperRows", "cancelled", "copied", "halves_of", "shifted"]

T = TypeVar("T")

# Manteuffel: shifts that double, from where they hardly matter to where any diagonal dominates.
_FIRST_SHIFT, _LAST_SHIFT = 1e-3, 1e6

# A pivot that is fewer units of rounding of what it is a difference of has no correct digit.
_UNITS = 128


class Halves(NamedTuple):
    """Where the entries of each row before and after the diagonal start and stop, and columns."""

    lower: tuple[np.ndarray, np.ndarray]
    upper: tuple[np.ndarray, np.ndarray]
    col: np.ndarray


class UpperRows(NamedTuple):
    """A strict upper triangle by rows, mirrored from the lower one of a matrix.

    Attributes
    ----------
    crow, col : ndarray of unsigned integers
        Its compressed rows, as compiled loops read them.
    mirrored : Tensor of int64
        Place of the mirrored entry in the matrix.
    """

    crow: np.ndarray
    col: np.ndarray
    mirrored: Tensor


def halves_of(structure: Structure) -> Halves:
    """Return both triangles of a structure, as compiled loops read them; found once."""

    def make(s: Structure) -> Halves:
        # Copies: PyTorch moves the memory of indices that are shared with another process.
        def read(index: Tensor) -> np.ndarray:
            return unsigned(index.to("cpu", copy=True))

        def spans(upper: bool) -> tuple[np.ndarray, np.ndarray]:
            triangle = triangle_of(s, upper)
            return read(triangle.start), read(triangle.stop)

        return Halves(spans(upper=False), spans(upper=True), read(s.col))

    return structure.derive("halves", make)


@dataclass(frozen=True, eq=False)
class LDU:
    """``M = (I + L) D (I + V)``, L and V on the pattern of a matrix.

    Attributes
    ----------
    halves : Halves
        Where L and V are.
    values, inverse : ndarray
        Entries of L and V, and of D⁻¹.
    shift : float
        What was added to the diagonal, relative to it.
    """

    halves: Halves
    values: np.ndarray
    inverse: np.ndarray
    shift: float = 0.0

    @property
    def bytes(self) -> int:
        """Size of the factors; the pattern is that of the matrix."""
        return self.values.nbytes + self.inverse.nbytes

    def solve(self, R: Tensor, transpose: bool, conjugate: bool) -> Tensor:
        """Solve with M, Mᵀ, conj(M) or Mᴴ for R (n, p), in one sweep down and one up."""
        X = copied(R.conj() if conjugate else R)
        loops = compiled.incomplete
        sweep = loops.solve_ldu_transposed if transpose else loops.solve_ldu
        sweep(*self.halves, self.values, self.inverse, X.numpy())
        return (X.conj_physical_() if conjugate else X).to(R.device)


@dataclass(frozen=True, eq=False)
class LDLH:
    """``M = (I + V)ᴴ D (I + V)`` with a real D.

    Attributes
    ----------
    rows : UpperRows
        Where V is.
    values, inverse : ndarray
        Entries of V and of D⁻¹.
    shift : float
        What was added to the diagonal, relative to it.
    """

    rows: UpperRows
    values: np.ndarray
    inverse: np.ndarray
    shift: float = 0.0

    @property
    def bytes(self) -> int:
        """Size of the factor; its pattern is kept with that of the matrix."""
        return self.values.nbytes + self.inverse.nbytes

    def solve(self, R: Tensor, conjugate: bool) -> Tensor:
        """Return ``M⁻¹ R`` or ``conj(M)⁻¹ R`` for R (n, p), in one sweep down and one up."""
        # The sweeps make M⁻¹ conj(X) of X: conjugation is due on one side, whichever M it is.
        X = copied(R if conjugate else R.conj())
        rows = self.rows.crow, self.rows.col
        compiled.incomplete.solve_ldlh(*rows, self.values, self.inverse, X.numpy())
        return (X.conj_physical_() if conjugate else X).to(R.device)


def copied(R: Tensor) -> Tensor:
    """Copy to what a compiled loop may write: on the CPU, contiguous, with no lazy conjugate."""
    return torch.empty(R.shape, dtype=R.dtype, device="cpu").copy_(R)


def cancelled(dtype: np.dtype) -> float:
    """Return the size of a pivot, relative to what it is a difference of, that is rounding."""
    return _UNITS * float(np.finfo(dtype).eps)


def shifted(
    preconditioner: object, start: float, factor: Callable[[float], tuple[T, int | None]]
) -> T:
    """Return what ``factor(shift)`` makes, for the first shift of the diagonal that lets it.

    It returns a factorization and the row where it broke down, or None.
    """
    shift = float(start)
    while True:
        result, row = factor(shift)
        if row is None:
            return result
        if shift >= _LAST_SHIFT:
            raise SolveError(
                f"{preconditioner!r} broke down at row {row}, even with {shift:.0e} times the "
                f"diagonal added to it: see that A has no NaN, scale its rows, or take another "
                f"preconditioner"
            )
        shift = max(2 * shift, _FIRST_SHIFT)
