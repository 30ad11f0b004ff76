"""Comparison of contenders in one interleaved run.

One measurement of each contender in turn, over and over, so that a machine whose speed drifts slows
all of them alike; what is reported is the median and the ratio to the first contender.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix

__all__ = ["DIRECTIONS", "Contender", "compare", "header", "upstream"]

Contender = Callable[[], object]
_PEER = "torchsparsegradutils"


def upstream(*names: str) -> tuple[Callable[..., Any] | None, ...]:
    """Return functions of torchsparsegradutils, or None for each where it is not installed."""
    try:
        peer = importlib.import_module(_PEER)
    except ModuleNotFoundError:
        print(f"{_PEER} is not installed, so it is not compared with")
        return (None,) * len(names)
    return tuple(getattr(peer, name) for name in names)


def header(problem: str, repeats: int) -> None:
    """Say what is measured."""
    threads = torch.get_num_threads()
    print(f"{problem}, {threads} threads; median of {repeats}, ratio of a peer's time to ours")


def _forward(f: Callable[..., Tensor], *args: Any) -> Contender:
    """Return the computation of a value."""

    def contender() -> Tensor:
        with torch.no_grad():
            return f(*args)

    return contender


def _backward(f: Callable[..., Tensor], *args: SparseMatrix | Tensor) -> Contender:
    """Return the computation of a value and its gradients in all matrices."""
    own = [a.detach() if isinstance(a, SparseMatrix) else a.detach().clone() for a in args]
    own = [
        a.requires_grad_()
        if isinstance(a, SparseMatrix) or a.is_floating_point() or a.is_complex()
        else a
        for a in own
    ]
    leaves = [a.values if isinstance(a, SparseMatrix) else a for a in own]

    def contender() -> None:
        for leaf in leaves:
            leaf.grad = None
        f(*own).sum().backward()

    return contender


DIRECTIONS = {"forward": _forward, "forward+backward": _backward}


def compare(title: str, contenders: dict[str, Contender | None], repeats: int) -> None:
    """Measure the contenders in turn and print a line; ours is the first."""
    present = {name: c for name, c in contenders.items() if c is not None}
    for contender in present.values():
        contender()
    times: dict[str, list[float]] = {name: [] for name in present}
    for _ in range(repeats):
        for name, contender in present.items():
            began = time.perf_counter()
            contender()
            times[name].append(time.perf_counter() - began)
    ours, *peers = times.items()
    line = f"{title:<40} {1e3 * statistics.median(ours[1]):8.2f} ms"
    for name, measured in peers:
        ratio = statistics.median(b / a for a, b in zip(ours[1], measured, strict=True))
        line += f"   {name} x {ratio:.2f}"
    print(line, flush=True)
