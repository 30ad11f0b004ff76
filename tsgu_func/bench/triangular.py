"""Triangular solves with the factor of a Poisson matrix.

The factor is SuperLU's L of the five-point stencil on a grid, with minimum-degree ordering.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import product

import torch

from tsgu_func import SparseMatrix, sparse_triangular_solve
from tsgu_func.bench.peers import prepared
from tsgu_func.bench.problems import PROBLEMS, side
from tsgu_func.bench.results import DIRECTIONS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import call, compare
from tsgu_func.console.arguments import add_count
from tsgu_func.console.counting import counted

__all__ = ["SUBJECT"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_count(parser, "--rows", 100_000, "rows of L, about")
    add_count(parser, "--columns", [1, 16], "columns of B")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compare each kind of A in both directions."""
    L = _factor(options.rows)
    solve = partial(sparse_triangular_solve, upper=False)
    kinds = {"COO": L.to_coo(), "CSR": L.to_csr(), "SparseMatrix": L}
    cases: list[tuple[int, str]] = list(product(options.columns, DIRECTIONS))
    for p, direction in counted(cases):
        backward = DIRECTIONS[direction]
        B = torch.randn(L.shape[0], p, generator=torch.Generator().manual_seed(0))
        ours = {kind: call(solve, A, B, backward=backward) for kind, A in kinds.items()}
        case = {"rows": L.shape[0], "entries": L.nnz, "p": p, "direction": direction}
        peers = prepared("triangular", L, B, backward=backward)
        yield from compare(case, ours, peers, options.repeats)


def _factor(rows: int) -> SparseMatrix:
    from scipy.sparse.linalg import splu

    poisson = PROBLEMS["plane"].build(side("plane", rows))
    lu = splu(poisson.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return SparseMatrix.from_scipy(lu.L).to(torch.float32)


SUBJECT = Subject(
    "triangular solves with the factor of a Poisson matrix",
    _add_arguments,
    _compare,
    quick={"rows": 20, "columns": [2]},
    works=("triangular",),
)
