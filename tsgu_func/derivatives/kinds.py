"""What has a complex Jacobian, and what only looks like it.

A product with a unit vector is the derivative in the direction of the real axis.  Where a function
is holomorphic that is the whole derivative; of ``z.conj()`` or ``z.abs()`` it is one half of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsgu_func.derivatives.compression import Function, pushed
from tsgu_func.derivatives.flat import Layout
from tsgu_func.derivatives.verification import differences, direction, precision
from tsgu_func.registration.transforms import depth, has_tangent, is_tracing, pytree

__all__ = ["check_holomorphic", "check_kinds"]

_MEND = (
    "differentiate with respect to the real tensor torch.view_as_real(z), and compute with "
    "torch.view_as_complex of it"
)


def check_kinds(columns: Layout, rows: Layout, mode: str) -> None:
    """Refuse real and complex numbers together where a product would lose a part of some.

    Raises
    ------
    TypeError
        If a real result is to be differentiated with respect to complex arguments, or one of both
        kinds in reverse mode.
    """
    if columns.is_complex and not rows.is_complex:
        raise TypeError(
            f"a real function of complex arguments has no complex Jacobian: {_MEND}; the arguments "
            f"are {columns}, the result {rows}"
        )
    complex_somewhere = columns.is_complex or rows.is_complex
    real_somewhere = columns.is_real or rows.is_real
    if complex_somewhere and real_somewhere and mode != "forward":
        raise TypeError(
            f"where real and complex numbers meet, reverse mode tells only the real part of some "
            f'entries: pass mode="forward", or color(pattern, mode="forward"); the arguments are '
            f"{columns}, the result {rows}"
        )


def check_holomorphic(function: Function, chosen: Any, columns: Layout) -> None:
    """Refuse a function that is not complex differentiable at this point.

    Its products with v and i v, for a random v, have to differ by the factor i.  Under transforms
    and in graphs numbers cannot be looked at, and nothing is checked.

    Raises
    ------
    ValueError
        If they do not.
    """
    if is_tracing() or depth() or has_tangent(None):
        return
    point = pytree.tree_map(Tensor.detach, chosen)
    generator = torch.Generator("cpu").manual_seed(0)
    kinds = zip(columns.sizes, columns.dtypes, strict=True)
    turned = torch.cat([torch.full((n,), kind.is_complex, device="cpu") for n, kind in kinds])
    v = direction(columns, generator) * turned.to(columns.device)
    unit = precision(columns)

    def product(w: Tensor) -> Tensor:
        done = pushed(function, point, columns, w[None], chunk_size=1, check=_accept)
        return done.products[0]

    with torch.no_grad():
        along = product(v)
        wrong = differences(
            lambda w: product(1j * w), v, 1j * along, along.abs(), unit, generator
        ).wrong
    if len(wrong):
        raise ValueError(
            f"the function is not complex differentiable here: element {int(wrong[0])} of its "
            f"result depends on the conjugate of an argument, so a derivative along the real axis "
            f"is not the whole of it; {_MEND}"
        )


def _accept(rows: Layout) -> None:
    del rows
