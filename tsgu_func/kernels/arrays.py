"""From tensors to the arrays that compiled loops and SciPy work with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["as_array"]


def as_array(x: Tensor) -> Any:
    """Return a tensor as an array of NumPy: its memory where that is what it says it is.

    It need not be: a tensor may be conjugated or negated lazily, which no array can be.
    """
    return x.detach().resolve_conj().resolve_neg().cpu().contiguous().numpy()
