"""All rules of functions that return sparse derivatives, as `check_rules` checks those of any.

Those of `sparse_jacobian` in one mode are among the records.
"""

import re

import pytest
import torch

from tests.functions import wave
from tsgu_func import Coloring, SparsityPattern, sparse_hessian, sparse_jacobian
from tsgu_func.selfcheck.records import record_named
from tsgu_func.selfcheck.records.derivatives import entries, products
from tsgu_func.testing import check_rules

GROUPS = ("value", "first", "higher", "eager", "jacobian", "vmap")

# A jvp of torch.func inside of eager forward mode, and a transform of torch.func inside of
# checkpointing, are what PyTorch refuses; each of these cells has to raise, and no other may.
VECTORIZED = "functional.jacobian, vectorized"  # of complex numbers, by an assertion of PyTorch
NESTED = {"forward_ad", "backward through forward_ad", "linearize", VECTORIZED}
HOOKS = {"checkpoint"}
TOLD = "Nested forward mode AD|saved tensor hooks|INTERNAL ASSERT"


def hessian(x):
    own, other = torch.cat([0 * x[:1], 2 * x[:-1]]), 2 * x[1:]
    return (own.diag() + other.diag(1) + other.diag(-1))[SQUARE.row.long(), SQUARE.col.long()]


BAND = SparsityPattern.from_coo([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3], (3, 4))[0]
SQUARE = SparsityPattern.from_coo(
    [0, 0, 1, 1, 1, 2, 2, 2, 3, 3], [0, 1, 0, 1, 2, 1, 2, 3, 2, 3], (4, 4)
)[0]

BOTH = Coloring(BAND, "bidirectional", [-1, 0, 1, 0], [0, -1, -1])


def failing(fn, reference, dtype):
    report = check_rules(
        fn, (wave(4).to(dtype),), reference=reference, dtypes=[dtype], transforms=GROUPS
    )
    assert len(report.cells) > 20
    assert not report.undecided
    told = {cell.name: str(cell) for cell in report.failures}
    assert all("RAISES" in text and re.search(TOLD, text) for text in told.values()), told
    return told


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_what_the_records_leave_out_is_refused(mode, dtype):
    record = record_named(f"sparse_jacobian {mode}", dtype)
    report = check_rules(
        record.function, record.args, dtypes=[dtype], transforms=sorted(record.refused)
    )
    assert {cell.name for cell in report.failures} == record.refused
    assert all("RAISES" in str(x) and re.search(TOLD, str(x)) for x in report.failures), report


@pytest.mark.slow
def test_jacobian(dtype):
    jac = sparse_jacobian(products, BOTH)
    told = failing(lambda x: jac(x).values, entries, dtype)
    assert set(told) == NESTED | HOOKS, told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "refused"),
    [
        ("forward-reverse", NESTED | HOOKS),
        ("reverse-forward", NESTED | HOOKS),
        ("reverse-reverse", HOOKS),
        ("forward-forward", NESTED),
    ],
)
def test_hessian(mode, refused):
    hess = sparse_hessian(lambda x: products(x).sum(), SQUARE, mode=mode)
    told = failing(lambda x: hess(x).values, hessian, torch.float64)
    assert set(told) == refused, told
