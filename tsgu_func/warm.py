"""``python -m tsgu_func warm``: compile the loops ahead of time, for an image of a container.

It calls what compiles them, on small matrices: that compiles the versions that later calls load.
"""

from __future__ import annotations

import argparse
import logging
import operator
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tsgu_func import (
    SparseMatrix,
    gather_mm,
    segment_mm,
    sparse_lstsq,
    sparse_solve,
    sparse_triangular_solve,
)
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.console.counting import counted
from tsgu_func.console.ending import CommandError
from tsgu_func.kernels import compiled
from tsgu_func.solvers import CG, GMRES, IC0, ICCG, ILU0, LSQR, clear_cache
from tsgu_func.sparse_jacobian import sparse_jacobian

__all__ = ["add_arguments", "place", "run"]

_DTYPES: tuple[str, ...] = ("float64", "float32", "complex128", "complex64")
_SIDE = 48  # of a grid: more rows than `sparse_solve` takes for few


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Compile the loops of this package ahead of time, and keep them: the first calls of a "
        "process load them then. Takes a minute or two; loops that are kept already are not "
        "compiled again. NUMBA_CACHE_DIR says where to keep them."
    )
    parser.add_argument(
        "--quick", action="store_true", help="float64 alone, in place of all four dtypes"
    )


def place() -> str | None:
    """Return the folder that compiled loops are kept in; None if there is none."""
    return compiled.products.product.stats.cache_path


def run(options: argparse.Namespace) -> int:
    """Call what there is for each dtype; say how long it took, and where all is kept."""
    where = place()
    if where is None:
        raise CommandError(
            "there is no place to keep compiled loops: set NUMBA_CACHE_DIR to a folder that can "
            "be written to"
        )
    began, dtypes = time.perf_counter(), _DTYPES[:1] if options.quick else _DTYPES
    seconds: dict[str, float] = dict.fromkeys(dtypes, 0.0)
    with _quiet():
        for dtype, work in counted([(d, w) for d in dtypes for w in _WORKS], "steps"):
            start = time.perf_counter()
            _WORKS[work](getattr(torch, dtype))
            seconds[dtype] += time.perf_counter() - start
            if work == next(reversed(_WORKS)):
                print(f"{dtype:<12}{seconds[dtype]:6.1f} s", flush=True)
    print(f"all in {time.perf_counter() - began:.1f} s; compiled loops are kept in {where}")
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Have nobody told that loops are compiled, who asked for it."""
    logger = logging.getLogger("tsgu_func")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CS[RC] tensor support", UserWarning)
            yield
    finally:
        logger.disabled = before
        clear_cache()


# ------------------------------------------------------------------------------------ the works


def _grid(dtype: torch.dtype, problem: str = "plane") -> SparseMatrix:
    return SparseMatrix.from_scipy(PROBLEMS[problem].build(_SIDE)).to(dtype)


def _derived(f: Callable[[SparseMatrix, Tensor], Tensor], A: SparseMatrix, *sizes: int) -> None:
    """Compute a value and its gradients, for a vector and for so many columns."""
    for size in ((), *((p,) for p in sizes)):
        B = torch.ones(A.shape[0], *size, dtype=A.dtype, requires_grad=True)
        own = A.with_values(A.values.detach().clone().requires_grad_())
        torch.autograd.grad(f(own, B).abs().sum(), (own.values, B))


def _products(dtype: torch.dtype) -> None:
    A = _grid(dtype)
    _derived(operator.matmul, A, 2, 20)
    _derived(operator.matmul, A.T, 2, 20)
    several = A.with_values(torch.stack([A.values, A.values]))
    operator.matmul(several, torch.ones(A.shape[1], 3, dtype=dtype))


def _triangles(dtype: torch.dtype) -> None:
    _derived(partial(sparse_triangular_solve, upper=False), _grid(dtype).tril(), 3)
    _derived(sparse_triangular_solve, _grid(dtype).triu(), 3)


def _systems(dtype: torch.dtype) -> None:
    for problem in ("plane", "convection"):
        _derived(sparse_solve, _grid(dtype, problem), 3)


def _iterations(dtype: torch.dtype) -> None:
    rtol = 1e-3  # it is about the loops
    for problem, solver in (
        ("plane", CG(IC0(), rtol=rtol)),
        ("plane", ICCG(rtol=rtol)),
        ("convection", GMRES(ILU0(), rtol=rtol)),
    ):
        _derived(partial(sparse_solve, solver=solver), _grid(dtype, problem), 3)


def _least_squares(dtype: torch.dtype) -> None:
    A = _grid(dtype)
    row, col, n = A.pattern.row, A.pattern.col, A.shape[0]
    values = A.values + 8 * (row == col)  # of full rank in single precision, too
    tall = SparseMatrix.from_coo(
        torch.cat([row, row + n]), col.repeat(2), values.repeat(2), (2 * n, n)
    )
    for solver in (None, LSQR()):
        solved = sparse_lstsq if solver is None else partial(sparse_lstsq, solver=solver)
        _derived(solved, tall, 3)


def _sparse_products(dtype: torch.dtype) -> None:
    A = _grid(dtype)
    own = A.with_values(A.values.detach().clone().requires_grad_())
    torch.autograd.grad((own @ own).values.abs().sum(), own.values)


def _indexed(dtype: torch.dtype) -> None:
    if dtype.is_complex:
        return
    rows, bank = torch.ones(9, 4, dtype=dtype), torch.ones(3, 4, 4, dtype=dtype)
    gather_mm(rows, bank, torch.tensor([2, 0, 1] * 3))
    segment_mm(rows, bank, torch.tensor([4, 2, 3]))


def _jacobians(dtype: torch.dtype) -> None:
    if dtype.is_complex:
        return
    sparse_jacobian(lambda x: x**2 + x.roll(1))(torch.ones(100, dtype=dtype))


_WORKS: dict[str, Callable[[torch.dtype], Any]] = {
    "products": _products,
    "triangles": _triangles,
    "systems": _systems,
    "iterations": _iterations,
    "least squares": _least_squares,
    "sparse products": _sparse_products,
    "indexed": _indexed,
    "Jacobians": _jacobians,
}
