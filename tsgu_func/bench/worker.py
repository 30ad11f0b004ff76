"""A process that measures one contender for one problem, whenever it is told to.

In a process of its own a contender can be stopped when it takes too long, and its memory is known.
The parent builds no matrix, because a child inherits its parent's peak.
"""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from tsgu_func.console.processes import start

__all__ = ["Measured", "Ready", "Worker"]

_GRACE = 10.0  # seconds: to make the matrix takes a little, too


class Measured(NamedTuple):
    """A measurement: seconds, the true relative residual, bytes, what the contender tells.

    `failure` says why there is none.
    """

    seconds: float = float("inf")
    residual: float = float("inf")
    bytes: int = 0
    told: str = ""
    failure: str = ""


class Ready(NamedTuple):
    """The first that a worker says: rows and entries of its matrix, the bytes of all it is about.

    `failure` says why there is none.
    """

    n: int = 0
    nnz: int = 0
    bytes: int = 0
    failure: str = ""


class Worker:
    """The parent's end.

    Parameters
    ----------
    make : callable
        ``make(*arguments)``, in the process, is called for each measurement; its `ready` is the
        first that it says.
    patience : float
        Seconds that it may take to be ready.

    Attributes
    ----------
    ready : Ready
        What it said.
    failure : str
        Why it cannot be asked, or empty.
    """

    def __init__(
        self, make: Callable[..., Any], *arguments: object, patience: float = 300.0
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        start(self._process)
        theirs.close()
        said = self._receive(patience)
        self.ready = said if isinstance(said, Ready) else Ready(failure=said.failure)
        self.failure = self.ready.failure

    def measure(self, *asked: object, limit: float = 600.0) -> Measured:
        """Measure under some arguments; what fails is not asked again."""
        if not self.failure:
            self._pipe.send(asked)
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


def _serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, too, and ends this
    warnings.simplefilter("ignore")  # what a peer has to say is not about its speed
    try:
        serve = make(*arguments)
        pipe.send(serve.ready)
        while True:
            pipe.send(serve(*pipe.recv()))
    except EOFError:
        pass
    except Exception as error:  # told to the parent, which prints it
        pipe.send(Measured(failure=f"{type(error).__name__}: {error}".partition("\n")[0]))
