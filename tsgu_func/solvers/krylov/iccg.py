"""Conjugate gradients, preconditioned by the triangles of the matrix, in one compiled loop.

Eisenstat, *Efficient Implementation of a Class of Preconditioned Conjugate Gradient Methods*, SIAM
J. Sci. Stat. Comput. 2, 1981.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled, processors, threads
from tsgu_func.solvers.columns import column_norms
from tsgu_func.solvers.krylov import workspace
from tsgu_func.solvers.krylov.block import Block, Place
from tsgu_func.solvers.krylov.cg import CG
from tsgu_func.solvers.krylov.reached import Run
from tsgu_func.solvers.krylov.watch import Step, Watch
from tsgu_func.solvers.preconditioners.dic import DIC, Split
from tsgu_func.solvers.protocol import Preconditioner, Result

__all__ = ["ICCG"]

# What is done between two looks at whether the machine is busy, and at signals: 50 to 100 ms.
_STRIDE = 1 << 26
# Iterations with less work than this are over before a second thread is of use.
_WORTH_A_THREAD = 1 << 14


@dataclass(frozen=True, repr=False)
class ICCG(CG):
    r"""Conjugate gradients with `DIC`, for Hermitian positive definite A, on the CPU.

    It makes the same iterations as ``CG(DIC())``, but each takes less time.  Because M contains the
    triangles of A, no product with A is needed (Eisenstat's trick), and the rows are swept over in
    an order that keeps the processor busy.  For the matrices of diffusion on grids, this is the
    ICCG of Meijerink and van der Vorst, modified by Gustafsson.

    The parameters are those of `Krylov`.  The `preconditioner` has to be a `DIC`.  Each column is
    solved for by itself.  The columns are shared among as many threads as PyTorch uses, and a
    single column is computed in two threads.  The result does not depend on that.

    Notes
    -----
    If a column comes upon a direction in which A is not positive, it ends with `Result.INDEFINITE`.

    An iteration takes two sweeps over a triangle of A, which is O(nnz p) time.  Memory is O(nnz + n
    p).  On a grid with m points along its longest axis, in their natural order, the number of
    iterations grows like something between :math:`\sqrt m` and :math:`m`.  Eisenstat, 1981.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import ICCG
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, 1.0], [1.0, 3.0]]))
    >>> sparse_solve(A, torch.tensor([1.0, 2.0]), solver=ICCG())
    tensor([0.0909, 0.6364])
    """

    preconditioner: Preconditioner | None = field(default=DIC())

    hermitian: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.preconditioner, DIC):
            raise TypeError(
                f"ICCG makes use of the form of DIC(); got {self.preconditioner!r}: CG takes any "
                f"preconditioner"
            )

    def _pass(
        self, run: Run, block: Block, R: Tensor, active: Tensor, plan: tuple[int, int], watch: Watch
    ) -> None:
        """Run the recurrence for each active column, into `run`."""
        left, _ = plan
        # M is Hermitian as A is: a transpose is the conjugate, for which all is conjugated.
        conjugated = block.equations.A.transpose != block.equations.A.conjugate
        columns = _columns_of(block, R.conj() if conjugated else R, active)
        while left > 0 and (going := [column for column in columns if column.going]):
            work = sum(column.work for column in going)
            _advance(going, 1 if watch.watched else min(left, max(1, _STRIDE // work)))
            processors.look()
            made = max(column.made for column in going)
            left -= made
            watch.steps += made
            if watch.watched:
                watch.tell(_step(run, block, going, functools.partial(_put, columns, conjugated)))
        for column in columns:
            column.stop()
            _by_member(run.code)[column.place] = int(column.code)
            _by_member(run.steps)[column.place] = column.steps
        _put(columns, conjugated, run.change)


class _Column:
    """One column of a pass, in the order and the scale of the factor of its matrix."""

    def __init__(
        self, place: tuple[int, ...], split: Split, R: np.ndarray, norm: float, goal: float
    ) -> None:
        self.place, self.split, self.R, self.norm, self.goal = place, split, R, norm, goal
        self.steps = self.made = 0  # iterations: all, and those of the last call
        self.code, self.change = Result.SOLVED, np.zeros_like(R)
        self.coefficients = 0.0, 0.0  # 1 / α and β, if one iteration was made
        self._vectors: tuple[np.ndarray, ...] = ()  # z, r, p, t, w: while it is going
        self._numbers = np.zeros(4)

    @property
    def work(self) -> int:
        """How many numbers an iteration reads and writes, about."""
        return len(self.split.values) + 5 * len(self.R)

    @property
    def going(self) -> bool:
        """Whether it is neither good enough nor broken down."""
        return self.norm > self.goal and self.code is Result.SOLVED

    def advance(self, most: int) -> None:
        """Make some iterations."""
        iterate, _ = self._tasks(most)
        iterate()

    def advance_by_two(self, most: int) -> None:
        """Make some iterations, in two threads if there are as many."""
        threads.run_all(self._tasks(most))

    def _tasks(self, most: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what makes iterations, and what helps with them."""
        eisenstat, split = compiled.eisenstat, self.split
        if not self._vectors:
            self._start()
        shared, matrix = eisenstat.shared_state(), (*split.triangle, split.excess, split.root)
        arguments = shared, matrix, self._vectors, split.rows.cuts

        def iterate() -> None:
            numbers = self._numbers
            gamma, beta = numbers[:2]
            try:
                self.made, curvature = eisenstat.iterate(*arguments, numbers, self.goal, most)
            finally:
                compiled.synchronization.close(shared[0])
            self.steps += self.made
            self.norm = float(numbers[2])
            self.coefficients = curvature / gamma if gamma > 0 else np.nan, beta
            if not 0 < curvature < np.inf:
                self.code = Result.INDEFINITE if curvature <= 0 else Result.BREAKDOWN
            if not self.going:
                self.stop()

        return iterate, lambda: eisenstat.help_out(*arguments)

    def _start(self) -> None:
        split = self.split
        self._vectors = workspace.take(len(self.R), self.R.dtype)
        R = self._vectors[1]
        compiled.eisenstat.enter(split.triangle, split.root, split.rows.order.numpy(), self.R, R)
        self._numbers[:] = compiled.eisenstat.square(R), 0, self.norm, 0

    def note(self) -> None:
        """Note the correction so far."""
        if self._vectors:
            split, Z = self.split, self._vectors[0]
            compiled.eisenstat.leave(split.root, split.rows.order.numpy(), Z, self.change)

    def stop(self) -> None:
        """Note the correction, and give back the vectors."""
        self.note()
        if self._vectors:
            workspace.give_back(self._vectors, owner=self.split.rows)
            self._vectors = ()


