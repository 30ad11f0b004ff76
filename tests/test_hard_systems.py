"""Hard systems: what a solver calls solved is right, whatever the matrix and whatever the units.

The residual is computed in long double, and so is the solution that errors are measured from.
"""

import functools
import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from tests import longdouble
from tests.systems import DTYPES
from tsgu_func import SparseMatrix, kron, sparse_lstsq, sparse_solve
from tsgu_func.solvers import (
    CG,
    GMRES,
    ICCG,
    ILU0,
    LSMR,
    LSQR,
    MINRES,
    Augmented,
    BiCGStab,
    DenseLU,
    Jacobi,
    Pardiso,
    Result,
    SolveError,
    Substitution,
    SuperLU,
)
from tsgu_func.solvers.settings import default_tolerance
from tsgu_func.testing.strategies import VALUES, entries, numbers, right_hand_sides, scales

pytestmark = pytest.mark.skipif(
    not longdouble.ACCURATE, reason="long double is no wider than double here"
)
needs_pardiso = pytest.mark.skipif(
    importlib.util.find_spec("pypardiso") is None, reason="pypardiso is not installed"
)

# Enough for what is drawn, and little for what no number of iterations helps.
FEW = {"max_iterations": 80}
DIRECT = [
    None,
    DenseLU(),
    SuperLU(),
    SuperLU(refine=2),
    pytest.param(Pardiso(), marks=needs_pardiso),
    Substitution(),
]
ITERATIVE = [
    CG(**FEW),
    CG(Jacobi(), **FEW),
    ICCG(**FEW),
    MINRES(**FEW),
    BiCGStab(**FEW),
    BiCGStab(ILU0(), **FEW),
    GMRES(**FEW),
    GMRES(restart=4, **FEW),
    LSMR(**FEW),
    LSQR(**FEW),
]
FEWER = settings(max_examples=max(settings().max_examples // 3, 1))
LARGE = {"rows": (1, 40), "nnz": (0, 100), "values": st.sampled_from(VALUES)}
CONDITIONED = ["dominant", "definite", "indefinite", "skew", "lower", "upper", "arrow", "laplacian"]
HARD = ["laplacian", "graded", "penalty", "dependent"]


def dtypes_for(solver):
    """Draw what a solver takes."""
    real = isinstance(solver, Pardiso)
    return st.sampled_from([dtype for dtype in DTYPES if not (real and dtype.is_complex)])


def tolerance(dtype):
    return 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-10


def solved(A, B, solver=None):
    """Return X and which columns are called solved; a refusal is none of them."""
    try:
        X, info = sparse_solve(A, B, solver=solver, return_info=True, on_failure="ignore")
    except SolveError:
        return torch.zeros_like(B), torch.zeros(B.shape[-1], dtype=torch.bool)
    return X, info.code == Result.SOLVED


def minimized(A, B, solver=None):
    """Return X and the Info of a least-squares problem; None where it is refused."""
    try:
        return sparse_lstsq(A, B, solver=solver, return_info=True, on_failure="ignore")
    except SolveError:
        return None


# ------------------------------------------------------------------------ right, or not solved


@st.composite
def square_systems(draw, solver):
    """Draw a matrix, or its transpose, of any kind and scale, and what goes with it."""
    dtype = draw(dtypes_for(solver))
    options = {**LARGE, "dtype": dtype, "magnitudes": draw(st.sampled_from([1.0, scales(dtype)]))}
    if draw(st.booleans()):
        kind = draw(st.sampled_from(CONDITIONED))
        e = draw(entries(kind, condition=(1, 1e12), **options))
    else:
        e = draw(entries(draw(st.sampled_from(HARD)), **options))
    A = draw(st.sampled_from([e.matrix(), e.transposed(), e.matrix().mH]))
    return A, draw(sides(A, dtype))


@st.composite
def sides(draw, A, dtype):
    """Draw right-hand sides in any units, or such as have a solution although A is singular."""
    factors = {"magnitudes": draw(st.sampled_from([1.0, scales(dtype)]))}
    if draw(st.booleans()):
        units = draw(st.booleans())
        B = draw(right_hand_sides(A, (1, 2), units_of_rows=units, strides="contiguous", **factors))
    else:
        B = A @ draw(right_hand_sides(A.shape[1], (1, 2), dtype=dtype, strides="contiguous"))
    assume(bool(B.isfinite().all()))
    return B


def check_promise(A, B, solver, *, componentwise):
    """Check that what is called solved is finite, has a small residual, and is close."""
    X, done = solved(A, B, solver)
    D = A.to_dense()
    note(f"A = {D!r}")
    X, B = X[:, done], B[:, done]
    if not X.shape[1]:
        return
    rtol, eps = tolerance(D.dtype), torch.finfo(D.dtype).eps
    assert bool(X.isfinite().all()), "solved, and not finite"
    backward = longdouble.backward_error(D, X, B)
    left = np.abs(longdouble.residual(D, X, B))
    # What rounding leaves where a residual is computed, which is all that a solver sees of it.
    size = longdouble.sizes(D, X, B)
    norm = lambda Y: np.sqrt((np.abs(Y) ** 2).sum(0))
    asked = rtol * norm(longdouble.widest(B)) + 4 * eps * norm(size)
    if componentwise:  # nothing is asked for, so what is more than half of the digits will do
        rtol = eps**0.5
        assert bool((backward <= rtol).all()), f"solved, with a backward error of {backward}"
    else:
        small = (norm(left) <= asked) | (backward <= rtol)
        assert bool(small.all()), f"solved, with residuals of {norm(left)}, where {asked} was asked"
    inverse = longdouble.inverse(D)
    if inverse is None:
        return
    error = np.abs(longdouble.widest(X) - longdouble.refined(inverse, D, B))
    explained = np.abs(inverse) @ (rtol * size) if componentwise else np.abs(inverse) @ left
    tiny = float(torch.finfo(D.dtype).tiny) / eps
    limit = 2 * explained + 1e-8 * rtol * np.abs(longdouble.widest(X)) + tiny
    assert bool((error <= limit).all()), f"solved, with errors up to {error.max()}"


@pytest.mark.parametrize("solver", DIRECT, ids=repr)
@FEWER
@given(data=st.data())
def test_what_a_direct_solver_calls_solved_is_right(solver, data):
    check_promise(*data.draw(square_systems(solver)), solver, componentwise=True)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
@FEWER
@given(data=st.data())
def test_what_an_iterative_solver_calls_solved_is_right(solver, data):
    check_promise(*data.draw(square_systems(solver)), solver, componentwise=False)


def repeated(A, times):
    """Return a block diagonal matrix of many copies."""
    D = A.to_dense()
    i, j = (x.long() for x in (A.pattern.structure.row, A.pattern.structure.col))
    if A.pattern.transposed:
        i, j = j, i
    n, block = len(D), torch.arange(times).repeat_interleave(len(i))
    row, col = (x.repeat(times) + n * block for x in (i, j))
    values = D[i, j].repeat(times)
    return SparseMatrix.from_coo(row, col, values, (times * n, times * n))


@pytest.mark.slow
@FEWER
@given(system=square_systems(None))
def test_what_the_default_calls_solved_is_right_for_large_matrices(system):
    """Above 2000 rows others are tried than for what is drawn, so that is repeated."""
    A, B = system
    times = 2048 // len(B) + 1
    X, done = solved(repeated(A, times), B.repeat(times, 1))
    assert bool(X[:, done].isfinite().all()), "solved, and not finite"
    parts = X.reshape(times, *B.shape)
    D = A.to_dense()
    for k in (0, times - 1):
        if not bool(done.any()):
            continue
        backward = longdouble.backward_error(D, parts[k][:, done], B[:, done])
        limit = torch.finfo(D.dtype).eps ** 0.5
        assert bool((backward <= limit).all()), f"solved, with a backward error of {backward}"


# --------------------------------------------------------------------------------------- scale


def in_range(power, dtype):
    finfo = torch.finfo(dtype)
    limit = 0.6 * np.log2(float(finfo.max))
    return int(min(max(power, -limit), limit))


def check_scaling(D, B, solver, k, j):
    """Check that A 2ᵏ and B 2ʲ have the solution of A and B, times 2ʲ⁻ᵏ, to the last bit.

    Of iterative solvers, up to their tolerance.  PARDISO orders by what it has seen of a pattern
    before, and rounds accordingly.
    """
    j = k + in_range(j - k, D.dtype)
    X, done = solved(SparseMatrix.from_dense(D), B, solver)
    Y, done_too = solved(SparseMatrix.from_dense(D * 2.0**k), B * 2.0**j, solver)
    if solver in ITERATIVE:
        # A root of an odd power of two rounds, and an iteration more or less may be made.
        both, loose = done & done_too, 1e4 * default_tolerance(D.dtype)
        X, Y = X[:, both], Y[:, both] * 2.0 ** (k - j)
        torch.testing.assert_close(X, Y, rtol=loose, atol=loose * float(X.abs().sum()))
        return
    assert bool(done.all()), "not solved, though nothing is hard about it"
    assert bool(done_too.all()), "solved in some units, and not in others"
    Y = Y * 2.0 ** (k - j)
    if isinstance(solver, Pardiso):
        torch.testing.assert_close(X, Y, rtol=1e4 * torch.finfo(D.dtype).eps, atol=0)
    else:
        assert torch.equal(X, Y)


def powers(dtype):
    return scales(dtype).map(lambda x: int(np.log2(x)))


@pytest.mark.slow
@pytest.mark.parametrize("solver", [*DIRECT[:-1], *ITERATIVE], ids=repr)
@FEWER
@given(data=st.data())
def test_a_power_of_two_changes_nothing_but_units(solver, data):
    dtype = data.draw(dtypes_for(solver))
    kind = data.draw(st.sampled_from(["definite", "dominant", "indefinite"]))
    e = data.draw(entries(kind, condition=(1, 1e3), dtype=dtype, rows=(1, 12)))
    B = data.draw(right_hand_sides(e, (1, 2), strides="contiguous"))
    k, j = data.draw(powers(dtype)), data.draw(powers(dtype))
    check_scaling(e.dense(), B, solver, k, j)


# ------------------------------------------------------------------------------- truncated runs

TRUNCATED = [
    lambda m: CG(max_iterations=m),
    lambda m: CG(Jacobi(), max_iterations=m),
    lambda m: ICCG(max_iterations=m),
    lambda m: MINRES(max_iterations=m),
    lambda m: GMRES(max_iterations=m),
    lambda m: GMRES(restart=2, max_iterations=m),
    lambda m: BiCGStab(max_iterations=m),
]
NAMES = ["CG", "CG(Jacobi)", "ICCG", "MINRES", "GMRES", "GMRES(restart=2)", "BiCGStab"]


@pytest.mark.parametrize("make", TRUNCATED, ids=NAMES)
@FEWER
@given(data=st.data(), m=st.integers(1, 6))
def test_a_truncated_run_has_got_somewhere(make, data, m):
    dtype = data.draw(st.sampled_from([torch.float64, torch.complex128]))
    kind = data.draw(st.sampled_from(["definite", "laplacian", "penalty"]))
    condition = {} if kind == "penalty" else {"condition": (1, 1e8)}
    e = data.draw(entries(kind, dtype=dtype, **condition, **LARGE))
    D, B = e.dense(), data.draw(right_hand_sides(e, 1, strides="contiguous"))
    assume(bool(B.any()) and torch.equal(D, D.mH))
    check_truncated(D, B, make(m))


def check_truncated(D, B, solver):
    """Check that an iterate is better than zero, in the norm that the method minimizes."""
    X, _ = sparse_solve(
        SparseMatrix.from_dense(D), B, solver=solver, return_info=True, on_failure="ignore"
    )
    assert bool(X.isfinite().all())
    assert bool(X.any()), "nothing but zeros"
    A, x, b = (longdouble.widest(y) for y in (D, X, B))
    if isinstance(solver, (CG, ICCG)):
        # |x - x*|² - |x*|² in the energy norm
        gained = (np.conj(x) * (A @ x)).sum().real - 2 * (np.conj(x) * b).sum().real
        assert gained < 0
    if isinstance(solver, (MINRES, GMRES)):
        assert (np.abs(b - A @ x) ** 2).sum() <= (np.abs(b) ** 2).sum() * (1 + 1e-12)


# ------------------------------------------------------------------------------- least squares

LEAST_SQUARES = [None, LSMR(), LSQR()]


@pytest.mark.parametrize("solver", LEAST_SQUARES, ids=repr)
@FEWER
@given(data=st.data())
def test_what_is_called_solved_by_least_squares_is_right(solver, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    most = 1e3 if tolerance(dtype) == 1e-5 else 1e7
    options = {**LARGE, "cols": (1, 8), "dtype": dtype}
    e = data.draw(entries("tall", condition=(1, most), **options))
    B = data.draw(right_hand_sides(e, (1, 2), strides="contiguous"))
    D = e.dense()
    reached = minimized(e.matrix(), B, solver)
    expected = longdouble.least_squares(D, B)
    if expected is None or reached is None:
        return
    X, done = reached[0], ~torch.tensor([Result(code).failed for code in reached[1].code.tolist()])
    norm = lambda Y: np.sqrt((np.abs(Y) ** 2).sum(0))
    kappa = float(torch.linalg.cond(D.to(torch.complex128)))
    left = norm(longdouble.widest(B) - longdouble.widest(D) @ expected)
    largest = float(torch.linalg.matrix_norm(D.to(torch.complex128), 2))
    sensitive = kappa * norm(expected) + kappa**2 * left / largest
    limit = 1e3 * torch.finfo(dtype).eps * sensitive
    error = norm(longdouble.widest(X) - expected)
    done = done.numpy()
    assert solver is not None or done.all(), "not solved, though A has full rank"
    assert bool((error[done] <= limit[done]).all()), f"errors {error}, where {limit} are explained"


@pytest.mark.parametrize("solver", LEAST_SQUARES, ids=repr)
@FEWER
@given(data=st.data())
def test_wide_systems_have_the_least_norm(solver, data):
    dtype = data.draw(st.sampled_from([torch.float64, torch.complex128]))
    options = {"rows": (1, 8), "cols": (1, 40), "nnz": (0, 100), "dtype": dtype}
    e = data.draw(entries("wide", condition=(1, 1e4), **options))
    B = data.draw(right_hand_sides(e, (1, 2), strides="contiguous"))
    X, info = sparse_lstsq(e.matrix(), B, solver=solver, return_info=True)
    assert not info.result.failed
    A = longdouble.widest(e.dense())
    inverse = longdouble.inverse(e.dense() @ e.dense().mH)
    assert inverse is not None
    expected = A.conj().T @ (inverse @ longdouble.widest(B))
    size = np.abs(expected).max(0, initial=0)
    assert bool((np.abs(longdouble.widest(X) - expected) <= 1e-6 * size).all())


# --------------------------------------------------- examples, each of which once was called solved


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


PATH = matrix([1, -1, 0], [-1, 2, -1], [0, -1, 1])
EQUAL_ROWS = matrix([1, 2, 0], [1, 2, 0], [0, 0, 1])
ALL = [*DIRECT[:-1], *ITERATIVE]


@pytest.mark.parametrize("solver", ALL, ids=repr)
@pytest.mark.parametrize("D", [PATH, EQUAL_ROWS], ids=["path", "equal rows"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float64, 1.0), (torch.float64, 1e-165), (torch.float32, 1e-25), (torch.float64, 1e155)],
    ids=["one", "tiny", "tiny float32", "huge"],
)
def test_a_singular_system_is_never_solved(solver, D, dtype, size):
    b = size * torch.tensor([[1.0], [0.0], [0.0]], dtype=dtype)
    assert not bool(solved(SparseMatrix.from_dense(D.to(dtype)), b, solver)[1].any())


@pytest.mark.parametrize("D", [PATH, EQUAL_ROWS], ids=["path", "equal rows"])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-165), (torch.float32, 1e-25)])
def test_a_large_singular_system_is_never_solved(D, dtype, size):
    A = repeated(SparseMatrix.from_dense(D.to(dtype)), 700)
    b = size * torch.tensor([[1.0], [0.0], [0.0]], dtype=dtype).repeat(700, 1)
    assert not bool(solved(A, b)[1].any())


