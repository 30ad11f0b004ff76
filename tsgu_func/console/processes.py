"""Processes that a command starts."""

from __future__ import annotations

import signal
from multiprocessing.process import BaseProcess

__all__ = ["start"]


def start(process: BaseProcess) -> None:
    """Start a process that Ctrl-C does not reach, from the main thread: who starts it ends it.

    A terminal interrupts all of its processes at once, and each would print where it was.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a process begins with, if spawned
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
