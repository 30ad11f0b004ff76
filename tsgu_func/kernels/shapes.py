"""Shapes of batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["broadcast_shapes"]


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """Return what `torch.broadcast_shapes` returns.

    That imports SymPy at its first call: a second or two, and an interrupt on the way would leave
    PyTorch broken.  So it is called only where sizes are symbols, or do not fit together.
    """
    symbols = any(isinstance(n, torch.SymInt) for shape in shapes for n in shape)
    if torch.compiler.is_compiling() or symbols:
        return torch.broadcast_shapes(*shapes)
    rank, common = max(map(len, shapes)), []
    for sizes in zip(*((1,) * (rank - len(s)) + tuple(s) for s in shapes), strict=True):
        wide = [n for n in sizes if n != 1] or [1]
        if len(set(wide)) > 1:
            return torch.broadcast_shapes(*shapes)  # an error
        common.append(wide[0])
    return torch.Size(common)
