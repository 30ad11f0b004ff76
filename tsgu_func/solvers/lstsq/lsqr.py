"""LSQR.

Paige and Saunders, *LSQR: An Algorithm for Sparse Linear Equations and Sparse Least Squares*, ACM
TOMS 8(1), 1982: one sequence of rotations of the bidiagonal matrix minimizes ``|R|``; in exact
arithmetic, conjugate gradients for the normal equations.  Names follow the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tsgu_func.solvers.columns import column_norms
from tsgu_func.solvers.lstsq.base import LeastSquares
from tsgu_func.solvers.lstsq.bidiagonal import Process, over, rotation

__all__ = ["LSQR", "LSQRProcess"]


class LSQRProcess(Process):
    """The recurrence of LSQR."""

    def begin(self) -> None:
        """Start the recurrence."""
        self.W, self.rhobar = self.V, self.alpha
        self.norm_r, self.gradient = self.beta, self.alpha * self.beta
        self.condition = torch.ones_like(self.alpha)
        self.size_D = torch.zeros_like(self.alpha)  # Frobenius norm of W diag(1 / rho)

    def rotate(self) -> None:
        """Make a rotation, and a step along W."""
        c, s, rho = rotation(self.rhobar, self.beta)
        theta, self.rhobar = s * self.alpha, -c * self.alpha
        phi, self.norm_r = c * self.norm_r, (s * self.norm_r).abs()
        step = torch.where(self.active, over(phi, rho), 0)
        self.change = self.change + step * self.W
        self.size_D = torch.hypot(self.size_D, over(column_norms(self.W), rho))
        self.W = self.V - over(theta, rho) * self.W
        self.gradient = self.norm_r * self.alpha * c.abs()
        estimate = (self.norm_A * self.size_D).clamp_min(1)
        self.condition = torch.where(self.active, estimate, self.condition)


@dataclass(frozen=True, repr=False)
class LSQR(LeastSquares):
    """LSQR, for any shape of A: least squares, or the least norm.

    The parameters are those of `LeastSquares`.

    Notes
    -----
    Cost: one product with A and one with its adjoint an iteration, for all columns at once; memory
    O((m + n) p).  ``|R|`` falls in every iteration.  Paige and Saunders, 1982.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_generic_lstsq
    >>> from tsgu_func.solvers import LSQR
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]).to_sparse_coo()
    >>> sparse_generic_lstsq(A, torch.tensor([1.0, 3.0, 5.0]), lstsq=LSQR(rtol=1e-6))
    tensor([1.0000, 2.0000])
    """

    process: ClassVar[type[Process]] = LSQRProcess
