"""The bar that is shown while sets are computed for long, where rich is there and one looks on."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["shown"]

T = TypeVar("T")
_PATIENCE = 2.0  # seconds


def shown(steps: Sequence[T]) -> Iterator[T]:
    """Go through the steps of a computation; after two seconds, show how many are done."""
    start, done = time.monotonic(), 0
    while done < len(steps) and time.monotonic() - start <= _PATIENCE:
        yield steps[done]
        done += 1
    rest: Sequence[T] = steps[done:]
    if not (rest and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None):
        yield from rest
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(
        rest,
        "detecting where a derivative is sparse",
        total=len(steps),
        completed=done,
        console=Console(stderr=True),
        transient=True,
    )
