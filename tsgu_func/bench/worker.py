"""A process that solves one problem by one contender, whenever it is told to.

In a process of its own a contender can be stopped when it takes too long, and its memory is known:
the growth of the largest resident size since before its first solve.  The parent builds no matrix,
because a child inherits its parent's peak.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

__all__ = ["Measured", "Ready", "Worker"]

_GRACE = 10.0  # seconds: to make the matrix takes a little, too
# Threads of OpenMP spin for a fifth of a second after their work, on the cores of who is next.
_PAUSE = 0.4
# A solve that takes less than this is preceded by one that is not counted: a process that waited
# for the others has lost the caches to them, and its threads must wake up first.
_SHORT = 1.0


class Measured(NamedTuple):
    """A solve: seconds, the true relative residual, bytes, and what the solver tells of itself.

    `failure` says why there is none.
    """

    seconds: float = float("inf")
    residual: float = float("inf")
    bytes: int = 0
    told: str = ""
    failure: str = ""


class Ready(NamedTuple):
    """The first that a worker says: rows and entries of its matrix, or why there is none."""

    n: int = 0
    nnz: int = 0
    failure: str = ""


class Worker:
    """The parent's end.

    Attributes
    ----------
    n, nnz : int
        Rows and entries of the matrix; 0 if it could not be made.
    failure : str
        Why it cannot be asked, or empty.
    """

    def __init__(
        self,
        contender: str,
        problem: str,
        size: int,
        patience: float = 300.0,
        threads: int | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = theirs, contender, problem, size, threads
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        ready = self._receive(patience)
        self.n, self.nnz = (ready.n, ready.nnz) if isinstance(ready, Ready) else (0, 0)
        self.failure = ready.failure

    def measure(self, scale: float, backward: bool, limit: float) -> Measured:
        """Solve with all values of A multiplied by a number; what fails is not asked again."""
        if not self.failure:
            time.sleep(_PAUSE)
            self._pipe.send((scale, backward))
            measured = self._receive(limit)
            self.failure = measured.failure
            return measured
        return Measured(failure=self.failure)

    def _receive(self, limit: float) -> Any:
        if not self._pipe.poll(limit + _GRACE):
            self.close()
            return Measured(failure=f"more than {limit:g} s")
        try:
            return self._pipe.recv()
        except EOFError:
            return Measured(failure="the process ended")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _serve(
    pipe: Connection, name: str, problem: str, size: int, threads: int | None = None
) -> None:
    warnings.simplefilter("ignore")  # what a peer has to say is not about its speed
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        serve = _Server(name, problem, size)
        pipe.send(Ready(serve.S.shape[0], serve.S.nnz))
        while True:
            pipe.send(serve(*pipe.recv()))
    except EOFError:
        pass
    except Exception as error:  # told to the parent, which prints it
        pipe.send(Measured(failure=f"{type(error).__name__}: {error}".partition("\n")[0]))


class _Server:
    def __init__(self, name: str, problem: str, size: int) -> None:
        from tsgu_func.bench.contenders import contender
        from tsgu_func.bench.problems import PROBLEMS, right_hand_side

        self.prepare = contender(name).prepare
        # What is compiled or imported at a first solve is not measured.
        self.S = PROBLEMS[problem].build(PROBLEMS[problem].small)
        self.b = right_hand_side(self.S.shape[0])
        self.solve(1.0, True)
        self.S = PROBLEMS[problem].build(size)
        self.b = right_hand_side(self.S.shape[0])
        self.before, self.seconds = _peak(), float("inf")

    def __call__(self, scale: float, backward: bool) -> Measured:
        if self.seconds < _SHORT:
            self.prepare(self.S * (scale / 3), self.b)(backward)
        measured = self.solve(scale, backward)
        self.seconds = measured.seconds
        return measured

    def solve(self, scale: float, backward: bool) -> Measured:
        """Solve for all values times a number."""
        import numpy as np

        S = self.S * scale
        solve = self.prepare(S, self.b)
        began = time.perf_counter()
        x = solve(backward)
        seconds = time.perf_counter() - began
        # Not by BLAS, whose threads spin for a while, into the solve of who is next.
        residual = np.sqrt(np.square(self.b - S @ x).sum() / np.square(self.b).sum())
        size = _peak() - getattr(self, "before", 0)
        told = getattr(solve, "told", str)
        return Measured(seconds, float(residual), size, told())


def _peak() -> int:
    """Return the largest resident size so far; 0 where the system does not tell, as Windows."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
