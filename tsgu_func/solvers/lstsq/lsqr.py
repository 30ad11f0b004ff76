"""LSQR.

Paige and Saunders, *LSQR: An Algorithm for Sparse Linear Equations and Sparse Least Squares*, ACM
TOMS 8(1), 1982: one sequence of rotations of the bidiagonal matrix minimizes ``|R|``; in exact
arithmetic, conjugate gradients for the normal equations.  Names follow the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tsgu_func.solvers.lstsq.base import LeastSquares
from tsgu_func.solvers.lstsq.bidiagonal import Method

__all__ = ["LSQR"]


@dataclass(frozen=True, repr=False)
class LSQR(LeastSquares):
    """LSQR, for any shape of A: least squares, or the least norm.

    The parameters are those of `LeastSquares`.

    Notes
    -----
    An iteration takes one product with A and one with its adjoint, for all columns at once.  Memory
    is O((m + n) p).  ``|R|`` falls in every iteration.  Paige and Saunders, 1982.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_generic_lstsq
    >>> from tsgu_func.solvers import LSQR
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]).to_sparse_coo()
    >>> sparse_generic_lstsq(A, torch.tensor([1.0, 3.0, 5.0]), lstsq=LSQR(rtol=1e-6))
    tensor([1.0000, 2.0000])
    """

    method: ClassVar[Method] = "lsqr"
