"""Reverse mode that is mapped over cotangents, where PyTorch can map.

A derivative of PyTorch that has a wrong batching rule returns wrong numbers without a word, as in
``jacrev``; tests/test_canaries.py tells when that is mended.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["NoBatchingRuleError", "NoneMappedWrongly"]

# ``_cdist_backward`` is wrong where cotangents are mapped, and points are not.
_OPS = (torch.ops.aten.cdist, torch.ops.aten._cdist_forward)
_WRONG = (torch.cdist, *_OPS, *(op.default for op in _OPS))


class NoBatchingRuleError(NotImplementedError):
    """A derivative of PyTorch cannot be mapped over cotangents."""


class NoneMappedWrongly(TorchFunctionMode):
    """A mode in which a function raises whose derivative ``vmap`` over cotangents gets wrong."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(func is wrong for wrong in _WRONG):
            raise NoBatchingRuleError(
                "the derivative of torch.cdist is wrong in PyTorch where cotangents are mapped, "
                "as torch.func.jacrev does: compute distances with operations on x[:, None] - y, "
                "or pass chunk_size=1 to sparse_jacobian, which takes one product at a time"
            )
        return func(*args, **(kwargs or {}))
