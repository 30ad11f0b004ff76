"""Products of a sparse matrix with dense columns, and of a batch of matrices of one pattern.

The random matrix has a given number of entries a row; the others are those of `bench solve`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

import torch

from tsgu_func import SparseMatrix, sparse_mm
from tsgu_func.bench.peers import prepared
from tsgu_func.bench.peers.tensors import batched_csr
from tsgu_func.bench.problems import PROBLEMS, side
from tsgu_func.bench.results import DIRECTIONS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import call, compare
from tsgu_func.console.arguments import add_choice, add_count
from tsgu_func.console.counting import counted

__all__ = ["SUBJECT", "random_matrix"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    matrices = ["random", *PROBLEMS]
    add_choice(parser, "--matrices", matrices, ["random", "plane"])
    add_count(parser, "--rows", 100_000, "rows and columns of A")
    add_count(parser, "--per-row", 10, "entries in a row of the random A")
    add_count(parser, "--columns", [1, 16, 64], "columns of B")
    add_count(parser, "--batches", [1], "matrices at once")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compare all kinds of A, in both directions."""
    cases = product(options.matrices, options.columns, options.batches, DIRECTIONS)
    for name, p, batch, direction in counted(list(cases)):
        A = _matrix(name, options.rows, options.per_row)
        case = {"matrix": name, "rows": A.shape[0], "p": p, "b": batch, "direction": direction}
        yield from _measured(A, case, options.repeats)


def _measured(A: SparseMatrix, case: dict[str, str | int], repeats: int) -> Iterator[Comparison]:
    batch, backward = int(case["b"]), DIRECTIONS[str(case["direction"])]
    size = A.shape[1], int(case["p"])
    members = (batch,) if batch > 1 else ()
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(*members, *size, generator=generator)
    if members:
        A = A.with_values(A.values * torch.linspace(1, 2, batch)[:, None])
        kinds = {"CSR": batched_csr(A), "SparseMatrix": A}
    else:
        kinds = {"COO": A.to_coo(), "CSR": A.to_csr(), "SparseMatrix": A}
    ours = {kind: call(sparse_mm, given, B, backward=backward) for kind, given in kinds.items()}
    peers = prepared("batched mm" if members else "mm", A, B, backward=backward)
    yield from compare(case, ours, peers, repeats)


def _matrix(name: str, rows: int, per_row: int) -> SparseMatrix:
    if name == "random":
        return random_matrix(rows, rows, per_row)
    return SparseMatrix.from_scipy(PROBLEMS[name].build(side(name, rows))).to(torch.float32)


def random_matrix(
    rows: int, cols: int, per_row: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> SparseMatrix:
    """Return a matrix with normal entries at random, about so many in each row."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(rows).repeat_interleave(per_row)
    col = torch.randint(cols, row.shape, generator=generator)
    values = torch.randn(row.shape, generator=generator, dtype=dtype)
    return SparseMatrix.from_coo(row, col, values, (rows, cols))


SUBJECT = Subject(
    "products of a sparse matrix with dense columns",
    _add_arguments,
    _compare,
    quick={"rows": 60, "columns": [1, 3], "matrices": ["random"], "batches": [1, 2]},
    works=("mm", "batched mm"),
)
