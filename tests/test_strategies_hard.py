"""Hard matrices: each kind is what it says, condition numbers are in range, examples are small."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.systems import DTYPES
from tests.test_strategies import counts, in_order, wide
from tests.test_strategies_reach import reached, smallest
from tsgu_func.testing.strategies import (
    VALUES,
    entries,
    right_hand_sides,
    scales,
    sparse_matrices,
    special_numbers,
)

LARGE = {"rows": (0, 40), "nnz": (0, 100)}
VARIED = {**LARGE, "dtype": st.sampled_from(DTYPES), "values": st.sampled_from(VALUES)}
REACHING = [
    "dominant",
    "definite",
    "indefinite",
    "skew",
    "lower",
    "upper",
    "arrow",
    "tall",
    "wide",
    "laplacian",
]
RANGES = [(1, 1e12), (1e3, 1e3), (1e6, 1e12), (1, 1e2)]
FEWER = settings(max_examples=settings().max_examples // 2)


def magnitude(e):
    return wide(e.dense()).abs()


def condition(D):
    singular = torch.linalg.svdvals(wide(D))
    return float(singular.max() / singular.min()) if len(singular) else 1.0


def of_kind(D, kind):
    """Say whether a matrix with a condition number that was asked for is still of its kind."""
    if kind in ("definite", "indefinite", "laplacian"):
        close = torch.allclose(D, D.mH, rtol=1e-6, atol=0)
        return close and (kind == "indefinite" or bool((wide(D).diagonal().real > 0).all()))
    if kind == "skew":
        return torch.allclose(D, -D.mH, rtol=1e-6, atol=0)
    return not (bool(D.triu(1).any()) if kind == "lower" else kind == "upper" and D.tril(-1).any())


@pytest.mark.parametrize("kind", REACHING)
@FEWER
@given(data=st.data())
def test_condition_numbers_are_in_range(kind, data):
    least, most = data.draw(st.sampled_from(RANGES))
    e = data.draw(entries(kind, condition=(least, most), **VARIED))
    D = e.dense()
    assert e.values.dtype in DTYPES
    assert bool(e.values.isfinite().all())
    assert of_kind(D, kind)
    # Sums of duplicates are rounded in the dtype, which a condition number magnifies.
    assert 0.97 * least <= condition(D) <= 1.03 * most


@FEWER
@given(st.data(), st.sampled_from(REACHING))
def test_condition_numbers_of_a_batch(data, kind):
    batch = data.draw(st.sampled_from([(), (0,), (3,), (2, 1)]))
    options = {"unique": data.draw(st.booleans()), "ordered": data.draw(st.booleans())}
    e = data.draw(entries(kind, condition=(1e4, 1e6), batch=batch, **options))
    assert e.values.shape == (*batch, len(e.row))
    assert not options["unique"] or bool((counts(e) <= 1).all())
    assert not options["ordered"] or in_order(e)
    for D in e.dense().reshape(math.prod(batch), *e.shape):
        assert 0.97e4 <= condition(D) <= 1.03e6


def undone(e):
    """Return the condition number with rows and columns that have the largest entry one."""
    D = wide(e.dense())
    for _ in range(40):
        for axis in (0, 1):
            largest = D.abs().amax(axis, keepdim=True)
            D = D / torch.where(largest == 0, 1, largest).sqrt()
    return condition(D)


@pytest.mark.parametrize("kind", ["dominant", "definite", "arrow", "tall", "wide"])
def test_conditions_by_units_and_by_cancellation_are_reached(kind):
    drawn = entries(kind, condition=(1e9, 1e12), dtype=torch.float64)
    reached(drawn, lambda e: undone(e) < 50)
    if kind in ("dominant", "arrow", "tall", "wide"):
        reached(drawn, lambda e: undone(e) > 1e6)
    else:
        cancelling = reached(drawn, lambda e: bool((magnitude(e) > 0.1).any(1).all()))
        assert condition(cancelling.dense()) > 0.9e9


@given(entries("laplacian", **VARIED))
def test_laplacians(e):
    D = wide(e.dense())
    eps = torch.finfo(e.values.dtype).eps
    size = 2 * D.diagonal().real.sum() + 1e-300
    assert torch.equal(e.dense(), e.dense().mH)
    assert bool((D.sum(1).abs() <= 40 * eps * size).all())
    assert bool((D - D.diagonal().diag()).real.le(0).all())
    assert not len(D) or float(torch.linalg.eigvalsh(D).min()) >= -1e3 * eps * float(size)


def components(e):
    """Count the connected components of the graph of a matrix."""
    A = (magnitude(e) > 0).double() + torch.eye(e.shape[0], dtype=torch.float64)
    joined = torch.linalg.matrix_power(A, 8) > 0
    return len({tuple(row) for row in joined.tolist()})


def test_laplacians_reached():
    drawn = entries("laplacian", dtype=torch.float64)
    reached(drawn, lambda e: e.shape[0] == 6 and components(e) == 1)
    reached(drawn, lambda e: e.shape[0] > 4 and components(e) == 2)
    reached(drawn, lambda e: e.shape[0] == 4 and not bool(e.values.any()))
    small = smallest(drawn, lambda e: e.shape[0] > 2 and components(e) == 1)
    assert small.dense().tolist() == [[1, -1, 0], [-1, 2, -1], [0, -1, 1]]


@given(entries("indefinite", **VARIED))
def test_eigenvalues_of_both_signs(e):
    signs = Counter(torch.linalg.eigvalsh(wide(e.dense())).sign().tolist())
    assert e.shape[0] < 2 or (signs[1] and signs[-1])


def test_two_signs_on_one_diagonal():
    e = smallest(entries("indefinite", dtype=torch.float64), lambda e: e.shape[0] == 3)
    assert e.dense().tolist() == [[1, 0, 0], [0, -1, 0], [0, 0, 1]]
    reached(entries("indefinite"), lambda e: (e.dense().diagonal().real < 0).sum() > 2)


@given(entries("arrow", **VARIED))
def test_arrows_have_a_full_row_or_column(e):
    stored = counts(e) > 0
    assert not e.shape[0] or bool(stored.all(0).any() | stored.all(1).any())


def test_arrows_reached():
    for axis in (0, 1):
        one = lambda e, axis=axis: (
            e.shape[0] == 5
            and bool((counts(e) > 0).all(axis).any())
            and not bool((counts(e) > 0).all(1 - axis).any())
        )
        reached(entries("arrow"), one)
    both = lambda e: bool((counts(e) > 0).all(0).any() & (counts(e) > 0).all(1).any())
    assert smallest(entries("arrow"), lambda e: e.shape[0] == 4 and both(e)).shape == (4, 4)


def orders(e):
    """Return how many powers of two lie between the largest and the smallest entry."""
    size = magnitude(e)
    return math.log2(float(size.max() / size[size > 0].min())) if bool(size.any()) else 0.0


@given(entries("graded", **VARIED))
def test_graded_entries_are_finite(e):
    assert bool(e.values.isfinite().all())


@given(entries("graded", **{**VARIED, "values": "special"}))
def test_graded_entries_are_in_range(e):
    """40 for each side, and 15 of what is graded.

    These are multiples of 1/8 up to 8, of which a hundred in a row add up to 1/2 at most in the
    end, beside a diagonal from 1 to 2.
    """
    assert orders(e) <= 95


def test_graded_rows_and_columns_reached():
    drawn = entries("graded", dtype=torch.float64)
    assert smallest(drawn, lambda e: e.shape[0] == 2).dense().tolist() == [[2**-20, 0], [0, 2**20]]
    for axis in (0, 1):
        apart = lambda e, axis=axis: (
            float((largest := magnitude(e).amax(axis)).max()) > 2.0**38 * (float(largest.min()))
        )
        reached(drawn, lambda e: e.shape[0] == 3 and apart(e) and orders(e) < 45)  # noqa: B023
    reached(drawn, lambda e: e.shape[0] > 3 and orders(e) > 70)


@given(entries("penalty", **VARIED), st.data())
def test_penalties_and_what_is_prescribed(e, data):
    n, size = e.shape[0], magnitude(e)
    units = data.draw(right_hand_sides(e, 1, units_of_rows=True, strides="contiguous"))
    if not n:
        return
    large = size.amax(1) > 1e5
    assert 1 <= int(large.sum()) <= 3
    assert bool((size.amax(1)[large] < 4e12).all())
    assert bool((size.amax(1)[~large] < 3).all())
    ratio = units.squeeze(1).abs().to(size.dtype) / size.amax(1)
    assert bool((ratio < 10).all())
    assert not units.all() or bool((ratio > 1e-5).all())


def test_penalties_of_rows_and_of_diagonals():
    drawn = entries("penalty", dtype=torch.float64)
    symmetric = reached(drawn, lambda e: e.shape[0] > 2 and torch.equal(e.dense(), e.dense().mT))
    assert float(torch.linalg.eigvalsh(symmetric.dense()).min()) > 0
    reached(drawn, lambda e: not torch.equal(e.dense(), e.dense().mT))
    reached(drawn, lambda e: bool((magnitude(e) > 5e11).any()))
    e = smallest(drawn, lambda e: e.shape[0] == 2)
    b = smallest(right_hand_sides(e, None, units_of_rows=True), lambda b: bool(b.all()))
    assert e.dense().tolist() == [[1e6, 0], [0, 1]]
    assert b.tolist() == [2.0**20, 1]


@given(entries("dependent", **VARIED))
def test_dependent_rows(e):
    assert e.shape[0] < 2 or condition(e.dense()) > 2.0**19


def test_dependent_rows_reached():
    drawn = entries("dependent", dtype=torch.float64, **LARGE)
    e = smallest(drawn, lambda e: e.shape[0] > 1)
    assert e.dense().tolist() == [[1, 0], [1, 0]]
    for least, most in [(1e5, 1e8), (1e9, 1e13), (1e14, math.inf)]:
        reached(drawn, lambda e: least < condition(e.dense()) < most)  # noqa: B023


@given(entries("skew", rows=(0, 40), nnz=(0, 100)))
def test_skew_matrices_turn(e):
    D = wide(e.dense())
    assert torch.allclose(D, -D.mH, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["definite", "laplacian", "tall", "wide", "dominant"])
def test_what_is_asked_of_a_condition_number_shrinks_to_two_rows(kind):
    e = smallest(entries(kind, condition=(1e6, 1e12)), lambda e: True)
    assert e.shape == (2, 2)
    assert 0.97e6 <= condition(e.dense()) <= 1.3e6


@pytest.mark.slow
def test_forty_rows_are_reached():
    large = reached(entries("dominant", **LARGE), lambda e: e.shape[0] >= 38 and len(e.row) > 90)
    assert large.dense().shape == large.shape


# --------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_special_numbers(dtype):
    x = special_numbers((400,), dtype, 7)
    parts = torch.view_as_real(x) if dtype.is_complex else x
    powers = parts[parts != 0].abs().log2()
    assert torch.equal(powers, powers.round())
    assert float(powers.min()) == -3
    assert float(powers.max()) == 3
    numbers = set(x.tolist())
    assert {0, 1, -1} <= numbers
    assert dtype.is_complex == (1j in numbers)
    assert torch.equal(special_numbers((400,), dtype, 7), x)
    assert bool((special_numbers((3,), dtype, 0) == 1).all())


def test_special_values_reached():
    drawn = entries(values=st.sampled_from(VALUES), dtype=torch.float64)
    reached(drawn, lambda e: len(e.row) > 3 and set(e.values.tolist()) <= {0, 1, -1})
    reached(drawn, lambda e: 0.125 in e.values.tolist())
    reached(drawn, lambda e: 0.5 < float(e.values.abs().sum()) % 1 < 0.6)
    matrices = sparse_matrices("definite", values="special", dtype=torch.float64)
    tied = reached(matrices, lambda A: A.shape[0] == 4 and A.nnz > 8)
    assert len(set(tied.values.abs().tolist())) < 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_span_the_range(dtype):
    smallest_square = torch.finfo(dtype).tiny ** 0.5
    drawn = scales(dtype)
    assert math.log2(reached(drawn, lambda x: 0 < x < smallest_square)) % 1 == 0
    reached(drawn, lambda x: x > torch.finfo(dtype).max ** 0.5 / 2)
    tiny = reached(entries("laplacian", dtype=dtype, magnitudes=drawn), lambda e: vanishing(e))
    assert bool(tiny.values.abs().amax() > 0)
    assert smallest(drawn, lambda x: x < 0.1) == 2.0**-4


def vanishing(e):
    return len(e.row) > 0 and bool((e.values.abs() > 0).any()) and not bool((e.values**2).any())
