"""Make a failing case smaller: simpler numbers, and directions with fewer entries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Problem

__all__ = ["smallest"]

_SECONDS = 5.0
_TRIES = 200


def smallest(problem: Problem, fails: Callable[[Problem], bool]) -> Problem:
    """Return the smallest problem found on which the check still fails.

    Numbers are rounded, and each direction and cotangent loses entries by halves, for as long as
    the check goes on failing.
    """
    budget = _Budget(fails)
    for digits in (0, 1, 2):
        rounded = problem.at(tuple(_rounded(a, digits) for a in problem.x))
        if budget(rounded):
            problem = rounded
            break
    w = problem.directions()
    for kind, levels in (("u", w.u), ("ct_in", w.ct_in), ("ct_out", w.ct_out)):
        for k, leaves in enumerate(levels):
            for i, like in enumerate(leaves):
                problem = _fewer_entries(problem, f"{kind}{k}.{i}", like, budget)
    return problem


class _Budget:
    """Asks whether a problem still fails, for so long."""

    def __init__(self, fails: Callable[[Problem], bool]) -> None:
        self.fails, self.tries, self.began = fails, 0, time.monotonic()

    def __call__(self, problem: Problem) -> bool:
        self.tries += 1
        if self.tries > _TRIES or time.monotonic() - self.began > _SECONDS:
            return False
        return self.fails(problem)


def _rounded(a: Tensor, digits: int) -> Tensor:
    if a.is_complex():
        return torch.complex(_rounded(a.real, digits), _rounded(a.imag, digits))
    return a.round(decimals=digits)


def _fewer_entries(
    problem: Problem, name: str, like: Tensor, fails: Callable[[Problem], bool]
) -> Problem:
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
