"""Products of rows with matrices of a bank, by index and by segment.

Rows choose their matrix at random; segments have the lengths that come of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

import torch

from tsgu_func import gather_mm, segment_mm
from tsgu_func.bench.peers import prepared
from tsgu_func.bench.results import DIRECTIONS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import call, compare
from tsgu_func.console.arguments import add_count
from tsgu_func.console.counting import counted

__all__ = ["SUBJECT"]

_FUNCTIONS = {"gather_mm": gather_mm, "segment_mm": segment_mm}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_count(parser, "--rows", 100_000, "N, the rows")
    add_count(parser, "--sizes", [64], "D1 and D2, the rows and columns of a matrix")
    add_count(parser, "--matrices", [8, 100, 1000], "R, the matrices of the bank")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compare both functions in both directions."""
    cases = product(options.sizes, options.matrices, _FUNCTIONS, DIRECTIONS)
    for d, count, name, direction in counted(list(cases)):
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(options.rows, d, generator=generator)
        b = torch.randn(count, d, d, generator=generator)
        index = torch.randint(count, (options.rows,), generator=generator)
        which = index if name == "gather_mm" else torch.bincount(index, minlength=count)
        case = {"N": options.rows, "D": d, "R": count, "function": name, "direction": direction}
        backward = DIRECTIONS[direction]
        ours = {"": call(_FUNCTIONS[name], a, b, which, backward=backward)}
        peers = prepared(name, a, b, which, backward=backward)
        yield from compare(case, ours, peers, options.repeats)


SUBJECT = Subject(
    "products of rows with matrices of a bank, by index and by segment",
    _add_arguments,
    _compare,
    quick={"rows": 50, "sizes": [4], "matrices": [3]},
    works=("gather_mm", "segment_mm"),
)