def _columns_of(block: Block, R: Tensor, active: Tensor) -> list[_Column]:
    """Return the active columns of all members of the batch."""
    parts = block.equations.parts
    residuals = _by_member(R).mT.resolve_conj().contiguous().cpu().numpy()
    norm, goal = _by_member(column_norms(R)), _by_member(block.goal)
    places = (tuple(place) for place in _by_member(active).nonzero().tolist())
    return [
        _Column(at, parts[at[0]], residuals[at[0], at[2]], float(norm[at]), float(goal[at]))
        for at in places
    ]


def _put(columns: Sequence[_Column], conjugated: bool, change: Tensor) -> Tensor:
    """Write what columns have come to into a correction."""
    for column in columns:
        column.note()
        (member, _, index), part = column.place, torch.from_numpy(column.change)
        _by_member(change)[member, :, index] = part.conj() if conjugated else part
    return change


def _step(
    run: Run, block: Block, going: Sequence[_Column], put: Callable[[Tensor], Tensor]
) -> Step:
    """Return what is to be told of an iteration of some columns."""
    active = torch.zeros_like(run.code, dtype=torch.bool)
    norm, first, second = (torch.zeros_like(block.goal) for _ in range(3))
    for column in going:
        _by_member(active)[column.place] = True
        numbers = column.norm, *column.coefficients
        for whole, number in zip((norm, first, second), numbers, strict=True):
            _by_member(whole)[column.place] = number
    residual, goal = norm / block.unit, torch.where(active, block.goal / block.unit, torch.inf)
    change = functools.partial(put, torch.zeros_like(run.change))
    return Step(Place(None, None), active, residual, goal, change, (first, second))


def _by_member(x: Tensor) -> Tensor:
    return x if x.ndim == 3 else x.unsqueeze(0)


def _advance(columns: Sequence[_Column], most: int) -> None:
    """Advance columns in several threads: each in one, or a column that is alone in two."""

    def loop(first: int, last: int) -> None:
        for column in columns[first:last]:
            column.advance(most)

    parts = min(threads.workers(), len(columns))
    alone = len(columns) == 1 and columns[0].work > _WORTH_A_THREAD
    if alone and most > 1 and threads.workers() > 1:
        columns[0].advance_by_two(most)
    else:
        threads.run_parts(loop, [len(columns) * part // parts for part in range(parts + 1)])
