"""Who solves: `sparse_solve`, solvers of this library by name, and peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tsgu_func import solvers, sparse_solve
from tsgu_func.bench.peers import PEERS
from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.peers.solves import RTOL, Solve, solved, torch_csr
from tsgu_func.bench.problems import PROBLEMS, right_hand_side
from tsgu_func.bench.resident import peak
from tsgu_func.bench.results import OURS
from tsgu_func.bench.timing import clock
from tsgu_func.bench.worker import Measured, Ready

__all__ = ["OWN", "Solves", "contender"]

# A solve that takes less than this is preceded by one that is not counted: a process that waited
# for the others has lost the caches to them, and its threads must wake up first.
_SHORT = 1.0


def _own(solver: Any) -> Callable[[Any, np.ndarray], Solve]:
    def prepare(S: Any, b: np.ndarray) -> Solve:
        A, right = torch_csr(S), torch.from_numpy(b)

        def solve(backward: bool) -> np.ndarray:
            A.requires_grad_(backward)
            right.requires_grad_(backward)
            return solved(sparse_solve(A, right, solver=solver), backward, A, right)

        def told() -> str:
            info = sparse_solve(A.detach(), right.detach(), solver=solver, return_info=True)[1]
            steps = int(info.iterations)
            return info.solver + (f", {steps} iterations" if steps else "")

        solve.told = told  # pyright: ignore[reportFunctionMemberAccess]
        return solve

    return prepare


OWN = {
    name: Peer(_own(solver), symmetric=symmetric)
    for name, solver, symmetric in (
        ("cg", solvers.CG(rtol=RTOL), True),
        ("cg+jacobi", solvers.CG(solvers.Jacobi(), rtol=RTOL), True),
        ("cg+ssor", solvers.CG(solvers.SSOR(), rtol=RTOL), True),
        ("cg+ic0", solvers.CG(solvers.IC0(), rtol=RTOL), True),
        ("cg+amg", solvers.CG(solvers.AMG(), rtol=RTOL), True),
        ("iccg", solvers.ICCG(rtol=RTOL), True),
        ("minres", solvers.MINRES(rtol=RTOL), True),
        ("minres+ic0", solvers.MINRES(solvers.IC0(), rtol=RTOL), True),
        ("bicgstab", solvers.BiCGStab(rtol=RTOL), False),
        ("bicgstab+jacobi", solvers.BiCGStab(solvers.Jacobi(), rtol=RTOL), False),
        ("bicgstab+ilu0", solvers.BiCGStab(solvers.ILU0(), rtol=RTOL), False),
        ("bicgstab+ilut", solvers.BiCGStab(solvers.ILUT(), rtol=RTOL), False),
        ("bicgstab+amg", solvers.BiCGStab(solvers.AMG(), rtol=RTOL), False),
        ("gmres+ilu0", solvers.GMRES(solvers.ILU0(), rtol=RTOL), False),
        ("gmres+ilut", solvers.GMRES(solvers.ILUT(), rtol=RTOL), False),
        ("gmres+blockjacobi", solvers.GMRES(solvers.BlockJacobi(), rtol=RTOL), False),
        ("lsmr", solvers.LSMR(rtol=RTOL), False),
        ("superlu", solvers.SuperLU(), False),
        ("superlu single", solvers.SuperLU(precision="single"), False),
        ("pardiso", solvers.Pardiso(), False),
        ("cholesky", solvers.Cholesky(), True),
    )
}


def contender(name: str) -> Peer:
    """Return a contender by its name."""
    return Peer(_own(solvers.Auto(rtol=RTOL))) if name == OURS else {**OWN, **PEERS["solve"]}[name]


class Solves:
    """What a worker does: solve a problem by a contender, each time with other values.

    Parameters
    ----------
    name, problem : str
        Of the contender and of the problem.
    size : int
        Of the problem.
    threads : int, optional
        By default those that PyTorch uses.  Where they are given, the clock on the wall counts.
    """

    def __init__(self, name: str, problem: str, size: int, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.now = time.perf_counter if threads else clock()
        self.prepare = contender(name).prepare
        self.before, self.seconds = 0, float("inf")
        # What is compiled or imported at a first solve is not measured.
        self._take(problem, PROBLEMS[problem].small)
        self.solve(1.0, True)
        self._take(problem, size)
        self.ready = Ready(self.S.shape[0], self.S.nnz)
        self.before = peak()

    def _take(self, problem: str, size: int) -> None:
        self.S = PROBLEMS[problem].build(size)
        self.b = right_hand_side(self.S.shape[0])

    def __call__(self, scale: float, backward: bool) -> Measured:
        """Solve, behind a solve that is not counted if it is short."""
        if self.seconds < _SHORT:
            self.prepare(self.S * (scale / 3), self.b)(backward)
        measured = self.solve(scale, backward)
        self.seconds = measured.seconds
        return measured

    def solve(self, scale: float, backward: bool) -> Measured:
        """Solve for all values times a number."""
        S = self.S * scale
        solve = self.prepare(S, self.b)
        began = self.now()
        x = solve(backward)
        seconds = self.now() - began
        # Not by BLAS, whose threads spin for a while, into the solve of who is next.
        residual = np.sqrt(np.square(self.b - S @ x).sum() / np.square(self.b).sum())
        told = getattr(solve, "told", str)
        return Measured(seconds, float(residual), peak() - self.before, told())
