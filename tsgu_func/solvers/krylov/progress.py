"""What a long solve tells while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Watch"]


class Watch(AbstractContextManager["Watch"]):
    """Counts iterations, and hands them to a callback and to a bar."""

    def __init__(
        self, title: str, callback: Callable[[int, float], object] | None, progress: bool
    ) -> None:
        self.callback, self.steps = callback, 0
        self._bar = _Bar(title) if progress else None

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know of each iteration."""
        return self.callback is not None or self._bar is not None

    def step(self, residual: Tensor, goal: Tensor, count: int = 1) -> None:
        """Note an iteration, or several, after which columns have these relative residuals."""
        self.steps += count
        if self.callback is not None:
            self.callback(self.steps, float(residual.max()))
        if self._bar is not None:
            # A goal of zero asks for all digits there are.
            excess = residual / goal.clamp_min(torch.finfo(residual.dtype).eps)
            self._bar.show(self.steps, float(residual.max()), float(excess.max()))

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it is, and end the line."""
        if self._bar is not None:
            self._bar.progress.stop()


class _Bar:
    """A bar that is full when the residual is as small as asked: its logarithm falls evenly."""

    def __init__(self, title: str) -> None:
        try:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        except ModuleNotFoundError as error:
            raise ImportError(
                'progress=True shows a bar by rich: pip install "tsgu_func[progress]"'
            ) from error
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.progress: Any = Progress(*columns)
        self.title = title.partition("(")[0]
        self.task = self.progress.add_task(self.title, total=1.0)
        self.first = 0.0  # the largest so far

    def show(self, steps: int, residual: float, excess: float) -> None:
        """Show how far the residual is above its goal."""
        above = math.log(max(excess, 1.0))
        self.first = max(above, self.first)
        done = 1 - above / self.first if self.first else 1.0
        text = f"{self.title}: iteration {steps}, residual {residual:.1e}"
        self.progress.update(self.task, completed=done, description=text)
