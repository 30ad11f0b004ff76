"""Peak memory of a function, beside the bytes that must exist at once.

The peak is that of the resident size of a process of its own, by all libraries, less what was
resident before the inputs were made.  The bound is the bytes of values, indices, dense inputs and
result, and with a backward those of the cotangent and of the gradients.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from itertools import product

from tsgu_func.bench.footprint import FUNCTIONS, Footprint
from tsgu_func.bench.results import DIRECTIONS, OURS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.worker import Measured, Ready, Worker
from tsgu_func.console.arguments import add_choice, add_count
from tsgu_func.console.counting import counted

__all__ = ["BOUND", "SUBJECT", "against_bound", "beside_bound"]

BOUND = "bound"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_choice(parser, "--functions", list(FUNCTIONS))
    add_count(parser, "--entries", 4_000_000, "entries of A")
    add_count(parser, "--columns", 16, "columns of B")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Measure a first call, which finds the pattern, and those after it."""
    cases = product(options.functions, DIRECTIONS)
    for name, direction in counted(list(cases), "processes"):
        arguments = name, options.entries, options.columns, DIRECTIONS[direction]
        with contextlib.closing(Worker(Footprint, *arguments)) as worker:
            first = worker.measure("bytes")
            later = [worker.measure("bytes") for _ in range(options.repeats)]
        for pattern, measured in (("new pattern", [first]), ("known pattern", later)):
            case = {"function": name, "direction": direction, "call": pattern}
            yield beside_bound(case, worker.ready, measured)


def beside_bound(case: dict[str, str | int], ready: Ready, measured: list[Measured]) -> Comparison:
    """Return measurements of bytes, or what is wrong."""
    if failures := [m.failure for m in measured if m.failure]:
        return Comparison(case, {}, "B", more={OURS: {"failure": failures[0]}})
    own, bound = [float(m.bytes) for m in measured], [float(ready.bytes)] * len(measured)
    return Comparison(case, {OURS: own, BOUND: bound}, "B")


def against_bound(comparison: Comparison) -> list[str]:
    """Return the line, with the bound and how often it goes into the peak."""
    if comparison.unit != "B" or OURS not in comparison.measured:
        return comparison.lines()
    own, bound = comparison.median(), comparison.median(BOUND)
    sizes = f"{own / 1e6:10.1f} MB   bound {bound / 1e6:10.1f} MB"
    return [f"{comparison.title}{sizes}   {own / bound:5.2f} x the bound"]


SUBJECT = Subject(
    "peak memory beside what must exist at once",
    _add_arguments,
    _compare,
    quick={"entries": 50_000, "columns": 4, "functions": ["sparse_mm"]},
    repeats=2,
    lines=against_bound,
)
