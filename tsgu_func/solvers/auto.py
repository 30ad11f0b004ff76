"""The choice of a solver.

What decides is in `choose`; docs/solvers.md has the measurements behind it.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.direct.dense import DenseLU
from tsgu_func.solvers.direct.pardiso import Pardiso
from tsgu_func.solvers.direct.superlu import SuperLU
from tsgu_func.solvers.factors import prepared
from tsgu_func.solvers.judgement import acceptable, small
from tsgu_func.solvers.krylov.bicgstab import BiCGStab
from tsgu_func.solvers.krylov.cg import CG
from tsgu_func.solvers.krylov.gmres import GMRES
from tsgu_func.solvers.krylov.iccg import ICCG
from tsgu_func.solvers.preconditioners import AMG, DIC, IC0, ILU0, Jacobi
from tsgu_func.solvers.preconditioners.incomplete_cholesky import levels_of
from tsgu_func.solvers.protocol import Solution, SolveError, Solver, stacked
from tsgu_func.solvers.stored import StoredMatrix
from tsgu_func.solvers.substitution import Substitution
from tsgu_func.solvers.traits import Traits, traits_of, triangular, width

__all__ = ["Auto", "Plan", "choose"]

# Up to here dense wins, whatever is stored.
_TINY = 64
# Up to here SuperLU's factorization wins, whatever the entries.
_SMALL = 2000
# A factorization that takes longer than this is tried only after an iterative solver.
_LONG = 20.0  # seconds
# An iterative solver that another may replace is not waited for without end.
_PATIENCE = 1000


class Plan(NamedTuple):
    """The solvers to try for one matrix, in turn, and whether it was seen to equal its adjoint."""

    solvers: tuple[Solver, ...]
    hermitian: bool = False


def choose(A: StoredMatrix, rtol: float | None = None) -> Plan:
    """Look at one matrix, and choose: the last of the solvers cannot fail to converge."""
    if A.shape[0] <= _TINY:
        return Plan((DenseLU(),))
    if triangular(A.structure):
        return Plan((Substitution(),))
    settings: dict[str, Any] = {
        "rtol": rtol,
        "max_iterations": _PATIENCE,
        "componentwise": small(A.dtype),
    }
    if A.values.device.type != "cpu":  # products and a diagonal run there
        iterative = CG if _definite(traits_of(A)) else BiCGStab
        return Plan((iterative(Jacobi(), **settings), SuperLU()))
    if A.shape[0] <= _SMALL:
        return Plan((SuperLU(),))
    traits = traits_of(A)
    direct = _direct(A)
    if traits.dominant:
        solvers = _for_diffusion(A, direct, settings)
    elif _factorization(A, direct) < _LONG:
        solvers = (direct,)
    elif _definite(traits):
        solvers = CG(IC0(), **settings), direct
    else:
        solvers = BiCGStab(ILU0(), **settings), direct
    return Plan(solvers, traits.hermitian)


def _definite(traits: Traits) -> bool:
    return traits.hermitian and traits.positive


def _for_diffusion(A: StoredMatrix, direct: Solver, settings: dict[str, Any]) -> tuple[Solver, ...]:
    """Order solvers by the seconds that they are expected to take, up to one that cannot fail.

    An incomplete factorization does well where rows are in an order that goes along the graph, so
    that it has about as many levels as the graph is long, and entries do not jump, so that `DIC`
    could be relaxed.
    """
    n, nnz, levels = A.shape[0], A.structure.nnz, levels_of(A.structure)
    along = levels * width(A.structure) >= n
    like_a_grid = along and prepared(DIC(), A).relaxation > 0
    seconds: dict[Solver, float] = {direct: _factorization(A, direct)}
    if like_a_grid:
        # Two solves; iterations grow with the root of the length (Gustafsson).
        iterations = 4.5 * (levels / 2) ** 0.5
        seconds[ICCG(**settings)] = 2 * iterations * 1e-9 * nnz
    if installed("pyamg"):
        seconds[CG(AMG(), **settings)] = 0.04 + 3.3e-6 * n * (1 if like_a_grid else 4)
    order = sorted(seconds, key=lambda solver: seconds[solver])
    return tuple(order[: order.index(direct) + 1])


def _direct(A: StoredMatrix) -> Solver:
    """Choose a factorization: PARDISO's, which analyses a pattern once, takes real matrices."""
    return SuperLU() if A.dtype.is_complex or not installed("pypardiso") else Pardiso()


def _factorization(A: StoredMatrix, direct: Solver) -> float:
    """Estimate the seconds that the first factorization of a pattern and two solves take.

    By nested dissection on a graph with separators of w unknowns: O(w³) operations for the largest
    of them, and a term for the many small ones.  The constants are from two cores of 2026.
    """
    n, w = A.shape[0], width(A.structure)
    if isinstance(direct, Pardiso):
        return 0.01 + 1.1e-7 * n * math.log2(n) + 4e-10 * w**3
    return 2e-6 * n + 3e-9 * w**3


@cache
def installed(package: str) -> bool:
    """Say whether an optional package can be imported."""
    return importlib.util.find_spec(package) is not None


