"""Direct solution of small systems as dense ones, by LAPACK through PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.direct.base import DirectWithPivots, Factored
from tsgu_func.solvers.protocol import SingularError
from tsgu_func.solvers.settings import check_count
from tsgu_func.solvers.traits import sums_of_magnitudes

__all__ = ["DenseLU"]


@dataclass(frozen=True)
class _Factor:
    lu: Tensor
    pivots: Tensor

    @property
    def bytes(self) -> int:
        return self.lu.nbytes + self.pivots.nbytes

    def solve(self, B: Tensor, transpose: bool, conjugate: bool) -> Tensor:
        # conj(S) X = B is S conj(X) = conj(B), and Sᵀ X = B is Sᴴ conj(X) = conj(B).
        B = B.to(self.lu.dtype)
        if transpose == conjugate:
            return torch.linalg.lu_solve(self.lu, self.pivots, B, adjoint=transpose)
        X = torch.linalg.lu_solve(self.lu, self.pivots, B.conj().resolve_conj(), adjoint=transpose)
        return X.conj().resolve_conj()

    def logabsdet(self) -> Tensor:
        return self.lu.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


@dataclass(frozen=True, repr=False)
class DenseLU(DirectWithPivots):
    """LU factorization of the dense matrix, for small systems.

    A batch of matrices is factored in one call.  `refine` and `precision` are those of `Direct`.

    Parameters
    ----------
    limit : int
        How many rows a matrix may have.  It keeps you from using O(n²) memory without intention.

    Raises
    ------
    ValueError
        If the matrix has more rows than `limit`.
    SingularError
        If the matrix is singular.  The message names the row that depends on those eliminated
        before it.

    Notes
    -----
    Cost: O(n³) time, O(n²) memory for each member of a batch.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import DenseLU
    >>> A = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [4.0, 0.0]]))
    >>> sparse_solve(A, torch.tensor([2.0, 4.0]), solver=DenseLU())
    tensor([1., 1.])
    """

    limit: int = 1000

    takes_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("limit", self.limit)

    def factor(self, A: StoredMatrix) -> _Factor:
        """Fill in the zeros, and factor."""
        n = A.shape[0]
        if n > self.limit:
            raise ValueError(
                f"{self!r} is for at most {self.limit} rows; got {n}: take SuperLU(), which stores "
                f"no zeros, or raise the limit"
            )
        place = A.structure.row.long() * n + A.structure.col.long()
        zeros = A.values.new_zeros(*A.values.shape[:-1], n * n)
        D = zeros.index_copy_(-1, place, A.values).unflatten(-1, (n, n))
        lu, pivots, info = torch.linalg.lu_factor_ex(D)
        if bool((info > 0).any()):
            member = tuple(int(i) for i in (info > 0).nonzero()[0])
            where = f" of member {member[0]}" if member else ""
            row = _row_at(int(info[member]) - 1, pivots[member])
            raise SingularError(
                f"the matrix is singular: the pivot of row {row}{where} is zero, so it is a "
                f"combination of other rows"
            )
        return _Factor(lu, pivots)

    def _condition(self, state: Factored) -> Tensor:
        """Return the condition number of each member, ``(*batch, 1)``, from the inverse."""
        _, columns = sums_of_magnitudes(state.A)
        norm = columns.amax(-1, keepdim=True)
        # The inverse is taken times the norm of A: so neither over- nor underflows.
        inverse = state.factor.solve(norm.unsqueeze(-1) * _eye_like(state.A), False, False)
        return torch.linalg.matrix_norm(inverse, 1).unsqueeze(-1)


def _eye_like(A: StoredMatrix) -> Tensor:
    eye = torch.eye(A.shape[0], dtype=A.dtype, device=A.values.device)
    return eye.expand(*A.values.shape[:-1], *eye.shape)


def _row_at(place: int, pivots: Tensor) -> int:
    """Return which row of the matrix stands at a place, after LAPACK's exchanges."""
    rows = list(range(len(pivots)))
    for i, other in enumerate(pivots.tolist()):
        rows[i], rows[other - 1] = rows[other - 1], rows[i]
    return rows[place]
