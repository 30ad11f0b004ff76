"""Triangular solves with the factor of a Poisson matrix.

The factor is SuperLU's L of the five-point stencil on a grid, with minimum-degree ordering.
"""

from __future__ import annotations

import argparse

import torch

from tsgu_func import SparseMatrix, sparse_triangular_solve
from tsgu_func.bench.compare import DIRECTIONS, compare, header, upstream

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--grid", type=int, nargs=2, default=[250, 400], help="its sides")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 16], help="of B")


def run(options: argparse.Namespace) -> None:
    """Compare each kind of A in both directions."""
    L = _factor(*options.grid)
    n = L.shape[0]
    (peer,) = upstream("sparse_triangular_solve")
    header(f"L X = B, L {n}^2 with {L.nnz} entries, float32", options.repeats)
    for p in options.columns:
        B = torch.randn(n, p, generator=torch.Generator().manual_seed(0))
        for kind, ours, theirs in (
            ("COO", L.to_coo(), L.to_coo()),
            ("CSR", L.to_csr(), L.to_csr()),
            ("SparseMatrix", L, L.to_csr()),
        ):
            for name, direction in DIRECTIONS.items():
                contenders = {
                    "tsgu_func": direction(_lower(sparse_triangular_solve), ours, B),
                    "torchsparsegradutils": peer and direction(_lower(peer), theirs, B),
                }
                title = f"p = {p:<3} {kind:<13} {name}"
                compare(title, contenders, options.repeats)


def _lower(solve):
    return lambda A, B: solve(A, B, upper=False)


def _factor(rows: int, cols: int) -> SparseMatrix:
    from scipy.sparse import diags_array, eye_array, kron
    from scipy.sparse.linalg import splu

    def line(n: int):
        return diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))  # pyright: ignore

    poisson = kron(line(rows), eye_array(cols)) + kron(eye_array(rows), line(cols))
    lu = splu(poisson.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return SparseMatrix.from_scipy(lu.L).to(torch.float32)
