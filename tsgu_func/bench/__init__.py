"""Benchmarks against named peers, interleaved in one run: ``python -m tsgu_func bench``."""

from __future__ import annotations

import argparse

from tsgu_func.bench import indexed, least_squares, products, solve, sparse_products, triangular

__all__ = ["add_arguments", "run"]

_SUBJECTS = {
    "mm": products,
    "spgemm": sparse_products,
    "triangular": triangular,
    "indexed": indexed,
    "lstsq": least_squares,
    "solve": solve,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subjects and their options."""
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for name, module in _SUBJECTS.items():
        summary = str(module.__doc__).partition("\n")[0].rstrip(".")
        own = subjects.add_parser(name, help=summary, description=summary)
        module.add_arguments(own)
        repeats = getattr(module, "REPEATS", 15)
        own.add_argument("--repeats", type=int, default=repeats, help="measurements (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure, and print a line for each comparison."""
    _SUBJECTS[options.subject].run(options)
    return 0
