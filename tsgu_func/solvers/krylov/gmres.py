"""GMRES, restarted.

Saad and Schultz, *GMRES: A Generalized Minimal Residual Algorithm for Solving Nonsymmetric Linear
Systems*, SIAM J. Sci. Stat. Comput. 7(3), 1986.  With the preconditioner on the right,

    A M⁻¹ Vₖ = Vₖ₊₁ Hₖ,      x = M⁻¹ Vₖ y,      |r| = min over y of | |r₀| e₁ - Hₖ y |,

so that what is minimized is the residual of the system itself.  Unitary matrices Ωₖ bring Hₖ to
triangular form; the last entry of ``Ωₖ |r₀| e₁`` is the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.columns import column_norms, quotient
from tsgu_func.solvers.krylov.block import Place, Problem
from tsgu_func.solvers.krylov.loop import Krylov
from tsgu_func.solvers.protocol import Result
from tsgu_func.solvers.settings import check_count
from tsgu_func.solvers.system import check_product

__all__ = ["GMRES"]


class State(NamedTuple):
    """Basis and small matrices of each column, which come in front: ``(*batch, p, ...)``."""

    basis: Tensor  # (..., p, m + 1, n): the vectors v
    triangle: Tensor  # (..., p, m, m): Ω H
    rotation: Tensor  # (..., p, m + 1, m + 1): Ω
    right: Tensor  # (..., p, m + 1, 1): Ω |r| e₁
    norm: Tensor
    code: Tensor
    size: int  # k


@dataclass(frozen=True, repr=False)
class GMRES(Krylov):
    """Generalized minimal residuals, restarted, for any square A.

    The parameters are those of `Krylov`, and one more.  The preconditioner is applied on the right
    of A.

    restart : int
        After how many iterations it starts again.  This is the size of the Krylov space.

    Notes
    -----
    If the Krylov space of a column is exhausted before it has converged, which happens if A is
    singular, the column ends with `Result.BREAKDOWN`.  If it gains nothing in a whole cycle, it
    ends with `Result.STAGNATED`.

    An iteration takes one product with A, one with M⁻¹, and O(n p restart) time for the
    orthogonalization, which is done twice.  Memory is O(n p restart).  Saad and Schultz, 1986.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import GMRES
    >>> A = SparseMatrix.from_dense(torch.tensor([[0.0, 1.0], [-2.0, 0.0]]))
    >>> sparse_solve(A, torch.tensor([1.0, 2.0]), solver=GMRES(restart=2))
    tensor([-1.,  1.])
    """

    restart: int = 30

    passes: ClassVar[int] = 2**31
    falls: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("restart", self.restart, 1)

    def _length(self, left: int, n: int) -> int:
        return min(left, self.restart, n)

    def start(self, problem: Problem, R: Tensor, attempt: int) -> State:
        """Return the state at a residual."""
        *batch, n, p = R.shape
        m = min(self.restart, n)
        norm = column_norms(R)
        basis = R.new_zeros(*batch, p, m + 1, n)
        basis[..., 0, :] = quotient(R, norm, norm > 0).mT
        right = R.new_zeros(*batch, p, m + 1, 1)
        right[..., 0, 0] = norm.squeeze(-2).to(R.dtype)
        triangle = R.new_zeros(*batch, p, m, m)
        rotation = torch.eye(m + 1, dtype=R.dtype, device=R.device).repeat(*batch, p, 1, 1)
        code = torch.zeros_like(norm, dtype=torch.int64)
        return State(basis, triangle, rotation, right, norm, code, 0)

    def step(self, problem: Problem, state: State, active: Tensor) -> State:
        """Add a vector to the basis, and a column to the triangle."""
        basis, triangle, rotation, right, norm, code, k = state
        v = basis[..., k, :].mT.contiguous()
        direction = v if problem.precondition is None else problem.precondition(v)
        W = problem.multiply(direction)
        check_product(problem.multiply, direction, W)
        h, w, length = _orthogonalized(basis[..., : k + 1, :], W.mT.unsqueeze(-2))
        on = active.mT.unsqueeze(-1)  # (..., p, 1, 1)
        basis[..., k + 1, :] = torch.where(on, quotient(w, length, length > 0), 0).squeeze(-2)

        # The new column of H, rotated by all rotations so far; then one more makes its end vanish.
        size = torch.hypot(torch.linalg.vector_norm(h, dim=-2, keepdim=True), length)
        h = rotation[..., : k + 1, : k + 1] @ h
        a, b = h[..., k:, :], length.to(h.dtype)
        r = torch.hypot(a.abs(), length)
        solid = on & (r > 10 * torch.finfo(norm.dtype).eps * size)
        c, s = quotient(a, r, solid), quotient(b, r, solid)
        upper, lower = rotation[..., k, :].clone(), rotation[..., k + 1, :].clone()
        c_row, s_row = c.squeeze(-1), s.squeeze(-1)
        turned = c_row.conj() * upper + s_row.conj() * lower
        rotation[..., k, :] = torch.where(solid.squeeze(-1), turned, upper)
        turned = c_row * lower - s_row * upper
        rotation[..., k + 1, :] = torch.where(solid.squeeze(-1), turned, lower)

        # A column at rest gets an equation that says nothing: y = 0.
        triangle[..., :k, k] = torch.where(solid, h[..., :k, :], 0).squeeze(-1)
        triangle[..., k, k] = torch.where(solid, r.to(h.dtype), 1).squeeze(-1).squeeze(-1)
        rest = right[..., k, :].clone()
        flat = solid.squeeze(-1)
        right[..., k, :] = torch.where(flat, c_row.conj() * rest, 0)
        right[..., k + 1, :] = torch.where(flat, -s_row * rest, rest)

        lost = active & ~solid.squeeze(-1).mT
        code = torch.where(lost, int(Result.BREAKDOWN), code)
        norm = torch.where(active & ~lost, right[..., k + 1, :].abs().mT, norm)
        return State(basis, triangle, rotation, right, norm, code, k + 1)

    def finish(self, problem: Problem, state: State) -> Tensor:
        """Return M⁻¹ V y."""
        k = state.size
        if not k:
            return torch.zeros_like(state.basis[..., 0, :].mT)
        triangle, right = state.triangle[..., :k, :k], state.right[..., :k, :]
        y = torch.linalg.solve_triangular(triangle, right, upper=True)
        U = (y.mT @ state.basis[..., :k, :]).squeeze(-2).mT.contiguous()
        return U if problem.precondition is None else problem.precondition(U)

    def narrow(self, state: State, place: Place) -> State:
        """Return the state of some members and columns."""
        *apart, norm, code, size = state
        basis, triangle, rotation, right = (place.take(x, -3) for x in apart)
        norm, code = place.take(norm), place.take(code)
        return State(basis, triangle, rotation, right, norm, code, size)


def _orthogonalized(basis: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take off w (..., 1, n) its components along orthonormal rows; return them and the rest.

    Twice is enough (Giraud, Langou and Rozloznik, 2005): after it the rest is orthogonal up to
    rounding, unless it is nothing but rounding.
    """
    first = basis.conj() @ w.mT
    w = w - first.mT @ basis
    second = basis.conj() @ w.mT
    w = w - second.mT @ basis
    return first + second, w, torch.linalg.vector_norm(w, dim=-1, keepdim=True)
