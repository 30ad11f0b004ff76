"""Products of two sparse matrices: of a known and of a new pair of patterns.

The square of a Poisson matrix, the normal matrix of a tall random one, and the product of two
random ones.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from tsgu_func import SparseMatrix
from tsgu_func.bench.compare import DIRECTIONS, compare, header
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.solvers import clear_cache

__all__ = ["add_arguments", "run"]

_CONVERSIONS = (SparseMatrix.to_scipy, SparseMatrix.to_coo, SparseMatrix.to_csr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rows", type=int, default=90_000, help="of the matrices, about")


def run(options: argparse.Namespace) -> None:
    """Compare each product in both states."""
    n = options.rows
    header(f"C = A B, about {n} rows, float64", options.repeats)
    for title, A, B in _pairs(n):
        scipy, coo, csr = (
            (f(A), f(B)) for f in (SparseMatrix.to_scipy, SparseMatrix.to_coo, SparseMatrix.to_csr)
        )
        peers = {
            "SciPy": lambda scipy=scipy: scipy[0] @ scipy[1],
            "torch COO": DIRECTIONS["forward"](torch.sparse.mm, *coo),
            "torch CSR": DIRECTIONS["forward"](torch.matmul, *csr),
        }
        for state, product in (("known", SparseMatrix.matmul), ("new", _as_new)):
            contenders = {"tsgu_func": DIRECTIONS["forward"](product, A, B), **peers}
            compare(f"{title:<10} {state} patterns, forward", contenders, options.repeats)
        both = DIRECTIONS["forward+backward"]
        contenders = {
            "tsgu_func": both(SparseMatrix.matmul, A, B),
            "torch COO": both(_values_of_torch, *coo),
        }
        compare(f"{title:<10} known, forward+backward", contenders, options.repeats)


def _pairs(n: int) -> list[tuple[str, SparseMatrix, SparseMatrix]]:
    P = SparseMatrix.from_scipy(PROBLEMS["plane"].build(int(n**0.5)))
    J, A, B = _random(2 * n, n, 0), _random(n, n, 1), _random(n, n, 2)
    return [("Poisson^2", P, P), ("J^T J", J.T, J), ("random", A, B)]


def _random(rows: int, cols: int, seed: int) -> SparseMatrix:
    """Return a matrix with five entries a row, on average."""
    nnz = 5 * rows
    generator = torch.Generator().manual_seed(seed)
    row, col = (torch.randint(size, (nnz,), generator=generator) for size in (rows, cols))
    values = torch.randn(nnz, dtype=torch.float64, generator=generator)
    return SparseMatrix.from_coo(row, col, values, (rows, cols))


def _as_new(A: SparseMatrix, B: SparseMatrix) -> SparseMatrix:
    clear_cache()
    return A @ B


def _values_of_torch(A: Tensor, B: Tensor) -> Tensor:
    # The derivative of the sum of a COO product itself is an internal error of PyTorch (2.13).
    return torch.sparse.mm(A, B).coalesce().values()
