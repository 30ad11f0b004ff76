"""What a long solve tells while it runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from tsgu_func.solvers.history import Log
from tsgu_func.solvers.krylov.block import Place
from tsgu_func.solvers.krylov.structure import shifted

__all__ = ["Callback", "Step", "Watch"]

Callback = Callable[[int, float], object] | Callable[[int, float, Tensor], object]


class Step(NamedTuple):
    """What is told of an iteration.

    Attributes
    ----------
    place : Place
        Of the columns in work, among those of the pass.
    active : Tensor
        Mask of those that made the iteration.
    residual, goal : Tensor
        Relative to B.
    change : callable
        Computes the scaled correction that all columns of the pass have come to.
    coefficients : tuple of two Tensors, or None
        Of the method of Lanczos.
    """

    place: Place
    active: Tensor
    residual: Tensor
    goal: Tensor
    change: Callable[[], Tensor]
    coefficients: tuple[Tensor, Tensor] | None


class Watch(AbstractContextManager["Watch"]):
    """Counts iterations, and hands them to a callback, a bar and a log."""

    def __init__(
        self,
        title: str,
        callback: Callback | None,
        progress: bool,
        log: Log | None = None,
        exponent: Tensor | None = None,
    ) -> None:
        self.steps, self.log = 0, Log(0) if log is None else log
        self._callback: Any = callback
        self._takes_iterates = callback is not None and _takes_iterates(callback)
        self._exponent = exponent  # the iterates are to be multiplied with two to this
        self._bar = _Bar(title) if progress else None

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know of each iteration."""
        return self._callback is not None or self._bar is not None or self.log.length > 0

    def begin(self, X: Tensor, peak: Tensor, place: Place) -> None:
        """Begin a pass at X, for the columns of a place, whose corrections are scaled by `peak`."""
        self._start, self._peak, self._place = X, peak, place
        self.log.passes += 1

    def tell(self, step: Step) -> None:
        """Tell of an iteration that was counted."""
        residual = torch.where(step.active, step.residual, 0)  # of the columns in work
        if self._callback is not None:
            further = (self._iterate(step.change()),) if self._takes_iterates else ()
            self._callback(self.steps, float(residual.max()), *further)
        if self._bar is not None:
            # A goal of zero asks for all digits there are.
            excess = residual / step.goal.clamp_min(torch.finfo(residual.dtype).eps)
            self._bar.show(self.steps, float(residual.max()), float(excess.max()))
        if self.log.length:
            self._record(step)

    def _iterate(self, change: Tensor) -> Tensor:
        X, place = self._start.clone(), self._place
        place.put(X, place.take(X) + change * place.take(self._peak))
        return X if self._exponent is None else shifted(X, self._exponent)

    def _record(self, step: Step) -> None:
        place, none = self._place.within(step.place), torch.zeros_like(self.log.count)
        went, residual = none.bool(), none.to(step.residual.dtype)
        place.put(went, step.active)
        place.put(residual, step.residual)
        self.log.record(went, residual)
        if step.coefficients is not None:
            first, second = torch.zeros_like(residual), torch.zeros_like(residual)
            for whole, part in zip((first, second), step.coefficients, strict=True):
                place.put(whole, part)
            self.log.take(torch.where(went, first, torch.nan), second)

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it is, and end the line."""
        if self._bar is not None:
            self._bar.progress.stop()


def _takes_iterates(callback: Callback) -> bool:
    """Say whether a callback needs a third argument; defaults are its own business."""
    try:
        parameters = inspect.signature(callback).parameters.values()
    except ValueError:  # a builtin that does not tell
        return False
    by_place = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = [p for p in parameters if p.kind in by_place and p.default is p.empty]
    return len(needed) > 2


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
