"""Products of a sparse matrix with dense columns.

The matrix has a given number of entries a row, at random.
"""

from __future__ import annotations

import argparse

import torch

from tsgu_func import SparseMatrix, sparse_mm
from tsgu_func.bench.compare import DIRECTIONS, compare, header, upstream

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rows", type=int, default=100_000, help="rows and columns (%(default)s)")
    parser.add_argument("--per-row", type=int, default=10, help="entries a row (%(default)s)")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 16, 64], help="of B")


def run(options: argparse.Namespace) -> None:
    """Compare each kind of A in both directions."""
    row = torch.arange(options.rows).repeat_interleave(options.per_row)
    generator = torch.Generator().manual_seed(0)
    col = torch.randint(options.rows, row.shape, generator=generator)
    values = torch.randn(row.shape, generator=generator)
    A = SparseMatrix.from_coo(row, col, values, (options.rows, options.rows))
    (peer,) = upstream("sparse_mm")
    header(f"C = A B, A {options.rows}^2 with {A.nnz} entries, float32", options.repeats)
    for p in options.columns:
        B = torch.randn(options.rows, p, generator=generator)
        for kind, ours, theirs in (
            ("COO", A.to_coo(), A.to_coo()),
            ("CSR", A.to_csr(), A.to_csr()),
            ("SparseMatrix", A, A.to_csr()),
        ):
            for name, direction in DIRECTIONS.items():
                # PyTorch's gradient of a COO matrix is dense: 40 GB here.
                fits = kind != "COO" or name == "forward"
                contenders = {
                    "tsgu_func": direction(sparse_mm, ours, B),
                    "torchsparsegradutils": peer and direction(peer, theirs, B),
                    "torch.sparse.mm": direction(torch.sparse.mm, theirs, B) if fits else None,
                }
                title = f"p = {p:<3} {kind:<13} {name}"
                compare(title, contenders, options.repeats)
