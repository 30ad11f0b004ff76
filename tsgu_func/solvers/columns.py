"""Arithmetic by columns, for all members of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["column_norms", "dot", "quotient"]


def dot(X: Tensor, Y: Tensor) -> Tensor:
    """Return Xᴴ Y per column."""
    return torch.linalg.vecdot(X, Y, dim=-2).unsqueeze(-2)


def column_norms(X: Tensor) -> Tensor:
    """Return the Euclidean norm of each column."""
    return torch.linalg.vector_norm(X, dim=-2, keepdim=True)


def quotient(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """Divide where a mask is set; zero elsewhere, whatever stands there."""
    return torch.where(where, a, 0) / torch.where(where, b, 1)
