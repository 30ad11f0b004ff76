"""MINRES as a function, for several shifts of one matrix.

The recurrence and the loop around it are those of the solver `MINRES`.  All shifts share one Krylov
space; a preconditioner, or a restart, gives each its own.  Tensors here have an axis for the shifts
in front, of length one where they are shared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.solvers.krylov import minres as recurrence
from tsgu_func.solvers.krylov.block import Problem
from tsgu_func.solvers.protocol import ConvergenceError, Result, SolveError
from tsgu_func.solvers.settings import check_count, check_real, check_settings, default_tolerance
from tsgu_func.solvers.system import Operator, System, read_system
from tsgu_func.utils.failure import check_policy, fail, unconverged
from tsgu_func.utils.reading import block_of, preconditioning, readable, unwatched

__all__ = ["MINRESSettings", "minres"]

_logger = logging.getLogger(__name__)


class MINRESSettings(NamedTuple):
    """Settings of `minres`.

    Attributes
    ----------
    max_cg_iterations : int
        The largest number of iterations.
    minres_tolerance : float, optional
        A column has converged if its residual, relative to its right-hand side, is at most this.
        Default: 1e-5 in single precision, 1e-10 in double.
    verbose_linalg : bool
        Whether to log how the solve ended, at level INFO.
    """

    max_cg_iterations: int = 1000
    minres_tolerance: float | None = None
    verbose_linalg: bool = False


_SETTINGS = MINRESSettings()


def minres(
    matmul_closure: Any,
    rhs: Tensor,
    eps: float = 1e-25,
    shifts: Tensor | float | None = None,
    value: float | None = None,
    max_iter: int | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    settings: MINRESSettings = _SETTINGS,
    *,
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> Tensor:
    r"""Solve :math:`(\alpha A + \sigma I) X = B` for a Hermitian A by minimal residuals.

    Parameters
    ----------
    matmul_closure : matrix or callable
        The matrix A: a dense or sparse tensor, a SparseMatrix, or a function ``X -> A X``.  A batch
        of matrices broadcasts with `rhs`.
    rhs : Tensor, shape (n,), (n, p) or ``(*batch, n, p)``
        The right-hand sides B.  float32, float64, complex64 or complex128.
    eps : float
        A coefficient of the recurrence counts as zero if its size, relative to A, is below this, or
        below the rounding of the dtype.
    shifts : float or Tensor, shape () or (s,), optional
        :math:`\sigma`, real.  Default: zero.
    value : float, optional
        :math:`\alpha`, real.  Default: one.
    max_iter : int, optional
        Default: ``settings.max_cg_iterations``.
    preconditioner : matrix or callable, optional
        ``R -> M⁻¹ R`` for a Hermitian positive definite M close to A.
    settings : MINRESSettings
    on_failure : {"raise", "warn", "ignore"}
        What to do if a column has not converged.

    Returns
    -------
    Tensor
        X, with the shape of `rhs`; for s shifts ``(s, *rhs.shape)``.

    Raises
    ------
    ConvergenceError
        If the true relative residual of a column is above the tolerance.  For a matrix that is not
        Hermitian, it usually is.
    SolveError
        If the preconditioner is not positive definite, or if a product is not finite or has another
        shape or dtype.
    RuntimeError
        If A or `rhs` requires a gradient.
    TypeError
        If `rhs` is not a tensor, or has a dtype in which systems cannot be solved.
    ValueError
        If `rhs` is not finite or has another shape, or if a setting makes no sense.

    Notes
    -----
    An iteration takes one product with A, which serves all shifts if there is no preconditioner.
    Memory is O(n p s).  To differentiate, pass this function to `sparse_generic_solve`; autograd
    through the iterations is refused.  Reference: Paige and Saunders, 1975.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import minres
    >>> A = torch.tensor([[2.0, 1.0], [1.0, -1.0]])
    >>> b = torch.tensor([1.0, 3.0])
    >>> minres(A, b)
    tensor([ 1.3333, -1.6667])
    >>> minres(A, b, shifts=torch.tensor([0.0, 2.0]))
    tensor([[ 1.3333, -1.6667],
            [-0.6667,  3.6667]])
    """
    check_policy(on_failure)
    check_settings(settings, MINRESSettings)
    plain = read_system(readable(matmul_closure), rhs, None)
    sigma = _read_shifts(shifts, plain)
    limit, tolerance = _limits(plain, eps, max_iter, settings)
    precondition = preconditioning(preconditioner, "preconditioner", plain.vector)
    precondition = None if precondition is None else _over_shifts(precondition)
    factor = 1.0 if value is None else value
    product = Operator(_over_shifts(lambda X: factor * plain.multiply(X)), "matmul_closure")
    system, watch = _shifted(plain, product, sigma), unwatched()
    eps = max(eps, 10 * torch.finfo(rhs.dtype).eps)
    method = _Shifted(max_iterations=limit, product=product, sigma=sigma, eps=eps)
    block = block_of(system, tolerance * system.unit, precondition)
    reached = method.reach(block, None, watch)
    X, error = plain.answer(reached.X), (reached.norm / system.unit).squeeze(-2)
    if settings.verbose_linalg:
        _logger.info("residual %s after %d iterations", error, watch.steps)
    if not isinstance(shifts, Tensor) or not shifts.ndim:
        X, error = X.squeeze(0), error.squeeze(0)
    if bool((error > tolerance).any()):
        fail(on_failure, _failure(error, tolerance, watch.steps))
    return X


# As the `solve` of an op it gets a batch of matrices whole, and runs one loop for all members.
minres.takes_batches = True  # pyright: ignore[reportFunctionMemberAccess]


def _read_shifts(shifts: Any, system: System) -> Tensor:
    """Return the shifts along an axis in front of those of the columns."""
    given = 0.0 if shifts is None else shifts
    # NumPy reads a Python number in double precision, whatever PyTorch's default is.
    sigma = given if isinstance(given, Tensor) else torch.from_numpy(np.asarray(given))
    if sigma.ndim > 1 or sigma.is_complex() or not bool(torch.isfinite(sigma).all()):
        raise ValueError(
            f"shifts is a real, finite number, or a vector of such; got shape "
            f"{tuple(sigma.shape)}, {sigma.dtype}"
        )
    return sigma.to(system.unit).reshape(-1, *(1,) * system.B.ndim)


def _over_shifts(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a function of columns to an axis of shifts in front: as more columns of one call."""

    def call(X: Tensor) -> Tensor:
        Y = function(X.movedim(0, -1).flatten(-2).contiguous())
        return Y.unflatten(-1, (X.shape[-1], X.shape[0])).movedim(-1, 0)

    return call


