"""A system as the iterative solvers read it: an operator, columns, and the scale of residuals.

A right-hand side becomes columns ``(*batch, n, p)``, each divided by its largest entry, so that no
inner product over- or underflows on account of B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsgu_func.kernels.checks import all_finite
from tsgu_func.kernels.matrix_free import MatrixFree
from tsgu_func.kernels.shapes import broadcast_shapes
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.columns import column_norms
from tsgu_func.solvers.protocol import SolveError

__all__ = [
    "Operator",
    "System",
    "as_operator",
    "check_finite",
    "check_product",
    "matrix_shape",
    "read_system",
]

Function = Callable[[Tensor], Tensor]

_DTYPES = (torch.float32, torch.complex64, torch.float64, torch.complex128)
_NAMES = ("matmul_closure", "rhs", "initial_guess")  # of the arguments, as messages call them


# ------------------------------------------------------------------------------------ operators


@dataclass
class Operator:
    """``X -> A X`` on columns ``(*batch, n, p)``, which checks what comes out and counts calls."""

    function: Function
    name: str
    rows: int | None = None  # of the output; as many as of the input, if not said
    matrix: StoredMatrix | None = None  # that it multiplies with, by rows, if that is stored
    calls: int = 0

    def __call__(self, X: Tensor) -> Tensor:
        """Multiply."""
        self.calls += 1
        Y = self.function(X)
        rows = X.shape[-2] if self.rows is None else self.rows
        expected = (*X.shape[:-2], rows, X.shape[-1])
        if not isinstance(Y, Tensor) or Y.shape != expected or Y.dtype != X.dtype:
            got = f"{tuple(Y.shape)}, {Y.dtype}" if isinstance(Y, Tensor) else type(Y).__name__
            raise SolveError(
                f"{self.name} output must be a tensor of shape {expected} and {X.dtype} for an "
                f"argument of shape {tuple(X.shape)}; got {got}"
            )
        if Y.requires_grad:
            raise RuntimeError(
                "autograd would differentiate the iterations, not the solution: call "
                "sparse_generic_solve or sparse_generic_lstsq, or solve under torch.no_grad()"
            )
        return Y

    def refuse(self, Y: Tensor) -> SolveError:
        """Return the error that says why a recurrence met a number that is not finite."""
        if not bool(torch.isfinite(Y).all()):
            return SolveError(
                f"{self.name} output holds a value that is not finite (NaN or infinity): A, or "
                f"the function that multiplies with it, is at fault, or X has overflowed"
            )
        return SolveError("the recurrence overflowed: scale A and rhs to numbers of moderate size")


def as_operator(A: Any, name: str, vector: bool, rows: int | None = None) -> Operator:
    """Read a matrix, or a function, as an operator on columns.

    A stored matrix is brought to compressed rows here, so that no product converts it again.
    A function gets what the right-hand side is: with `vector`, vectors (n,).
    """
    if not isinstance(A, StoredMatrix):
        return Operator(_multiplier(A, name, vector), name, rows)
    structure, order = A.structure.oriented(A.transpose)
    values = A.entries if order is None else A.entries.index_select(-1, order)
    A = StoredMatrix(structure, values)
    return Operator(A.__matmul__, name, rows, A)


def _multiplier(A: Any, name: str, vector: bool) -> Function:
    if hasattr(A, "__matmul__"):
        return lambda X: A @ X
    if callable(A):
        function: Any = A
        return _on_vectors(function) if vector else function
    raise SolveError(
        f"{name} must be a tensor, a SparseMatrix, something else that multiplies with `@`, or a "
        f"function; got {type(A).__name__}"
    )


def _on_vectors(function: Function) -> Function:
    """Call a function of vectors for each column; one that takes columns only gets them all."""
    vectors = True

    def call(X: Tensor) -> Tensor:
        nonlocal vectors
        if vectors:
            Y = [function(x) for x in X.unbind(-1)]
            if all(isinstance(y, Tensor) and y.ndim == X.ndim - 1 for y in Y):
                return torch.stack(Y, -1)
            vectors = False
        return function(X)

    return call


# --------------------------------------------------------------------------------- the system


@dataclass(frozen=True)
class System:
    """``A X = B``: columns, where to start, and the scale in which residuals are measured."""

    multiply: Any
    B: Tensor
    start: Tensor | None
    peak: Tensor  # largest entry of each column
    unit: Tensor  # norm of each column, divided by its largest entry
    vector: bool

    def residual(self, X: Tensor) -> Tensor:
        """Return (B - A X) / peak."""
        R = (self.B - self.multiply(X)) / self.peak
        check_finite(self.multiply, R, R)
        return R

    def error(self, R: Tensor) -> Tensor:
        """Return the norms of scaled residuals, relative to B."""
        return column_norms(R) / self.unit

    def answer(self, X: Tensor) -> Tensor:
        """Give X the shape of the right-hand side."""
        return X.squeeze(-1) if self.vector else X


def read_system(
    A: Any, rhs: Any, start: Any, *, cols: int | None = None, names: tuple[str, ...] = _NAMES
) -> System:
    """Check the arguments of a solver, and bring them to columns; A is square unless `cols`."""
    _check_rhs(rhs, names[1])
    vector = rhs.ndim == 1
    B = rhs.unsqueeze(-1) if vector else rhs
    rows: int = B.shape[-2]
    cols = rows if cols is None else cols
    _check_matrix(A, rhs, (rows, cols), names)
    batch = broadcast_shapes(_batch_of(A), B.shape[:-2])
    B = B.expand(*batch, *B.shape[-2:])
    shape = (*rhs.shape[:-2], cols) if vector else (*rhs.shape[:-2], cols, rhs.shape[-1])
    start = _read_start(start, rhs, shape, names)
    if start is not None:
        start = start.expand(*batch, cols, B.shape[-1])
    peak = B.abs().amax(-2, keepdim=True) if rows else B.abs().sum(-2, keepdim=True)
    _check_values(peak, names[1])
    zero = peak == 0
    if start is not None:  # the solution for nothing is known
        start = torch.where(zero, torch.zeros_like(start), start)
    peak = torch.where(zero, 1, peak.clamp_min(torch.finfo(peak.dtype).tiny))
    unit = torch.where(zero, 1, column_norms(B / peak))
    return System(as_operator(A, names[0], vector, rows), B, start, peak, unit, vector)


def matrix_shape(A: Any) -> tuple[int, ...] | None:
    """Return the shape of a matrix, None for a function."""
    shape = getattr(A, "shape", None)
    return tuple(shape) if shape is not None and hasattr(A, "__matmul__") else None


def _batch_of(A: Any) -> tuple[int, ...]:
    if isinstance(A, (StoredMatrix, MatrixFree)):
        return tuple(A.values.shape[:-1])
    return (matrix_shape(A) or ())[:-2]


def _check_rhs(rhs: Any, name: str) -> None:
    if not isinstance(rhs, Tensor):
        raise TypeError(f"{name} is a tensor; got {type(rhs).__name__}")
    if rhs.dtype not in _DTYPES or rhs.layout != torch.strided:
        raise TypeError(
            f"{name} is dense and floating-point: float32, float64 or complex; got {rhs.dtype}, "
            f"{rhs.layout}"
        )
    if rhs.ndim == 0:
        raise ValueError(f"{name} has at least one dimension, (n,) or (*batch, n, p); got a number")


def _check_values(x: Tensor, name: str) -> None:
    if not all_finite(x):
        raise ValueError(f"{name} holds a value that is not finite (NaN or infinity)")


def _check_matrix(A: Any, rhs: Tensor, shape: tuple[int, int], names: tuple[str, ...]) -> None:
    given = matrix_shape(A)
    if given is None:
        return
    if len(given) < 2 or given[-2:] != shape:
        raise ValueError(
            f"{names[0]} must have shape {shape} for {names[1]} of shape {tuple(rhs.shape)}; "
            f"got {given}"
        )
    dtype = getattr(A, "dtype", rhs.dtype)
    if dtype != rhs.dtype:
        raise ValueError(
            f"{names[0]} and {names[1]} must have one dtype; got {dtype} and {rhs.dtype}: convert "
            f"one with .to"
        )


def _read_start(start: Any, rhs: Tensor, shape: tuple[int, ...], names: tuple[str, ...]) -> Any:
    if start is None:
        return None
    vector = rhs.ndim == 1
    if not isinstance(start, Tensor):
        raise TypeError(f"{names[2]} is a tensor; got {type(start).__name__}")
    if start.shape != shape and not (vector and start.shape == (*shape, 1)):
        raise ValueError(
            f"{names[2]} must have shape {shape}, which goes with the shape of {names[1]}, "
            f"{tuple(rhs.shape)}; got {tuple(start.shape)}"
        )
    if start.dtype != rhs.dtype:
        raise ValueError(f"{names[2]} must have dtype {rhs.dtype}; got {start.dtype}")
    _check_values(start, names[2])
    return start.unsqueeze(-1) if start.ndim == 1 else start


# ----------------------------------------------------------------------- what is not finite


def check_finite(operator: Any, numbers: Tensor, Y: Tensor) -> None:
    """Raise if a recurrence's numbers, computed from the product Y, are not finite."""
    if not all_finite(numbers):
        raise operator.refuse(Y)


def check_product(operator: Any, X: Tensor, Y: Tensor) -> None:
    """Raise if ``Y = A X`` is not finite, in a column where X is of a size that it should be.

    A column that runs off to infinity is none of the others' business.
    """
    if bool(torch.isfinite(Y.sum())):
        return
    wrong = ~torch.isfinite(Y).all(-2) & (X.abs().amax(-2) < torch.finfo(X.dtype).max ** 0.5)
    if bool(wrong.any()):
        raise operator.refuse(Y)
