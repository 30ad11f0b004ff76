"""Cases of the products by segment and by index, for the rule tests, and problems to draw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.case import Case, Function, randn
from tests.strategies import DTYPES, numbers
from tsgu_func import gather_mm, segment_mm
from tsgu_func.indexed_matmul import segment_outer, segment_product

# Four matrices; the one at 1 is not used.  Row i of the first kind has matrix IN_PLACE[i].
IN_PLACE, ANYHOW = [0, 0, 2, 3], [3, 0, 2, 0]
LENGTHS, OFFSETS = [2, 0, 1, 1], [0, 2, 2, 3, 4]
ORDER = [1, 3, 2, 0]
BANK = len(LENGTHS)


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


def by_row(a: Tensor, b: Tensor, index: list[int]) -> Tensor:
    """Multiply row by row, in Python."""
    out = a.new_zeros(a.shape[0], b.shape[2])
    for i, r in enumerate(index):
        out[i] = (a[i].unsqueeze(1) * b[r]).sum(0)
    return out


def repeated(lengths: list[int]) -> list[int]:
    """Return the segment of each row."""
    return [r for r, n in enumerate(lengths) for _ in range(n)]


class Problem(NamedTuple):
    """Rows, a bank, and which matrix each row has: by length of segment, and in any order."""

    a: Tensor
    b: Tensor
    lengths: list[int]
    idx: list[int]


@st.composite
def problems(draw: st.DrawFn, *, longest: int = 9, least: int = 0) -> Problem:
    """Draw lengths, many of them zero, and the same rows in any order."""
    lengths = draw(st.lists(st.one_of(st.just(0), st.integers(0, longest)), max_size=14))
    dtype, seed = draw(DTYPES), draw(st.integers(0, 999))
    n, d1, d2 = sum(lengths), draw(st.integers(least, 4)), draw(st.integers(least, 4))
    index = draw(st.permutations(repeated(lengths)))
    a, b = numbers((n, d1), dtype, seed), numbers((len(lengths), d1, d2), dtype, seed + 1)
    return Problem(a, b, lengths, index)


# What decides how segments are multiplied, so that small problems reach each way.
WAYS = {"as it is": {}, "alone": {"_WORTH_A_CALL": 0}, "in groups": {"_WORTH_A_GROUP": 1}}


def indexed_primitive_cases(dtype: torch.dtype) -> list[Case]:
    """Return cases of both primitives, with rows in place and with rows in any order."""
    a, y = randn(4, 2, dtype=dtype, seed=11), randn(4, 3, dtype=dtype, seed=12)
    b = randn(BANK, 2, 3, dtype=dtype, seed=13)
    offsets = torch.tensor(OFFSETS)
    cases = []
    for name, index, rows in (("", IN_PLACE, []), (".order", ANYHOW, ORDER)):
        order = torch.tensor(rows, dtype=torch.int64)
        cases += [
            Case(
                f"segment_product{name}",
                lambda a, b, order=order: segment_product(a, b, offsets, order),
                products(index),
                (a, b),
                segment_product,
            ),
            Case(
                f"segment_outer{name}",
                lambda x, y, order=order: segment_outer(x, y, offsets, order),
                outer_sums(index),
                (a, y),
                segment_outer,
            ),
        ]
    return cases


def indexed_public_cases(dtype: torch.dtype) -> list[Case]:
    """Return cases of the public functions."""
    args = randn(4, 2, dtype=dtype, seed=14), randn(BANK, 2, 3, dtype=dtype, seed=15)
    lengths = torch.tensor(LENGTHS)

    def gathers(name: str, index: list[int]) -> Case:
        idx = torch.tensor(index, dtype=torch.int32)
        return Case(f"gather_mm {name}", lambda a, b: gather_mm(a, b, idx), products(index), args)

    return [
        Case("segment_mm", lambda a, b: segment_mm(a, b, lengths), products(IN_PLACE), args),
        gathers("sorted", IN_PLACE),
        gathers("unsorted", ANYHOW),
    ]
