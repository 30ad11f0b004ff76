"""The preconditioners, against plain factorizations of dense arrays, and by what they are for."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, diags_array, eye_array, kron, triu
from scipy.sparse.linalg import LinearOperator, cg
from torch.testing import assert_close

from tests.preconditioning import (
    close,
    dense_inverse,
    from_scipy,
    general,
    hermitian,
    poisson,
    scaled,
    with_zeros,
)
from tests.systems import DTYPES, FLAGS, randn, read_as, stored, wide
from tsgu_func import SparseMatrix, sparse_solve
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers import BiCGStab
from tsgu_func.solvers.preconditioners import AMG, DIC, IC0, ILU0, ILUT, SSOR, BlockJacobi, Jacobi
from tsgu_func.solvers.protocol import Preconditioner, SolveError

SMOOTHED = AMG("smoothed_aggregation")
GENERAL = [
    Jacobi(),
    BlockJacobi(3),
    SSOR(1.3),
    ILU0(),
    ILU0(relaxation=0.7),
    ILUT(drop_tol=0.05, fill_factor=2),
    SMOOTHED,
    AMG("smoothed_aggregation", cycle="W"),
]
HERMITIAN = [IC0(), IC0(relaxation=0.6), DIC(), DIC(relaxation=0.6)]
ALL = [*GENERAL, *HERMITIAN]


def matrix_of(M, dtype=torch.float64):
    return hermitian(dtype) if isinstance(M, IC0 | DIC) else general(dtype)


# ------------------------------------------------------------------------ what all have to do


@pytest.mark.parametrize("M", ALL, ids=repr)
def test_protocol(M):
    assert isinstance(M, Preconditioner)
    assert eval(repr(M)) == M
    assert hash(M) == hash(eval(repr(M)))
    state = M.init(stored(SparseMatrix.from_dense(matrix_of(M))))
    assert state.bytes > 0
    assert getattr(state, "shift", 0.0) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", ALL, ids=repr)
def test_transposes_and_conjugates(M, dtype):
    A = matrix_of(M, dtype)
    state = M.init(with_zeros(A))
    inverse = dense_inverse(M, state, len(A), dtype)
    assert inverse.dtype == dtype
    assert float((inverse @ A - torch.eye(len(A))).abs().max()) < 3
    R = randn(len(A), 5, dtype=dtype, seed=8)
    for flags in FLAGS:
        assert_close(M.apply(state, R, *flags), read_as(inverse, *flags) @ R, **close(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("M", ALL, ids=repr)
def test_columns_of_any_layout(M):
    A = matrix_of(M, torch.complex128)
    state = M.init(stored(SparseMatrix.from_dense(A)))
    inverse = dense_inverse(M, state, len(A), A.dtype)
    R = randn(4, 2 * len(A), dtype=A.dtype, seed=9)
    before = R.clone()
    for given in (R.mT[::2], R.mH[::2], R.mT[1::2, :1], R.mT[::2, :0]):
        assert_close(M.apply(state, given), inverse @ given)
    assert_close(R, before, rtol=0, atol=0)


@pytest.mark.parametrize("M", [*ALL, AMG()], ids=repr)
def test_one_by_one(M):
    state = M.init(stored(SparseMatrix.from_dense(torch.tensor([[4.0]]))))
    omega = getattr(M, "omega", 1.0)
    expected = omega * (2 - omega) * torch.tensor([[0.5, 1.5]])
    for flags in FLAGS:
        assert_close(M.apply(state, torch.tensor([[2.0, 6.0]]), *flags), expected)


@pytest.mark.parametrize("M", [*ALL, AMG()], ids=repr)
def test_nothing_at_all(M):
    state = M.init(stored(SparseMatrix.from_dense(torch.zeros(0, 0))))
    for flags in FLAGS:
        assert M.apply(state, torch.zeros(0, 2), *flags).shape == (0, 2)


@pytest.mark.parametrize("M", [*ALL, AMG()], ids=repr)
def test_wide_indices(M):
    S = from_scipy(poisson(6))
    s = S.structure
    wide = StoredMatrix(Structure(s.crow.long(), s.col.long(), s.cols), S.values)
    narrow = StoredMatrix(Structure(s.crow.int(), s.col.int(), s.cols), S.values)
    R = randn(36, 2)
    first, second = (M.apply(M.init(A), R) for A in (wide, narrow))
    assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("M", ALL, ids=repr)
def test_not_square(M):
    with pytest.raises(ValueError, match=r"square matrices; got shape \(2, 3\)"):
        M.init(stored(SparseMatrix.from_dense(torch.ones(2, 3))))


@pytest.mark.parametrize("M", [Jacobi(), SSOR(), AMG(), SMOOTHED], ids=repr)
def test_zero_on_the_diagonal(M):
    A = torch.eye(4) + torch.diag(torch.ones(3), 1)
    A[2, 2] = 0
    with pytest.raises(SolveError, match="row 2"):
        M.init(stored(SparseMatrix.from_dense(A)))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: BlockJacobi(0), ValueError),
        (lambda: BlockJacobi(2.0), TypeError),
        (lambda: SSOR(2), ValueError),
        (lambda: SSOR(-1), ValueError),
        (lambda: IC0(relaxation=1.1), ValueError),
        (lambda: IC0(shift=float("nan")), ValueError),
        (lambda: ILU0(relaxation="much"), TypeError),
        (lambda: ILUT(drop_tol=-1), ValueError),
        (lambda: ILUT(fill_factor=0), ValueError),
        (lambda: AMG("geometric"), ValueError),
        (lambda: AMG(cycle="F"), ValueError),
    ],
)
def test_settings_are_checked(make, error):
    with pytest.raises(error, match="got"):
        make()


# ------------------------------------------------------------ each against a dense reference


@pytest.mark.parametrize("dtype", DTYPES)
def test_jacobi(dtype):
    A = general(dtype)
    inverse = dense_inverse(Jacobi(), Jacobi().init(with_zeros(A)), len(A), dtype)
    assert_close(inverse, torch.diag(1 / A.diagonal()))


@pytest.mark.parametrize("size", [1, 2, 5, 23, 40])
def test_block_jacobi(size):
    dtype = torch.complex128
    A = general(dtype)
    blocks = np.zeros_like(A.numpy())
    for start in range(0, len(A), size):
        part = slice(start, start + size)
        blocks[part, part] = A[part, part]
    M = BlockJacobi(size)
    inverse = dense_inverse(M, M.init(with_zeros(A)), len(A), dtype)
    assert_close(inverse, torch.from_numpy(np.linalg.inv(blocks)))


def test_block_jacobi_names_the_singular_block():
    A = general()
    A[6:9] = 0
    with pytest.raises(SolveError, match=r"block 2 \(rows 6 to 8\)"):
        BlockJacobi(3).init(stored(SparseMatrix.from_dense(A)))


@pytest.mark.parametrize("omega", [1, 0.4, 1.7])
def test_ssor(omega):
    dtype = torch.complex128
    A = general(dtype)
    a = A.numpy()
    D, L, U = np.diag(np.diag(a)), np.tril(a, -1), np.triu(a, 1)
    M = omega / (2 - omega) * (D / omega + L) @ np.linalg.inv(D) @ (D / omega + U)
    state = SSOR(omega).init(with_zeros(A))
    inverse = dense_inverse(SSOR(omega), state, len(A), dtype)
    assert_close(inverse, torch.from_numpy(np.linalg.inv(M)))


def dense_ilu0(a, pattern, relaxation):
    """Factor by outer products: each step changes what remains, and drops off the pattern."""
    n, a = len(a), a.copy()
    L, U = np.eye(n, dtype=a.dtype), np.zeros_like(a)
    for k in range(n):
        U[k, k:], L[k + 1 :, k] = a[k, k:], a[k + 1 :, k] / a[k, k]
        change = np.outer(L[k + 1 :, k], U[k, k + 1 :])
        keep = pattern[k + 1 :, k + 1 :] | np.eye(n - k - 1, dtype=bool)
        dropped = np.where(keep, 0, change).sum(1)
        a[k + 1 :, k + 1 :] -= np.where(keep, change, 0) + relaxation * np.diag(dropped)
    return L, U


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("relaxation", [0.0, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ilu0(dtype, relaxation, seed):
    A = general(dtype, seed=10 * seed)
    S = with_zeros(A)
    L, U = dense_ilu0(wide(A), stored_pattern(S), relaxation)
    M = ILU0(relaxation=relaxation)
    inverse = dense_inverse(M, M.init(S), len(A), dtype)
    assert_close(inverse, torch.from_numpy(np.linalg.inv(L @ U)).to(dtype), **close(dtype))


def stored_pattern(S):
    pattern = np.zeros(S.shape, dtype=bool)
    pattern[S.structure.row.numpy(), S.structure.col.numpy()] = True
    return pattern


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("relaxation", [0.0, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ic0(dtype, relaxation, seed):
    A = hermitian(dtype, seed=10 * seed)
    S = with_zeros(A)
    # Only a real part can go to the diagonal of a Hermitian matrix.
    a, pattern, n = wide(A), stored_pattern(S), len(A)
    L = np.zeros_like(a)
    for k in range(n):
        L[k:, k] = a[k:, k] / np.sqrt(a[k, k])
        change = np.outer(L[:, k], L[:, k].conj())
        change[: k + 1] = change[:, : k + 1] = 0
        keep = pattern | np.eye(n, dtype=bool)
        a = a - np.where(keep, change, 0)
        a = a - relaxation * np.diag(np.where(keep, 0, change).sum(1).real)
    M = IC0(relaxation=relaxation)
    state = M.init(S)
    assert state.shift == 0
    inverse = dense_inverse(M, state, n, dtype)
    reference = np.linalg.inv(L @ L.conj().T)
    assert_close(inverse, torch.from_numpy(reference).to(dtype), **close(dtype))


@pytest.mark.slow
def test_ic0_reads_the_lower_triangle_alone():
    A = hermitian(torch.complex128)
    whole, lower = (stored(SparseMatrix.from_dense(x)) for x in (A, A.tril()))
    other = stored(SparseMatrix.from_dense(A.tril() + randn(*A.shape, seed=5).triu(1)))
    R = randn(len(A), 2, dtype=A.dtype)
    expected = IC0().apply(IC0().init(whole), R)
    for S in (lower, other):
        assert_close(IC0().apply(IC0().init(S), R), expected, rtol=0, atol=0)


@pytest.mark.parametrize("M", [IC0(relaxation=1.0), ILU0(relaxation=1.0)], ids=repr)
@pytest.mark.parametrize("permuted", [False, True])
def test_full_relaxation_keeps_row_sums(M, permuted):
    order = np.random.default_rng(0).permutation(64) if permuted else np.arange(64)
    S = poisson(8)[order][:, order] + 0.1 * eye_array(64)
    state = M.init(from_scipy(S))
    sums = torch.from_numpy(np.asarray(S.sum(1))).unsqueeze(1)
    assert_close(M.apply(state, sums), torch.ones(64, 1, dtype=torch.float64))


@pytest.mark.parametrize("M", [ILU0(), IC0(relaxation=0.0), ILUT(drop_tol=0.0, fill_factor=50)])
def test_exact_without_fill(M):
    """Nothing is dropped from an arrow that points down: the factorization is the full one."""
    A = torch.diag(torch.linspace(2.0, 9, 9, dtype=torch.float64))
    A[-1, :-1] = A[:-1, -1] = 0.5
    state = M.init(stored(SparseMatrix.from_dense(A)))
    assert_close(dense_inverse(M, state, 9), torch.linalg.inv(A))


def test_ilu0_moves_with_the_scaling():
    A = general()
    B = scaled(A)
    scale = torch.logspace(-4, 4, len(A), dtype=torch.float64)
    plain, moved = (ILU0().init(stored(SparseMatrix.from_dense(x))) for x in (A, B))
    assert moved.shift == 0
    expected = dense_inverse(ILU0(), plain, len(A)) / scale / scale.flip(0)[:, None]
    assert_close(dense_inverse(ILU0(), moved, len(A)), expected, rtol=1e-8, atol=0)


# ---------------------------------------------------------------------------------- breakdown


def test_ic0_shifts_until_it_completes():
    # Kershaw's matrix: positive definite, and plain incomplete Cholesky breaks down.
    A = torch.tensor(
        [[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]], dtype=torch.float64
    )
    state = IC0().init(stored(SparseMatrix.from_dense(A)))
    assert 0 < state.shift < 1
    inverse = dense_inverse(IC0(), state, 4)
    assert float(torch.linalg.eigvalsh(inverse).min()) > 0
    moved = A + torch.diag(state.shift * A.diagonal())
    plain = IC0().init(stored(SparseMatrix.from_dense(moved)))
    assert plain.shift == 0
    assert_close(inverse, dense_inverse(IC0(), plain, 4))
    assert IC0(shift=0.5).init(stored(SparseMatrix.from_dense(A))).shift == 0.5


def test_ic0_asks_for_a_positive_diagonal():
    with pytest.raises(SolveError, match="row 1 is -2"):
        IC0().init(stored(SparseMatrix.from_dense(torch.diag(torch.tensor([1.0, -2.0])))))


@pytest.mark.parametrize("M", [IC0(), ILU0()], ids=repr)
def test_nan_breaks_down_with_its_row(M):
    A = hermitian()
    A[5, 0] = A[0, 5] = float("nan")
    with pytest.raises(SolveError, match="row 5"):
        M.init(stored(SparseMatrix.from_dense(A)))


@pytest.mark.parametrize(
    "A", [[[1.0, 1, 0], [1, 1, 1], [0, 1, 2]], [[0.0, 2, 0], [3, 0, 1], [0, 1, 1]]]
)
def test_ilu0_shifts_a_vanishing_pivot(A):
    A = torch.tensor(A, dtype=torch.complex128)
    state = ILU0().init(stored(SparseMatrix.from_dense(A)))
    assert 0 < state.shift < 1
    scale = torch.where(A.diagonal() == 0, A.abs().amax(1).to(A.dtype), A.diagonal())
    # A tridiagonal matrix has no fill: M is the shifted matrix itself.
    inverse = dense_inverse(ILU0(), state, 3, A.dtype)
    assert_close(inverse, torch.linalg.inv(A + state.shift * torch.diag(scale)))


def test_ilu0_fills_a_diagonal_that_is_not_stored():
    A = torch.tensor([[2.0, 1], [4, 0]], dtype=torch.float64)
    state = ILU0().init(stored(SparseMatrix.from_dense(A)))
    assert state.shift == 0
    assert_close(dense_inverse(ILU0(), state, 2), torch.linalg.inv(A))


@pytest.mark.parametrize("M", [ILU0(), ILUT()], ids=repr)
def test_singular(M):
    A = general()
    A[:, 3] = A[3] = 0
    with pytest.raises(SolveError, match="singular"):
        M.init(stored(SparseMatrix.from_dense(A)))


# ------------------------------------------------------------------------------ what it is for


def iterations(S, M):
    state = None if M is None else M.init(from_scipy(S))

    def apply(r):
        R = torch.from_numpy(r).unsqueeze(-1)
        return (R if M is None else M.apply(state, R)).squeeze(-1).numpy()

    count = []
    b = np.random.default_rng(0).standard_normal(S.shape[0])
    operator = LinearOperator(S.shape, apply, dtype=np.float64)
    _, info = cg(S, b, rtol=1e-8, maxiter=1000, M=operator, callback=count.append)
    assert info == 0
    return len(count)


@pytest.mark.parametrize(
    ("M", "share"),
    [
        (BlockJacobi(40), 0.9),
        (SSOR(1.8), 0.4),
        (IC0(relaxation=0.0), 0.4),
        (IC0(), 0.25),
        (ILU0(), 0.4),
        (ILU0(relaxation=0.97), 0.25),
        (AMG(), 0.1),
        (SMOOTHED, 0.15),
    ],
    ids=repr,
)
def test_fewer_iterations_on_a_laplacian(M, share):
    S = poisson(40)
    assert iterations(S, M) <= share * iterations(S, None)


@pytest.mark.parametrize("kind", [IC0, DIC])
def test_relaxation_is_tried_where_it_helps(kind):
    S = poisson(40)  # 79 levels
    chan = 1 - 8 * np.sin(np.pi / (2 * 79 / 3)) ** 2
    order = np.random.default_rng(0).permutation(1600)
    positive = S.copy()
    positive[0, 1] = positive[1, 0] = 0.5
    row, col = triu(S, 1).coords
    jumping = 10.0 ** (4 * (np.random.default_rng(1).random(row.size) < 0.5))
    jumps = csr_array((-jumping, (row, col)), S.shape)
    jumps = jumps + jumps.T
    jumps = csr_array(jumps + diags_array(0.01 - jumps.sum(axis=1)))
    R = randn(1600, 1)
    cases = ((S, chan), (S[order][:, order], 0.0), (positive, 0.0), (jumps, 0.0))
    for matrix, relaxation in cases:
        A = from_scipy(matrix)
        chosen, given = (M.apply(M.init(A), R) for M in (kind(), kind(relaxation=relaxation)))
        assert_close(chosen, given, rtol=0, atol=0)


def test_jacobi_undoes_a_scaling():
    scale = diags_array(np.logspace(-2, 2, 400))
    S = csr_array(scale @ poisson(20) @ scale)
    assert iterations(S, Jacobi()) < 100


def test_ilut_nears_the_inverse_as_less_is_dropped():
    A = general()
    S = stored(SparseMatrix.from_dense(A))
    errors = []
    for drop_tol in (0.3, 0.05, 0.0):
        M = ILUT(drop_tol, fill_factor=100)
        inverse = dense_inverse(M, M.init(S), len(A))
        errors.append(float((inverse @ A - torch.eye(len(A))).norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-10


def test_ilut_follows_the_diagonal_of_a_symmetric_pattern():
    """In the order for row pivoting, more has to be dropped: 12 iterations here."""
    n = 60
    wind = diags_array([-1.2, 2.0, -0.8], offsets=[-1, 0, 1], shape=(n, n))
    S = csr_array(kron(wind, eye_array(n)) + kron(eye_array(n), wind))
    assert iterations_of(BiCGStab(ILUT()), S) <= 5


def test_ilut_takes_a_symmetric_pattern_without_a_diagonal():
    A = torch.tensor([[0.0, 2.0], [4.0, 0.0]])
    M = ILUT()
    X = M.apply(M.init(stored(SparseMatrix.from_dense(A))), torch.tensor([[2.0], [4.0]]))
    assert_close(X, torch.ones(2, 1))


def iterations_of(solver, S):
    A = SparseMatrix.from_scipy(S)
    return int(sparse_solve(A, randn(S.shape[0]), solver=solver, return_info=True)[1].iterations)
