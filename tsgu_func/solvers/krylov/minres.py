"""MINRES.

Paige and Saunders, *Solution of Sparse Indefinite Systems of Linear Equations*, SIAM J. Numer.
Anal. 12(4), 1975: the Lanczos process makes A tridiagonal, and plane rotations minimize the
residual over its Krylov space, in the norm of M⁻¹ where there is a preconditioner M.

A shift σ adds to the diagonal of the tridiagonal matrix and leaves the Krylov space as it is.  So
the vectors of the Lanczos process (Q, Y) may have one member on an axis along which the shifts, and
with them all else, have many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.columns import column_norms, dot, quotient
from tsgu_func.solvers.krylov.block import Place, Problem
from tsgu_func.solvers.krylov.loop import Krylov
from tsgu_func.solvers.protocol import Result
from tsgu_func.solvers.system import check_product

__all__ = ["MINRES"]


# A solution that has grown so much, while its residual was as small as it can be, is none.
_GROWN = 1e3


class Lowest(NamedTuple):
    """A correction whose residual A maps close to zero, and how close, relative to |A| |R|."""

    change: Tensor
    slope: Tensor  # infinite where there is none


class State(NamedTuple):
    """A correction and its residual, the Lanczos vectors, and the rotations of the last step."""

    change: Tensor
    R: Tensor
    W: Tensor
    W_old: Tensor
    Q: Tensor
    Q_old: Tensor
    Y: Tensor  # M⁻¹ Q
    norm: Tensor
    code: Tensor
    alpha: Tensor  # vᴴ A v, without the shift
    beta: Tensor  # norm of Q, in that of M⁻¹
    beta_old: Tensor
    c: Tensor
    s: Tensor
    delta_bar: Tensor
    epsilon: Tensor
    phi_bar: Tensor
    size: Tensor  # of the tridiagonal matrix
    least: Lowest


def start(problem: Problem, Q: Tensor, R: Tensor) -> State:
    """Return the state at a residual R; Q is R, or one of many that are equal along the shifts."""
    norm, zero = column_norms(R), torch.zeros_like(R)
    code = torch.zeros_like(norm, dtype=torch.int64)
    Y, beta, code = _preconditioned(problem, Q, code)
    none, phi_bar, unknown = torch.zeros_like(norm), beta.expand_as(norm), torch.zeros_like(beta)
    return State(
        zero, R, zero, zero, Q, torch.zeros_like(Q), Y, norm, code, unknown, beta, unknown,
        none - 1, none, none, none, phi_bar, none, Lowest(zero, none + torch.inf),
    )  # fmt: skip


def step(
    problem: Problem, state: State, active: Tensor, *, shifts: Tensor | float = 0.0, eps: float
) -> State:
    """Advance the active columns; a coefficient below `eps`, relative to A, counts as zero."""
    beta_now = state.beta
    v = quotient(state.Y, beta_now, beta_now > 0)
    Y = problem.multiply(v)
    check_product(problem.multiply, v, Y)
    Y = Y - quotient(beta_now, state.beta_old, state.beta_old > 0) * state.Q_old
    alpha = dot(v, Y).real
    Q = torch.addcmul(Y, quotient(alpha, beta_now, beta_now > 0), state.Q, value=-1)
    Y, beta, code = _preconditioned(problem, Q, state.code)

    unshifted, alpha, c, s = alpha, alpha + shifts, state.c, state.s
    size = torch.maximum(state.size, alpha.abs() + beta)
    delta, gamma_bar = c * state.delta_bar + s * alpha, s * state.delta_bar - c * alpha
    epsilon, delta_bar = s * beta, -c * beta
    gamma = torch.hypot(gamma_bar, beta.expand_as(gamma_bar))
    # A vanishing pivot: A + shift I is singular on the Krylov space, which ends here.
    solid = gamma > eps * size
    c, s = quotient(gamma_bar, gamma, solid), quotient(beta, gamma, solid)
    phi, phi_bar = c * state.phi_bar, s * state.phi_bar
    W = v - state.epsilon * state.W_old - delta * state.W
    W = quotient(W, gamma, solid)

    moving = active & solid & (code == 0)
    change = torch.addcmul(state.change, torch.where(moving, phi, 0), W)
    q = quotient(Q, beta, beta > 0)
    R = torch.where(moving, s * s * state.R - phi_bar * c * q, state.R)
    norm = column_norms(R)
    ended = active & (code == 0) & ((norm > problem.goal) & ~(beta > eps * size) | ~solid)
    code = torch.where(ended, int(Result.BREAKDOWN), code)
    # |A R| of the last step is |R| times this (Paige and Saunders, 1975).
    slope = quotient(torch.hypot(gamma_bar, delta_bar), size, size > 0)
    least = _lowest(state, slope, active)
    change, code = _or_lowest(least, change, code, active)
    return State(
        change, R, W, state.W, Q, state.Q, Y, norm, code, unshifted, beta, beta_now, c, s,
        delta_bar, epsilon, phi_bar, size, least,
    )  # fmt: skip


def _lowest(state: State, slope: Tensor, active: Tensor) -> Lowest:
    """Keep what the last step came to, if A maps its residual closer to zero than any before."""
    least, zero = state.least, torch.finfo(slope.dtype).eps ** 0.5
    lower = active & (slope < least.slope) & (slope <= zero)
    if not bool(lower.any()):
        return least
    change = torch.where(lower, state.change, least.change)
    return Lowest(change, torch.where(lower, slope, least.slope))


def _or_lowest(
    least: Lowest, change: Tensor, code: Tensor, active: Tensor
) -> tuple[Tensor, Tensor]:
    """Return to it where the recurrence came to an end, or X grows along what A maps to zero."""
    known = active & (least.slope < torch.inf)
    if not bool(known.any()):
        return change, code
    grown = column_norms(change) > _GROWN * column_norms(least.change)
    back = known & (grown | (code == Result.BREAKDOWN))
    return torch.where(back, least.change, change), torch.where(
        back, int(Result.LEAST_SQUARES), code
    )


def _preconditioned(problem: Problem, Q: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Y = M⁻¹ Q, the norm of Q that belongs to it, and where there is none."""
    if problem.precondition is None:
        return Q, column_norms(Q), code
    Y = problem.precondition(Q)
    square = dot(Q, Y).real
    code = torch.where(square >= 0, code, int(Result.PRECONDITIONER))
    return Y, square.clamp_min(0).sqrt(), code


