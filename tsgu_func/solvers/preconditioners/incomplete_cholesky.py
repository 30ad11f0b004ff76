"""Incomplete Cholesky factorizations: what `IC0` and `DIC` share.

Both drop what would fill in.  *Relaxed* (Gustafsson, *A Class of First Order Factorization
Methods*, BIT 18, 1978), a share of it goes to the diagonals of its two rows, which reduces the
order of the condition number of the matrices of diffusion; *shifted* (Manteuffel, *An Incomplete
Factorization Technique for Positive Definite Linear Systems*, Math. Comp. 34, 1980), a multiple of
the diagonal is added to it where a pivot would not be positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure, unsigned
from tsgu_func.solvers.preconditioners.reading import positive_diagonal
from tsgu_func.solvers.preconditioners.triangles import shifted
from tsgu_func.solvers.protocol import Settings
from tsgu_func.solvers.settings import check_real
from tsgu_func.solvers.traits import rounding

__all__ = ["IncompleteCholesky", "levels_of"]

# What is asked of the pivots of a relaxed factor.  On a grid in its natural order each row has as
# much behind it as before, and a relaxed pivot keeps about half of its diagonal entry (Gustafsson's
# theory asks for that).  Where entries jump by orders of magnitude at random, many rows have nearly
# all of their weight before them, their pivots nearly vanish, and relaxation does harm.
_SMALL, _FEW = 0.1, 0.1


@dataclass(frozen=True, repr=False)
class IncompleteCholesky(Settings):
    """The settings of incomplete Cholesky factorizations, for Hermitian positive definite matrices.

    A full Cholesky factor has entries where A has none (the *fill*).  An incomplete one drops them,
    so that it is cheap, and only close to A.

    Only the lower triangle and the diagonal are read, so the upper triangle need not be stored.  If
    a pivot is not positive, a multiple of the diagonal is added to it, as small as possible.  The
    state has this multiple as its `shift`.

    Parameters
    ----------
    relaxation : float, optional
        Which share of the dropped fill is added to the diagonals of its two rows, between 0 and 1.
        With 1, M and A have the same row sums (of a complex matrix, the real part of them, which a
        Hermitian M can keep).

        By default, if the matrix behaves like a Laplacian on a grid in its natural order, this is
        the best value for a grid of this length (Chan, 1991).  The matrix has to be real, without
        positive entries beside the diagonal, without negative row sums, and with few relaxed
        pivots that are small.  For any other matrix it is 0, because a relaxation may do harm.
    shift : float
        The shift to try first.
    """

    relaxation: float | None = None
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.relaxation is not None:
            check_real("relaxation", self.relaxation, most=1)
        check_real("shift", self.shift)

    def read(self, A: StoredMatrix, diagonal: Tensor) -> tuple[Any, np.ndarray, np.ndarray]:
        """Return a triangle by rows (`crow`, `col`), its entries, and the diagonal in its order."""
        raise NotImplementedError

    def factor(
        self,
        triangle: Any,
        entries: np.ndarray,
        diagonal: np.ndarray,
        shift: float,
        relaxation: float,
    ) -> tuple[Any, int | None]:
        """Return a state, and None; or anything, and the row where the factorization broke down."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- the protocol

    def init(self, A: StoredMatrix) -> Any:
        """Factor: relaxed if that helps, shifted if it must."""
        triangle, entries, diagonal = self.read(A, positive_diagonal(self, A))

        def factor(shift: float, relaxation: float) -> tuple[Any, int | None]:
            return self.factor(triangle, entries, diagonal, shift, relaxation)

        if self.relaxation is None and _is_laplacian(A, triangle, entries, diagonal):
            result, row = factor(self.shift, _relaxation(levels_of(A.structure)))
            if row is None and _sound(result.inverse, diagonal):
                return result
        relaxation = float(self.relaxation or 0)
        return shifted(self, self.shift, lambda shift: factor(shift, relaxation))

    def apply(
        self, state: Any, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Solve with both triangles, for R (n, p)."""
        return state.solve(R, transpose != conjugate)  # M is Hermitian


def _is_laplacian(A: StoredMatrix, triangle: Any, entries: np.ndarray, d: np.ndarray) -> bool:
    """Whether a triangle has no positive entry and, mirrored, no negative row sum; both real."""
    is_laplacian, slack = compiled.incomplete.is_laplacian, rounding(A.dtype)
    return not A.dtype.is_complex and is_laplacian(triangle.crow, triangle.col, entries, d, slack)


def _sound(inverse: np.ndarray, diagonal: np.ndarray) -> bool:
    """Whether few pivots, given by what they are one over of, are small parts of the diagonal."""
    return int(np.count_nonzero(_SMALL * inverse * diagonal > 1)) <= _FEW * len(diagonal)


def levels_of(structure: Structure) -> int:
    """Return how many levels of rows a lower triangle has, each waiting for those before it.

    Found once for a structure.  O(nnz) time.
    """
    return structure.derive("levels", _levels)


def _levels(s: Structure) -> int:
    return int(compiled.ordering.count_levels(unsigned(s.crow.cpu()), unsigned(s.col.cpu())))


def _relaxation(levels: int) -> float:
    """Return the share of dropped fill to add to the diagonals of a Laplacian with these levels.

    Chan, *Fourier Analysis of Relaxed Incomplete Factorization Preconditioners*, SIAM J. Sci. Stat.
    Comput. 12, 1991: ``1 - 8 sin²(π / 2m)`` is best for a grid of m x m points.  In its natural
    order that has 2m levels, and one of m x m x m points 3m.  In a random order there are few, and
    relaxation would do harm.
    """
    side = max(levels / 3, 1.0)
    return max(1 - 8 * math.sin(math.pi / (2 * side)) ** 2, 0.0)
