"""What a worker does for `memory` and `scaling`: one function, of inputs of a given size.

Memory is the peak of the resident size of a process of its own, less what was resident before the
inputs were made: inputs, results, whatever the function keeps, and what it needs meanwhile.  The
bound is the bytes of values, indices, dense inputs and result, and with the gradients those of a
cotangent and of all gradients too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, segment_mm, sparse_mm, sparse_solve, sparse_triangular_solve
from tsgu_func.bench import resident
from tsgu_func.bench.problems import PROBLEMS, side
from tsgu_func.bench.products import random_matrix
from tsgu_func.bench.timing import block
from tsgu_func.bench.worker import Measured, Ready

__all__ = ["FUNCTIONS", "Footprint"]

_SMALL = 2_000  # entries for which everything is compiled


class _Call(NamedTuple):
    """A function, what it is differentiated by, and what else is given."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, Tensor]
    index_bytes: int
    result: tuple[int, int]

    def bound(self, backward: bool) -> int:
        """Return the bytes that are there at once in the end."""
        result = math.prod(self.result) * self.inputs[0].itemsize
        inputs = sum(x.nbytes for x in self.inputs)
        return self.index_bytes + (1 + backward) * (inputs + result)


def _of_matrix(f: Callable[..., Tensor], A: SparseMatrix, columns: int) -> _Call:
    B = torch.randn(A.shape[1], columns, dtype=A.dtype)
    # Values that are given, and not those that the matrix was made with.
    values, pattern = A.values.detach().clone(), A.pattern
    index_bytes = pattern.crow.nbytes + pattern.col.nbytes
    return _Call(
        lambda v, b: f(SparseMatrix(pattern, v), b), (values, B), index_bytes, (A.shape[0], columns)
    )


def _sparse_mm(entries: int, columns: int) -> _Call:
    n = max(1, entries // 10)
    return _of_matrix(sparse_mm, random_matrix(n, n, 10), columns)


def _plane(entries: int) -> SparseMatrix:
    return SparseMatrix.from_scipy(PROBLEMS["plane"].build(side("plane", entries // 5)))


def _triangular(entries: int, columns: int) -> _Call:
    L = _plane(entries * 5 // 3).tril().to(torch.float32)
    return _of_matrix(lambda A, B: sparse_triangular_solve(A, B, upper=False), L, columns)


def _solve(entries: int, columns: int) -> _Call:
    return _of_matrix(sparse_solve, _plane(entries), columns)


def _segments(entries: int, columns: int) -> _Call:
    count, a = 100, torch.randn(max(1, entries // columns), columns)
    which = torch.randint(count, (len(a),))
    lengths = torch.bincount(which, minlength=count)
    b = torch.randn(count, columns, columns)
    return _Call(lambda a, b: segment_mm(a, b, lengths), (a, b), lengths.nbytes, (len(a), columns))


FUNCTIONS: dict[str, Callable[[int, int], _Call]] = {
    "sparse_mm": _sparse_mm,
    "sparse_triangular_solve": _triangular,
    "sparse_solve": _solve,
    "segment_mm": _segments,
}


class Footprint:
    """A call in a process of its own; the first is with a pattern that is not known yet."""

    def __init__(self, name: str, entries: int, columns: int, backward: bool) -> None:
        resident.return_at_once()
        self.backward = backward
        self.take(FUNCTIONS[name](_SMALL, columns))
        self.call()
        del self.given, self.cotangent
        self.before = resident.still()
        self.ready = self.take(FUNCTIONS[name](entries, columns))

    def take(self, given: _Call) -> Ready:
        """Take inputs, with a cotangent if there are to be gradients, and tell their sizes."""
        for x in given.inputs:
            x.requires_grad_(self.backward)
        dtype = given.inputs[0].dtype
        self.given = given
        self.cotangent = torch.randn(given.result, dtype=dtype) if self.backward else None
        return Ready(given.result[0], given.inputs[0].numel(), given.bound(self.backward))

    def call(self) -> object:
        """Compute the value, or that and the gradients, and return all of it."""
        values, B = self.given.inputs
        with torch.set_grad_enabled(self.backward):
            result = self.given.function(values, B)
        if self.backward:
            return result, torch.autograd.grad(result, (values, B), self.cotangent)
        return result

    def __call__(self, what: str) -> Measured:
        """Measure bytes or seconds."""
        if what == "seconds":
            return Measured(block(self.call)(0))
        resident.still()
        self.call()
        return Measured(bytes=resident.since_reset() - self.before)
