"""Changes of variables: ``X = N Y`` with an N such that A N is better conditioned than A."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.matrix_free import MatrixFree
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.lstsq.scaling import scaled
from tsgu_func.solvers.protocol import Preconditioner
from tsgu_func.solvers.system import as_operator

__all__ = ["Variables", "preconditioned", "scaled_columns", "unchanged"]

Function = Callable[[Tensor], Tensor]


class Variables(NamedTuple):
    """New variables Y.

    Attributes
    ----------
    A : StoredMatrix or MatrixFree
        A N.
    forward, adjoint : callable
        ``Y -> N Y`` and ``R -> Nᴴ R``.
    inverse : callable, optional
        ``X -> N⁻¹ X``, if that can be had.
    """

    A: StoredMatrix | MatrixFree
    forward: Function
    adjoint: Function
    inverse: Function | None = None


def unchanged(A: MatrixFree) -> Variables:
    """Leave them as they are."""
    return Variables(A, lambda Y: Y, lambda R: R, lambda X: X)


def scaled_columns(A: StoredMatrix, name: str) -> Variables:
    """Scale the columns to norm one; `name` is what errors call them."""
    AN, scale = scaled(A, name)
    return Variables(AN, lambda Y: scale * Y, lambda R: scale * R, lambda X: X / scale)


def preconditioned(A: StoredMatrix | MatrixFree, M: Preconditioner, part: object) -> Variables:
    """Take N = M⁻¹, for M with the state `part`."""
    rows, cols = A.shape
    multiply = as_operator(A, "A", False, rows)
    adjoint = as_operator(A.mH, "the adjoint of A", False, cols)

    def forward(Y: Tensor) -> Tensor:
        return _by_member(lambda y: M.apply(part, y), Y)

    def backward(R: Tensor) -> Tensor:
        return _by_member(lambda r: M.apply(part, r, True, True), R)

    AN = MatrixFree(
        A.structure,
        A.values,
        lambda _, Y: multiply(forward(Y)),
        lambda _, R: backward(adjoint(R)),
        (rows, cols),
        A.dtype,
    )
    return Variables(AN, forward, backward)


def _by_member(function: Function, Y: Tensor) -> Tensor:
    return function(Y) if Y.ndim == 2 else torch.stack([function(y) for y in Y])
