"""Time and memory of a product with its gradients, against the number of entries and of columns.

Each size is measured in a process of its own.  A slope is the power that fits best: 1 is linear.
Memory below 8 MB is not counted, where pages and the allocator are what is seen.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from tsgu_func.bench.footprint import Footprint
from tsgu_func.bench.memory import against_bound, beside_bound
from tsgu_func.bench.results import OURS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.worker import Worker
from tsgu_func.console.arguments import add_count
from tsgu_func.console.counting import counted

__all__ = ["SUBJECT"]

_LEAST = {"time": 0.0, "memory": 8e6}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_count(parser, "--entries", [10**k for k in range(4, 8)], "entries of A")
    add_count(parser, "--columns", [1, 4, 16, 64], "columns of B")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Measure all sizes, and fit."""
    points: list[Comparison] = []
    cases = product(options.columns, options.entries)
    for p, entries in counted(list(cases), "processes"):
        for point in _measured(entries, p, options.repeats):
            points.append(point)
            yield point
    for quantity in _LEAST:
        for against, other in (("entries", "p"), ("p", "entries")):
            yield from _slopes(points, quantity, against, other)


def _measured(entries: int, p: int, repeats: int) -> Iterator[Comparison]:
    with contextlib.closing(Worker(Footprint, "sparse_mm", entries, p, True)) as worker:
        size = [worker.measure("bytes") for _ in range(2)][1:]  # of a pattern that is known
        times = [worker.measure("seconds") for _ in range(repeats)]
    case: dict[str, str | int] = {"entries": entries, "p": p}
    where = {**case, "what": "time"}
    if failures := [m.failure for m in times if m.failure]:
        yield Comparison(where, {}, more={OURS: {"failure": failures[0]}})
    else:
        yield Comparison(where, {OURS: [m.seconds for m in times]})
    yield beside_bound({**case, "what": "memory"}, worker.ready, size)


def _slopes(
    points: Sequence[Comparison], quantity: str, against: str, other: str
) -> Iterator[Comparison]:
    """Fit a power for each value of the other size."""
    there = [
        point
        for point in points
        if point.case["what"] == quantity
        and OURS in point.measured
        and point.median() >= _LEAST[quantity]
    ]
    for at in dict.fromkeys(point.case[other] for point in there):
        line = {int(x.case[against]): x.median() for x in there if x.case[other] == at}
        if len(line) > 1:
            sizes, values = (np.log(list(axis)) for axis in (line, line.values()))
            slope = float(np.polyfit(sizes, values, 1)[0])
            case = {other: at, "what": f"{quantity} by {against}"}
            yield Comparison(case, {OURS: [slope]}, "power")


def _draw(comparisons: Sequence[Comparison], path: Path) -> None:
    from tsgu_func.bench.plot import draw_scaling

    draw_scaling([c for c in comparisons if c.unit != "power"], path)


SUBJECT = Subject(
    "time and memory against the number of entries and of columns",
    _add_arguments,
    _compare,
    quick={"entries": [1_000, 10_000], "columns": [1]},
    repeats=5,
    lines=against_bound,
    draw=_draw,
)
