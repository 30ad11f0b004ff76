"""Make a failing case smaller: simpler numbers, and directions with fewer entries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Problem

__all__ = ["Shrinking"]

_SECONDS = 5.0
_SHARE = 0.25  # of what is left, for one cell
_TRIES = 200

Fails = Callable[[Problem], bool]


class Shrinking:
    """The time for all counterexamples of a report, and those that were found."""

    def __init__(self) -> None:
        self.left = _SECONDS
        self._found: list[Problem] = []

    def smallest(self, problem: Problem, fails: Fails, stays: Fails) -> Problem:
        """Return the smallest problem found on which the check still fails.

        Numbers are rounded as long as `stays` says that it is the same failure at the new point;
        each direction and cotangent loses entries by halves as long as `fails` does.  Where what
        was found for another check fails this one, too, it is not searched again.
        """
        budget = _Budget(_SHARE * self.left)
        stays = budget.limited(stays)
        known = (small for small in self._found if small.dtype == problem.dtype)
        small = next(filter(stays, known), None)
        if small is None:
            small = _smallest(problem, budget.limited(fails), stays)
            if small is not problem:
                self._found.append(small)
        self.left -= budget.spent()
        return small


def _smallest(problem: Problem, fails: Fails, stays: Fails) -> Problem:
    for digits in (0, 1, 2):
        rounded = problem.at(tuple(_rounded(a, digits) for a in problem.x))
        if stays(rounded):
            problem = rounded
            break
    w = problem.directions()
    for kind, levels in (("u", w.u), ("ct_in", w.ct_in), ("ct_out", w.ct_out)):
        for k, leaves in enumerate(levels):
            for i, like in enumerate(leaves):
                problem = _fewer_entries(problem, f"{kind}{k}.{i}", like, fails)
    return problem


class _Budget:
    """Asks whether a problem still fails, for so long."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.tries, self.began = seconds, 0, time.monotonic()

    def spent(self) -> float:
        return time.monotonic() - self.began

    def limited(self, fails: Fails) -> Fails:
        def ask(problem: Problem) -> bool:
            self.tries += 1
            return self.tries <= _TRIES and self.spent() <= self.seconds and fails(problem)

        return ask


def _rounded(a: Tensor, digits: int) -> Tensor:
    if a.is_complex():
        return torch.complex(_rounded(a.real, digits), _rounded(a.imag, digits))
    rounded = a.round(decimals=digits)
    return torch.where(rounded == 0, a, rounded)  # zero is where most functions have their kinks


def _fewer_entries(problem: Problem, name: str, like: Tensor, fails: Fails) -> Problem:
    """Bisect the entries of a direction; or leave it out if the check fails without it."""
    entries = torch.arange(like.numel(), device=like.device)
    if (without := _keep(problem, name, like, entries[:0])) and fails(without):
        return without
    while len(entries) > 1:
        for part in _halves(entries):
            smaller = _keep(problem, name, like, part)
            if fails(smaller):
                problem, entries = smaller, part
                break
        else:
            break
    return problem


def _halves(entries: Tensor) -> Iterator[Tensor]:
    middle = (len(entries) + 1) // 2
    yield entries[:middle]
    yield entries[middle:]


def _keep(problem: Problem, name: str, like: Tensor, entries: Tensor) -> Problem:
    mask = torch.zeros(like.numel(), device=like.device)
    mask[entries] = 1
    return problem.keep(name, mask.view(like.shape))