@pytest.mark.parametrize("solver", [None, SuperLU(), DenseLU()], ids=repr)
@pytest.mark.parametrize("weight", [1e16, 2.0**60, 1e-20])
def test_other_units_are_no_singularity(solver, weight):
    D = matrix([3, -1, 0], [-1, 3, -1], [0, -1, 3])
    units = torch.tensor([[1], [weight], [1]], dtype=torch.float64)
    b = matrix([1], [2], [3])
    X, done = solved(SparseMatrix.from_dense(D * units), b * units, solver)
    assert bool(done.all())
    torch.testing.assert_close(X, torch.linalg.solve(D, b))


@pytest.mark.parametrize("solver", DIRECT, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_rows_count(solver, dtype):
    D = torch.tensor([[2.0**-50, 0], [2.0**-15, 2.0**-15]], dtype=dtype)
    b = torch.tensor([[2.0**-50], [2.0**-14]], dtype=dtype)
    X, done = solved(SparseMatrix.from_dense(D), b, solver)
    assert bool(done.all())
    torch.testing.assert_close(X, torch.ones_like(b))


@functools.cache
def poisson(m):
    """Return the five-point stencil on a square of m by m."""
    ones = torch.ones(m - 1, dtype=torch.float64)
    one = torch.eye(m, dtype=torch.float64)
    line, one = SparseMatrix.from_dense(2 * one - ones.diag(1) - ones.diag(-1)), one.to_sparse()
    one = SparseMatrix.from_torch(one)
    return kron(line, one) + kron(one, line)


@pytest.mark.parametrize("penalty", [1e6, 1e12])
@pytest.mark.parametrize("solver", [None, SuperLU()], ids=repr)
def test_a_penalty_is_not_all_that_counts(solver, penalty):
    """On one side of a square something is prescribed, in equations of another size."""
    m = 46
    values = torch.zeros(m * m, dtype=torch.float64)
    values[:m] = penalty
    A, b = poisson(m) + SparseMatrix.diag(values), values[:, None]
    X, done = solved(A, b, solver)
    assert bool(done.all())
    torch.testing.assert_close(X, torch.linalg.solve(A.to_dense(), b), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1.0, 1e-160, 1e150])
