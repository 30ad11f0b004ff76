"""Conjugate gradients, preconditioned by the triangles of the matrix, in one compiled loop.

Eisenstat, *Efficient Implementation of a Class of Preconditioned Conjugate Gradient Methods*, SIAM
J. Sci. Stat. Comput. 2, 1981.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import threads
from tsgu_func.solvers.iteration import column_norms
from tsgu_func.solvers.krylov.base import Krylov, Run
from tsgu_func.solvers.krylov.block import Block
from tsgu_func.solvers.krylov.progress import Watch
from tsgu_func.solvers.preconditioners.dic import DIC, Split
from tsgu_func.solvers.protocol import Preconditioner, Result

__all__ = ["ICCG"]


@dataclass(frozen=True, repr=False)
class ICCG(Krylov):
    r"""Conjugate gradients with `DIC`, for Hermitian positive definite A, on the CPU.

    The same iterations as ``CG(DIC())``, each for less: with the triangles of A in M, no product
    with A is needed (Eisenstat's trick), and rows are swept over in an order that keeps the
    processor busy.  For the matrices of diffusion on grids this is the ICCG of Meijerink and van
    der Vorst, modified by Gustafsson.

    The parameters are those of `Krylov`; `preconditioner` is a `DIC`.  Each column is solved for by
    itself, in one of as many threads as PyTorch uses, or in two if it is alone; the result is the
    same.

    Notes
    -----
    A column in whose direction A is not positive ends with `Result.INDEFINITE`.

    Cost: two sweeps over a triangle of A an iteration, O(nnz p) time; memory O(nnz + n p).  On a
    grid with m points along its longest axis the iterations grow like :math:`\sqrt m` to
    :math:`m`, in the natural order of its points.  Eisenstat, 1981.

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

    takes_operators = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.preconditioner, DIC):
            raise TypeError(
                f"ICCG makes use of the form of DIC(); got {self.preconditioner!r}: CG takes any "
                f"preconditioner"
            )

    def _pass(
        self, run: Run, block: Block, R: Tensor, active: Tensor, turn: tuple[int, int], watch: Watch
    ) -> None:
        """Run the recurrence for each active column, into `run`."""
        left, _ = turn
        stride = 1 if watch.heard else left
        lanes = _lanes(block, R, active)
        while left > 0 and (going := [lane for lane in lanes if lane.going]):
            _advance(going, stride)
            made = max(lane.made for lane in going)
            left -= made
            norm, goal = torch.tensor([(x.norm, x.goal) for x in going], dtype=torch.float64).mT
            unit = torch.stack([_by_member(block.unit)[lane.place] for lane in going]).cpu()
            watch.step(norm / unit, goal / unit, made)
        for lane in lanes:
            lane.stop()
            member, _, column = lane.place
            _by_member(run.change)[member, :, column] = torch.from_numpy(lane.change)
            _by_member(run.code)[lane.place] = int(lane.code)
            _by_member(run.steps)[lane.place] = lane.steps


class _Lane:
    """One column of a pass, in the order and the scale of the factor of its matrix."""

    def __init__(
        self, place: tuple[int, ...], split: Split, R: np.ndarray, norm: float, goal: float
    ) -> None:
        self.place, self.split, self.R, self.norm, self.goal = place, split, R, norm, goal
        self.steps = self.made = 0  # iterations: all, and those of the last call
        self.code, self.change = Result.SOLVED, np.zeros_like(R)
        self._vectors: tuple[np.ndarray, ...] = ()  # z, r, p, t, w: while it is going
        self._numbers = np.zeros(3)

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
        from tsgu_func.kernels.compiled import eisenstat, sharing

        split = self.split
        if not self._vectors:
            self._start()
        told, matrix = eisenstat.exchange(), (*split.triangle, split.excess, split.root)
        shared = told, matrix, self._vectors, split.rows.cuts

        def iterate() -> None:
            try:
                self.made, curvature = eisenstat.iterate(*shared, self._numbers, self.goal, most)
            finally:
                sharing.close(told[0])
            self.steps += self.made
            self.norm = float(self._numbers[2])
            if not 0 < curvature < np.inf:
                self.code = Result.INDEFINITE if curvature <= 0 else Result.BREAKDOWN
            if not self.going:
                self.stop()

        return iterate, lambda: eisenstat.help_out(*shared)

    def _start(self) -> None:
        from tsgu_func.kernels.compiled import eisenstat

        split = self.split
        self._vectors = split.rows.room.take(len(self.R), self.R.dtype)
        R = self._vectors[1]
        eisenstat.enter(split.triangle, split.root, split.rows.order.numpy(), self.R, R)
        self._numbers[:] = eisenstat.square(R), 0, self.norm

    def stop(self) -> None:
        """Note the correction, and give back the room."""
        from tsgu_func.kernels.compiled import eisenstat

        if self._vectors:
            split = self.split
            eisenstat.leave(split.root, split.rows.order.numpy(), self._vectors[0], self.change)
            split.rows.room.give_back(self._vectors)
            self._vectors = ()


def _lanes(block: Block, R: Tensor, active: Tensor) -> list[_Lane]:
    """Return a lane for each active column of each member of the batch."""
    parts, columns = block.equations.parts, _by_member(R).mT.contiguous().cpu().numpy()
    norm, goal = _by_member(column_norms(R)), _by_member(block.goal)
    places = (tuple(place) for place in _by_member(active).nonzero().tolist())
    return [
        _Lane(at, parts[at[0]], columns[at[0], at[2]], float(norm[at]), float(goal[at]))
        for at in places
    ]


def _by_member(x: Tensor) -> Tensor:
    return x if x.ndim == 3 else x.unsqueeze(0)


def _advance(lanes: Sequence[_Lane], most: int) -> None:
    """Advance lanes in several threads: each in one, or a lane that is alone in two."""

    def loop(first: int, last: int) -> None:
        for lane in lanes[first:last]:
            lane.advance(most)

    parts = min(threads.workers(), len(lanes))
    if len(lanes) == 1 and most > 1 and threads.workers() > 1:
        lanes[0].advance_by_two(most)
    else:
        threads.run_parts(loop, [len(lanes) * part // parts for part in range(parts + 1)])
