"""Records of sparse derivatives, which are made of PyTorch's own operations."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func import SparsityPattern, color, sparse_jacobian
from tsgu_func.selfcheck.records.base import Nodes, Record, randn

_NO_OP = Nodes({}, {}, ({},))
# PyTorch nests neither its two kinds of forward mode nor transforms inside of checkpointing, nor
# can it vectorize complex ones: each raises, and tests/test_sparse_jacobian_rules.py sees them do.
_VECTORIZED = frozenset({"functional.jacobian, vectorized"})
_REFUSED = {
    "forward": frozenset({"forward_ad", "backward through forward_ad", "linearize"}) | _VECTORIZED,
    "reverse": frozenset({"checkpoint"}),
}


def products(x: Tensor) -> Tensor:
    """Return a function of neighbours, (4,) -> (3,)."""
    return x[1:] * x[1:] * x[:-1]


def entries(x: Tensor) -> Tensor:
    """Return what element i of the products has for elements i and i + 1, for each i."""
    return torch.stack([x[1:] * x[1:], 2 * x[1:] * x[:-1]], 1).reshape(-1)


def derivative_records(dtype: torch.dtype) -> list[Record]:
    """Return the records of a Jacobian, by products in either mode."""
    return [_jacobian(mode, dtype) for mode in ("forward", "reverse")]


def _jacobian(mode: str, dtype: torch.dtype) -> Record:
    band, _ = SparsityPattern.from_coo([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3], (3, 4))
    jac = sparse_jacobian(products, color(band, mode))
    refused = _REFUSED[mode] | (_VECTORIZED if dtype.is_complex else frozenset())
    return Record(
        f"sparse_jacobian {mode}",
        lambda x: jac(x).values,
        entries,
        (randn(4, dtype=dtype),),
        compiles=mode == "forward",
        nodes=_NO_OP,
        refused=refused,
    )
