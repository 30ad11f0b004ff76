"""Records of the products by segment and by index."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func import gather_mm, segment_mm
from tsgu_func.ops.segments import segment_outer, segment_product
from tsgu_func.selfcheck.records.base import Function, Nodes, Record, randn

# Four matrices; the one at 1 is not used.  Row i of the first kind has matrix IN_PLACE[i].
IN_PLACE, ANYHOW = [0, 0, 2, 3], [3, 0, 2, 0]
LENGTHS, OFFSETS = [2, 0, 1, 1], [0, 2, 2, 3, 4]
ORDER = [1, 3, 2, 0]
BANK = len(LENGTHS)

# The cotangent of a is the product with the matrices b^H, that of b a sum of outer products.
PRODUCT = Nodes(
    {"segment_product": 1},
    {"segment_product": 1, "segment_outer": 1},
    ({"segment_product": 1}, {"segment_outer": 1}),
)
# The cotangent is a bank of matrices; that of x is a product with y, that of y one with x.
OUTER = Nodes(
    {"segment_outer": 1},
    {"segment_product": 2},
    ({"segment_product": 1}, {"segment_product": 1}),
)


def products(index: list[int]) -> Function:
    """Multiply row by row."""
    # Written out: of a vector and a matrix, `@` fails under dual numbers in a vectorized jacobian.
    return lambda a, b: torch.stack(
        [(a[i].unsqueeze(1) * b[r]).sum(0) for i, r in enumerate(index)]
    )


def outer_sums(index: list[int]) -> Function:
    """Add up the outer products of rows with one index."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        zero = (x[0].unsqueeze(1) * y[0]) * 0
        return torch.stack(
            [
                sum((x[i].unsqueeze(1) * y[i] for i, s in enumerate(index) if s == r), zero)
                for r in range(BANK)
            ]
        )

    return function


def indexed_primitive_records(dtype: torch.dtype) -> list[Record]:
    """Return records of both primitives, with rows in place and with rows in any order."""
    a, y = randn(4, 2, dtype=dtype, seed=11), randn(4, 3, dtype=dtype, seed=12)
    b = randn(BANK, 2, 3, dtype=dtype, seed=13)
    offsets = torch.tensor(OFFSETS, device="cpu")  # on all devices: it is read at each call
    records = []
    for name, index, rows in (("", IN_PLACE, []), (".order", ANYHOW, ORDER)):
        order = torch.tensor(rows, dtype=torch.int64)
        records += [
            Record(
                f"segment_product{name}",
                lambda a, b, order=order: segment_product(a, b, offsets, order),
                products(index),
                (a, b),
                segment_product,
                nodes=PRODUCT,
            ),
            Record(
                f"segment_outer{name}",
                lambda x, y, order=order: segment_outer(x, y, offsets, order),
                outer_sums(index),
                (a, y),
                segment_outer,
                nodes=OUTER,
            ),
        ]
    return records


def indexed_public_records(dtype: torch.dtype) -> list[Record]:
    """Return records of the public functions."""
    args = randn(4, 2, dtype=dtype, seed=14), randn(BANK, 2, 3, dtype=dtype, seed=15)
    lengths = torch.tensor(LENGTHS)

    def gathers(name: str, index: list[int]) -> Record:
        idx = torch.tensor(index, dtype=torch.int32)
        return Record(
            f"gather_mm {name}",
            lambda a, b: gather_mm(a, b, idx),
            products(index),
            args,
            nodes=PRODUCT,
        )

    return [
        Record(
            "segment_mm",
            lambda a, b: segment_mm(a, b, lengths),
            products(IN_PLACE),
            args,
            nodes=PRODUCT,
        ),
        gathers("sorted", IN_PLACE),
        gathers("unsorted", ANYHOW),
    ]
