"""The cost of small calls, where the arithmetic takes no time: ours, and of dense functions."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import grad

from tsgu_func import SparseMatrix, sparse_mm, sparse_solve
from tsgu_func.bench.results import Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import Contender, call, compare
from tsgu_func.console.arguments import add_count
from tsgu_func.console.counting import counted

__all__ = ["SUBJECT"]

Both = tuple[Contender, dict[str, Contender]]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_count(parser, "--rows", 200, "rows of A in products")
    add_count(parser, "--columns", 16, "columns of B")
    add_count(parser, "--unknowns", 50, "unknowns of systems")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compare each small call."""
    for name, direction in counted(list(_CALLS)):
        ours, peers = _CALLS[name, direction](options)
        yield from compare(
            {"call": name, "direction": direction}, {"": ours}, peers, options.repeats
        )


def _dense(n: int, dtype: torch.dtype, density: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values, chance = (torch.rand(n, n, generator=generator, dtype=dtype) for _ in range(2))
    return torch.where(chance < density, values, 0) + n * torch.eye(n, dtype=dtype)


def _factors(options: argparse.Namespace) -> tuple[Tensor, SparseMatrix, Tensor]:
    D = _dense(options.rows, torch.float32, 0.05)
    B = torch.rand(options.rows, options.columns, generator=torch.Generator().manual_seed(1))
    return D, SparseMatrix.from_dense(D), B


def _product(backward: bool, options: argparse.Namespace) -> Both:
    D, A, B = _factors(options)
    peers = {"dense": call(torch.matmul, D, B, backward=backward)}
    if not backward:
        peers["torch CSR int32"] = call(torch.matmul, A.to_csr(), B, backward=False)
    return call(sparse_mm, A, B, backward=backward), peers


def _functional(options: argparse.Namespace) -> Both:
    D, A, B = _factors(options)
    W = torch.rand_like(B)
    ours = grad(lambda v, b: (sparse_mm(A.with_values(v), b) * W).sum(), (0, 1))
    dense = grad(lambda v, b: ((v @ b) * W).sum(), (0, 1))
    return lambda: ours(A.values, B), {"dense": lambda: dense(D, B)}


def _system(backward: bool, options: argparse.Namespace) -> Both:
    D = _dense(options.unknowns, torch.float64, 0.1)
    b = torch.rand(options.unknowns, dtype=torch.float64)
    ours = call(sparse_solve, SparseMatrix.from_dense(D), b, backward=backward)
    return ours, {"torch.linalg.solve": call(torch.linalg.solve, D, b, backward=backward)}


_CALLS: dict[tuple[str, str], Callable[[argparse.Namespace], Both]] = {
    ("sparse_mm", "forward"): lambda options: _product(False, options),
    ("sparse_mm", "forward+backward"): lambda options: _product(True, options),
    ("sparse_mm", "torch.func.grad"): _functional,
    ("sparse_solve", "forward"): lambda options: _system(False, options),
    ("sparse_solve", "forward+backward"): lambda options: _system(True, options),
}

SUBJECT = Subject(
    "the cost of small calls",
    _add_arguments,
    _compare,
    quick={"rows": 8, "columns": 2, "unknowns": 5},
    threads=1,
)
