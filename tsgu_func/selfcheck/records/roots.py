"""Records of roots of systems of equations."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func import sparse_root
from tsgu_func.ops.roots import root
from tsgu_func.selfcheck.records.base import Nodes, Record, eliminate, randn

# The cotangent of the parameters is the vjp of the function, of the W that solves with the adjoint.
ROOT = Nodes(
    {"root": 1}, {"operator_solve": 1, "callback": 1}, ({"operator_solve": 1, "callback": 1},)
)
_STEPS = 12  # of the reference: enough for the root, and a few more for its derivatives


def balance(x: Tensor, p: Tensor) -> Tensor:
    """Return what a cycle of equations leaves, whose Jacobian is not symmetric."""
    return (4 + p * p) * x + x.roll(1) + x * x * x / 4 - p


def _by_newton(p: Tensor) -> Tensor:
    """Return the root by Newton's method with a dense Jacobian, whose steps are differentiated."""
    shift = torch.eye(len(p), dtype=p.dtype, device=p.device).roll(1, 0)
    x = torch.zeros_like(p)
    for _ in range(_STEPS):
        J = torch.diag(4 + p * p + 3 * x * x / 4) + shift
        x = x - eliminate(J, balance(x, p).unsqueeze(-1)).squeeze(-1)
    return x


def root_records(dtype: torch.dtype) -> list[Record]:
    """Return the records of roots."""

    def found(p: Tensor) -> Tensor:
        return sparse_root(balance, torch.zeros_like(p), p)

    return [Record("sparse_root", found, _by_newton, (randn(4, dtype=dtype),), root, nodes=ROOT)]
