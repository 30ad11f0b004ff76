"""Least squares, and the least norm, by a factorization of the augmented system.

Björck, *Iterative Refinement of Linear Least Squares Solutions I*, BIT 7, 1967.  For a tall T,

    [ α I   T ] [ S ]   [ F ]
    [ Tᴴ    0 ] [ X ] = [ G ]

is solved with G = 0 by the X that minimizes ``|T X - F|``, with the residual α S; and with F = 0 by
the S of least norm among those with ``Tᴴ S = G``.  So one factor serves T and its adjoint.

*The choice of α.*  The columns of T are scaled to norm one.  With α = 1 a factorization goes along
the diagonal, and fills in what that of ``Tᴴ T`` would; but the condition number of the system is
that of T, squared.  With an α about as large as the smallest singular value σ of T it is about that
of T, at the cost of more fill.  So α = 1 comes first, and a smaller one where σ, estimated by a few
solves, is too small for it.

SuperLU it is: it has no more fill here than PARDISO, and takes no pivot that is none, where
PARDISO, without a matching, replaces some (which shows as a wrong σ, not as an error).

*Refinement* of both parts, by their residuals, gains what the factorization lost to the square.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.columns import column_norms, quotient
from tsgu_func.solvers.lstsq.saddle import Saddle
from tsgu_func.solvers.lstsq.scaling import scaled
from tsgu_func.solvers.protocol import Result, Settings, Solution, relative_residual, solution

__all__ = ["Augmented"]

_EPS = torch.finfo(torch.float64).eps
# Refinement that does not gain this factor a step has reached what it can.
_GAIN, _STEPS = 0.5, 10
# Backward error, in units of rounding, that a stable factorization stays below.
_STABLE = 100
# Inverse iterations to estimate the smallest singular value, and power iterations for the largest.
_INVERSE, _POWER = 3, 5
# An estimate below so many times what rounding makes of zero is none.
_NOISE = 30
_FACTORS = 4
# A relative error of the solution beyond which no digit of it is promised.
_CREDIBLE = 1e-3


@dataclass(frozen=True)
class _State:
    """The augmented system of a matrix or its adjoint.

    Attributes
    ----------
    tall : StoredMatrix
        What is stored, or its adjoint.
    scale : Tensor, shape (b, n, 1)
        What the columns of `tall` were multiplied with.
    smallest, largest : Tensor, shape (b, 1)
        Singular values of the scaled matrix, estimated.
    """

    tall: StoredMatrix
    scale: Tensor
    system: Saddle
    smallest: Tensor
    largest: Tensor

    @property
    def bytes(self) -> int:
        return self.system.bytes

    @property
    def singular(self) -> Tensor:
        """Whether rounding could make A rank-deficient, (b, 1)."""
        return self.smallest <= _EPS * max(100, sum(self.tall.shape) ** 0.5) * self.largest


@dataclass(frozen=True, repr=False)
class Augmented(Settings):
    """Least squares, or the least norm, by a sparse factorization, for a matrix that is stored.

    It takes A of any shape, and finds the X that minimizes ``|A X - B|`` or, for a wide A, the
    solution of least norm.  It factors the augmented system, with SuperLU and in double precision.

    Notes
    -----
    It is worth while if ``Aᴴ A`` has a sparse factor, as for a banded A, or if there are few
    unknowns.  Then it takes as long for a condition number of 1e10 as for one of 10.  The same
    factor solves with A and its adjoint, and for all right-hand sides.  A batch of small matrices
    is factored in one call.

    If A lacks full rank, up to rounding, there is no solution and the code is `Result.SINGULAR`.
    If rounding leaves no correct digit in the solution, the code is `Result.ILL_CONDITIONED`.
    `Info.condition` estimates the condition number of A in the 2-norm, after its columns (of a wide
    A, its rows) were scaled to norm one.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_lstsq
    >>> from tsgu_func.solvers import Augmented
    >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]))
    >>> sparse_lstsq(A, torch.tensor([1.0, 3.0, 5.0]), solver=Augmented())
    tensor([1., 2.])
    """

    takes_batches: ClassVar[bool] = True

    def init(self, A: StoredMatrix) -> _State:
        """Factor the augmented system of A, or, where A is wide, of its adjoint."""
        wide = A.shape[0] < A.shape[1]
        tall = A.mH if wide else A
        # How A will be read is not known yet, so not what its lines are called.
        T, scale = scaled(_wide(tall), "row or column")
        system, smallest = _factored(T)
        return _State(tall, scale, system, smallest, _largest(T))

    def compute(
        self, state: _State, A: StoredMatrix, B: Tensor, X0: Tensor | None = None
    ) -> Solution:
        """Solve for the columns of B (m, p) or (b, m, p); a start X0 is of no use here."""
        tall = state.tall
        adjoint = A.transpose != tall.transpose
        conjugate = (A.mH if adjoint else A).conjugate != tall.conjugate
        peak = B.abs().amax(-2, keepdim=True).to(state.scale.dtype)
        peak = torch.where(peak > 0, peak, 1)
        right = (B.to(state.system.T.dtype) / peak).reshape(len(state.scale), *B.shape[-2:])
        right = right.conj().resolve_conj() if conjugate else right
        read = tall.mH if adjoint else tall
        solved = _solved(state, right, adjoint)
        X = torch.where(state.singular.unsqueeze(-1), torch.nan, solved.X)
        residual = relative_residual(right - _wide(read) @ X, right)
        X = X.conj().resolve_conj() if conjugate else X
        shape = B.shape[:-2]
        return solution(
            self,
            (X.reshape(*shape, *X.shape[1:]) * peak).to(B.dtype),
            residual.reshape(*shape, -1).to(B.dtype.to_real()),
            code=_code(state, solved).reshape(*shape, -1),
            condition=(state.largest / state.smallest).reshape(*shape, -1).to(B.dtype.to_real()),
        )


class _Solved(NamedTuple):
    """A solution, the backward error of its system, and the relative error that A amplifies to."""

    X: Tensor
    backward: Tensor
    forward: Tensor


def _solved(state: _State, right: Tensor, adjoint: bool) -> _Solved:
    """Minimize ``|T X - B|``, or ``|S|`` among the S with ``Tᴴ S = B``, T scaled or not."""
    m, n = state.tall.shape
    system, shape = state.system, right.shape
    if adjoint:
        F, G = right.new_zeros(shape[0], m, shape[2]), state.scale * right
    else:
        F, G = right, right.new_zeros(shape[0], n, shape[2])
    S, X, backward = _refined(system, F, G)
    condition = state.largest / state.smallest
    if adjoint:
        return _Solved(S, backward, _EPS * condition)
    left, size, given = (column_norms(Y).squeeze(-2) for Y in (system.alpha * S, X, F))
    # The residual counts with the condition number squared; beside what X could be, because an X
    # that is zero has no digits to lose.
    size = torch.maximum(state.largest * size, given)
    share = quotient(left, size, size > 0)
    return _Solved(state.scale * X, backward, _EPS * condition * (1 + condition * share))


def _refined(system: Saddle, F: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return S, X and the backward error, (b, p)."""
    S, X = system.solve(F, G)
    error, backward, left = _errors(system, S, X, F, G)
    for _ in range(_STEPS):
        dS, dX = system.solve(*left)
        trial = _errors(system, S + dS, X + dX, F, G)
        gained = (trial[0] < error).unsqueeze(-2)
        if not bool(gained.any()):
            break
        slow = bool((trial[0] > _GAIN * error).all())
        S, X = torch.where(gained, S + dS, S), torch.where(gained, X + dX, X)
        error, backward, left = _errors(system, S, X, F, G)
        if slow:
            break
    return S, X, backward


