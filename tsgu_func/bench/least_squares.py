"""Least-squares solutions of a tall matrix.

Entries are at random, with some in each column; time is worth nothing without the error beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, sparse_generic_lstsq
from tsgu_func.bench.compare import DIRECTIONS, compare, header, upstream
from tsgu_func.utils import lsmr

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rows", type=int, default=20_000, help="of A (%(default)s)")
    parser.add_argument("--unknowns", type=int, default=5_000, help="columns of A (%(default)s)")
    parser.add_argument("--per-row", type=int, default=5, help="entries a row (%(default)s)")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 8], help="of B")


def run(options: argparse.Namespace) -> None:
    """Compare at both packages' defaults, and at the tolerance of the peer."""
    A = _matrix(options.rows, options.unknowns, options.per_row)
    (peer,) = upstream("sparse_generic_lstsq")
    size = f"{options.rows} x {options.unknowns}"
    header(f"min |A X - B|, A {size} with {A.nnz} entries, float64", options.repeats)
    for p in options.columns:
        B = torch.randn(options.rows, p, generator=torch.Generator().manual_seed(1)).double()
        solvers: dict[str, Callable[..., Tensor] | None] = {
            "tsgu_func": sparse_generic_lstsq,
            "tsgu_func at 1e-6": partial(
                sparse_generic_lstsq, lstsq=_loose, transpose_lstsq=_loose_t
            ),
            "torchsparsegradutils": peer,
        }
        given = {name: A.to_csr() for name in solvers}
        for which, direction in DIRECTIONS.items():
            contenders = {
                name: solve and direction(solve, given[name], B) for name, solve in solvers.items()
            }
            compare(f"p = {p:<3} CSR {which}", contenders, options.repeats)
        for name, solve in solvers.items():
            if solve is not None:
                gradient = A.mH @ (A @ solve(given[name], B) - B)
                error = float(gradient.norm() / (A.mH @ B).norm())
                print(f"        {name}: |Aᵀ (A X - B)| / |Aᵀ B| = {error:.0e}")


def _loose(A: Tensor, B: Tensor) -> Tensor:
    return lsmr(A, B, atol=1e-6, btol=1e-6)[0]


def _loose_t(A: Tensor, G: Tensor) -> Tensor:
    return lsmr(SparseMatrix.from_torch(A).mH, G, atol=1e-6, btol=1e-6)[0]


def _matrix(rows: int, unknowns: int, per_row: int) -> SparseMatrix:
    generator = torch.Generator().manual_seed(0)
    row = torch.arange(rows).repeat_interleave(per_row)
    col = torch.randint(unknowns, row.shape, generator=generator)
    values = torch.randn(row.shape, generator=generator).double()
    return SparseMatrix.from_coo(row, col, values, (rows, unknowns))
