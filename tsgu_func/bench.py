"""Benchmarks against named peers, interleaved in one run: ``python -m tsgu_func bench``.

One measurement of each contender in turn, over and over, so that a machine whose speed drifts slows
all of them alike; what is reported is the median and the ratio to the first contender.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, sparse_mm

__all__ = ["add_arguments", "run"]

Contender = Callable[[], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("subject", choices=["mm"], help="mm: products, forward and backward")
    parser.add_argument("--rows", type=int, default=100_000, help="rows and columns (%(default)s)")
    parser.add_argument("--per-row", type=int, default=10, help="entries a row (%(default)s)")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 16, 64], help="of B")
    parser.add_argument("--repeats", type=int, default=15, help="measurements (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table for each number of columns."""
    row = torch.arange(options.rows).repeat_interleave(options.per_row)
    generator = torch.Generator().manual_seed(0)
    col = torch.randint(options.rows, row.shape, generator=generator)
    values = torch.randn(row.shape, generator=generator)
    A = SparseMatrix.from_coo(row, col, values, (options.rows, options.rows))
    peer = _peer()
    print(
        f"C = A B, A {options.rows} x {options.rows} with {A.nnz} entries, float32, "
        f"{torch.get_num_threads()} threads; median of {options.repeats}, ratio of the peer's time "
        f"to ours"
    )
    if peer is None:
        print("torchsparsegradutils is not installed: PyTorch's own product is the only peer")
    for p in options.columns:
        B = torch.randn(options.rows, p, generator=generator)
        for name, contenders in _subjects(A, B, peer):
            _report(f"p = {p:<3} {name}", _interleaved(contenders, options.repeats))
    return 0


def _peer() -> Callable[[Tensor, Tensor], Tensor] | None:
    if importlib.util.find_spec("torchsparsegradutils") is None:
        return None
    from torchsparsegradutils import (  # pyright: ignore[reportMissingImports]
        sparse_mm as upstream,
    )

    return upstream


def _subjects(
    A: SparseMatrix, B: Tensor, peer: Callable[[Tensor, Tensor], Tensor] | None
) -> Iterator[tuple[str, dict[str, Contender]]]:
    """Yield, for each kind of A and each direction, what to compare: ours comes first."""
    for kind, ours, theirs in (
        ("COO", A.to_coo(), A.to_coo()),
        ("CSR", A.to_csr(), A.to_csr()),
        ("SparseMatrix", A, A.to_csr()),
    ):
        functions: dict[str, tuple[Callable[..., Tensor], SparseMatrix | Tensor]] = {
            "tsgu_func": (sparse_mm, ours)
        }
        if peer is not None:
            functions["torchsparsegradutils"] = (peer, theirs)
        functions["torch.sparse.mm"] = (torch.sparse.mm, theirs)
        yield f"{kind:<13} forward", {k: _forward(f, M, B) for k, (f, M) in functions.items()}
        if kind == "COO":  # PyTorch's gradient of a COO matrix is dense: 40 GB here
            del functions["torch.sparse.mm"]
        backward = {k: _backward(f, M, B) for k, (f, M) in functions.items()}
        yield f"{kind:<13} forward+backward", backward


def _forward(f: Callable[..., Tensor], A: SparseMatrix | Tensor, B: Tensor) -> Contender:
    return lambda: f(A, B)


def _backward(f: Callable[..., Tensor], A: SparseMatrix | Tensor, B: Tensor) -> Contender:
    B = B.clone().requires_grad_()
    if isinstance(A, SparseMatrix):
        A = A.with_values(A.values.clone().requires_grad_())
        leaf = A.values
    else:
        A = leaf = A.detach().clone().requires_grad_()

    def contender() -> None:
        leaf.grad = B.grad = None
        f(A, B).sum().backward()

    return contender


def _interleaved(contenders: dict[str, Contender], repeats: int) -> dict[str, list[float]]:
    for contender in contenders.values():
        contender()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            began = time.perf_counter()
            contender()
            times[name].append(time.perf_counter() - began)
    return times


def _report(title: str, times: dict[str, list[float]]) -> None:
    ours, *peers = times.items()
    line = f"{title:<40} {1e3 * statistics.median(ours[1]):8.2f} ms"
    for name, measured in peers:
        ratio = statistics.median(b / a for a, b in zip(ours[1], measured, strict=True))
        line += f"   {name} x {ratio:.2f}"
    print(line)
