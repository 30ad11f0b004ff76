"""Problems of rows and segments to draw, and the ways in which they are multiplied."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from torch import Tensor

from tests.strategies import DTYPES, numbers


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