def _limits(
    system: System, eps: float, max_iter: int | None, settings: MINRESSettings
) -> tuple[int, float]:
    limit = settings.max_cg_iterations if max_iter is None else max_iter
    tolerance = settings.minres_tolerance
    if tolerance is None:
        tolerance = default_tolerance(system.B.dtype)
    check_real("eps", eps)
    check_real("minres_tolerance", tolerance)
    check_count("max_iter", limit)
    return limit, tolerance


def _shifted(plain: System, product: Callable[[Tensor], Tensor], sigma: Tensor) -> System:
    """Return the systems of all shifts."""
    multiply = Operator(lambda X: product(X) + sigma * X, "matmul_closure")
    B = plain.B.expand(len(sigma), *plain.B.shape)
    peak, unit = plain.peak.unsqueeze(0), plain.unit.unsqueeze(0)
    return replace(plain, multiply=multiply, B=B, peak=peak, unit=unit)


@dataclass(frozen=True, repr=False, eq=False)
class _Shifted(recurrence.MINRES):
    """MINRES for several shifts, which have one Krylov space as long as they have one residual."""

    product: Operator = field(kw_only=True)  # without the shifts
    sigma: Tensor = field(kw_only=True)
    eps: float = field(kw_only=True)

    def start(self, problem: Problem, R: Tensor, attempt: int) -> recurrence.State:
        """Return the state at a residual: at first that of every shift is B."""
        shared = not attempt and problem.precondition is None
        return _checked(recurrence.start(problem, R[:1] if shared else R, R))

    def step(self, problem: Problem, state: recurrence.State, active: Tensor) -> recurrence.State:
        """Advance the active columns."""
        shifts: Tensor | float = 0.0
        if len(state.Q) < len(state.R):
            problem, shifts = problem._replace(multiply=self.product), self.sigma
        return _checked(recurrence.step(problem, state, active, shifts=shifts, eps=self.eps))


def _checked(state: recurrence.State) -> recurrence.State:
    if bool((state.code == Result.PRECONDITIONER).any()):
        raise SolveError(
            "MINRES broke down: r^T M^-1 r is negative, so the preconditioner is not Hermitian "
            "positive definite, or returned a value that is not finite"
        )
    return state


def _failure(error: Tensor, tolerance: float, steps: int) -> ConvergenceError:
    advice = (
        "MINRES is for Hermitian A: bicgstab and SuperLU() take any other.  If A is Hermitian, it "
        "may be singular, or need more iterations, a preconditioner or a looser tolerance"
    )
    count, asked = f"{steps} iterations", f"{tolerance:.1e}"
    return unconverged("MINRES", count, error, asked, advice, steps)
