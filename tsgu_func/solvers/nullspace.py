r"""Singular systems whose null space is known.

Let the columns of Z span what A maps to zero, and those of Y what its adjoint does (Y = Z for a
Hermitian A), both orthonormal, with projections :math:`P_Z = I - Z Z^H` and :math:`P_Y`.  What is
solved is

.. math:: P_Y A X = P_Y B, \qquad Z^H X = 0,

by the pseudo-inverse where A maps Z to zero exactly, and still one solution where its values are
moved, as they are by a derivative.  With the adjoint system, in which Z and Y change places, the
rules of a plain solve are those of this one.

A solver for matrices that are not singular is handed :math:`A' = A + σ E E^H`, with unit vectors E
at as many places of the diagonal: the pattern is that of A, and A' is definite where A is
semidefinite.  If A maps Z to zero and its adjoint Y, :math:`σ Y^H E E^H X' = 0` follows from
:math:`A' X' = P_Y B`, so :math:`E^H X'` vanishes, and :math:`X = P_Z X'`.  Where A does so but
approximately, repeating that for the residual converges like the powers of what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.triangular import triangle_of
from tsgu_func.solvers.judgement import measured
from tsgu_func.solvers.protocol import Solution, SolveError

__all__ = ["NullSpace", "projected"]

# A is said to map Z to zero if it does up to this, relative to |A| |Z|: not for a wrong Z, and yet
# for an A whose values are moved a little, to see what changes.
_VANISHING = 1e-3
# Corrections at most; one that leaves more than this part of the residual was the last.
_STEPS, _GAIN = 8, 0.5
# A residual so much above that of the solver asks for a correction.
_ABOVE = 4

Compute = Callable[[StoredMatrix, Tensor], Solution]


class NullSpace(NamedTuple):
    """Orthonormal columns, (n, k): what A maps to zero, and what its adjoint does."""

    right: Tensor
    left: Tensor

    @classmethod
    def spanned(cls, right: Tensor, left: Tensor) -> Self:
        """Return the spaces that two sets of vectors span."""
        return cls(*(torch.linalg.qr(x).Q for x in (right, left)))

    def check(self, A: StoredMatrix) -> None:
        """Check that A and its adjoint map the vectors to zero, roughly."""
        size = A.values.abs().amax()
        for name, M, Q in (("A", A, self.right), ("the adjoint of A", A.mH, self.left)):
            Q = Q.expand(*A.values.shape[:-1], *Q.shape)
            if not bool((M @ Q).abs().amax() <= _VANISHING * size * Q.abs().amax()):
                raise SolveError(
                    f"{name} does not map nullspace to zero: |A Z| is "
                    f"{float((M @ Q).abs().amax() / size):.1e} |A|; for an A that is not Hermitian "
                    f"give a pair (Z, Y), with what the conjugate transpose maps to zero"
                )


def projected(compute: Compute, null: NullSpace, A: StoredMatrix, B: Tensor) -> Solution:
    """Solve in the complement of a null space, by what solves systems that are not singular."""
    null.check(A)
    Z, Y = null
    moved = _grounded(A, null)

    def residual(R: Tensor) -> Tensor:
        return _without(Y, R)

    B = _without(Y, B)
    solved = compute(moved, B)
    X = _without(Z, solved.value)
    told = measured(A, X, B, residual)
    iterations = solved.iterations
    for _ in range(_STEPS):
        rounding = torch.finfo(B.dtype).eps
        if bool((told.residual <= _ABOVE * torch.clamp(solved.residual, min=rounding)).all()):
            break
        correction = compute(moved, told.R)
        further = X + _without(Z, correction.value)
        after = measured(A, further, B, residual)
        if not bool((after.residual < _GAIN * told.residual).any()):
            break
        better = after.residual < told.residual
        X = torch.where(better.unsqueeze(-2), further, X)
        told, iterations = measured(A, X, B, residual), iterations + correction.iterations
    return solved._replace(value=X, iterations=iterations, **told.numbers)


def _without(Q: Tensor, X: Tensor) -> Tensor:
    """Return what is left of X without what is along the columns of Q."""
    # Twice is enough (Parlett, The Symmetric Eigenvalue Problem, 1980, who quotes Kahan).
    X = X - Q @ (Q.mH @ X)
    return X - Q @ (Q.mH @ X)


def _grounded(A: StoredMatrix, null: NullSpace) -> StoredMatrix:
    """Return A with something added to its diagonal at as many places as there are vectors."""
    triangle = triangle_of(A.structure, upper=False)
    stored = triangle.stored.nonzero().squeeze(-1)
    if len(stored) < null.right.shape[-1]:
        raise SolveError(
            f"nullspace has {null.right.shape[-1]} vectors, and A stores {len(stored)} entries of "
            f"its diagonal: store as many, of value zero if need be"
        )
    rows = stored[_anchors(null.right[stored], null.left[stored])]
    place = triangle.diagonal[rows].long()
    diagonal = A.values[..., place].real
    largest = A.values.abs().amax(-1, keepdim=True)
    shift = torch.where(diagonal == 0, largest, diagonal).to(A.dtype)
    return replace(A, values=A.values.index_add(-1, place, shift))


def _anchors(right: Tensor, left: Tensor) -> Tensor:
    """Choose as many rows as there are columns, in which both are far from dependent."""
    import scipy.linalg

    weighed = right * torch.linalg.vector_norm(left, dim=-1, keepdim=True)
    *_, order = scipy.linalg.qr(
        weighed.mH.resolve_conj().cpu().numpy(), mode="economic", pivoting=True
    )
    return torch.from_numpy(order[: right.shape[-1]].astype("int64")).to(right.device)
