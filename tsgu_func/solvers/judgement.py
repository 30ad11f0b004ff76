r"""One judge for all solvers: what a solution leaves of the system, and whether that is little.

The residual :math:`R = B - A X` is computed with the matrix itself, in double precision, and
compared with three things, for each column:

*The right-hand side.*  ``|R| / |B|`` is what is asked of iterative solvers.  By itself it judges
wrongly in both directions: where B is large in a few rows, the others need not be solved at all,
and where X is large, as it is where A is close to singular or its rows have different units,
rounding alone may exceed B.

*The matrix and the right-hand side.*  By how little would A and B have to change for X to be exact?
Relative to their largest entries by the normwise backward error (Rigal and Gaches, *On the
Compatibility of a Given Solution with the Data of a Linear System*, J. ACM 14, 1967), and relative
to each entry by the componentwise one (Oettli and Prager, *Compatibility of Approximate Solution of
Linear Equations with Given Error Bounds*, Numer. Math. 6, 1964),

.. math:: \max_i |R|_i / (|A| |X| + |B|)_i,

which does not change with the units of the rows.  Where the divisor is a small part of
:math:`\|A_i\|_1 \|X\|_\infty`, that part takes its place, as Arioli, Demmel and Duff (*Solving
Sparse Linear Systems with Sparse Backward Error*, SIAM J. Matrix Anal. Appl. 10, 1989) propose for
a right-hand side that is sparse: entries of X so small are nobody's aim.

*What is known of the inverse*, by the direct solvers alone: a bound of the error of X itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.checks import all_finite
from tsgu_func.kernels.residuals import residuals
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.protocol import (
    ConvergenceError,
    IllConditionedWarning,
    Result,
    Solution,
    SolveError,
    relative_residual,
    solution,
)
from tsgu_func.solvers.settings import default_tolerance

__all__ = ["Measured", "acceptable", "checked", "judged", "measured", "report", "small"]

# A solution whose residual is a larger part of the right-hand side is no solution, unless it is
# exact for a matrix nearby.
_CREDIBLE = 1e-3
# Squares of numbers between these neither over- nor underflow.
_LARGE = 2.0**400


class Measured(NamedTuple):
    """What a solution leaves, for each column: in double precision, but for the residual itself.

    Attributes
    ----------
    R : Tensor, shape ``(*batch, n, p)``
        ``B - A X``, in the precision of B.
    residual, normwise, componentwise : Tensor, shape ``(*batch, p)``
        Relative to B, and as backward errors.
    constants : Tensor of bool, shape ``(*batch, 1)``, or None
        Whether A maps constants to zero, up to rounding.
    """

    R: Tensor
    residual: Tensor
    normwise: Tensor
    componentwise: Tensor
    constants: Tensor | None = None

    @property
    def numbers(self) -> dict[str, Tensor]:
        """What a `Solution` tells of it."""
        real = self.R.dtype.to_real()
        names = ("residual", "normwise", "componentwise")
        return {name: getattr(self, name).to(real) for name in names}


def measured(
    A: Any, X: Tensor, B: Tensor, project: Callable[[Tensor], Tensor] | None = None
) -> Measured:
    """Compute what X leaves of ``A X = B``, or of a projection of it, in one pass over A."""
    rows, cols = A.shape
    if not isinstance(A, StoredMatrix) or rows != cols:
        R = B - A @ X
        unknown = torch.full_like(R[..., 0, :].abs(), torch.nan)
        return Measured(R, _relative(R, B), unknown, unknown)
    x = _largest(X)
    floor = (small(B.dtype) * x).unsqueeze(-2)
    left = residuals(A.structure, A.entries, X, B, floor, transpose=A.transpose)
    if project is not None:
        R = project(left.R)
        left = left._replace(R=R, largest=_largest(R).double(), norm=_norms(R))
    moderate = _are_moderate(torch.maximum(left.largest, left.largest_b))
    residual = left.norm / _unless_zero(left.norm_b) if moderate else _relative(left.R, B)
    normwise = left.largest / _unless_zero(left.row * x + left.largest_b)
    return Measured(left.R, residual, normwise, left.error, left.vanishing)


def small(dtype: torch.dtype) -> float:
    """Return what a componentwise backward error must not exceed, for a solution to count as one.

    Half of the digits that are asked for by default: a residual as small as asked, in rows where X
    is not smaller than that, relative to its largest entry, passes.
    """
    return default_tolerance(dtype) ** 0.5


def _largest(X: Tensor) -> Tensor:
    return X.abs().amax(-2)


def _norms(X: Tensor) -> Tensor:
    return torch.linalg.vector_norm(X, dim=-2, dtype=torch.promote_types(X.dtype, torch.float64))


def _unless_zero(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1, x)


def _are_moderate(numbers: Tensor) -> bool:
    """Say whether no square over- or underflows."""
    return all(1 / _LARGE < x < _LARGE or x == 0 for x in numbers.flatten().tolist())


def _relative(R: Tensor, B: Tensor) -> Tensor:
    """Return |R| / |B| per column, whatever their scale; |R| where the column of B vanishes."""
    wide = torch.promote_types(B.dtype, torch.float64)
    R, B = R.to(wide), B.to(wide)
    peak = torch.maximum(_largest(R), _largest(B))
    # By a power of two, which rounds nothing.
    scale = torch.exp2(-peak.clamp(min=torch.finfo(wide).tiny).log2().floor()).unsqueeze(-2)
    return relative_residual(R * scale, B * scale)


# ------------------------------------------------------------------------------------ judgements


def judged(
    solver: Any,
    A: Any,
    X: Tensor,
    B: Tensor,
    *,
    code: Tensor | Result = Result.SOLVED,
    told: Measured | None = None,
    **numbers: Any,
) -> Solution:
    """Return a solution with what it leaves; `code` is what its solver takes it for."""
    told = measured(A, X, B) if told is None else told
    code = torch.as_tensor(code, dtype=torch.int64, device=X.device).expand(told.residual.shape)
    if told.constants is not None and bool(told.constants.any()):
        unknown = told.constants & (code == Result.SOLVED)
        code = torch.where(unknown, int(Result.ILL_CONDITIONED), code)
    if not all_finite(X):
        code = torch.where(_finite(X), code, _unless_failed(code, Result.OVERFLOW))
    return solution(solver, X, code=code, **told.numbers, **numbers)


def checked(A: Any, B: Tensor, solved: Solution) -> Solution:
    """Look at a solution that nobody has judged: one of a user's solver or function."""
    if not bool(solved.normwise.isnan().all()):
        return solved
    told = measured(A, solved.value, B)
    wrong = ~_finite(solved.value)
    if A.shape[0] == A.shape[1]:
        nearby = told.normwise <= torch.finfo(B.dtype).eps ** 0.5
        wrong = wrong | ~((told.residual <= _CREDIBLE) | nearby)
    code = torch.where(wrong, _unless_failed(solved.code, Result.INACCURATE), solved.code)
    return solved._replace(code=code, **told.numbers)