@dataclass(frozen=True, repr=False)
class MINRES(Krylov):
    """Minimal residuals, for Hermitian A, definite or not.

    The parameters are those of `Krylov`.  The `preconditioner` has to be Hermitian positive
    definite.

    Notes
    -----
    If A is singular and the system has no solution, the iteration ends when A maps the residual to
    zero, as far as rounding allows.  Then X minimizes ``|A X - B|``, and the column ends with
    `Result.LEAST_SQUARES`.  The residual falls in each iteration; with a preconditioner, it falls
    in the norm of M⁻¹.

    An iteration takes one product with A and one with M⁻¹, for all columns at once.  Memory is O(n
    p).  Paige and Saunders, 1975.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import MINRES
    >>> A = SparseMatrix.from_dense(torch.tensor([[2.0, 1.0], [1.0, -1.0]]))
    >>> sparse_solve(A, torch.tensor([1.0, 3.0]), solver=MINRES())
    tensor([ 1.3333, -1.6667])
    """

    hermitian: ClassVar[bool] = True

    def start(self, problem: Problem, R: Tensor, attempt: int) -> State:
        """Return the state at a residual."""
        return start(problem, R, R)

    def narrow(self, state: State, place: Place) -> State:
        """Return the state of some members and columns."""
        *parts, least = state
        return State(*map(place.take, parts), least=Lowest(*map(place.take, least)))

    def step(self, problem: Problem, state: State, active: Tensor) -> State:
        """Advance the active columns."""
        return step(problem, state, active, eps=10 * torch.finfo(state.R.dtype).eps)

    def coefficients(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the entries of the matrix of Lanczos themselves."""
        lost = state.code == Result.PRECONDITIONER
        return torch.where(lost, torch.nan, state.alpha), state.beta

    def nearer(self, problem: Problem, before: Tensor, after: Tensor, change: Tensor) -> Tensor:
        """Mask where the residual fell in the norm of M⁻¹, which is what is minimized."""
        if problem.precondition is None:
            return super().nearer(problem, before, after, change)
        first, last = (dot(R, problem.precondition(R)).real for R in (before, after))
        return (last >= 0) & (last < first)
