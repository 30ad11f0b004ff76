"""LSMR.

Fong and Saunders, *LSMR: An Iterative Algorithm for Sparse Least-Squares Problems*, SIAM J. Sci.
Comput. 33(5), 2011: two sequences of rotations of the bidiagonal matrix minimize ``|Aᴴ R|``.  Names
follow the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tsgu_func.solvers.lstsq.base import LeastSquares
from tsgu_func.solvers.lstsq.bidiagonal import Process, over, rotation

__all__ = ["LSMR", "LSMRProcess"]


class LSMRProcess(Process):
    """The recurrence of LSMR."""

    def begin(self) -> None:
        """Start the recurrence."""
        zero, one = torch.zeros_like(self.alpha), torch.ones_like(self.alpha)
        self.norm_r, self.condition = self.beta, one
        self.alphabar, self.zetabar = self.alpha, self.alpha * self.beta
        self.gradient = self.zetabar.abs()
        self.rho, self.rhobar, self.cbar, self.sbar = one, one, one, zero
        self.H, self.Hbar = self.V, torch.zeros_like(self.V)
        self.smallest, self.largest = torch.full_like(one, torch.inf), zero  # of the rhobar
        self.betadd, self.betad, self.rhodold = self.beta, zero, one
        self.tautilde, self.thetatilde, self.zeta = zero, zero, zero

    def rotate(self) -> None:
        """Make both rotations."""
        rho_old, rhobar_old, zeta_old = self.rho, self.rhobar, self.zeta
        c, s, self.rho = rotation(self.alphabar, self.beta)
        theta, self.alphabar = s * self.alpha, c * self.alpha
        thetabar, self.passing = self.sbar * self.rho, self.cbar * self.rho
        self.cbar, self.sbar, self.rhobar = rotation(self.passing, theta)
        self.zeta, self.zetabar = self.cbar * self.zetabar, -self.sbar * self.zetabar
        self.Hbar = self.H - over(thetabar * self.rho, rho_old * rhobar_old) * self.Hbar
        step = torch.where(self.active, over(self.zeta, self.rho * self.rhobar), 0)
        self.change = self.change + step * self.Hbar
        self.H = self.V - over(theta, self.rho) * self.H
        self._estimate_residual(c, s, thetabar, zeta_old)
        self.gradient = self.zetabar.abs()
        self._estimate_condition()

    def _estimate_residual(self, c: Tensor, s: Tensor, thetabar: Tensor, zeta_old: Tensor) -> None:
        betahat, self.betadd = c * self.betadd, -s * self.betadd
        theta_old = self.thetatilde
        ctilde, stilde, rhotilde = rotation(self.rhodold, thetabar)
        self.thetatilde, self.rhodold = stilde * self.rhobar, ctilde * self.rhobar
        self.betad = ctilde * betahat - stilde * self.betad
        self.tautilde = over(zeta_old - theta_old * self.tautilde, rhotilde)
        tau = over(self.zeta - self.thetatilde * self.tautilde, self.rhodold)
        self.norm_r = torch.hypot(self.betad - tau, self.betadd)

    def _estimate_condition(self) -> None:
        largest = torch.maximum(self.largest, self.passing.abs())
        smallest = torch.minimum(self.smallest, self.passing.abs())
        estimate = torch.where(smallest > 0, over(largest, smallest), torch.inf)
        self.condition = torch.where(self.active, estimate, self.condition)
        self.largest = torch.maximum(self.largest, self.rhobar)
        self.smallest = torch.minimum(self.smallest, self.rhobar)


@dataclass(frozen=True, repr=False)
class LSMR(LeastSquares):
    """LSMR, for any shape of A: least squares, or the least norm.

    The parameters are those of `LeastSquares`.

    Notes
    -----
    Cost: one product with A and one with its adjoint an iteration, for all columns at once; memory
    O((m + n) p).  ``|Aᴴ R|`` falls in every iteration, so that it may be stopped at any.  Fong and
    Saunders, 2011.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_generic_lstsq
    >>> from tsgu_func.solvers import LSMR
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]).to_sparse_coo()
    >>> sparse_generic_lstsq(A, torch.tensor([1.0, 3.0, 5.0]), lstsq=LSMR(rtol=1e-6))
    tensor([1.0000, 2.0000])
    """

    process: ClassVar[type[Process]] = LSMRProcess
