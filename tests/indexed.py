"""Products by index and by segment, as Python does them, and the ways in which a kernel does."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import Tensor

from tsgu_func.testing.strategies import right_hand_sides


def by_row(a: Tensor, b: Tensor, index: list[int]) -> Tensor:
    """Multiply row by row, in Python."""
    out = a.new_zeros(a.shape[0], b.shape[2])
    for i, r in enumerate(index):
        out[i] = (a[i].unsqueeze(1) * b[r]).sum(0)
    return out


def repeated(lengths: list[int]) -> list[int]:
    """Return the segment of each row."""
    return [r for r, n in enumerate(lengths) for _ in range(n)]


@st.composite
def factors(draw: st.DrawFn, rows: int, matrices: int, **options) -> tuple[Tensor, Tensor]:
    """Draw rows and a bank of matrices that fit."""
    a = draw(right_hand_sides(rows, (0, 4), **options))
    batch = (*options.pop("batch", ()), matrices)
    bank = right_hand_sides(a.shape[-1], (0, 4), **{**options, "batch": batch, "dtype": a.dtype})
    return a, draw(bank)


# What decides how segments are multiplied, so that small problems reach each way.
_WITHOUT_MKL = {"multiplies": lambda *factors: False, "_FEW_GROUPS": 0}
WAYS = {
    "as it is": {},
    "one by one": {"_FEW_GROUPS": 1000},
    "at once": {"_FEW_GROUPS": 0},
    "without MKL": _WITHOUT_MKL,
    "alone": _WITHOUT_MKL | {"_WORTH_A_CALL": 0},
    "in groups": _WITHOUT_MKL | {"_WORTH_A_GROUP": 1},
}
