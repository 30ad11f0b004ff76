"""Products of two sparse matrices: of a known and of a new pair of patterns.

The square of a Poisson matrix, the normal matrix of a tall random one, and the product of two
random ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

import torch

from tsgu_func import SparseMatrix
from tsgu_func.bench.peers import prepared
from tsgu_func.bench.problems import PROBLEMS, side
from tsgu_func.bench.products import random_matrix
from tsgu_func.bench.results import DIRECTIONS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import call, compare
from tsgu_func.console.arguments import add_count
from tsgu_func.console.counting import counted
from tsgu_func.solvers import clear_cache

__all__ = ["SUBJECT"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_count(parser, "--rows", 90_000, "rows of the matrices, about")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compare each product with known patterns in both directions, with new ones forward."""
    pairs = _pairs(options.rows)
    for title, direction in counted(list(product(pairs, DIRECTIONS))):
        A, B = pairs[title]
        backward = DIRECTIONS[direction]
        functions = {"known patterns": _product}
        if not backward:
            functions["new patterns"] = _as_new
        case = {"product": title, "rows": A.shape[0], "direction": direction}
        ours = {state: call(f, A, B, backward=backward) for state, f in functions.items()}
        peers = prepared("spgemm", A, B, backward=backward)
        yield from compare(case, ours, peers, options.repeats)


def _pairs(n: int) -> dict[str, tuple[SparseMatrix, SparseMatrix]]:
    P = SparseMatrix.from_scipy(PROBLEMS["plane"].build(side("plane", n)))
    sizes = (2 * n, n), (n, n), (n, n)
    J, A, B = (random_matrix(*size, 5, k, torch.float64) for k, size in enumerate(sizes))
    return {"Poisson^2": (P, P), "J^T J": (J.T, J), "random": (A, B)}


def _product(A: SparseMatrix, B: SparseMatrix) -> SparseMatrix:
    return A @ B


def _as_new(A: SparseMatrix, B: SparseMatrix) -> SparseMatrix:
    clear_cache()
    return A @ B


SUBJECT = Subject(
    "products of two sparse matrices",
    _add_arguments,
    _compare,
    quick={"rows": 50},
    works=("spgemm",),
)