def acceptable(solved: Solution) -> bool:
    """Say whether a solution of an iterative solver is one, row by row too."""
    large = solved.componentwise > small(solved.value.dtype)
    return not solved.result.failed and not bool(large.any())


def _finite(X: Tensor) -> Tensor:
    return torch.isfinite(X).all(-2)


def _unless_failed(code: Tensor, result: Result) -> Tensor:
    """Return a code in the place of those that are none of failure."""
    fine = (code == Result.SOLVED) | (code == Result.ILL_CONDITIONED)
    return torch.where(fine, int(result), code)


# -------------------------------------------------------------------------------------- verdicts


def report(on_failure: str, solved: Solution) -> None:
    """Raise, warn, or leave it at that, as a caller wants it."""
    result = solved.result
    if result is Result.SOLVED or on_failure == "ignore":
        return
    if result.failed:
        error = _error(result, solved)
        if on_failure != "warn":
            raise error
        warnings.warn(str(error), stacklevel=2)
    elif on_failure == "strict":
        raise _error(result, solved)
    else:
        warnings.warn(solved.message, IllConditionedWarning, stacklevel=2)


def _error(result: Result, solved: Solution) -> SolveError:
    where, message = _where(solved.code, result), solved.message
    message = f"{message} ({where})" if where else message
    if result in (Result.SINGULAR, Result.ILL_CONDITIONED, Result.OVERFLOW):
        return SolveError(message)
    return ConvergenceError(message, int(solved.iterations.max()), solved.residual)


def _where(code: Tensor, result: Result) -> str:
    """Say which member and column it is, where there are several."""
    *member, column = (code == result).nonzero()[0].tolist()
    parts = [f"member {member[0]}"] if member else []
    parts += [f"column {column}"] if code.shape[-1] > 1 else []
    return ", ".join(parts)
