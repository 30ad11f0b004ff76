"""BiCGSTAB.

van der Vorst, *Bi-CGSTAB: A Fast and Smoothly Converging Variant of Bi-CG for the Solution of
Nonsymmetric Linear Systems*, SIAM J. Sci. Stat. Comput. 13(2), 1992.  The preconditioner stands on
the right of A, so that the residual of the recurrence is that of the system itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.solvers.columns import column_norms, dot, quotient
from tsgu_func.solvers.krylov.block import Problem
from tsgu_func.solvers.krylov.loop import Krylov
from tsgu_func.solvers.krylov.reached import Run
from tsgu_func.solvers.protocol import Result
from tsgu_func.solvers.system import check_product

__all__ = ["BiCGStab"]


class State(NamedTuple):
    """A correction, its residual R, the direction P with V = A M⁻¹ P, and the shadow vector."""

    change: Tensor
    R: Tensor
    P: Tensor
    V: Tensor
    shadow: Tensor
    norm: Tensor
    code: Tensor
    rho: Tensor  # shadowᴴ R, before the step
    alpha: Tensor
    omega: Tensor


def start(R: Tensor, attempt: int = 0) -> State:
    """Return the state at a residual; another attempt has another shadow vector."""
    zero, norm = torch.zeros_like(R), column_norms(R)
    one, code = torch.ones_like(R[..., :1, :]), torch.zeros_like(norm, dtype=torch.int64)
    shadow = _shadow(R, attempt) if attempt else R
    return State(zero, R, zero, zero, shadow, norm, code, one, one, one)


def _shadow(R: Tensor, seed: int) -> Tensor:
    """Draw a shadow vector of the size of R, and not orthogonal to it."""
    # By NumPy, because PyTorch refuses random numbers wherever a vmap is active.
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal(R.shape)).to(R)
    return R + drawn * (column_norms(R) / R.shape[-2] ** 0.5)


def step(problem: Problem, state: State, active: Tensor) -> State:
    """Advance the active columns: a step of BiCG, then one that minimizes the residual."""
    change, R, P, V, shadow, _, code, rho_old, alpha, omega = state
    rho = dot(shadow, R)
    P = R + quotient(rho * alpha, rho_old * omega, active) * torch.addcmul(P, omega, V, value=-1)
    direction = P if problem.precondition is None else problem.precondition(P)
    V = problem.multiply(direction)
    sigma = dot(shadow, V)
    check_product(problem.multiply, direction, V)
    stuck = active & (_vanishes(rho, shadow, R) | _vanishes(sigma, shadow, V))
    active, code = active & ~stuck, torch.where(stuck, int(Result.BREAKDOWN), code)
    alpha = quotient(rho, sigma, active)
    change, R = torch.addcmul(change, alpha, direction), torch.addcmul(R, alpha, V, value=-1)
    norm = column_norms(R)
    active = active & (norm > problem.goal)
    if not bool(active.any()):
        return State(change, R, P, V, shadow, norm, code, rho, alpha, omega)
    direction = R if problem.precondition is None else problem.precondition(R)
    T = problem.multiply(direction)
    along = dot(T, R)
    check_product(problem.multiply, direction, T)
    stuck = active & _vanishes(along, T, R)
    code = torch.where(stuck, int(Result.BREAKDOWN), code)
    omega = quotient(along, dot(T, T), active & ~stuck)
    change, R = torch.addcmul(change, omega, direction), torch.addcmul(R, omega, T, value=-1)
    return State(change, R, P, V, shadow, column_norms(R), code, rho, alpha, omega)


def _vanishes(product: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """Say whether an inner product of X and Y is no more than rounding, or has overflowed."""
    eps = torch.finfo(X.dtype).eps
    size = product.abs()
    return ~(size > 10 * eps * column_norms(X) * column_norms(Y)) | ~(size < torch.inf)


@dataclass(frozen=True, repr=False)
class BiCGStab(Krylov):
    """BiCGSTAB, for any square A.

    The parameters are those of `Krylov`.  The preconditioner is applied on the right of A.

    Notes
    -----
    If the recurrence breaks down for a column, it starts again from the true residual, with another
    shadow vector.  If it breaks down every time, the column ends with `Result.BREAKDOWN`.  The
    residual rises and falls on its way, so the best iterate is kept.

    An iteration takes two products with A and two with M⁻¹, for all columns at once.  Memory is
    O(n p).  van der Vorst, 1992.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import BiCGStab, ILU0
    >>> A = SparseMatrix.from_dense(torch.tensor([[3.0, 1.0], [-2.0, 4.0]]))
    >>> sparse_solve(A, torch.tensor([1.0, 2.0]), solver=BiCGStab(ILU0()))
    tensor([0.1429, 0.5714])
    """

    passes: ClassVar[int] = 8
    retries: ClassVar[tuple[Result, ...]] = (Result.BREAKDOWN, Result.DIVERGED)
    wanders: ClassVar[bool] = True

    def start(self, problem: Problem, R: Tensor, attempt: int) -> State:
        """Return the state at a residual."""
        return start(R, attempt)

    def alternative(self, problem: Problem, R: Tensor, run: Run) -> Tensor:
        """Return the step along R that minimizes the residual, which no iterate of a pass need."""
        direction = R if problem.precondition is None else problem.precondition(R)
        T = problem.multiply(direction)
        size = dot(T, T).real
        return direction * quotient(dot(T, R), size, (size > 0) & (size < torch.inf))

    def step(self, problem: Problem, state: State, active: Tensor) -> State:
        """Advance the active columns."""
        return step(problem, state, active)
