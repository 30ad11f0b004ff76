"""What operators that are made of others call: functions of the parts, which are pytrees.

They are here, once, and not closed over the parts, so that two operators made in the same way of
the same parts are of one tree.  A part has `matmul` and `adjoint_matmul`; x is a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsgu_func.matrix.pytree import register

__all__ = [
    "Multiple",
    "adjoint_of",
    "adjoint_of_composition",
    "adjoint_of_damped",
    "adjoint_of_matrix",
    "adjoint_of_multiple",
    "adjoint_of_scaled",
    "adjoint_of_sum",
    "composition",
    "conjugate_of",
    "damped",
    "matrix",
    "multiple",
    "original",
    "scaled",
    "sum_of",
    "transpose_of",
]


def matrix(A: Any, x: Tensor) -> Tensor:
    """Multiply with a matrix that has entries."""
    dtype = torch.promote_types(A.dtype, x.dtype)
    A = A if A.dtype == dtype else A.to(dtype)
    return A.matmul(x.to(dtype))


def adjoint_of_matrix(A: Any, y: Tensor) -> Tensor:
    """Multiply with the conjugate transpose of a matrix that has entries."""
    return matrix(A.mH, y)


def original(A: Any, x: Tensor) -> Tensor:
    """Multiply with A."""
    return A.matmul(x)


def adjoint_of(A: Any, x: Tensor) -> Tensor:
    """Multiply with the conjugate transpose."""
    return A.adjoint_matmul(x)


def conjugate_of(A: Any, x: Tensor) -> Tensor:
    """Multiply with the conjugate."""
    return A.matmul(x.conj()).conj().resolve_conj()


def transpose_of(A: Any, x: Tensor) -> Tensor:
    """Multiply with the transpose."""
    return A.adjoint_matmul(x.conj()).conj().resolve_conj()


def sum_of(parts: Any, x: Tensor) -> Tensor:
    """Multiply with the sum."""
    A, B = parts
    return A.matmul(x) + B.matmul(x)


def adjoint_of_sum(parts: Any, y: Tensor) -> Tensor:
    """Multiply with the conjugate transpose of the sum."""
    A, B = parts
    return A.adjoint_matmul(y) + B.adjoint_matmul(y)


def composition(parts: Any, x: Tensor) -> Tensor:
    """Multiply with the product A B."""
    A, B = parts
    return A.matmul(B.matmul(x))


def adjoint_of_composition(parts: Any, y: Tensor) -> Tensor:
    """Multiply with the conjugate transpose of the product A B."""
    A, B = parts
    return B.adjoint_matmul(A.adjoint_matmul(y))


def damped(parts: Any, x: Tensor) -> Tensor:
    """Multiply with A, and below it a multiple of the identity."""
    factor, A = parts
    return torch.cat([A.matmul(x), factor * x])


def adjoint_of_damped(parts: Any, y: Tensor) -> Tensor:
    """Multiply with the conjugate transpose of A, and beside it a multiple of the identity."""
    factor, A = parts
    rows = A.shape[0]
    return A.adjoint_matmul(y[:rows]) + factor * y[rows:]


def scaled(parts: Any, x: Tensor) -> Tensor:
    """Multiply with a tensor times A."""
    factor, A = parts
    return factor * A.matmul(x)


def adjoint_of_scaled(parts: Any, y: Tensor) -> Tensor:
    """Multiply with the conjugate transpose of a tensor times A."""
    factor, A = parts
    return factor.conj() * A.adjoint_matmul(y)


@dataclass(frozen=True)
class Multiple:
    """A number, which is no parameter, and what it multiplies."""

    operator: Any
    factor: complex


register(Multiple, "operator", "factor", Multiple)


def multiple(parts: Any, x: Tensor) -> Tensor:
    """Multiply with a number times A."""
    return parts.factor * parts.operator.matmul(x)


def adjoint_of_multiple(parts: Any, y: Tensor) -> Tensor:
    """Multiply with the conjugate transpose of a number times A."""
    return parts.factor.conjugate() * parts.operator.adjoint_matmul(y)