def _errors(
    system: Saddle, S: Tensor, X: Tensor, F: Tensor, G: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return the componentwise and the normwise backward error, (b, p), and the residual."""
    left = system.residual(S, X, F, G)
    pairs = list(zip(left, system.sizes(S, X, F, G), strict=True))
    component = [quotient(r.abs(), size, size > 0).amax(-2) for r, size in pairs]
    norms = [(column_norms(r), column_norms(size)) for r, size in pairs]
    norm = [quotient(r, size, size > 0).squeeze(-2) for r, size in norms]
    return torch.maximum(*component), torch.maximum(*norm), left


def _code(state: _State, solved: _Solved) -> Tensor:
    """Return a `Result` for each column, (b, p)."""
    rounding = _EPS * sum(state.tall.shape) ** 0.5
    stable = solved.backward <= _STABLE * rounding
    code = torch.where(stable, int(Result.SOLVED), int(Result.STAGNATED))
    code = torch.where(stable & (solved.forward > _CREDIBLE), int(Result.ILL_CONDITIONED), code)
    return torch.where(state.singular, int(Result.SINGULAR), code)


def _wide(A: StoredMatrix) -> StoredMatrix:
    """Return a matrix in double precision, with values (b, nnz)."""
    values = A.values.to(torch.promote_types(A.dtype, torch.float64))
    return replace(A, values=values.reshape(-1, A.structure.nnz))


# ------------------------------------------------------------------------------------ the system


def _factored(T: StoredMatrix) -> tuple[Saddle, Tensor]:
    """Return the augmented system, and the smallest singular value of T, (b, 1), estimated."""
    alpha = torch.ones(len(T.values), 1, 1, dtype=T.dtype.to_real(), device=T.values.device)
    system = Saddle.of(T, alpha, pivoting=False)
    smallest = _smallest(system)
    for _ in range(_FACTORS - 1):
        # The smallest eigenvalue of the system is σ² / α, and rounding makes one of eps.
        vague = (smallest < _NOISE * (_EPS * alpha) ** 0.5) & (alpha > _EPS)
        if not bool(vague.any()):
            break
        alpha = torch.where(vague, smallest.clamp_min(_EPS**0.5 * alpha), alpha)
        system = Saddle.of(T, alpha, pivoting=True)
        smallest = _smallest(system)
    return system, smallest.squeeze(-1)


def _smallest(system: Saddle) -> Tensor:
    """Estimate the smallest singular value of T, (b, 1, 1), by inverse iteration; 0 if that fails.

    The part X for F = 0 is ``-α (Tᴴ T)⁻¹ G``.
    """
    T = system.T
    zeros, X = T.values.new_zeros(len(T.values), T.shape[0], 1), _start(T)
    size = column_norms(X)
    for _ in range(_INVERSE):
        _, X = system.solve(zeros, X / size)
        size = column_norms(X)
    return torch.where(size.isfinite() & (size > 0), (system.alpha / size) ** 0.5, 0)


def _largest(T: StoredMatrix) -> Tensor:
    """Estimate the largest singular value of T, (b, 1), from below, by power iteration."""
    X = _start(T)
    for _ in range(_POWER):
        X = T.mH @ (T @ (X / column_norms(X)))
    return column_norms(X).squeeze(-1) ** 0.5


def _start(T: StoredMatrix) -> Tensor:
    """Return a vector for each member, the same at every call, with a share in every direction."""
    wave = torch.arange(1, T.shape[1] + 1, dtype=torch.float64, device=T.values.device).sin()
    return wave.to(T.dtype).reshape(-1, 1).repeat(len(T.values), 1, 1)