def test_an_overflow_in_substitution_is_no_solution(size):
    n = 400
    D = 1e-3 * torch.eye(n, dtype=torch.float64) + torch.ones(n - 1, dtype=torch.float64).diag(-1)
    b = torch.full((n, 1), size, dtype=torch.float64)
    _, info = sparse_solve(SparseMatrix.from_dense(D), b, return_info=True, on_failure="ignore")
    assert info.result is Result.OVERFLOW


@pytest.mark.parametrize("make", TRUNCATED, ids=NAMES)
@pytest.mark.parametrize("iterations", [3, 10])
def test_truncated_runs_of_a_poisson_problem(make, iterations):
    """In this problem the residual grows for long, while the error falls."""
    if isinstance(make(3), BiCGStab) and iterations == 3:
        pytest.skip("BiCGStab minimizes nothing, and the start has the least residual")
    b = torch.ones(900, 1, dtype=torch.float64)
    check_truncated(poisson(30).to_dense(), b, make(iterations))


@pytest.mark.parametrize("make", TRUNCATED, ids=NAMES)
@pytest.mark.parametrize(
    "D", [matrix([1e6, 0, 0], [0, 1, 0], [0, 0, 1]), 0.3 * torch.eye(3).double() + PATH]
)
def test_one_iteration(make, D):
    check_truncated(D, torch.ones(3, 1, dtype=torch.float64), make(1))


