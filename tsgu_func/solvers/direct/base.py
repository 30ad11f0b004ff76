"""What the direct solvers share: refinement, and what is said of matrices near singular.

A direct solver factors the stored matrix S once; the factor solves with S, Sᵀ, conj(S) and Sᴴ.  The
solution is judged by its backward errors, see `tsgu_func.solvers.judgement`:

*Refinement* solves for the residual and adds the correction.  One step makes the componentwise
backward error as small as rounding allows (Skeel, *Iterative Refinement Implies Numerical Stability
for Gaussian Elimination*, Math. Comp. 35, 1980).  With a factor of lower precision it gains a fixed
number of digits a step, as long as the condition number leaves the factor any (Higham, *Accuracy
and Stability of Numerical Algorithms*, 2002, chapter 12).  Where it does not help, the matrix is
factored once more, with more care.

*Error bound.*  A small backward error is no small error where A is close to singular.  That shows
where the residual is not small beside B; but not for a B in the range of A, so each factor is asked
once about right-hand sides that are nobody's choice.  Then the error is bounded, as in LAPACK, by

    |X - A⁻¹ B| <= |A⁻¹| f,   f = |R| + γ (|A| |X| + |B|),

for a few roundings γ: an estimate of the 1-norm of ``diag(f) A⁻ᴴ``, by a few solves for each column
(Higham, *FORTRAN Codes for Estimating the One-Norm of a Real or Complex Matrix*, ACM TOMS 14,
1988).  Scales of rows do not enter.  A bound that leaves no digit means singular.

*Condition number*: ``|A| |A⁻¹|`` in the 1-norm, the second factor estimated by a few solves (Higham
and Tisseur, *A Block Algorithm for Matrix 1-Norm Estimation*, SIAM J. Matrix Anal. Appl. 21, 2000).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.judgement import Measured, judged, measured, small
from tsgu_func.solvers.members import first_row
from tsgu_func.solvers.protocol import (
    Result,
    Settings,
    SingularError,
    Solution,
    SolveError,
)
from tsgu_func.solvers.settings import check_count
from tsgu_func.solvers.traits import sums_of_magnitudes

__all__ = ["Direct", "DirectWithPivots", "Factor", "Factored", "on_host"]

# An error bound, relative to the solution, that leaves no digit.
_USELESS = 0.1
# Backward error, in units of rounding, that a stable factorization stays below.
_STABLE = 100
# Right-hand sides that a factor is asked about, and what rounding may make of their solutions
# before the error is bounded: where A is singular up to rounding it makes at least 0.01 of them,
# with pivots on the diagonal, and else about 1.
_ASKED, _MADE = 3, 1e-3
# Refinement that does not gain this factor a step has reached what it can.
_GAIN, _STEPS = 0.5, 30
# Roundings in an entry of a residual; steps of the estimate of a norm, which takes two as a rule.
_ROUNDINGS, _ESTIMATES = 8, 5
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
    """The state of a direct solver: the stored matrix, and its factor."""

    A: StoredMatrix
    factor: Factor
    # What was found later: a better factor, the condition number, whether A is close to singular.
    later: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return self.factor.bytes + getattr(self.later.get("factor"), "bytes", 0)

    @property
    def best(self) -> Any:
        """The factor that was made last, with the most care."""
        return self.later.get("factor", self.factor)

    def solve(self, A: StoredMatrix, B: Tensor) -> Tensor:
        """Solve with the best factor there is, in its precision."""
        return self.best.solve(B, A.transpose, A.conjugate)


@dataclass(frozen=True, repr=False)
class Direct(Settings):
    """The settings that direct solvers have in common.

    Parameters
    ----------
    refine : int
        The number of steps of iterative refinement.
    precision : {None, "single"}
        With "single", the matrix is factored in single precision, which takes half the memory, and
        the solution is refined in the precision of A until this gains nothing more.
        `Solution.residual` tells how accurate it is.  If it is less accurate than that of a stable
        method, it has the code `Result.STAGNATED`.
    """

    refine: int = 0
    precision: str | None = None
    square_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("refine", self.refine)
        if self.precision not in (None, "single"):
            raise ValueError(f"precision is None or 'single'; got {self.precision!r}")

    def factor(self, A: StoredMatrix) -> Factor:
        """Factor a matrix that is neither transposed nor conjugated."""
        raise NotImplementedError

    def again(self, A: StoredMatrix, factor: Any) -> Factor | None:
        """Factor with more care than a `factor` that was not accurate; None: cannot."""
        return None

    # ------------------------------------------------------------------------- the protocol

    def init(self, A: StoredMatrix) -> Factored:
        """Factor."""
        sums, _ = sums_of_magnitudes(A)
        if bool((empty := sums == 0).any()):
            raise SingularError(f"the matrix is singular: nothing but zeros in {first_row(empty)}")
        return Factored(A, self.factor(self._narrowed(A)), {"sums": sums})

    def compute(
        self, state: Factored, A: StoredMatrix, B: Tensor, X0: Tensor | None = None
    ) -> Solution:
        """Solve for the columns of B (n, p); a start X0 is of no use here."""
        X, told = self._refined(state, A, B)
        singular, perturbed = False, _perturbed(state) and _is_large(told)
        if self.precision is None and (perturbed or not _stable(told)):
            try:
                self._factor_again(state)
                X, told = self._refined(state, A, B)
            except SingularError:  # and yet columns in the range of A may have solutions
                singular = True
        return self._judged(state, A, X, B, told, singular)

    def condition(self, state: Factored) -> float | Tensor:
        """Estimate the condition number of A in the 1-norm: some more solves, once for a factor."""
        if "condition" not in state.later:
            state.later["condition"] = self._condition(state)
        return state.later["condition"]

    # ----------------------------------------------------------------------------- its parts

    def _narrowed(self, A: StoredMatrix) -> StoredMatrix:
        if (narrow := self._narrow(A.dtype)) is None:
            return A
        values = A.values.to(narrow)
        if not bool(torch.isfinite(values).all()):
            raise SolveError("A overflows in single precision: scale it, or leave precision=None")
        return replace(A, values=values)

    def _refined(self, state: Factored, A: StoredMatrix, B: Tensor) -> tuple[Tensor, Measured]:
        """Return X, and what it leaves."""
        X = self.once(state, A, B)
        told = measured(A, X, B)
        steps = self.refine if self._narrow(B.dtype) is None else max(self.refine, _STEPS)
        for _ in range(steps if _accurate(told) else max(steps, 1)):
            refined = X + self.once(state, A, told.R)
            after = measured(A, refined, B)
            gained = after.componentwise < told.componentwise
            if not bool(gained.any()):
                break
            slow = bool((after.componentwise > _GAIN * told.componentwise).all())
            mask = gained.unsqueeze(-2)
            X, told = torch.where(mask, refined, X), _where(gained, after, told)
            if slow:
                break
        return X, told

    def _narrow(self, dtype: torch.dtype) -> torch.dtype | None:
        """Return the lower precision of the factor, if it has one."""
        return None if self.precision is None else _LOWER.get(dtype)

    def once(self, state: Factored, A: StoredMatrix, B: Tensor) -> Tensor:
        """Solve with the factor, and leave it at that: no refinement, no look at the residual."""
        narrow = self._narrow(B.dtype)
        if narrow is None:
            return state.solve(A, B)
        # Scaled, because the range of single precision is narrow.
        peak = B.abs().amax(-2, keepdim=True)
        peak = torch.where(peak == 0, 1, peak)
        return state.solve(A, (B / peak).to(narrow)).to(B.dtype) * peak

    def _factor_again(self, state: Factored) -> None:
        if "factor" in state.later:
            return
        if (better := self.again(state.A, state.factor)) is not None:
            state.later["factor"] = better
            for name in ("condition", "close"):  # those of the other
                state.later.pop(name, None)

    def _judged(
        self,
        state: Factored,
        A: StoredMatrix,
        X: Tensor,
        B: Tensor,
        told: Measured,
        singular: bool,
    ) -> Solution:
        rounding = torch.finfo(B.dtype).eps ** 0.5
        large = told.componentwise > small(B.dtype)
        code = torch.where(large, int(Result.INACCURATE), int(Result.SOLVED))
        shown = ~(told.residual <= rounding) | large  # NaN too
        looked = shown | _perturbed(state)
        close = self._is_close(state)
        if self.precision is not None and not _stable(told):
            code = torch.full_like(code, int(Result.STAGNATED))
        elif not bool((looked | close).any()):
            return judged(self, A, X, B, code=code, told=told)
        else:
            bound = self._error_bound(state, A, X, B, told)
            inexact = looked & (bound > rounding) & ~large
            code = torch.where(inexact, int(Result.ILL_CONDITIONED), code)
            useless = (looked | close) & ~(bound < _USELESS)
            state.later["close"] = close & useless.any(-1, keepdim=True)  # asked and answered
            if told.constants is not None:  # then X is one of many that are known
                useless = useless & (shown | ~told.constants)
            code = torch.where(useless | (shown & singular), int(Result.SINGULAR), code)
        # One solution of many is left to who asks for it.
        X = torch.where(((code == Result.SINGULAR) & shown).unsqueeze(-2), torch.nan, X)
        return judged(self, A, X, B, code=code, told=told)

    def _is_close(self, state: Factored) -> Tensor:
        """Say whether A may be singular up to rounding, ``(*batch, 1)``; once for a factor.

        A solution of ``A x = D r``, for the sums D of magnitudes in the rows of A, to which the
        units of rows do not matter, is as large as what rounding makes of the last pivots is small.
        One solve tells without a look at the pivots, for which SciPy would copy the factors of
        SuperLU, and keep the copies.  A factor of lower precision cannot tell, and one that counts
        the pivots that were too small has told.
        """
        A, sums = state.A, state.later.pop("sums", None)
        if self._narrow(A.dtype) is not None or hasattr(state.best, "perturbed"):
            return torch.zeros(1, dtype=torch.bool, device=A.values.device)
        if "close" not in state.later:
            sums = sums_of_magnitudes(A)[0] if sums is None else sums
            k = torch.arange(1, _ASKED * A.shape[0] + 1, dtype=torch.float64, device=sums.device)
            R = (k * k).sin().reshape(-1, _ASKED).to(A.dtype)  # in no order
            largest = state.solve(A, sums.unsqueeze(-1) * R).abs().amax((-2, -1)).unsqueeze(-1)
            state.later["close"] = ~(largest * torch.finfo(A.dtype).eps < _MADE)
        return state.later["close"]

    def _error_bound(
        self, state: Factored, A: StoredMatrix, X: Tensor, B: Tensor, told: Measured
    ) -> Tensor:
        """Estimate the largest error in each column of X, relative to the largest entry."""
        rounding = _ROUNDINGS * torch.finfo(X.dtype).eps
        size = X.abs().amax(-2, keepdim=True)
        # Relative to X from the start, so that the numbers are of moderate size.
        size = torch.where(size == 0, 1, size)
        sizes = replace(A, values=A.values.abs()) @ (X.abs() / size) + B.abs() / size
        f = told.R.abs() / size + rounding * sizes
        V, largest = torch.full_like(X, 1 / X.shape[-2]), torch.zeros_like(size)
        for _ in range(_ESTIMATES):
            Y = f * self.once(state, A.mH, V)
            norm = Y.abs().sum(-2, keepdim=True)
            if not bool((norm > largest).any()):  # of NaN too
                return torch.maximum(largest, norm).squeeze(-2)
            largest = torch.maximum(largest, norm)
            Z = self.once(state, A, f * torch.where(Y == 0, 1, Y.sgn()))
            most = Z.abs().argmax(-2, keepdim=True)
            V = torch.zeros_like(X).scatter(-2, most, 1)
        return largest.squeeze(-2)

    def _condition(self, state: Factored) -> float | Tensor:
        import scipy.sparse.linalg

        linalg: Any = scipy.sparse.linalg
        n = state.A.shape[0]
        dtype = torch.empty(0, dtype=state.A.dtype, device="cpu").numpy().dtype
        # The inverse is taken times the norm of A: so neither over- nor underflows.
        _, columns = sums_of_magnitudes(state.A)
        norm = float(columns.max())

        def times(A: StoredMatrix) -> Callable[[np.ndarray], np.ndarray]:
            def solve(B: np.ndarray) -> np.ndarray:
                shape = B.shape
                B = norm * np.ascontiguousarray(B.reshape(n, -1))
                X, _ = self._refined(
                    state, A, torch.from_numpy(B.astype(dtype)).to(A.values.device)
                )
                return X.cpu().numpy().reshape(shape)

            return solve

        forward, adjoint = times(state.A), times(state.A.mH)
        inverse = linalg.LinearOperator(
            (n, n), matvec=forward, rmatvec=adjoint, matmat=forward, rmatmat=adjoint, dtype=dtype
        )
        with np.errstate(invalid="ignore"):  # of a matrix so close to singular that it does
            # With t = 1 the estimate draws no random numbers.
            estimate = float(linalg.onenormest(inverse, t=1))
        return math.inf if math.isnan(estimate) else estimate


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
        _, told = self._refined(state, state.A, ones)
        if not _stable(told):
            self._factor_again(state)
        return state.best.logabsdet()


def _stable(told: Measured) -> bool:
    """Say whether the backward error is no more than rounding, in the maximum norm."""
    return bool((told.normwise <= _rounding(told)).all())


def _accurate(told: Measured) -> bool:
    """Say whether the backward error is no more than rounding, in each row."""
    return bool((told.componentwise <= _rounding(told)).all())


def _rounding(told: Measured) -> float:
    return _STABLE * torch.finfo(told.R.dtype).eps * max(told.R.shape[-2], 1) ** 0.5


def _perturbed(state: Factored) -> bool:
    """Say whether pivots of the factor are not those of the matrix."""
    return getattr(state.best, "perturbed", 0) > 0


def _is_large(told: Measured) -> bool:
    """Say whether a residual shows that A may be close to singular; so does NaN."""
    return not bool((told.residual <= torch.finfo(told.R.dtype).eps ** 0.5).all())


def _where(gained: Tensor, after: Measured, before: Measured) -> Measured:
    """Return what is told of the columns that have gained, and of the others."""

    def choose(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(gained.unsqueeze(-2) if x.ndim > gained.ndim else gained, x, y)

    return Measured(*map(choose, after[:-1], before[:-1]), constants=after.constants)


def on_host(solve: Callable[[np.ndarray], np.ndarray], B: Tensor) -> Tensor:
    """Apply a solve of NumPy arrays to a tensor, wherever it is."""
    return torch.from_numpy(np.ascontiguousarray(solve(B.cpu().numpy()))).to(B.device)
