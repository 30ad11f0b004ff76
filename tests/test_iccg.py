"""ICCG: the iterations of CG with the same preconditioner, and no more work than they take."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.preconditioning import as_it_is, from_scipy, hermitian, poisson, with_zeros
from tests.systems import DTYPES, close, computed, numpy_solve, randn
from tsgu_func import SparseMatrix, sparse_solve
from tsgu_func.kernels.compiled import eisenstat, incomplete, inspection, ordering
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import unsigned
from tsgu_func.solvers import (
    CG,
    DIC,
    IC0,
    ICCG,
    ConvergenceError,
    Result,
    SolveError,
)
from tsgu_func.solvers.traits import hermitian as is_hermitian
from tsgu_func.solvers.traits import rounding, symmetric_pattern, traits_of, width

# ----------------------------------------------------------------------------------- iterations


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("M", [DIC(), DIC(relaxation=0.9), DIC(shift=0.1)], ids=repr)
def test_iterations_are_those_of_cg(dtype, M):
    D = hermitian(dtype, n=60)
    A, B = with_zeros(D), randn(60, 4, dtype=dtype)
    X, info = (s := computed(ICCG(M), A, B)).value, s
    torch.testing.assert_close(X, numpy_solve(D, B).to(dtype), **close(dtype))
    plain = computed(CG(M), A, B)
    assert (info.iterations - plain.iterations).abs().max() <= 1
    assert info.result is Result.SOLVED
    assert float(info.residual.max()) <= (
        1e-10 if dtype in (torch.float64, torch.complex128) else 1e-5
    )


@pytest.mark.parametrize("n", [5, 30])
def test_on_a_grid_the_factor_is_that_of_ic0_in_the_same_order(n):
    S, R = poisson(n), randn(n * n, 3)
    order = DIC().init(from_scipy(S)).rows.order.numpy()
    turned = from_scipy(S.tocsr()[order][:, order])
    for relaxation in (None, 0.0, 0.97):
        first, second = DIC(relaxation=relaxation), IC0(relaxation=relaxation)
        if relaxation is None:  # the share is read off the levels, which are others in this order
            second = IC0(relaxation=first.init(from_scipy(S)).relaxation)
        X = second.apply(second.init(turned), R[order])
        expected = torch.empty_like(R)
        expected[order] = X
        found = first.apply(first.init(from_scipy(S)), R)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_lower_triangle_is_all_that_is_read(dtype):
    turn = sp.diags_array(np.exp(1j * np.arange(100)) if dtype.is_complex else np.ones(100))
    S = sp.csr_array(turn @ poisson(10) @ turn.conj())
    whole, lower = as_it_is(S), as_it_is(sp.csr_array(sp.tril(S)))
    R = randn(100, 2, dtype=dtype)
    assert len(set(DIC().init(whole).rows.cuts)) == 3
    M = DIC(relaxation=0.9)
    torch.testing.assert_close(M.apply(M.init(lower), R), M.apply(M.init(whole), R))


def test_the_factor_is_what_it_says():
    D = hermitian(torch.complex128)
    state = DIC(shift=0.25).init(with_zeros(D))
    n, L = len(D), torch.tril(D, -1).numpy()
    pivots = np.zeros(n)
    for i in range(n):  # E = 1.25 diag(A) - diag(L E⁻¹ Lᴴ)
        pivots[i] = 1.25 * D[i, i].real - sum(abs(L[i, k]) ** 2 / pivots[k] for k in range(i))
    M = (np.diag(pivots) + L) @ np.diag(1 / pivots) @ (np.diag(pivots) + L).conj().T
    inverse = DIC().apply(state, torch.eye(n, dtype=D.dtype)).numpy()
    np.testing.assert_allclose(inverse @ M, np.eye(n), atol=1e-12)
    assert state.shift == 0.25


def test_a_full_relaxation_keeps_row_sums():
    A = from_scipy(poisson(7))
    M = DIC(relaxation=1.0)
    one = torch.ones(49, 1).double()
    torch.testing.assert_close(M.apply(M.init(A), A @ one), one)


def test_columns_end_one_by_one_and_are_not_disturbed():
    A = from_scipy(poisson(12))
    easy, hard = A @ torch.ones(144, 1).double(), randn(144, 1)
    together = computed(ICCG(), A, torch.cat([easy, 0 * easy, hard], 1))
    for k, b in enumerate((easy, 0 * easy, hard)):
        alone = computed(ICCG(), A, b)
        assert int(alone.iterations) == int(together.iterations[k])
        assert torch.equal(alone.value[:, 0], together.value[:, k])
    assert together.iterations[1] == 0


def test_a_start_is_gone_on_from():
    A, B = from_scipy(poisson(12)), randn(144, 2)
    X = computed(ICCG(), A, B)
    again = computed(ICCG(), A, B, X.value)
    assert not again.iterations.any()
    near = computed(ICCG(), A, B, X.value * (1 + 1e-6))
    assert (near.iterations < X.iterations).all()


def test_no_product_with_the_matrix_but_for_the_residual_which_is_also_that_of_the_judge(
    monkeypatch,
):
    from tsgu_func.kernels import products
    from tsgu_func.solvers import judgement

    calls = []

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: calls.append(name) or function(*a, **k))

    counted(products, "spmm")
    counted(judgement, "residuals")
    info = computed(ICCG(), from_scipy(poisson(30)), randn(900, 2))
    assert int(info.iterations.min()) > 10
    assert calls == ["residuals"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_adjoint_takes_as_many_iterations_as_the_solution(dtype, monkeypatch):
    made, iterate = [], eisenstat.iterate

    def counting(*args):
        made.append(iterate(*args)[0])
        return made[-1], 1.0

    monkeypatch.setattr(eisenstat, "iterate", counting)
    turn = sp.diags_array(np.exp(1j * np.arange(144)) if dtype.is_complex else np.ones(144))
    A = SparseMatrix.from_scipy(sp.csr_array(turn @ poisson(12) @ turn.conj()))
    values, b = A.values.clone().requires_grad_(), randn(144, dtype=dtype)
    x = sparse_solve(A.with_values(values), b, solver=ICCG())
    x.backward(randn(144, dtype=dtype, seed=9))
    forward, adjoint = made
    assert forward > 10
    assert abs(adjoint - forward) <= 3


def test_each_iteration_is_reported():
    told = []
    solver = ICCG(callback=lambda k, residual: told.append((k, residual)))
    info = computed(solver, from_scipy(poisson(12)), randn(144, 3))
    assert [k for k, _ in told] == list(range(1, int(info.iterations.max()) + 1))
    assert told[-1][1] <= 1e-10 < told[-2][1]
    quiet = computed(ICCG(), from_scipy(poisson(12)), randn(144, 3))
    assert torch.equal(quiet.iterations, info.iterations)


# -------------------------------------------------------------------------------------- failure


def test_iterations_run_out():
    A = SparseMatrix.from_scipy(poisson(12))
    with pytest.raises(ConvergenceError, match="no iterations were left"):
        sparse_solve(A, randn(144), solver=ICCG(max_iterations=3))


def test_a_matrix_that_is_not_hermitian_is_not_solved_for():
    S = poisson(12).tolil()
    S[0, 1] = -0.5
    with pytest.raises(SolveError, match="not Hermitian"):
        sparse_solve(SparseMatrix.from_scipy(S), randn(144), solver=ICCG())


@pytest.mark.slow
def test_the_adjoint_is_judged_by_the_adjoint():
    """The solution does not meet the entry above the diagonal, but that of the adjoint does."""
    A = SparseMatrix.from_coo([0, 1, 2, 0], [0, 1, 2, 2], torch.tensor([2.0, 3, 4, 3e-3]), (3, 3))
    values = A.values.clone().requires_grad_()
    x = sparse_solve(A.with_values(values), torch.tensor([2.0, 3, 0]), solver=ICCG())
    torch.testing.assert_close(x, torch.tensor([1.0, 1, 0]))
    x.sum().backward()
    w = numpy_solve(A.to_dense().mT, torch.ones(3))
    torch.testing.assert_close(values.grad.double(), -w[[0, 0, 1, 2]] * x.detach()[[0, 2, 1, 2]])


def test_an_indefinite_matrix_is_named():
    D = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()
    b = torch.tensor([[1.0], [-1.0]]).double()
    info = computed(ICCG(), with_diagonal(D), b)
    assert info.result is Result.INDEFINITE
    with pytest.raises(SolveError, match="diagonal of row 1 is -1"):
        computed(ICCG(), with_diagonal(torch.diag(torch.tensor([1.0, -1.0]).double())), b)


def with_diagonal(D):
    return from_scipy(sp.csr_array(D.numpy()))


@pytest.mark.parametrize("M", [IC0(), None])
def test_another_preconditioner_is_refused(M):
    with pytest.raises(TypeError, match="CG takes any"):
        ICCG(M)


@pytest.mark.parametrize("scale", [1e-120, 1e-20, 1e20, 1e120])
def test_the_size_of_the_entries_does_not_matter(scale):
    A = from_scipy(poisson(9) * scale)
    X = computed(ICCG(), A, randn(81, 2))
    torch.testing.assert_close(A @ X.value, randn(81, 2))


# --------------------------------------------------------------------- inspection of a matrix


def banded(seed, n=40):
    """Return a random Hermitian matrix whose natural order goes along its graph, or does not."""
    D = hermitian(n=n, seed=seed)
    i = torch.arange(n)
    near = (i[:, None] - i).abs() <= 2
    return D if seed % 2 else torch.where(near, D + near, 0)


@pytest.mark.parametrize("seed", range(8))
def test_rows_wait_for_rows_before_them_only(seed):
    s = from_scipy(sp.csr_array(banded(seed).numpy())).structure
    D = torch.sparse_coo_tensor(torch.stack([s.row, s.col]), torch.ones(s.nnz)).to_dense()
    crow, col = unsigned(s.crow), unsigned(s.col)
    assert ordering.count_levels(crow, col) == len(set(longest_chain(D)))
    order, second, last = ordering.order_of(crow, col)
    assert sorted(order) == list(range(40))
    start, column, entry, mirrored = ordering.triangle(crow, col, order)
    row = np.repeat(np.arange(40), np.diff(start))
    assert (column < row).all()
    ends = np.sort([order[row], order[column]], axis=0)
    np.testing.assert_array_equal(s.row.numpy()[entry], ends[1])
    np.testing.assert_array_equal(s.col.numpy()[entry], ends[0])
    np.testing.assert_array_equal(mirrored, order[column] > order[row])
    assert len(set(entry)) == len(entry) == int((s.row > s.col).sum())
    # No row of the second part waits for one of the first.
    assert not ((row >= second) & (row < last) & (column < second)).any()
    if seed % 2 == 0:
        assert (second, last) == (20, 38)
    assert 0 <= second <= last <= 40


def test_where_the_order_is_at_random_all_rows_are_in_one_part():
    s = with_zeros(hermitian(n=200, seed=1)).structure
    assert ordering.order_of(unsigned(s.crow), unsigned(s.col))[1:] == (200, 200)


def longest_chain(D):
    """Return how many rows each row waits for, one after the other."""
    depth = []
    for i, row in enumerate(D.tolist()):
        depth.append(max((depth[j] + 1 for j in range(i) if row[j]), default=0))
    return depth


@pytest.mark.parametrize("m", [30, 100, 300])
def test_iterations_grow_with_the_root_of_the_length(m):
    info = computed(ICCG(rtol=1e-9), from_scipy(poisson(m)), randn(m * m, 1))
    assert int(info.iterations) <= 5 * m**0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_seen_of_a_matrix(dtype, seed):
    D = hermitian(dtype, n=12, seed=seed)
    D[3, 4] = D[4, 3] = 2.0

    def seen(D, pattern):
        A = from_dense(pattern, D)
        return symmetric_pattern(A.structure), is_hermitian(A)

    assert seen(D, D) == (True, True)
    moved = D.clone()
    moved[3, 4] += 1e-13
    assert seen(moved, D) == (True, False)
    gone = D.clone()
    gone[3, 4] = 0
    assert seen(gone, gone) == (False, False)
    gone = D.clone()
    gone[4, 3] = 0
    assert seen(gone, gone) == (False, False)


def from_dense(pattern, D):
    s = SparseMatrix.from_dense(pattern).pattern.structure
    return StoredMatrix(s, D[s.row.long(), s.col.long()])


def test_dominance():
    def dominant(D):
        return traits_of(from_dense(torch.ones_like(D), D)).dominant

    L = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2]]).double()
    assert dominant(L)
    assert not dominant(L - 0.01 * torch.eye(3))
    assert not dominant(torch.tensor([[2.0, 1], [1, 2]]).double())
    assert not dominant(torch.tensor([[2.0, -1], [-1.5, 2]]).double())
    assert dominant(L.to(torch.complex128))
    assert not dominant(torch.tensor([[2, -1j], [1j, 2]]).to(torch.complex128))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_row_sums_are_judged_by_the_rounding_of_the_dtype(dtype):
    W = torch.rand(40, 40, dtype=dtype, generator=torch.Generator().manual_seed(0))
    L = torch.diag((W + W.T).sum(0)) - (W + W.T)

    def seen(D):
        lower = as_it_is(sp.csr_array(torch.tril(D, -1).numpy()))
        rows, values = (unsigned(lower.structure.crow), unsigned(lower.structure.col)), lower.values
        by_triangle = incomplete.is_laplacian(
            *rows, values.numpy(), D.diagonal().numpy(), rounding(dtype)
        )
        assert by_triangle == traits_of(from_dense(torch.ones_like(D), D)).dominant
        return by_triangle

    assert bool((L.double().sum(0) < -1e-9).any()) == (dtype == torch.float32)
    assert seen(L)
    assert not seen(L - 1e-2 * torch.diag(L.diagonal()))


@pytest.mark.parametrize("n", [1, 3, 5, 9])
def test_the_width_of_a_grid_is_its_side(n):
    assert width(from_scipy(poisson(n)).structure) == n
    one_way = from_scipy(sp.triu(poisson(n)))
    assert width(one_way.structure) == n


def test_the_width_is_that_of_the_widest_part():
    parts = sp.block_diag([poisson(3), poisson(7), poisson(4)])
    order = np.random.default_rng(0).permutation(parts.shape[0])
    S = parts.tocsr()[order][:, order]
    assert width(from_scipy(S).structure) == 7
    assert width(from_scipy(sp.csr_array((4, 4))).structure) == 1


def test_places_of_the_diagonal():
    S = sp.csr_array(np.array([[0, 1.0, 0], [1, 2, 3], [4, 0, 0]]))
    place, stored = inspection.diagonal(S.indptr.astype("u4"), S.indices.astype("u4"))
    assert place.tolist() == [0, 2, 5]
    assert stored.tolist() == [False, True, False]
