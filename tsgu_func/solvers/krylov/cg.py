"""Conjugate gradients.

Hestenes and Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, J. Res. NBS 49,
1952.  With a preconditioner M, the gradients are conjugate in the inner product of M⁻¹, and the
residual of the recurrence is that of the system itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.columns import column_norms, dot, quotient
from tsgu_func.solvers.krylov.block import Problem
from tsgu_func.solvers.krylov.loop import Krylov
from tsgu_func.solvers.protocol import Result
from tsgu_func.solvers.system import check_product

__all__ = ["CG"]


class State(NamedTuple):
    """A correction, its residual R, the direction P, and the numbers of the last step."""

    change: Tensor
    R: Tensor
    P: Tensor
    norm: Tensor
    code: Tensor
    gamma: Tensor  # Rᴴ M⁻¹ R, before the step
    beta: Tensor
    curvature: Tensor  # Pᴴ A P


def start(R: Tensor) -> State:
    """Return the state at a residual."""
    norm = column_norms(R)
    code = torch.zeros_like(norm, dtype=torch.int64)
    zero, numbers = torch.zeros_like(R), torch.zeros_like(norm)
    return State(zero, R, zero, norm, code, numbers, numbers, numbers)


def step(problem: Problem, state: State, active: Tensor) -> State:
    """Advance the active columns along the next direction."""
    change, R, P, _, code, before, _, _ = state
    Z = R if problem.precondition is None else problem.precondition(R)
    gamma = dot(R, Z).real
    beta = quotient(gamma, before, active & (before > 0))
    P = torch.addcmul(Z, beta, P)
    Q = problem.multiply(P)
    curvature = dot(P, Q).real
    check_product(problem.multiply, P, Q)
    code = torch.where(active & ~(curvature > 0), int(Result.INDEFINITE), code)
    code = torch.where(active & ~(gamma > 0), int(Result.PRECONDITIONER), code)
    code = torch.where(active & ~(curvature < torch.inf), int(Result.BREAKDOWN), code)
    alpha = quotient(gamma, curvature, active & (curvature > 0) & (gamma > 0))
    change, R = torch.addcmul(change, alpha, P), torch.addcmul(R, alpha, Q, value=-1)
    return State(change, R, P, column_norms(R), code, gamma, beta, curvature)


def tridiagonal(inverse: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the diagonal and the off-diagonal of the matrix of Lanczos, from all 1 / α and β."""
    coupling = beta[..., 1:] * inverse[..., :-1]
    diagonal = torch.cat([inverse[..., :1], inverse[..., 1:] + coupling], -1)
    return diagonal, beta[..., 1:].sqrt() * inverse[..., :-1]


@dataclass(frozen=True, repr=False)
class CG(Krylov):
    r"""Conjugate gradients, for Hermitian positive definite A.

    The parameters are those of `Krylov`.  The `preconditioner` has to be Hermitian positive
    definite.

    Notes
    -----
    If a column comes upon a direction in which A is not positive, it ends with `Result.INDEFINITE`.
    If the iterations are used up, the last iterate is returned.  Its error is the smallest in the
    norm of A, although its residual may be larger than that of the start.

    An iteration takes one product with A and one with :math:`M^{-1}`, for all columns at once.
    Memory is O(n p).  In the norm of A, the error falls by a factor of :math:`(\sqrt\kappa - 1) /
    (\sqrt\kappa + 1)` in each iteration or faster, where :math:`\kappa` is the condition number of
    :math:`M^{-1} A`.  Hestenes and Stiefel, 1952.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import CG, IC0
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, 1.0], [1.0, 3.0]]))
    >>> sparse_solve(A, torch.tensor([1.0, 2.0]), solver=CG(IC0()))
    tensor([0.0909, 0.6364])
    """

    hermitian: ClassVar[bool] = True

    def start(self, problem: Problem, R: Tensor, attempt: int) -> State:
        """Return the state at a residual."""
        return start(R)

    def step(self, problem: Problem, state: State, active: Tensor) -> State:
        """Advance the active columns."""
        return step(problem, state, active)

    def coefficients(self, state: State) -> tuple[Tensor, Tensor]:
        """Return 1 / α and β."""
        positive = state.gamma > 0
        inverse = quotient(state.curvature, state.gamma, positive)
        return torch.where(positive, inverse, torch.nan), state.beta

    def tridiagonal(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the diagonal and the off-diagonal of the matrix of Lanczos."""
        return tridiagonal(first, second)

    def nearer(self, problem: Problem, before: Tensor, after: Tensor, change: Tensor) -> Tensor:
        """Mask where the error fell in the norm of A: a change D lowers it by Dᴴ (R + R')."""
        return dot(change, before + after).real > 0
