"""What no function can do without: kernels called directly, with all that a pattern needs at hand.

There are MKL and the plain compiled loops.  A gradient of the values is a sampled product, which
MKL has none of.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from tsgu_func import SparseMatrix
from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.timing import Contender
from tsgu_func.kernels import compiled, threads

__all__ = ["BOUNDS", "MM"]

_CALLS = 1000  # that MKL shall expect
_WORTH_A_THREAD = 1 << 17  # entries times columns


class _Plan(NamedTuple):
    """A matrix by compressed rows, its transpose, and where the values are in it."""

    rows: int
    cols: int
    crow: np.ndarray
    col: np.ndarray
    values: np.ndarray


def _plans(A: SparseMatrix) -> tuple[_Plan, _Plan, np.ndarray]:
    n, m = A.shape
    crow, col, values = (x.detach().numpy() for x in (A.pattern.crow, A.pattern.col, A.values))
    order = col.argsort(kind="stable")
    ends = np.bincount(col, minlength=m).cumsum()
    columns = np.concatenate([[0], ends]).astype(crow.dtype)
    row = np.repeat(np.arange(n, dtype=col.dtype), np.diff(crow))
    return (
        _Plan(n, m, crow, col, values),
        _Plan(m, n, columns, row[order].copy(), values[order].copy()),
        order,
    )


def _prepare(
    product: Callable[[_Plan, int], Callable[[np.ndarray, np.ndarray], None]],
    A: SparseMatrix,
    B: Tensor,
    backward: bool,
) -> Contender:
    plan, transposed, order = _plans(A)
    right, p = B.numpy(), B.shape[1]
    times = product(plan, p)

    def forward() -> np.ndarray:
        out = np.empty((plan.rows, p), right.dtype)
        times(right, out)
        return out

    if not backward:
        return forward
    cotangent = np.ones((plan.rows, p), right.dtype)
    transposed_times, sample = product(transposed, p), _sampled(plan)

    def both() -> tuple[np.ndarray, np.ndarray]:
        forward()
        np.take(plan.values, order, out=transposed.values)
        gradients = np.empty_like(plan.values), np.empty_like(right)
        sample(cotangent, right, gradients[0])
        transposed_times(cotangent, gradients[1])
        return gradients

    return both


# ---------------------------------------------------------------------------------- the loops


def _over_rows(plan: _Plan, p: int, loop: Callable[[int, int], None]) -> None:
    parts = min(threads.workers(), 1 + len(plan.values) * p // _WORTH_A_THREAD)
    threads.run_parts(loop, [plan.rows * part // parts for part in range(parts + 1)])


def _unsigned(plan: _Plan) -> tuple[np.ndarray, np.ndarray]:
    return tuple(x.view(f"u{x.itemsize}") for x in (plan.crow, plan.col))  # pyright: ignore


def _loops(plan: _Plan, p: int) -> Callable[[np.ndarray, np.ndarray], None]:
    del p
    head = (*_unsigned(plan), plan.values[None])

    def times(right: np.ndarray, out: np.ndarray) -> None:
        arguments = *head, right[None], out[None]
        _over_rows(plan, right.shape[1], lambda a, b: compiled.products.product(*arguments, a, b))

    return times


def _sampled(plan: _Plan) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    head = _unsigned(plan)

    def sample(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
        arguments = *head, left[None], right[None], out[None]
        _over_rows(plan, right.shape[1], lambda a, b: compiled.products.sampled(*arguments, a, b))

    return sample


# ---------------------------------------------------------------------------------------- MKL


class _Description(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("part", ctypes.c_int), ("diagonal", ctypes.c_int))


_GENERAL, _AS_IT_IS, _ROW_MAJOR = _Description(20, 40, 50), 10, 101


def _mkl(plan: _Plan, p: int) -> Callable[[np.ndarray, np.ndarray], None]:
    # Where MKL is, the package for PARDISO knows.
    library = importlib.import_module("pypardiso").PyPardisoSolver().libmkl
    letter = {"float32": "s", "float64": "d"}[plan.values.dtype.name]
    real = {"s": ctypes.c_float, "d": ctypes.c_double}[letter]
    handle = ctypes.c_void_p()

    def ask(name: str, *arguments: Any) -> None:
        status = getattr(library, f"mkl_sparse_{name}")(*arguments)
        if status:
            raise RuntimeError(f"mkl_sparse_{name} returned status {status}")

    def at(x: np.ndarray, offset: int = 0) -> ctypes.c_void_p:
        return ctypes.c_void_p(x.ctypes.data + offset)

    crow, col = (x.astype(np.int32, copy=False) for x in (plan.crow, plan.col))
    rows = at(crow), at(crow, crow.itemsize)
    ask(f"{letter}_create_csr", ctypes.byref(handle), 0, plan.rows, plan.cols, *rows, at(col),
        at(plan.values))  # fmt: skip
    if p == 1:
        ask("set_mv_hint", handle, _AS_IT_IS, _GENERAL, _CALLS)
    else:
        ask("set_mm_hint", handle, _AS_IT_IS, _GENERAL, _ROW_MAJOR, p, _CALLS)
    ask("optimize", handle)
    one, none = real(1), real(0)

    def times(right: np.ndarray, out: np.ndarray) -> None:
        head = _AS_IT_IS, one, handle, _GENERAL
        if p == 1:
            ask(f"{letter}_mv", *head, at(right), none, at(out))
        else:
            ask(f"{letter}_mm", *head, _ROW_MAJOR, at(right), p, p, none, at(out), p)

    weakref.finalize(times, _destroy, library, handle, (crow, col, plan))
    return times


def _destroy(library: Any, handle: ctypes.c_void_p, kept: object) -> None:
    """End a handle, until when the arrays are kept that it points into."""
    del kept
    library.mkl_sparse_destroy(handle)


BOUNDS = ("bound: MKL", "bound: loops")
MM = {
    "bound: MKL": Peer(partial(_prepare, _mkl), "pypardiso"),
    "bound: loops": Peer(partial(_prepare, _loops)),
}
