"""What can be found out about derivatives by a few products with random vectors.

A product is a sum of rounded numbers, and how large the error is depends on what was computed on
the way.  So where two products differ by more than they should, the error is measured: by linearity
alone, the product with a random multiple of v is that multiple of the product with v.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.derivatives.flat import Layout

__all__ = ["Difference", "differences", "direction", "precision"]

# Units of rounding of a sum of magnitudes, within which products are the same; times how much of a
# measured error; and how often the error is measured.
# Rounding errors come in whole units: where few add up, many measurements find none at all.
_UNITS, _TIMES, _MEASURED = 64, 32, 32


class Difference(NamedTuple):
    """Rows in which a product is not what it should be, and rows of which nothing can be said.

    Attributes
    ----------
    wrong, unknown : Tensor
        Indices.
    """

    wrong: Tensor
    unknown: Tensor


def precision(*layouts: Layout) -> float:
    """Return the unit of rounding of the coarsest dtype among some."""
    return max(torch.finfo(dtype).eps for layout in layouts for dtype in layout.dtypes)


def direction(layout: Layout, generator: torch.Generator) -> Tensor:
    """Return a random vector without small elements."""
    dtype = layout.dtype
    size = 1 + torch.rand(layout.size, generator=generator, device="cpu", dtype=torch.float64)
    sign = torch.randint(0, 2, (layout.size,), generator=generator, device="cpu") * 2.0 - 1.0
    v = size * sign
    if dtype.is_complex:
        angle = torch.rand(layout.size, generator=generator, device="cpu", dtype=torch.float64)
        v = torch.polar(size, 2 * torch.pi * angle)
    return v.to(layout.device, dtype)


def differences(
    product: Callable[[Tensor], Tensor],
    v: Tensor,
    expected: Tensor,
    scale: Tensor,
    unit: float,
    generator: torch.Generator,
) -> Difference:
    """Compare a product with what it is expected to be, as far as rounding allows.

    Parameters
    ----------
    product : callable
        A linear function, to be compared at v.
    v, expected : Tensor
    scale : Tensor
        Sums of the magnitudes of what is added up in each element.
    unit : float
        Of rounding.
    generator : torch.Generator
    """
    got = product(v)
    error = (got - expected).abs()
    unknown = ~torch.isfinite(error + scale)
    bound = _UNITS * unit * scale
    if bool((error > bound).any()):
        for factor in torch.rand(_MEASURED, generator=generator, device="cpu").tolist():
            measured = (product((1 + factor) * v) - (1 + factor) * got).abs()
            bound = torch.maximum(bound, _TIMES * measured)
    return Difference(((error > bound) & ~unknown).nonzero()[:, 0], unknown.nonzero()[:, 0])
