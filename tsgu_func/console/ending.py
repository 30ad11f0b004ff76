"""How a command ends: whatever stops it becomes a line, or none, and an exit code.

======  ==================================================================================
code    meaning
======  ==================================================================================
2       what is asked for cannot be done, or the output cannot be written
130     interrupted (128 + SIGINT, as a shell counts)
141     who read the output has gone, as ``head`` does (128 + SIGPIPE): nothing is said
======  ==================================================================================
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

__all__ = ["INTERRUPTED", "READER_GONE", "UNABLE", "CommandError", "ended", "refused", "writing"]

UNABLE, INTERRUPTED, READER_GONE = 2, 130, 141


class CommandError(ValueError):
    """What is asked for cannot be done; the message is one line and says why."""


class _OutputError(Exception):
    """The output cannot be written.  No OSError, lest somebody on the way takes it for his own."""


class _Output:
    """The standard output, whose errors say that they are of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the stream."""
        with self._own_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._own_errors():
            self._stream.flush()

    def stop(self) -> None:
        """Have what is still in its buffer go nowhere: the interpreter flushes it in the end."""
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _OutputError from error


def ended(run: Callable[[], int]) -> int:
    """Run a command, and return its exit code, whatever ends it.

    An error that is none of the command's own is raised, and so is SystemExit.
    """
    output = _Output(sys.stdout)
    try:
        with redirect_stdout(cast(TextIO, output)):
            try:
                return run()
            finally:
                output.flush()  # as long as it can be told what goes wrong
    except KeyboardInterrupt:
        # Python notes an interrupt that a string of code was left by, as there are in imports, and
        # ends by the signal for the last one.
        exec("")
        _say("interrupted")
        return INTERRUPTED
    except _OutputError as lost:
        output.stop()
        error = cast(OSError, lost.__cause__)
        if _reader_gone(error):
            return READER_GONE
        return refused("tsgu_func", f"the output cannot be written: {error.strerror}")


def refused(command: str, why: object) -> int:
    """Say in one line why a command cannot do what is asked for; return the exit code."""
    _say(f"{command}: error: {why}")
    return UNABLE


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system, where a file is written, into one of the command."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from error


def _say(line: str) -> None:
    with suppress(OSError):  # there is nobody left to tell
        print(line, file=sys.stderr, flush=True)


def _reader_gone(error: OSError) -> bool:
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)