@pytest.mark.parametrize("solver", ALL, ids=repr)
@pytest.mark.parametrize(
    ("dtype", "k", "j"),
    [
        (torch.float64, -530, 0),
        (torch.float64, 498, 498),
        (torch.float64, 0, -530),
        (torch.float64, 0, 498),
        (torch.float32, -66, 0),
        (torch.float32, 66, 66),
        (torch.float32, 0, -84),
        (torch.float32, 0, 64),
    ],
)
def test_units_of_a_path(solver, dtype, k, j):
    D = (PATH + torch.eye(3)).to(dtype)
    check_scaling(D, numbers((3, 1), dtype, 3), solver, k, j)


@pytest.mark.parametrize("solver", [None, Augmented()], ids=repr)  # LSMR and LSQR cannot tell
def test_dependent_columns_are_not_solved(solver):
    reached = minimized(*dependent_columns(0.0), solver)
    assert reached is None or reached[1].result != Result.SOLVED


@pytest.mark.parametrize("solver", LEAST_SQUARES, ids=repr)
def test_a_condition_number_is_not_told_before_it_is_known(solver):
    reached = minimized(*dependent_columns(1e-13), solver)
    assert reached is None or not float(reached[1].condition.max()) < 1e6


def dependent_columns(apart):
    """Return a problem whose last column is the sum of the others, or nearly so."""
    D = torch.cat([numbers((7, 2), torch.float64, 5), torch.zeros(7, 1, dtype=torch.float64)], 1)
    D[:, 2] = D[:, 0] + D[:, 1] + apart * numbers((7,), torch.float64, 6)
    return SparseMatrix.from_dense(D), numbers((7, 1), torch.float64, 8)
