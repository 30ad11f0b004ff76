"""The solver that chooses one: it runs a plan.

How a plan is made is in `tsgu_func.solvers.choice`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.cache import Parts
from tsgu_func.solvers.choice import TINY, Plan, choose, inspect
from tsgu_func.solvers.direct.superlu import SuperLU
from tsgu_func.solvers.judgement import acceptable
from tsgu_func.solvers.krylov.gmres import GMRES
from tsgu_func.solvers.krylov.iccg import ICCG
from tsgu_func.solvers.members import named
from tsgu_func.solvers.protocol import Solution, SolveError, Solver, stacked
from tsgu_func.solvers.settings import check_real

__all__ = ["Auto"]

# A right-hand side with so many times the columns that a plan was made for asks for another.
_MANY = 4


class _Work:
    """What was decided and prepared for one matrix: grows as solves ask for it, in any thread."""

    def __init__(self, A: Any, rtol: float | None) -> None:
        self.A, self.rtol, self.seen = A, rtol, None
        self._parts: dict[Solver | None, Parts] = {None: Parts()}  # None: of the inspection
        self._states: dict[Solver, Any] = {}
        self._failed: set[Solver] = set()
        self._plan: Plan | None = None
        self._lock = threading.RLock()
        if isinstance(A, StoredMatrix):
            with self._parts[None].collecting():
                self.seen = inspect(A)
            self.A = replace(A, hermitian=self.hermitian)
        else:
            self._plan = Plan((GMRES(rtol=rtol),))

    @property
    def bytes(self) -> int:
        """Size of all states, and of what they were made with."""
        states = (getattr(state, "bytes", 0) for state in list(self._states.values()))
        return sum(states) + sum(parts.bytes for parts in list(self._parts.values()))

    @property
    def hermitian(self) -> bool:
        """Whether the matrix was seen to equal its adjoint."""
        seen = self.seen
        return seen is not None and seen.traits is not None and seen.traits.hermitian

    @property
    def last(self) -> Solver:
        """The solver that was prepared last."""
        return next(reversed(self._states))

    def plan(self, columns: int) -> Plan:
        """Return the plan: for the first columns that are asked for, and for many more another."""
        with self._lock:
            plan, seen = self._plan, self.seen
            if seen is not None and (plan is None or columns > _MANY * plan.columns):
                self._plan = plan = replace(choose(seen, columns, self.rtol), columns=columns)
                looked = self._parts.pop(None, None)
                for solver in plan.solvers:
                    if looked is not None and isinstance(solver, ICCG):
                        self._parts[solver] = looked  # they had to prepare what it works with
            assert plan is not None
            return plan

    def untried(self, plan: Plan) -> Iterator[Solver]:
        """Go through the solvers before the last that have not failed."""
        return (solver for solver in plan.solvers[:-1] if solver not in self._failed)

    def state(self, solver: Solver) -> Any:
        """Prepare the stored matrix once, whatever it is read as."""
        with self._lock:
            if solver not in self._states:
                with self._parts.setdefault(solver, Parts()).collecting():
                    self._states[solver] = solver.init(self.A)
            return self._states[solver]

    def fail(self, solver: Solver) -> None:
        """Let go of what a solver had prepared, and do not ask it again."""
        with self._lock:
            self._failed.add(solver)
            self._states.pop(solver, None)
            self._parts.pop(solver, None)

    def compute(self, A: StoredMatrix, B: Tensor, X0: Tensor | None) -> Solution:
        """Solve by the first that can; one that could not is not asked again."""
        if self.hermitian and A.transpose:  # it is the conjugate, which is at hand
            A = replace(A, transpose=False, conjugate=not A.conjugate)
        plan, vain = self.plan(B.shape[-1]), torch.zeros((), dtype=torch.int64, device="cpu")
        for solver in self.untried(plan):
            try:
                solution = solver.compute(self.state(solver), A, B, X0)
                if acceptable(solution):
                    return solution.after(vain)
                vain = vain + solution.iterations
            except SolveError:  # no preconditioner for this matrix, or the recurrence overflowed
                pass
            self.fail(solver)
        last = plan.solvers[-1]
        return last.compute(self.state(last), A, B, X0).after(vain)

    def ready(self) -> Solver:
        """Prepare the first that can be, and return it."""
        plan = self.plan(1)
        for solver in self.untried(plan):
            try:
                self.state(solver)
                return solver
            except SolveError:  # no preconditioner for this matrix
                self.fail(solver)
        self.state(plan.solvers[-1])
        return plan.solvers[-1]

    def logabsdet(self) -> Tensor:
        """Ask the solver that cannot fail, or one in its place whose factor tells."""
        last: Any = self.plan(1).solvers[-1]
        solver = last if hasattr(last, "logabsdet") else SuperLU()
        return solver.logabsdet(self.state(solver))

    def condition(self) -> Any:
        """Ask the solver that came last, if it can tell."""
        estimate = getattr(self.last, "condition", None)
        return float("nan") if estimate is None else estimate(self.state(self.last))


@dataclass(frozen=True)
class Auto:
    """Look at a matrix, and choose the solver that suits it.

    Parameters
    ----------
    rtol : float, optional
        If an iterative solver is chosen: how small the residual has to become, relative to the
        right-hand side.  Default: 1e-5 in single precision, 1e-10 in double.

    Notes
    -----
    `Auto` looks at the size, the pattern, the symmetry of pattern and values, the diagonal, the
    signs and the row sums, the bandwidth after reordering, the dtype, the device, the optional
    packages that are installed, and the number of right-hand sides.  If there are many more
    right-hand sides later, it chooses again.

    If an iterative solver does not converge, a direct one solves the system, and the iterative one
    is not tried again.  `Info.solver` names the solver that solved the system, and
    `Info.vain` counts the iterations without success.  `plan` explains a choice.

    To look at a matrix takes O(nnz) time, once for the given values.

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
    square_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rtol is not None:
            check_real("rtol", self.rtol)

    def init(self, A: StoredMatrix) -> tuple[_Work, ...]:
        """Look at each member of a batch; small ones are one batch of dense matrices."""
        if not isinstance(A, StoredMatrix) or A.values.ndim == 1 or A.shape[0] <= TINY:
            return (_Work(A, self.rtol),)
        members = enumerate(A.members())
        return tuple(named(i, _Work, member, self.rtol) for i, member in members)

    def compute(
        self, state: tuple[_Work, ...], A: StoredMatrix, B: Tensor, X0: Tensor | None = None
    ) -> Solution:
        """Solve for the columns of B (n, p) or, for a batch, (b, n, p)."""
        if len(state) == 1 and (B.ndim == 2 or state[0].A.values.ndim == 2):
            return state[0].compute(A, B, X0)
        starts = [None] * len(B) if X0 is None else list(X0)
        members = enumerate(zip(state, A.members(), B, starts, strict=True))
        return stacked([named(i, work.compute, *given) for i, (work, *given) in members])

    def ready(self, state: tuple[_Work, ...]) -> tuple[Solver, ...]:
        """Prepare what will be asked first, for each member, and return it."""
        return tuple(work.ready() for work in state)

    def logabsdet(self, state: tuple[_Work, ...]) -> Tensor:
        """Return log|det A| of each member, from a factorization, whatever was chosen to solve."""
        told = [work.logabsdet() for work in state]
        return told[0] if len(told) == 1 else torch.stack(told)

    def condition(self, state: tuple[_Work, ...]) -> float | Tensor:
        """Estimate the condition numbers, where a direct solver was chosen; else NaN."""
        if len(state) == 1:
            return state[0].condition()
        each = [float(work.condition()) for work in state]
        return torch.tensor(each, dtype=torch.float64, device="cpu").unsqueeze(-1)
