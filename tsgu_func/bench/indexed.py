"""Products of rows with matrices of a bank, by index and by segment.

Rows choose their matrix at random; segments have the lengths that come of it.
"""

from __future__ import annotations

import argparse

import torch

from tsgu_func import gather_mm, segment_mm
from tsgu_func.bench.compare import DIRECTIONS, compare, header, upstream

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rows", type=int, default=100_000, help="N (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="D1 and D2 (%(default)s)")
    parser.add_argument("--matrices", type=int, nargs="+", default=[8, 100, 1000], help="R")


def run(options: argparse.Namespace) -> None:
    """Compare both functions in both directions."""
    n, d = options.rows, options.size
    peers = upstream("gather_mm", "segment_mm")
    header(f"N = {n}, D1 = D2 = {d}, float32", options.repeats)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=generator)
    for count in options.matrices:
        b = torch.randn(count, d, d, generator=generator)
        index = torch.randint(count, (n,), generator=generator)
        lengths = torch.bincount(index, minlength=count)
        for ours, theirs, which in (
            (gather_mm, peers[0], index),
            (segment_mm, peers[1], lengths),
        ):
            for name, direction in DIRECTIONS.items():
                contenders = {
                    "tsgu_func": direction(ours, a, b, which),
                    "torchsparsegradutils": theirs and direction(theirs, a, b, which),
                }
                title = f"R = {count:<5} {ours.__name__:<11} {name}"
                compare(title, contenders, options.repeats)
