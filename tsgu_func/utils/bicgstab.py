"""BiCGSTAB as a function, with a budget of products.

The recurrence and the loop around it are those of the solver `BiCGStab`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.krylov.bicgstab import BiCGStab
from tsgu_func.solvers.protocol import ConvergenceError, Result
from tsgu_func.solvers.settings import check_real, check_settings, default_tolerance
from tsgu_func.solvers.system import Operator, System, read_system
from tsgu_func.utils.failure import check_policy, fail, unconverged
from tsgu_func.utils.reading import block_of, preconditioning, readable, unwatched

__all__ = ["BICGSTABSettings", "bicgstab"]

# Products by default, in multiples of n: two an iteration, n iterations in exact arithmetic.
_ROUNDS = 10


class BICGSTABSettings(NamedTuple):
    """Settings of `bicgstab`.

    Attributes
    ----------
    matvec_max : int, optional
        The largest number of products with A, including those for the true residual.  A product
        with all columns counts once.  Default: 10 n, but at least 100.
    abstol : float
        A column has converged if the norm of its residual is at most this, whatever its right-hand
        side.
    reltol : float, optional
        A column has converged if the norm of its residual, relative to its right-hand side, is at
        most this.  Default: 1e-5 in single precision, 1e-10 in double.
    precon : matrix or callable, optional
        ``R -> M⁻¹ R`` for an M close to A.
    logger : logging.Logger, optional
        It is told at level INFO how a solve ended.  Default: the logger of this module.
    """

    matvec_max: int | None = None
    abstol: float = 0.0
    reltol: float | None = None
    precon: Any = None
    logger: logging.Logger | None = None  # no object here: the compiler takes constants only


_logger = logging.getLogger(__name__)
_SETTINGS = BICGSTABSettings()


def bicgstab(
    matmul_closure: Any,
    rhs: Tensor,
    initial_guess: Tensor | None = None,
    settings: BICGSTABSettings = _SETTINGS,
    *,
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> Tensor:
    r"""Solve :math:`A X = B` for a square A by BiCGSTAB.

    Parameters
    ----------
    matmul_closure : matrix or callable
        The matrix A: a dense or sparse tensor, a SparseMatrix, or a function ``X -> A X``.  A batch
        of matrices broadcasts with `rhs`.
    rhs : Tensor, shape (n,), (n, p) or ``(*batch, n, p)``
        The right-hand sides B.  float32, float64, complex64 or complex128.
    initial_guess : Tensor, optional
        Where to start, in the shape of the solution.  Default: zero.
    settings : BICGSTABSettings
    on_failure : {"raise", "warn", "ignore"}
        What to do if a column has not converged.

    Returns
    -------
    Tensor
        X, with the shape of `rhs`.

    Raises
    ------
    ConvergenceError
        If a column has not converged: its residual is above
        :math:`\max(\text{abstol}, \text{reltol}\,|B|)`.  The message says if the method broke down.
    SolveError
        If a product is not finite, or has another shape or dtype.
    RuntimeError
        If A or `rhs` requires a gradient.
    TypeError
        If `rhs` is not a tensor, or has a dtype in which systems cannot be solved.
    ValueError
        If `rhs` is not finite or has another shape, or if a setting makes no sense.

    Notes
    -----
    An iteration takes two products with A, for all columns at once.  Memory is O(n p).  If the
    recurrence breaks down for a column, it goes on from the true residual, with another shadow
    vector.  To differentiate, pass this function to `sparse_generic_solve`; autograd through the
    iterations is refused.  Reference: van der Vorst, 1992.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import bicgstab
    >>> A = torch.tensor([[3.0, 1.0], [-2.0, 4.0]])
    >>> bicgstab(A, torch.tensor([1.0, 2.0]))
    tensor([0.1429, 0.5714])
    """
    check_policy(on_failure)
    check_settings(settings, BICGSTABSettings)
    system = read_system(readable(matmul_closure), rhs, initial_guess)
    precondition = preconditioning(settings.precon, "settings.precon", system.vector)
    limit = _budget(system, settings)
    tolerance = _tolerance(system, settings)
    if limit == 0:
        X, error = _unevaluated(system)
        reason = "matvec_max=0 returns the initial guess without evaluating the operator"
    else:
        block = block_of(system, tolerance * system.unit, precondition)
        method = _Budgeted(products=system.multiply, budget=limit)
        reached = method.reach(block, system.start, unwatched())
        X, error = reached.X, reached.norm / system.unit
        reason = _reason((reached.code == Result.BREAKDOWN) & (error > tolerance))
    products = system.multiply.calls
    (settings.logger or _logger).info("residual %s after %d products", error, products)
    if bool((error > tolerance).any()):
        fail(on_failure, _failure(error, products, settings, reason))
    return system.answer(X)


# As the `solve` of an op it gets a batch of matrices whole, and runs one loop for all members.
bicgstab.takes_batches = True  # pyright: ignore[reportFunctionMemberAccess]


def _budget(system: System, settings: BICGSTABSettings) -> int:
    if settings.matvec_max is None:
        return max(_ROUNDS * system.B.shape[-2], 100)
    if settings.matvec_max < 0:
        raise ValueError(f"matvec_max must be nonnegative; got {settings.matvec_max}")
    return settings.matvec_max


def _tolerance(system: System, settings: BICGSTABSettings) -> Tensor:
    """Return the relative residual at which each column has converged."""
    relative = settings.reltol
    if relative is None:
        relative = default_tolerance(system.B.dtype)
    check_real("abstol", settings.abstol)
    check_real("reltol", relative)
    return (settings.abstol / system.peak / system.unit).clamp_min(relative)


def _unevaluated(system: System) -> tuple[Tensor, Tensor]:
    zeros, unknown = torch.zeros_like(system.B), system.start is not None
    error = torch.where((system.B != 0).any(-2, keepdim=True), torch.inf if unknown else 1.0, 0.0)
    error = error.to(system.unit.dtype)
    return zeros if system.start is None else system.start.clone(), error


@dataclass(frozen=True, repr=False, eq=False)
class _Budgeted(BiCGStab):
    """BiCGSTAB that counts products, those for the true residual among them."""

    products: Operator = field(kw_only=True)
    budget: int = field(kw_only=True)

    def _length(self, left: int, n: int) -> int:
        # Two an iteration, and one for the true residual afterwards.
        return (self.budget - self.products.calls - 1) // 2


def _reason(broken: Tensor) -> str:
    if not bool(broken.any()):
        return "allow more products (matvec_max), precondition, or loosen the tolerance"
    return (
        "the recurrence broke down, from every shadow vector tried: A may be singular, or "
        "skew-symmetric; SuperLU() is the solver that asks for nothing"
    )


def _failure(
    error: Tensor, products: int, settings: BICGSTABSettings, reason: str
) -> ConvergenceError:
    asked = f"max(abstol, reltol |B|) / |B| with abstol = {settings.abstol:g}"
    asked += "" if settings.reltol is None else f" and reltol = {settings.reltol:g}"
    error, count = error.squeeze(-2), f"{products} products with A"
    return unconverged("BiCGSTAB", count, error, asked, reason, products)