# ---------------------------------------------------------------------------------- the solver


@dataclass(frozen=True)
class _Choice:
    """What is planned for one matrix, and the states of the solvers that were tried."""

    plan: Plan
    A: StoredMatrix
    states: dict[Solver, Any] = field(default_factory=dict)
    failed: set[Solver] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        return sum(getattr(state, "bytes", 0) for state in list(self.states.values()))

    def state(self, solver: Solver) -> Any:
        """Prepare the stored matrix once, whatever it is read as."""
        if solver not in self.states:
            self.states[solver] = solver.init(self.A)
        return self.states[solver]

    def compute(self, A: StoredMatrix, B: Tensor, X0: Tensor | None) -> Solution:
        """Solve by the first that can; one that could not is not asked again."""
        if self.plan.hermitian and A.transpose:  # it is the conjugate, which is at hand
            A = replace(A, transpose=False, conjugate=not A.conjugate)
        *others, last = self.plan.solvers
        for solver in others:
            if solver in self.failed:
                continue
            try:
                solution = solver.compute(self.state(solver), A, B, X0)
                if acceptable(solution):
                    return solution
            except SolveError:  # no preconditioner for this matrix, or the recurrence overflowed
                pass
            self.failed.add(solver)
            self.states.pop(solver, None)
        return last.compute(self.state(last), A, B, X0)

    def ready(self) -> Solver:
        """Prepare the first that can be, and return it."""
        *others, last = self.plan.solvers
        for solver in others:
            if solver not in self.failed:
                try:
                    self.state(solver)
                    return solver
                except SolveError:  # no preconditioner for this matrix
                    self.failed.add(solver)
        self.state(last)
        return last

    def logabsdet(self) -> Tensor:
        """Ask the solver that cannot fail, or one in its place whose factor tells."""
        last: Any = self.plan.solvers[-1]
        solver = last if hasattr(last, "logabsdet") else SuperLU()
        return solver.logabsdet(self.state(solver))

    def condition(self) -> Any:
        """Ask the solver that came last, if it can tell."""
        *_, solver = self.states
        estimate = getattr(solver, "condition", None)
        return float("nan") if estimate is None else estimate(self.state(solver))


@dataclass(frozen=True)
class Auto:
    """The solver that suits a matrix: it looks, and chooses.

    Parameters
    ----------
    rtol : float, optional
        What is asked of an iterative solver, where one is chosen: a residual relative to the
        right-hand side.  Default: 1e-5 in single precision, 1e-10 in double.

    Notes
    -----
    It looks at size, pattern, symmetry of pattern and values, the diagonal, signs and row sums, the
    bandwidth after reordering, dtype, device, and which optional packages are installed.  An
    iterative solver that does not converge is followed by a direct one.  `Solution.solver` names
    what solved.

    Cost: O(nnz) for the looks, once for given values.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> A = SparseMatrix.from_dense(torch.tensor([[2.0, 1.0], [0.0, 4.0]]))
    >>> sparse_solve(A, torch.tensor([2.0, 4.0]), return_info=True)[1].solver
    'DenseLU()'
    """

    rtol: float | None = None
    takes_batches: ClassVar[bool] = True
    takes_operators: ClassVar[bool] = True

    def init(self, A: StoredMatrix) -> tuple[_Choice, ...]:
        """Choose for each member of a batch; small ones are one batch of dense matrices."""
        if not isinstance(A, StoredMatrix):
            return (_Choice(Plan((GMRES(rtol=self.rtol),)), A),)
        if A.values.ndim == 1 or A.shape[0] <= _TINY:
            return (_Choice(choose(A, self.rtol), A),)
        return tuple(_Choice(choose(member, self.rtol), member) for member in A.members())

    def compute(
        self, state: tuple[_Choice, ...], A: StoredMatrix, B: Tensor, X0: Tensor | None = None
    ) -> Solution:
        """Solve for the columns of B (n, p) or, for a batch, (b, n, p)."""
        if len(state) == 1 and (B.ndim == 2 or state[0].A.values.ndim == 2):
            return state[0].compute(A, B, X0)
        starts = [None] * len(B) if X0 is None else list(X0)
        members = zip(state, A.members(), B, starts, strict=True)
        return stacked([choice.compute(S, b, x) for choice, S, b, x in members])

    def ready(self, state: tuple[_Choice, ...]) -> tuple[Solver, ...]:
        """Prepare what will be asked first, for each member, and return it."""
        return tuple(choice.ready() for choice in state)

    def logabsdet(self, state: tuple[_Choice, ...]) -> Tensor:
        """Return log|det A| of each member, from a factorization, whatever was chosen to solve."""
        told = [choice.logabsdet() for choice in state]
        return told[0] if len(told) == 1 else torch.stack(told)

    def condition(self, state: tuple[_Choice, ...]) -> float | Tensor:
        """Estimate the condition numbers, where a direct solver was chosen; else NaN."""
        if len(state) == 1:
            return state[0].condition()
        each = [float(choice.condition()) for choice in state]
        return torch.tensor(each, dtype=torch.float64, device="cpu").unsqueeze(-1)
