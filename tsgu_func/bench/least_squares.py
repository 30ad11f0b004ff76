"""Least-squares solutions of a tall matrix.

Entries are at random, with some in each column.  SciPy is asked for the tolerance of
torchsparsegradutils; beside ours is the error that is left by each of our two tolerances.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, sparse_generic_lstsq
from tsgu_func.bench.peers import prepared
from tsgu_func.bench.products import random_matrix
from tsgu_func.bench.results import DIRECTIONS, OURS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import call, compare
from tsgu_func.console.arguments import add_count
from tsgu_func.console.counting import counted
from tsgu_func.console.ending import CommandError
from tsgu_func.solvers import LSMR

__all__ = ["SUBJECT"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_count(parser, "--rows", 20_000, "rows of A")
    add_count(parser, "--unknowns", 5_000, "columns of A")
    add_count(parser, "--per-row", 5, "entries in a row of A")
    add_count(parser, "--columns", [1, 8], "columns of B")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compare at both packages' defaults, and at the tolerance of the peers."""
    if options.unknowns > options.rows:
        raise CommandError(
            f"A has at least as many rows as unknowns, got {options.rows} and {options.unknowns}"
        )
    return _compared(options)


def _compared(options: argparse.Namespace) -> Iterator[Comparison]:
    A = random_matrix(options.rows, options.unknowns, options.per_row, dtype=torch.float64)
    given = A.to_csr()
    cases: list[tuple[int, str]] = list(product(options.columns, DIRECTIONS))
    for p, direction in counted(cases):
        B = torch.randn(options.rows, p, generator=torch.Generator().manual_seed(1)).double()
        backward = DIRECTIONS[direction]
        ours = {name: call(f, given, B, backward=backward) for name, f in _SOLVES.items()}
        case = {"rows": A.shape[0], "unknowns": A.shape[1], "p": p, "direction": direction}
        peers = prepared("lstsq", A, B, backward=backward)
        errors = {name: _error(A, f(given, B), B) for name, f in _SOLVES.items()}
        for comparison in compare(case, ours, peers, options.repeats):
            left = {OURS: {"error": errors[str(comparison.case["by"])]}}
            yield comparison._replace(more={**comparison.more, **left})


def _error(A: SparseMatrix, X: Tensor, B: Tensor) -> float:
    return float((A.mH @ (A @ X - B)).norm() / (A.mH @ B).norm())


_SOLVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "default": sparse_generic_lstsq,
    "at 1e-6": partial(sparse_generic_lstsq, lstsq=LSMR(rtol=1e-6)),
}


def _lines(comparison: Comparison) -> list[str]:
    """Return the line, with the error: time is worth nothing without it."""
    error = comparison.more[OURS]["error"]
    return [f"{line}   |Aᵀ(AX-B)|/|AᵀB| = {error:.0e}" for line in comparison.lines()]


SUBJECT = Subject(
    "least-squares solutions of a tall matrix",
    _add_arguments,
    _compare,
    quick={"rows": 60, "unknowns": 8, "columns": [2]},
    works=("lstsq",),
    lines=_lines,
)
