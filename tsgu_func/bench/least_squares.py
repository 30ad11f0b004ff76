"""Least-squares solutions of a tall matrix.

Entries are at random, with some in each column; time is worth nothing without the error beside it.
SciPy's LSMR is compared with at the same tolerances, column by column, as it takes no more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

from tsgu_func import SparseMatrix, sparse_generic_lstsq
from tsgu_func.bench.compare import DIRECTIONS, compare, header, upstream
from tsgu_func.solvers import LSMR
from tsgu_func.utils import lsmr

__all__ = ["SciPy", "add_arguments", "run"]

# At which SciPy is compared with; None is our default.
_TOLERANCES = (1e-6, None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rows", type=int, default=20_000, help="of A (%(default)s)")
    parser.add_argument("--unknowns", type=int, default=5_000, help="columns of A (%(default)s)")
    parser.add_argument("--per-row", type=int, default=5, help="entries a row (%(default)s)")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 8], help="of B")


def run(options: argparse.Namespace) -> None:
    """Compare at both packages' defaults, and at the tolerances of the peers."""
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
                print(f"        {name}: {_error(A, solve(given[name], B), B)}")
        for rtol in _TOLERANCES:
            _beside_scipy(A, B, rtol, options.repeats)


def _beside_scipy(A: SparseMatrix, B: Tensor, rtol: float | None, repeats: int) -> None:
    """Compare with SciPy's LSMR at the same tolerance; for a gradient it is called three times."""
    tolerance = 8 * torch.finfo(B.dtype).eps if rtol is None else rtol
    p, given, loops = B.shape[-1], A.to_csr(), SciPy(A, tolerance)
    ours = partial(sparse_generic_lstsq, lstsq=LSMR(rtol=rtol))
    values: dict[str, Callable[[], Tensor]] = {
        "LSMR": lambda: ours(given, B),
        "SciPy": lambda: loops.solve(B),
        # With columns as they are: it takes as many iterations as SciPy does.
        "utils.lsmr": lambda: lsmr(given, B, atol=tolerance, btol=tolerance, conlim=0)[0],
    }
    compare(f"p = {p:<3} CSR forward, to {tolerance:.0e}", {**values}, repeats)
    gradients = {
        "LSMR": DIRECTIONS["forward+backward"](ours, given, B),
        "SciPy": lambda: loops.gradients(B),
    }
    compare(f"p = {p:<3} CSR forward+backward, to {tolerance:.0e}", {**gradients}, repeats)
    for name, value in values.items():
        print(f"        {name}: {_error(A, value(), B)}")


def _error(A: SparseMatrix, X: Tensor, B: Tensor) -> str:
    gradient = A.mH @ (A @ X - B)
    return f"|Aᵀ (A X - B)| / |Aᵀ B| = {float(gradient.norm() / (A.mH @ B).norm()):.0e}"


class SciPy:
    """What one writes by hand: SciPy's LSMR for each column, and gradients by three such solves."""

    def __init__(self, A: SparseMatrix, tolerance: float) -> None:
        self._A = A.to_scipy().tocsr()
        self._settings = {"atol": tolerance, "btol": tolerance, "conlim": 0, "maxiter": 100_000}

    def solve(self, B: Tensor) -> Tensor:
        """Solve for the columns of B."""
        return torch.from_numpy(self._solved(self._A, B.numpy()))

    def gradients(self, B: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of the sum of the solution in the entries of A, and in B."""
        X = self._solved(self._A, right := B.numpy())
        Y = self._solved(self._A.T, np.ones_like(X))
        H = self._solved(self._A, Y)
        R = right - self._A @ X
        row, col = self._A.tocoo().coords
        return (R[row] * H[col] - Y[row] * X[col]).sum(-1), Y

    def _solved(self, A: Any, B: np.ndarray) -> np.ndarray:
        columns = (np.ascontiguousarray(b) for b in B.T)
        return np.stack([sla.lsmr(A, b, **self._settings)[0] for b in columns], -1)


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
