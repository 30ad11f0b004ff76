"""The choice of a solver for least squares.

A factorization of the augmented system costs what one of ``Aᴴ A`` does, whatever the condition
number; LSMR costs products with A, more of them the larger the condition number is, which nobody
knows beforehand.  So the factorization comes first where it takes no longer than some hundred
iterations, and else after LSMR, where that does not converge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsgu_func.kernels.matrix_free import MatrixFree
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.cache import prepared
from tsgu_func.solvers.lstsq.augmented import Augmented
from tsgu_func.solvers.lstsq.lsmr import LSMR
from tsgu_func.solvers.protocol import Result, Solution, Solver
from tsgu_func.solvers.traits import width

__all__ = ["AutoLeastSquares", "choose_least_squares"]

# The factorization comes first if it takes as long as so many iterations at most.
_WORTH = 300
# LSMR is given so many iterations where a factorization can follow, which it does if it takes
# less than this.
_PATIENCE, _LONG = 1000, 100.0  # iterations, seconds
# Beyond so many entries of AᴴA for one of A, its pattern is not looked at.
_DENSE = 100


def choose_least_squares(A: StoredMatrix | MatrixFree) -> tuple[Solver, ...]:
    """Return the solvers to try in turn, by the pattern of A."""
    if isinstance(A, MatrixFree):
        return (LSMR(),)
    return A.structure.derive("least squares", _choice)


def _choice(s: Structure) -> tuple[Solver, ...]:
    seconds, iteration = _factorization(s), _iteration(s)
    if seconds <= _WORTH * iteration:
        return Augmented(), LSMR()
    if seconds <= max(_LONG, _PATIENCE * iteration):
        return LSMR(max_iterations=_PATIENCE), Augmented()
    return (LSMR(),)


def _iteration(s: Structure) -> float:
    """Estimate the seconds that an iteration of LSMR takes: calls, products, vectors."""
    return 4e-4 + 4e-9 * s.nnz + 1e-8 * (s.rows + s.cols)


def _factorization(s: Structure) -> float:
    """Estimate the seconds that SuperLU takes for the augmented system.

    As `tsgu_func.solvers.auto` does, by the width of the graph, that of AᴴA (or A Aᴴ, if A is
    wide).  The constants are from one core of 2026.
    """
    return 2e-6 * (s.rows + s.cols) + 5e-10 * _width(s) ** 3


def _width(s: Structure) -> int:
    """Return the width of the graph of AᴴA, or A Aᴴ; all unknowns, if that is no sparse one."""
    if s.rows < s.cols:
        s = s.transpose.structure
    if int((s.crow.diff().double() ** 2).sum()) > _DENSE * (s.nnz + s.cols):
        return s.cols
    S = StoredMatrix(s, torch.ones(s.nnz, dtype=torch.float32, device="cpu")).to_scipy()
    gram = (S.T @ S).tocsr()
    gram.sort_indices()
    crow, col = (torch.from_numpy(x.astype("int32")) for x in (gram.indptr, gram.indices))
    return width(Structure(crow, col, s.cols))


# ------------------------------------------------------------------------------------ the solver


@dataclass(frozen=True)
class _Choice:
    """What is planned for a matrix, and what did not converge."""

    plan: tuple[Solver, ...]
    failed: set[Solver] = field(default_factory=set)


@dataclass(frozen=True)
class AutoLeastSquares:
    """Choose a solver of least squares by the pattern of the matrix: the default of `sparse_lstsq`.

    If a factorization costs no more than about a hundred iterations of `LSMR`, as for a banded
    matrix or few unknowns, this is `Augmented`.  Otherwise it is `LSMR`.  If that does not
    converge, and a factorization is within reach, it is `Augmented` after all.  For a matrix that
    is known by its products alone, it is `LSMR`.

    Notes
    -----
    `Info.solver` names the solver that solved it.  If `Augmented` finds that A lacks full rank, the
    code is `Result.SINGULAR`, and the solution is one of the minimizers, found by `LSMR`.

    The choice takes O(nnz) time and, if ``Aᴴ A`` is sparse, the time to compute its pattern, once
    for a pattern.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_lstsq
    >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]))
    >>> sparse_lstsq(A, torch.tensor([1.0, 3.0, 5.0]), return_info=True)[1].solver
    'Augmented()'
    """

    takes_batches: ClassVar[bool] = True
    takes_operators: ClassVar[bool] = True

    def init(self, A: StoredMatrix | MatrixFree) -> _Choice:
        """Choose."""
        return _Choice(choose_least_squares(A))

    def compute(
        self,
        state: _Choice,
        A: StoredMatrix | MatrixFree,
        B: Tensor,
        X0: Tensor | None = None,
    ) -> Solution:
        """Solve by the first that can; one that did not converge is asked last from then on."""
        solvers = sorted(state.plan, key=lambda solver: solver in state.failed)
        found = _solved(solvers[0], A, B)
        for before, solver in itertools.pairwise(solvers):
            if not found.result.failed:
                break
            if not bool((found.code == Result.SINGULAR).any()):
                state.failed.add(before)
            found = _merged(found, _solved(solver, A, B))
        return found


def _solved(solver: Any, A: StoredMatrix | MatrixFree, B: Tensor) -> Solution:
    stored: Any = replace(A, transpose=False, conjugate=False)
    stateless = getattr(solver, "stateless", False)
    state = solver.init(stored) if stateless else prepared(solver, stored)
    return solver.compute(state, A, B)


def _merged(first: Solution, second: Solution) -> Solution:
    """Return the better of two solutions for each column, and the word of either for rank."""
    singular = (first.code == Result.SINGULAR) | (second.code == Result.SINGULAR)
    failures = first.code.new_tensor([int(code) for code in Result if code.failed])
    better = torch.isin(first.code, failures) & ~torch.isin(second.code, failures)
    better = better | ~first.value.isfinite().all(-2)
    merged = second.where(better, first)
    return merged._replace(code=torch.where(singular, int(Result.SINGULAR), merged.code))
