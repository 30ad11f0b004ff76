"""Conjugate gradients as a function, with Lanczos tridiagonal matrices.

The recurrence and the loop around it are those of the solver `CG`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.columns import quotient
from tsgu_func.solvers.krylov import cg
from tsgu_func.solvers.krylov.block import Block, Problem
from tsgu_func.solvers.protocol import ConvergenceError, SolveError
from tsgu_func.solvers.settings import check_count, check_real, check_settings, default_tolerance
from tsgu_func.solvers.system import System, read_system
from tsgu_func.utils.failure import check_policy, fail, unconverged
from tsgu_func.utils.reading import block_of, preconditioning, readable, unwatched

__all__ = ["CGInfo", "LinearCGSettings", "linear_cg"]

_logger = logging.getLogger(__name__)


class LinearCGSettings(NamedTuple):
    """Settings of `linear_cg`.

    Attributes
    ----------
    max_cg_iterations : int
        The largest number of iterations.
    max_lanczos_quadrature_iterations : int
        The largest size of the tridiagonal matrices.
    cg_tolerance : float, optional
        A column has converged if its residual, relative to its right-hand side, is at most this.
        Default: 1e-5 in single precision, 1e-10 in double.
    terminate_cg_by_size : bool
        Whether to stop after n iterations, which suffice in exact arithmetic.
    verbose_linalg : bool
        Whether to log how the solve ended, at level INFO.
    """

    max_cg_iterations: int = 1000
    max_lanczos_quadrature_iterations: int = 20
    cg_tolerance: float | None = None
    terminate_cg_by_size: bool = False
    verbose_linalg: bool = False


_SETTINGS = LinearCGSettings()


class CGInfo(NamedTuple):
    """How `linear_cg` ended.

    Attributes
    ----------
    iterations : int
    matvecs : int
        The number of products with A: one for each iteration, and one for each true residual.
    converged : Tensor of bool, shape ``(*batch, p)``
        Which columns reached the tolerance.  For a vector, p is 1.
    recursive_relative_residual, true_relative_residual : Tensor, shape ``(*batch, p)``
        The residual as the iteration computed it, and the true residual.
    tolerance : float
    reason : str
        Why it ended:

        - "converged": every column is below the tolerance;
        - "mean_converged": the mean of the columns is;
        - "stopped_updating": every column is below `stop_updating_after`;
        - "max_iter": there are no iterations left;
        - "recursive_converged": the residual that the iteration computes is below the tolerance,
          but the true residual is not.
    """

    iterations: int
    matvecs: int
    converged: Tensor
    recursive_relative_residual: Tensor
    true_relative_residual: Tensor
    tolerance: float
    reason: str

    @property
    def residual(self) -> Tensor:
        """The true relative residual."""
        return self.true_relative_residual


def linear_cg(
    matmul_closure: Any,
    rhs: Tensor,
    n_tridiag: int = 0,
    tolerance: float | None = None,
    eps: float | None = None,
    stop_updating_after: float | None = None,
    max_iter: int | None = None,
    max_tridiag_iter: int | None = None,
    initial_guess: Tensor | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    settings: LinearCGSettings = _SETTINGS,
    convergence_reduction: Literal["all", "mean"] = "all",
    min_iter: int = 0,
    return_info: bool = False,
    *,
    on_failure: Literal["raise", "warn", "ignore"] | None = None,
) -> Any:
    r"""Solve :math:`A X = B` for a Hermitian positive definite A by conjugate gradients.

    Parameters
    ----------
    matmul_closure : matrix or callable
        The matrix A: a dense or sparse tensor, a SparseMatrix, or a function ``X -> A X``.  A batch
        of matrices broadcasts with `rhs`.
    rhs : Tensor, shape (n,), (n, p) or ``(*batch, n, p)``
        The right-hand sides B.  float32, float64, complex64 or complex128.
    n_tridiag : int
        For how many of the first columns to return the tridiagonal matrix of the Lanczos process.
    tolerance : float, optional
        A column has converged if its relative residual is at most this.  Default:
        ``settings.cg_tolerance``.  With 0, all iterations are made, and no column counts as failed.
    eps : float, optional
        :math:`p^H A p` and :math:`r^H M^{-1} r` must not fall below this, for a right-hand side
        whose largest entry is 1.  Default: the smallest normal number.
    stop_updating_after : float, optional
        A column is not changed any more if its relative residual is at most this.  Default:
        `tolerance`.
    max_iter, max_tridiag_iter : int, optional
        The largest number of iterations, and the largest size of the tridiagonal matrices.
        Default: those of `settings`.
    initial_guess : Tensor, optional
        Where to start, in the shape of the solution.  Default: zero.
    preconditioner : matrix or callable, optional
        ``R -> M⁻¹ R`` for a Hermitian positive definite M close to A.
    settings : LinearCGSettings
    convergence_reduction : {"all", "mean"}
        Whether every column has to converge, or only the mean of their residuals.
    min_iter : int
        The smallest number of iterations.  A column whose residual is zero is not changed any more,
        however.
    return_info : bool
        Whether to return a `CGInfo` as well, which says whether it converged.
    on_failure : {"raise", "warn", "ignore"}, optional
        What to do if it did not converge.  Default: "raise", or "warn" with `return_info`.

    Returns
    -------
    Tensor, or a tuple
        X, with the shape of `rhs`; then, with `n_tridiag`, the tridiagonal matrices, of shape
        ``(n_tridiag, *batch, k, k)``; and, with `return_info`, the `CGInfo`.

    Raises
    ------
    ConvergenceError
        If a column has not converged.
    SolveError
        If A or the preconditioner is not positive definite, or if a product is not finite or has
        another shape or dtype.
    RuntimeError
        If A or `rhs` requires a gradient.
    TypeError
        If `rhs` is not a tensor, or has a dtype in which systems cannot be solved.
    ValueError
        If `rhs` is not finite or has another shape, or if a setting makes no sense, such as a
        negative tolerance.

    Notes
    -----
    An iteration takes one product with A.  Memory is O(n p).  To differentiate, pass this function
    to `sparse_generic_solve`; autograd through the iterations is refused.  If the Krylov space of a
    column is exhausted before those of the others, its tridiagonal matrix is continued with ones on
    the diagonal, which does not change a quadrature with its first row.  Reference: Hestenes and
    Stiefel, 1952.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import linear_cg
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> linear_cg(A, torch.tensor([1.0, 2.0]))
    tensor([0.0909, 0.6364])
    """
    on_failure = on_failure or ("warn" if return_info else "raise")
    check_policy(on_failure)
    check_settings(settings, LinearCGSettings)
    system = read_system(readable(matmul_closure), rhs, initial_guess)
    rules = _rules(
        system, tolerance, eps, stop_updating_after, max_iter, settings, convergence_reduction,
        min_iter, max_tridiag_iter if n_tridiag else 0,
    )  # fmt: skip
    lanczos = _Lanczos(_probes(n_tridiag, system.B.shape[-1]))
    precondition = preconditioning(preconditioner, "preconditioner", system.vector)
    block = block_of(system, rules.tolerance * system.unit, precondition)
    watch, method = unwatched(), _ByRules(rules=rules, lanczos=lanczos)
    reached = method.reach(block, system.start, watch)
    error = reached.norm / system.unit
    recursive = error if lanczos.norm is None else lanczos.norm / system.unit
    info = _inform(error, recursive, rules, watch.steps, system.multiply.calls)
    if settings.verbose_linalg:
        _logger.info("%s after %d iterations", info.reason, info.iterations)
    if not (rules.tolerance == 0 or rules.met(error)):
        fail(on_failure, _failure(info))
    parts = [system.answer(reached.X)]
    parts += [lanczos.matrices(system.unit)] if n_tridiag else []
    parts += [info] if return_info else []
    return tuple(parts) if len(parts) > 1 else parts[0]


# As the `solve` of an op it gets a batch of matrices whole, and runs one loop for all members.
linear_cg.takes_batches = True  # pyright: ignore[reportFunctionMemberAccess]


class _Rules(NamedTuple):
    """When a column is left alone, and when the loop ends."""

    tolerance: float
    stop: float
    eps: float
    limit: int
    min_iter: int
    tridiag: int  # iterations that the tridiagonal matrices need
    mean: bool
    floor: float  # the residual of a column that has no digits left to gain in one pass

    def met(self, error: Tensor) -> bool:
        """Say whether residuals are small enough to end."""
        if self.mean and error.numel():
            return bool(error.mean() <= self.tolerance)
        return bool((error <= self.tolerance).all())

    def wanted(self, error: Tensor, step: int) -> Tensor:
        """Mask the columns to be updated."""
        if step < max(self.min_iter, self.tridiag):
            return error > self.floor
        return (error > max(self.stop, self.floor)) & (not self.met(error))


def _rules(
    system: System,
    tolerance: float | None,
    eps: float | None,
    stop: float | None,
    max_iter: int | None,
    settings: LinearCGSettings,
    reduction: str,
    min_iter: int,
    max_tridiag_iter: int | None,
) -> _Rules:
    tolerance = settings.cg_tolerance if tolerance is None else tolerance
    dtype, n = system.B.dtype, system.B.shape[-2]
    tolerance = default_tolerance(dtype) if tolerance is None else tolerance
    finfo = torch.finfo(dtype)
    limit = settings.max_cg_iterations if max_iter is None else max_iter
    stop, eps = tolerance if stop is None else stop, finfo.tiny if eps is None else eps
    check_real("tolerance", tolerance)
    check_real("stop_updating_after", stop)
    check_real("eps", eps, positive=True)
    check_count("max_iter", limit)
    check_count("min_iter", min_iter)
    check_count("max_tridiag_iter", max_tridiag_iter or 0)
    if eps < finfo.tiny:
        raise ValueError(f"eps must be representable in {dtype}, at least {finfo.tiny}; got {eps}")
    if reduction not in ("all", "mean"):
        raise ValueError(f"convergence_reduction is 'all' or 'mean'; got {reduction!r}")
    limit = min(limit, n) if settings.terminate_cg_by_size else limit
    if max_tridiag_iter is None:
        max_tridiag_iter = min(settings.max_lanczos_quadrature_iterations, limit)
    if max_tridiag_iter > limit:
        raise ValueError(f"max_tridiag_iter is at most max_iter, {limit}; got {max_tridiag_iter}")
    size = min(max_tridiag_iter, n)
    mean = reduction == "mean"
    return _Rules(tolerance, stop, eps, limit, min(min_iter, limit), size, mean, finfo.eps / 10)


def _probes(n_tridiag: int, columns: int) -> int:
    if not 0 <= n_tridiag <= columns:
        raise ValueError(
            f"n_tridiag counts columns of rhs, of which there are {columns}; got {n_tridiag}"
        )
    return n_tridiag


@dataclass(frozen=True, repr=False, eq=False)
class _ByRules(cg.CG):
    """Conjugate gradients by the rules of `linear_cg`, which record what they are asked for."""

    rules: _Rules = field(kw_only=True)
    lanczos: _Lanczos = field(kw_only=True)

    def _limit(self, n: int) -> int:
        return self.rules.limit

    def wanted(self, block: Block, norm: Tensor, attempt: int, steps: int) -> Tensor:
        """Mask the columns that need another step: the first pass has rules of its own."""
        return self.rules.wanted(norm / block.unit, self.rules.limit if attempt else steps)

    def start(self, problem: Problem, R: Tensor, attempt: int) -> cg.State:
        """Return the state at a residual."""
        state = super().start(problem, R, attempt)
        self.lanczos.begin(state, 0 if attempt else self.rules.tridiag)
        return state

    def step(self, problem: Problem, state: cg.State, active: Tensor) -> cg.State:
        """Advance the active columns, and record it."""
        state = super().step(problem, state, active)
        _check_definite(state, active, self.rules.eps)
        self.lanczos.record(state, active)
        return state


def _check_definite(state: cg.State, active: Tensor, eps: float) -> None:
    gamma, curvature = state.gamma, state.curvature
    if not bool((active & ~((curvature >= eps) & (gamma >= eps))).any()):
        return
    for name, value, culprit, way in (
        ("the preconditioned residual inner product r^T M^-1 r", gamma, "the preconditioner", ""),
        ("p^T A p", curvature, "A", "; minres and bicgstab ask for less"),
    ):
        low = torch.where(active & ~(value >= eps), value, torch.inf)
        if bool((low < torch.inf).any()) or not bool(torch.isfinite(value).all()):
            raise SolveError(
                f"conjugate gradients broke down: {name} is {float(low.min()):.1e} and must be at "
                f"least eps = {eps:.1e}: {culprit} is not Hermitian positive definite, up to "
                f"rounding{way}"
            )


class _Lanczos:
    """Gather the tridiagonal matrices T of the first columns from the coefficients."""

    def __init__(self, count: int) -> None:
        self.count, self.left = count, 0
        self.norm: Tensor | None = None  # of the residual, as the recurrence knows it
        self.steps: list[tuple[Tensor, Tensor]] = []

    def begin(self, state: cg.State, size: int) -> None:
        """Begin a pass, from which so many rows are gathered."""
        self.norm, self.left = state.norm, size

    def record(self, state: cg.State, active: Tensor) -> None:
        """Take 1 / alpha and beta of an iteration; a column at rest gets a row of the identity."""
        self.norm = state.norm
        if self.left:
            self.left -= 1
            inverse = torch.where(active, quotient(state.curvature, state.gamma, active), 1)
            self.steps.append((inverse[..., 0, : self.count], state.beta[..., 0, : self.count]))

    def matrices(self, like: Tensor) -> Tensor:
        """Return T, shape ``(count, *batch, k, k)``."""
        if not self.steps:
            return like.new_ones(self.count, *like.shape[:-2], 1, 1)
        inverse, beta = (torch.stack(x, -1).movedim(-2, 0) for x in zip(*self.steps, strict=True))
        diagonal, off = cg.tridiagonal(inverse, beta)
        return diagonal.diag_embed() + off.diag_embed(1) + off.diag_embed(-1)


def _inform(error: Tensor, recursive: Tensor, rules: _Rules, steps: int, calls: int) -> CGInfo:
    true = error.squeeze(-2)
    converged = true <= rules.tolerance
    if bool(converged.all()):
        reason = "converged"
    elif rules.met(error):
        reason = "mean_converged"
    elif bool((true <= rules.stop).all()):
        reason = "stopped_updating"
    else:
        reason = "max_iter" if steps >= rules.limit else "recursive_converged"
    return CGInfo(steps, calls, converged, recursive.squeeze(-2), true, rules.tolerance, reason)


def _failure(info: CGInfo) -> ConvergenceError:
    advice = "allow more iterations, precondition, or loosen the tolerance"
    return unconverged(
        "conjugate gradients", f"{info.iterations} iterations", info.residual,
        f"{info.tolerance:.1e}", advice, info.iterations,
    )  # fmt: skip
