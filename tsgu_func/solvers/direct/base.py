"""What the direct solvers share: residuals, refinement, and what is said of matrices near singular.

A direct solver factors the stored matrix S once; the factor solves with S, Sᵀ, conj(S) and Sᴴ.  The
solution is judged by its residual, which is computed with the matrix itself:

*Backward error* (Rigal and Gaches, 1967): ``|B - A X| / (|A| |X| + |B|)`` tells by how little A and
B would have to change for X to be exact.  A stable factorization leaves a few roundings.

*Refinement* solves for the residual and adds the correction.  With a factor of lower precision it
gains a fixed number of digits a step, as long as the condition number leaves the factor any
(Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, chapter 12).

*Condition number*: ``|A| |A⁻¹|`` in the 1-norm, the second factor estimated by a few solves (Higham
and Tisseur, *A Block Algorithm for Matrix 1-Norm Estimation*, SIAM J. Matrix Anal. Appl. 21, 2000).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tsgu_func.solvers.protocol import (
    Result,
    Settings,
    Solution,
    SolveError,
    relative_residual,
    solution,
)
from tsgu_func.solvers.stored import StoredMatrix
from tsgu_func.solvers.traits import sums_of_magnitudes

__all__ = ["Direct", "DirectWithPivots", "Factor", "Factored", "on_host"]

# A solution as accurate as rounding allows leaves about eps |A| |X|, relative to |B|: where that is
# no small part of B, the condition number has reached 1 / eps.
_USELESS = 0.1
# Backward error, in units of rounding, that a stable factorization stays below.
_STABLE = 100
# Refinement that does not gain this factor a step has reached what it can.
_GAIN, _STEPS = 0.5, 30
_LOWER = {torch.float64: torch.float32, torch.complex128: torch.complex64}


class Factor(Protocol):
    """A factor of S, or of each member of a batch."""

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        ...

    def solve(self, B: Tensor, transpose: bool, conjugate: bool) -> Tensor:
        """Solve with S, Sᵀ, conj(S) or Sᴴ, for B (n, p)."""
        ...


@dataclass(frozen=True)
class Factored:
    """The state of a direct solver: how the stored matrix is read, and its factor."""

    A: StoredMatrix
    factor: Factor
    norm: Tensor  # the largest column or row sum of |A|, (*batch, 1)
    # What was found later, for all views of the state: a better factor, the condition number.
    later: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return self.factor.bytes + getattr(self.later.get("factor"), "bytes", 0)

    def solve(self, B: Tensor) -> Tensor:
        """Solve with the best factor there is, in its precision."""
        factor = self.later.get("factor", self.factor)
        return factor.solve(B, self.A.transpose, self.A.conjugate)


@dataclass(frozen=True, repr=False)
class Direct(Settings):
    """Settings of a direct solver.

    Parameters
    ----------
    refine : int
        Steps of iterative refinement.
    precision : {None, "single"}
        With "single", factor in single precision, in half the memory, and refine to the precision
        of A until that gains no more.  `Solution.residual` tells what was reached; a solution that
        fell short of a stable one has the code `Result.STAGNATED`.
    """

    refine: int = 0
    precision: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.refine, int) or self.refine < 0:
            raise ValueError(f"refine counts steps: 0, 1, ...; got {self.refine!r}")
        if self.precision not in (None, "single"):
            raise ValueError(f"precision is None or 'single'; got {self.precision!r}")

    def factor(self, A: StoredMatrix) -> Factor:
        """Factor a matrix that is neither transposed nor conjugated."""
        raise NotImplementedError

    def again(self, A: StoredMatrix) -> Factor | None:
        """Factor once more, with more care, where a solution was not accurate; None: cannot."""
        return None

    # ------------------------------------------------------------------------- the protocol

    def init(self, A: StoredMatrix) -> Factored:
        """Factor."""
        rows, columns = sums_of_magnitudes(A)
        if bool((empty := rows == 0).any()):
            row = int(empty.nonzero()[0, -1])
            raise SolveError(f"the matrix is singular: nothing but zeros in row {row}")
        norm = torch.cat([rows, columns], -1).amax(-1, keepdim=True)
        return Factored(A, self.factor(self._narrowed(A)), norm)

    def compute(self, state: Factored, B: Tensor, X0: Tensor | None = None) -> Solution:
        """Solve for the columns of B (n, p); a start X0 is of no use here."""
        X, R = self._refined(state, B)
        if self.precision is None and not _stable(state, X, B, R):
            self._factor_again(state)
            X, R = self._refined(state, B)
        return self._judged(state, X, B, R)

    def transpose(self, state: Factored) -> Factored:
        """Return the same factor, for the transpose."""
        return replace(state, A=state.A.T)

    def conj(self, state: Factored) -> Factored:
        """Return the same factor, for the conjugate."""
        return replace(state, A=state.A.conj())

    def condition(self, state: Factored) -> float | Tensor:
        """Estimate the condition number of A in the 1-norm: some more solves, once for a factor."""
        if "condition" not in state.later:
            state.later["condition"] = self._condition(state)
        return state.later["condition"]

    # ----------------------------------------------------------------------------- its parts

    def _narrowed(self, A: StoredMatrix) -> StoredMatrix:
        if self.precision is None or A.dtype not in _LOWER:
            return A
        narrow = A.values.to(_LOWER[A.dtype])
        if not bool(torch.isfinite(narrow).all()):
            raise SolveError("A overflows in single precision: scale it, or leave precision=None")
        return replace(A, values=narrow)

    def _refined(self, state: Factored, B: Tensor) -> tuple[Tensor, Tensor]:
        """Return X and the residual B - A X."""
        narrow = B.dtype if self.precision is None else _LOWER.get(B.dtype, B.dtype)

        def solve(R: Tensor) -> Tensor:
            # Scaled, because the range of single precision is narrow.
            peak = R.abs().amax(-2, keepdim=True)
            peak = torch.where(peak == 0, 1, peak)
            return state.solve((R / peak).to(narrow)).to(B.dtype) * peak

        X = state.solve(B) if narrow == B.dtype else solve(B)
        R = B - state.A @ X
        steps = self.refine if narrow == B.dtype else max(self.refine, _STEPS)
        for _ in range(steps):
            refined = X + solve(R)
            left = B - state.A @ refined
            gained = relative_residual(left, B) < relative_residual(R, B)
            if not bool(gained.any()):
                break
            slow = bool((relative_residual(left, B) > _GAIN * relative_residual(R, B)).all())
            mask = gained.unsqueeze(-2)
            X, R = torch.where(mask, refined, X), torch.where(mask, left, R)
            if slow:
                break
        return X, R

    def _factor_again(self, state: Factored) -> None:
        if "factor" not in state.later:
            A = StoredMatrix(state.A.structure, state.A.values)
            if (better := self.again(A)) is not None:
                state.later["factor"] = better

    def _judged(self, state: Factored, X: Tensor, B: Tensor, R: Tensor) -> Solution:
        residual = relative_residual(R, B)
        worst = float(residual.max()) if residual.numel() else 0.0
        if self.precision is not None and not _stable(state, X, B, R):
            return solution(self, X, residual, code=Result.STAGNATED)
        if not worst <= _USELESS:
            raise SolveError(_singular(worst))
        low = residual > torch.finfo(residual.dtype).eps ** 0.5
        if not bool(low.any()):
            return solution(self, X, residual)
        condition = self.condition(state)
        known = torch.as_tensor(condition, dtype=residual.dtype, device=residual.device)
        if not bool((known < 1 / torch.finfo(residual.dtype).eps).all()):
            raise SolveError(_singular(worst))
        code = torch.where(low, int(Result.ILL_CONDITIONED), int(Result.SOLVED))
        return solution(self, X, residual, code=code, condition=condition)

    def _condition(self, state: Factored) -> float | Tensor:
        import scipy.sparse.linalg

        linalg: Any = scipy.sparse.linalg
        plain = replace(state, A=StoredMatrix(state.A.structure, state.A.values))
        n = plain.A.shape[0]
        dtype = torch.empty(0, dtype=plain.A.dtype, device="cpu").numpy().dtype

        def times(state: Factored) -> Callable[[np.ndarray], np.ndarray]:
            def solve(B: np.ndarray) -> np.ndarray:
                columns = torch.from_numpy(np.ascontiguousarray(B.reshape(n, -1)).astype(dtype))
                X, _ = self._refined(state, columns.to(state.A.values.device))
                return X.cpu().numpy().reshape(B.shape)

            return solve

        forward, adjoint = times(plain), times(replace(plain, A=plain.A.mH))
        inverse = linalg.LinearOperator(
            (n, n), matvec=forward, rmatvec=adjoint, matmat=forward, rmatmat=adjoint, dtype=dtype
        )
        _, columns = sums_of_magnitudes(plain.A)
        # With t = 1 the estimate draws no random numbers.
        return float(columns.max()) * float(linalg.onenormest(inverse, t=1))


class DirectWithPivots(Direct):
    """A direct solver whose factors tell their pivots, by a method `logabsdet`."""

    def logabsdet(self, state: Factored) -> Tensor:
        """Return log|det A|, ``(*batch,)``, of a factor that one solve shows to be stable."""
        if self.precision is not None:
            raise ValueError(
                f"{self!r} would tell log|det A| to the digits of single precision: leave "
                f"precision=None"
            )
        ones = state.A.values.new_ones(*state.A.values.shape[:-1], state.A.shape[0], 1)
        X, R = self._refined(state, ones)
        if not _stable(state, X, ones, R):
            self._factor_again(state)
        factor: Any = state.later.get("factor", state.factor)
        return factor.logabsdet()


def _stable(state: Factored, X: Tensor, B: Tensor, R: Tensor) -> bool:
    """Say whether the backward error is no more than rounding, in the maximum norm."""
    if not B.numel():
        return True
    residual, x, b = (y.abs().amax(-2) for y in (R, X, B))
    # Below this scale, rounding is absolute: numbers that small have no digits to lose.
    finfo = torch.finfo(residual.dtype)
    size = (state.norm * x + b).clamp_min(finfo.tiny / finfo.eps)
    rounding = finfo.eps * max(B.shape[-2], 1) ** 0.5
    return bool((residual <= _STABLE * rounding * size).all())


def _singular(residual: float) -> str:
    return (
        f"the matrix is singular to working precision: the best solution leaves a relative "
        f"residual of {residual:.1e}"
    )


def on_host(solve: Callable[[np.ndarray], np.ndarray], B: Tensor) -> Tensor:
    """Apply a solve of NumPy arrays to a tensor, wherever it is."""
    return torch.from_numpy(np.ascontiguousarray(solve(B.cpu().numpy()))).to(B.device)
