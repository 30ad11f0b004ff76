"""Singular up to rounding, with a right-hand side that does not show it: one in the range of A."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.systems import close, numpy_solve, randn
from tsgu_func import SparseMatrix, factorize, sparse_solve
from tsgu_func.solvers import DenseLU, Pardiso, Result, SolveError, SuperLU
from tsgu_func.solvers.direct import superlu
from tsgu_func.testing.strategies import scales

# The default takes DenseLU up to 64 rows, and SuperLU beyond.
SOLVERS = [None, DenseLU(), SuperLU()]
DTYPES = [torch.float32, torch.float64, torch.complex128]
FEWER = settings(max_examples=max(settings().max_examples // 3, 1))
SIZES = st.one_of(st.integers(2, 12), st.integers(65, 75))
SEEDS = st.integers(0, 10**6)


def solved(A, B, solver):
    return sparse_solve(A, B, solver=solver, return_info=True, on_failure="ignore")


def without_a_singular_value(n, seed, dtype):
    """Return U S Vᴴ with singular values from 1 to 2, but for one that is zero."""
    U, V = (torch.linalg.qr(randn(n, n, dtype=dtype, seed=seed + i)).Q for i in (0, 1))
    s = torch.linspace(1, 2, n, dtype=dtype.to_real())
    s[seed % n] = 0
    return U @ torch.diag(s).to(dtype) @ V.mH


def with_a_dependent_block(n, seed, dtype):
    """Return a block with a row that depends on others, and a block that is fine after it."""
    D = torch.block_diag(randn(n, n, dtype=dtype, seed=seed), 3 * torch.eye(n, dtype=dtype))
    D[seed % n] = randn(1, n - 1, dtype=dtype, seed=seed + 1) @ D[:n][torch.arange(n) != seed % n]
    return D


def with_equal_columns(n, seed, dtype):
    """Return a matrix in which a column is a third of another."""
    D = randn(n, n, dtype=dtype, seed=seed)
    D[:, seed % n] = D[:, (seed + 1) % n] / 3
    return D


KINDS = [without_a_singular_value, with_a_dependent_block, with_equal_columns]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@FEWER
@given(data=st.data(), n=SIZES, seed=SEEDS, dtype=st.sampled_from(DTYPES))
def test_a_right_hand_side_in_the_range_hides_nothing(solver, data, n, seed, dtype):
    D = data.draw(st.sampled_from(KINDS))(n, seed, dtype)
    unit = data.draw(scales(dtype))
    B = D @ randn(len(D), 2, dtype=dtype, seed=seed + 2)
    _, info = solved(SparseMatrix.from_dense(D), unit * B, solver)
    assert not bool((info.code == Result.SOLVED).any())


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@FEWER
@given(n=SIZES, seed=SEEDS, dtype=st.sampled_from(DTYPES))
def test_units_of_rows_and_columns_are_no_singularity(solver, n, seed, dtype):
    M = 4 * torch.eye(n, dtype=dtype) + randn(n, n, dtype=dtype, seed=seed) / n
    # Rows in other units than the rest make bad pivots, which single precision has no room for.
    most = 3 if dtype == torch.float32 else 10
    powers = torch.randint(-most, most + 1, (2, n), generator=torch.Generator().manual_seed(seed))
    rows, columns = (10.0 ** powers.double()).to(dtype)
    b = randn(n, 1, dtype=dtype, seed=seed + 1)
    A = SparseMatrix.from_dense(rows[:, None] * M * columns)
    x, info = solved(A, rows[:, None] * b, solver)
    few = dtype == torch.float32  # bad pivots may leave half of the digits and less
    assert not info.result.failed if few else info.result is Result.SOLVED
    if not few:
        torch.testing.assert_close(columns[:, None] * x, numpy_solve(M, b), **close(dtype))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_small_pivots_are_no_singularity(solver):
    d = torch.tensor([1.0, 1e-20, 1e20, 1e-200], dtype=torch.float64)
    x, info = solved(SparseMatrix.diag(d), d, solver)
    assert info.result is Result.SOLVED
    assert torch.equal(x, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("n", [5, 70])
def test_a_member_that_is_singular_up_to_rounding_leaves_the_others(solver, n):
    D = torch.stack([4 * torch.eye(n) + randn(n, n, seed=i) / n for i in range(3)])
    D[1] = without_a_singular_value(n, 3, torch.float64)
    B = D @ randn(3, n, 2)
    x, info = solved(SparseMatrix.from_dense(D), B, solver)
    assert (info.code[[0, 2]] == Result.SOLVED).all()
    assert (info.code[1] != Result.SOLVED).all()
    torch.testing.assert_close(x[[0, 2]], numpy_solve(D[[0, 2]], B[[0, 2]]))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("n", [5, 70])
def test_it_is_an_error_that_says_what_to_do(solver, n):
    D = without_a_singular_value(n, 0, torch.float64)
    A, B = SparseMatrix.from_dense(D), D @ randn(n, 1)
    with pytest.raises(SolveError, match=r"singular.*nullspace"):
        sparse_solve(A, B, solver=solver)
    U, _, Vh = torch.linalg.svd(D)
    x = sparse_solve(A, B, solver=solver, nullspace=(Vh[-1:].mH, U[:, -1:]))
    torch.testing.assert_close(x, torch.linalg.pinv(D, rtol=1e-12) @ B)


def test_pardiso_is_asked_too():
    pytest.importorskip("pypardiso")
    for make in KINDS:
        D = make(20, 1, torch.float64)
        B = D @ randn(len(D), 1)
        assert solved(SparseMatrix.from_dense(D), B, Pardiso())[1].result is not Result.SOLVED


def test_the_factor_that_is_solved_with_is_asked():
    """One that PARDISO had put pivots into is made again by SuperLU, which counts none."""
    pytest.importorskip("pypardiso")
    for make in KINDS:
        D = make(20, 1, torch.float64)
        A, inside = SparseMatrix.from_dense(D), D @ randn(len(D), 1)
        for B in (torch.ones_like(inside), inside):  # the first is in no range
            assert solved(A, B, Pardiso())[1].result is not Result.SOLVED


def test_one_solve_tells_once_for_a_factor(monkeypatch):
    """What a factor is asked is kept with it, and no solution costs more that need not."""
    counted, solve = [], superlu._Factor.solve
    monkeypatch.setattr(
        superlu._Factor,
        "solve",
        lambda s, B, *how: counted.append(B.shape[-1]) or solve(s, B, *how),
    )
    M = 4 * torch.eye(20) + randn(20, 20) / 20
    F = factorize(SparseMatrix.from_dense(M), SuperLU())
    for _ in range(3):
        F.solve(randn(20))
    assert counted == [1, 3, 1, 1]
