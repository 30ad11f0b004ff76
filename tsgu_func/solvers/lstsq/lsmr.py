"""LSMR.

Fong and Saunders, *LSMR: An Iterative Algorithm for Sparse Least-Squares Problems*, SIAM J. Sci.
Comput. 33(5), 2011: two sequences of rotations of the bidiagonal matrix minimize ``|Aᴴ R|``.  Names
follow the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tsgu_func.solvers.lstsq.base import LeastSquares
from tsgu_func.solvers.lstsq.bidiagonal import Method

__all__ = ["LSMR"]


@dataclass(frozen=True, repr=False)
class LSMR(LeastSquares):
    """LSMR, for any shape of A: least squares, or the least norm.

    The parameters are those of `LeastSquares`.

    Notes
    -----
    An iteration takes one product with A and one with its adjoint, for all columns at once.  Memory
    is O((m + n) p).  ``|Aᴴ R|`` falls in every iteration, so it may be stopped at any.  Fong and
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

    method: ClassVar[Method] = "lsmr"
