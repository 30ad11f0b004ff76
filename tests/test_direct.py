"""Direct solvers and the store of their factors, judged by NumPy's dense solutions."""

import sys

import numpy as np
import pytest
import torch

from tests.systems import (
    DTYPES,
    FLAGS,
    N,
    close,
    computed,
    matrix_for,
    numpy_solve,
    randn,
    read_as,
    stored,
)
from tsgu_func import SparseMatrix, sparse_generic_solve, sparse_solve
from tsgu_func.solvers import (
    Cholesky,
    DenseLU,
    Pardiso,
    Result,
    SolveError,
    Substitution,
    SuperLU,
    cache_info,
    cache_limit,
)
from tsgu_func.solvers.direct import superlu
from tsgu_func.utils import bicgstab, linear_cg, minres

EXTRAS = {Cholesky: "sksparse.cholmod", Pardiso: "pypardiso"}
GENERAL = [SuperLU(), DenseLU(), Pardiso()]
DEFINITE = [*GENERAL, Cholesky(), Pardiso(kind="definite"), Pardiso(kind="symmetric")]


def needs(solver):
    """Skip where an optional package is not installed."""
    if (package := EXTRAS.get(type(solver))) is not None:
        pytest.importorskip(package)


def takes(solver, dtype):
    return not (isinstance(solver, Pardiso) and dtype.is_complex)


def prepared(solver, D):
    return solver.init(stored(SparseMatrix.from_dense(D)))


def check(solver, D, dtype):
    """Solve with the matrix, its transpose, its conjugate and its adjoint, by one factor."""
    A = stored(SparseMatrix.from_dense(D))
    state = solver.init(A)
    B = randn(len(D), 3, dtype=dtype)
    for flags in FLAGS:
        view, M = read_as(A, *flags), read_as(D, *flags)
        solved = solver.compute(state, view, B)
        torch.testing.assert_close(solved.value, numpy_solve(M, B).to(dtype), **close(dtype))
        true = torch.linalg.vector_norm(B - M @ solved.value, dim=0)
        true = true / torch.linalg.vector_norm(B, dim=0)
        torch.testing.assert_close(solved.residual, true, rtol=0.5, atol=1e-6)
        assert solved.result is Result.SOLVED
        assert not solved.iterations.any()
        # A column is solved for as it is alone, whatever its strides.
        alone = solver.compute(state, view, B[:, 1:2]).value
        torch.testing.assert_close(alone, solved.value[:, 1:2], **close(dtype))
    assert state.bytes > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", GENERAL, ids=repr)
@pytest.mark.parametrize("kind", [bicgstab, minres, linear_cg])
def test_solutions(solver, dtype, kind):
    needs(solver)
    if takes(solver, dtype):
        check(solver, matrix_for(kind, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", DEFINITE, ids=repr)
def test_solutions_of_definite_systems(solver, dtype):
    needs(solver)
    if takes(solver, dtype):
        check(solver, matrix_for(linear_cg, dtype), dtype)


@pytest.mark.parametrize("solver", GENERAL, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_and_permuted_matrices(solver, n):
    needs(solver)
    D = torch.eye(n).double().roll(1, 0) * 3
    B = randn(n, 2)
    torch.testing.assert_close(computed(solver, D, B).value, numpy_solve(D, B))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("solver", GENERAL, ids=repr)
def test_gradients_are_finite_differences(solver, dtype):
    needs(solver)
    if not takes(solver, dtype):
        return
    D = randn(8, 8, dtype=dtype) * (randn(8, 8, seed=1).abs() > 0.5) + 2 * torch.eye(8)
    scale = torch.logspace(-2, 2, 8).double()
    D = (scale[:, None] * D * scale)[torch.randperm(8, generator=torch.Generator().manual_seed(0))]
    A, B = SparseMatrix.from_dense(D), randn(8, 2, dtype=dtype)

    def f(log_scaled, B):
        # Relative changes: entries differ by many orders.
        values = A.values * (1 + log_scaled)
        return sparse_generic_solve(A.with_values(values), B, solve=solver)

    args = (torch.zeros_like(A.values).requires_grad_(), B.requires_grad_())
    out = f(*args).detach().abs().max().item()
    tolerances = {"atol": 1e-4 * max(out, 1), "rtol": 1e-4}
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, **tolerances, fast_mode=True)


def test_a_batch_is_one_call_of_the_dense_solver():
    D = torch.stack([matrix_for(bicgstab, torch.float64), torch.eye(N).double() * 3])
    M = SparseMatrix.from_dense(D)
    B = randn(2, N, 3)
    solver = DenseLU()
    state = solver.init(stored(M))
    solved = solver.compute(state, stored(M), B)
    assert solved.residual.shape == (2, 3)
    expected = [numpy_solve(*member) for member in zip(D, B, strict=True)]
    torch.testing.assert_close(solved.value, torch.stack(expected))
    condition = solver.condition(state).squeeze(-1)
    expected = [np.linalg.cond(d.numpy(), 1) for d in D]
    torch.testing.assert_close(condition, torch.tensor(expected).double())


# --------------------------------------------------------------------------------- near singular


def dependent(row, n=12, dtype=torch.float64):
    """Return a sparse matrix in which some rows, `row` among them, depend on each other."""
    D = randn(n, n, dtype=dtype) * (randn(n, n, seed=1).abs() > 0.8) + 4 * torch.eye(n)
    D = D.to(dtype)
    others = [(row + 1) % n, (row + 5) % n]
    D[row] = 2 * D[others[0]] - D[others[1]]
    return D, {row, *others}


@pytest.mark.parametrize("solver", GENERAL, ids=repr)
@pytest.mark.parametrize("row", [0, 3, 11])
def test_a_dependent_row_is_an_error(solver, row):
    needs(solver)
    D, _ = dependent(row)
    with pytest.raises(SolveError, match="singular"):
        sparse_solve(SparseMatrix.from_dense(D), randn(12), solver=solver)


@pytest.mark.parametrize("solver", [SuperLU(), DenseLU()], ids=repr)
@pytest.mark.parametrize("row", [0, 3, 11])
def test_the_row_of_the_pivot_is_one_of_the_dependent_rows(solver, row):
    """With integers elimination is exact, and ends at a pivot of zero."""
    D = torch.eye(12).double() * 2
    D[row] = 0
    D[row, (row + 1) % 12] = 2.0
    with pytest.raises(SolveError, match=r"row (\d+)") as caught:
        prepared(solver, D)
    named = int(str(caught.value).split("row ")[1].split()[0].strip(",:"))
    assert named in {row, (row + 1) % 12}


@pytest.mark.parametrize("solver", GENERAL, ids=repr)
def test_a_row_of_zeros_is_named(solver):
    needs(solver)
    D = matrix_for(bicgstab, torch.float64)
    D[7] = 0
    with pytest.raises(SolveError, match="zeros in row 7"):
        prepared(solver, D)
    values = SparseMatrix.from_dense(matrix_for(bicgstab, torch.float64))
    stored_zeros = values.with_values(values.values * (values.pattern.row != 7))
    with pytest.raises(SolveError, match="zeros in row 7"):
        solver.init(stored(stored_zeros))


@pytest.mark.parametrize("solver", [*GENERAL, Cholesky()], ids=repr)
@pytest.mark.parametrize("exponent", [2, 6, 10])
def test_the_condition_number(solver, exponent):
    needs(solver)
    q, _ = np.linalg.qr(randn(12, 12).numpy())
    D = torch.from_numpy(q @ np.diag(np.logspace(0, -exponent, 12)) @ q.T)
    D = (D + D.mT) / 2
    A = SparseMatrix.from_dense(D)
    _, info = sparse_solve(A, randn(12), solver=solver, return_info=True)
    exact = np.linalg.cond(D.numpy(), 1)
    assert 0.2 * exact <= float(info.condition) <= 1.01 * exact
    assert info.result is Result.SOLVED


@pytest.mark.parametrize(
    ("solver", "power"),
    [(SuperLU(), -110), (SuperLU(), 100), (DenseLU(), -100), (DenseLU(), 100)],
)
def test_the_condition_number_has_no_unit(solver, power):
    """The inverse of a matrix in small units does not fit into its precision."""
    D = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1e-6]])
    A, b = SparseMatrix.from_dense(D * 2.0**power), torch.tensor([1.0, 2.0, 1e-6]) * 2.0**power
    _, info = sparse_solve(A, b, solver=solver, return_info=True)
    assert float(info.condition) == pytest.approx(4e6, rel=1e-3)


@pytest.mark.parametrize("solver", [SuperLU(), DenseLU()], ids=repr)
def test_what_rounding_leaves_is_said(solver):
    """A right-hand side far below |A| |X| has few digits left in its residual."""
    D = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2e-14]], dtype=torch.float64)
    b = torch.tensor([[1.0], [1.1]]).double()
    solved = computed(solver, D, b)
    if solved.result is Result.ILL_CONDITIONED:
        assert float(solved.condition) > 1e13
        assert "close to singular" in solved.message
    assert float(solved.residual) < 0.1


def test_an_inaccurate_factor_is_made_again_with_pivoting(monkeypatch):
    """Along the diagonal, a tiny pivot grows beyond all bounds; it is seen, and mended once."""
    rows = [[1e-40, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]
    D = torch.tensor(rows, dtype=torch.float64)
    calls = []
    factored = superlu._factored
    monkeypatch.setattr(superlu, "_factored", lambda *a: calls.append(a[1]) or factored(*a))
    monkeypatch.setitem(superlu.SYMMETRIC, "diag_pivot_thresh", 0.0)
    solver, B = SuperLU(), randn(3, 2)
    A = stored(SparseMatrix.from_dense(D))
    state = solver.init(A)
    for view, M in ((A, D), (A.T, D.mT)):
        torch.testing.assert_close(solver.compute(state, view, B).value, numpy_solve(M, B))
    assert len(calls) == 2


# ------------------------------------------------------------------------ refinement and precision


@pytest.mark.parametrize("solver", [SuperLU(refine=1), DenseLU(refine=2), Pardiso(refine=1)])
def test_refinement_does_not_lose(solver):
    needs(solver)
    D = matrix_for(bicgstab, torch.float64)
    B = randn(N, 2)
    plain = type(solver)()
    before = computed(plain, D, B).residual
    after = computed(solver, D, B).residual
    assert bool((after <= before).all())


@pytest.mark.parametrize("triangle", [torch.tril, torch.triu])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_substitution(triangle, dtype):
    factor = 2 + 1j if dtype.is_complex else 2  # so that the diagonal is not real
    check(Substitution(), triangle(matrix_for(bicgstab, dtype) * factor), dtype)


@pytest.mark.parametrize("cls", [SuperLU, DenseLU])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_mixed_precision_reaches_double(cls, dtype):
    D, B = matrix_for(bicgstab, dtype), randn(N, 2, dtype=dtype) * 1e30
    solver = cls(precision="single")
    A = stored(SparseMatrix.from_dense(D))
    state = solver.init(A)
    lower = solver.compute(state, A, B)
    assert state.bytes < cls().init(A).bytes
    assert float(lower.residual.max()) < 1e-14
    adjoint = solver.compute(state, A.mH, B)
    for X, expected in ((lower.value, numpy_solve(D, B)), (adjoint.value, numpy_solve(D.mH, B))):
        # Small entries of X have no more digits than large ones: the condition number is 3.
        close = 20 * torch.finfo(torch.float64).eps * float(expected.abs().max())
        torch.testing.assert_close(X, expected, rtol=0, atol=close)


def test_mixed_precision_that_falls_short_says_so():
    D = torch.from_numpy(np.vander(np.linspace(0.1, 1, 14)))
    solved = SuperLU(precision="single")
    result = computed(solved, D, randn(14, 1))
    assert result.result is Result.STAGNATED
    with pytest.raises(SolveError, match="residual"):
        sparse_solve(SparseMatrix.from_dense(D), randn(14), solver=solved)
    with pytest.raises(SolveError, match="overflows in single precision"):
        prepared(solved, torch.eye(3).double() * 1e200)


# --------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperLU(refine=-1), "refine"),
        (lambda: SuperLU(precision="half"), "precision"),
        (lambda: Pardiso(kind="best"), "kind"),
        (lambda: Pardiso(precision="single"), "precision=None"),
        (lambda: Cholesky(precision="single"), "precision=None"),
        (lambda: prepared(DenseLU(limit=3), torch.eye(4)), "at most 3 rows"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_not_hermitian_or_definite_is_refused():
    pytest.importorskip("sksparse.cholmod")
    with pytest.raises(SolveError, match="Hermitian"):
        prepared(Cholesky(), matrix_for(bicgstab, torch.float64))
    D = torch.eye(5).double()
    D[3, 3] = -1
    with pytest.raises(SolveError, match="pivot of row 3"):
        prepared(Cholesky(), D)


def test_a_pattern_is_analyzed_once(monkeypatch):
    cholmod = pytest.importorskip("sksparse.cholmod")
    calls = []
    analyze = cholmod.analyze
    monkeypatch.setattr(cholmod, "analyze", lambda A: calls.append(1) or analyze(A))
    A, B = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64)), randn(N, 1)
    solver = Cholesky()
    first, second = solver.init(stored(A)), solver.init(stored(A * 2.0))
    assert len(calls) == 1
    # The second factor has not moved the first.
    for state, M in ((first, A), (second, A * 2.0)):
        X = solver.compute(state, stored(M), B).value
        torch.testing.assert_close(X, numpy_solve(M.to_dense(), B))


def test_pardiso_is_for_real_matrices():
    pytest.importorskip("pypardiso")
    with pytest.raises(TypeError, match="real"):
        prepared(Pardiso(), torch.eye(3, dtype=torch.complex128))
    with pytest.raises(SolveError, match=r"definite"):
        prepared(Pardiso(kind="definite"), torch.diag(torch.tensor([1.0, -1.0])).double())


@pytest.mark.parametrize(
    ("solver", "package", "extra"),
    [(Cholesky(), "sksparse.cholmod", "cholesky"), (Pardiso(), "pypardiso", "pardiso")],
)
def test_a_missing_package_says_how_to_get_it(monkeypatch, solver, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'pip install "tsgu_func\[{extra}\]"'):
        sparse_solve(SparseMatrix.from_dense(torch.eye(3)), torch.ones(3), solver=solver)


# ------------------------------------------------------------------------------- the store


def solve_with(values, A):
    return sparse_generic_solve(A.with_values(values), torch.ones(N).double(), solve=SuperLU())


@pytest.mark.usefixtures("limit")
def test_the_limit_is_kept():
    A = SparseMatrix.from_dense(matrix_for(bicgstab, torch.float64))
    values = [A.values * (i + 1) for i in range(4)]
    for v in values:
        solve_with(v, A)
    size = cache_info().bytes
    assert cache_info().kinds["factors"].entries == 4
    assert cache_limit(size // 2) == size // 2 == cache_info().limit
    assert cache_info().kinds["factors"].entries == 2
    solve_with(values[3], A)
    assert cache_info().hits == 1
    solve_with(values[0], A)
    assert cache_info().hits == 1
    assert cache_info().bytes <= size // 2


@pytest.mark.usefixtures("limit")
def test_what_exceeds_the_limit_alone_pushes_nothing_out():
    A = SparseMatrix.from_dense(matrix_for(bicgstab, torch.float64))
    small = SparseMatrix.from_dense(torch.eye(2).double() * 2)
    sparse_generic_solve(small, torch.ones(2).double(), solve=SuperLU())
    cache_limit(cache_info().bytes + 10)
    solve_with(A.values, A)
    assert cache_info().kinds["factors"].entries == 1
    cache_limit(0)
    assert cache_info().bytes == 0
    torch.testing.assert_close(
        solve_with(A.values, A), numpy_solve(A.to_dense(), torch.ones(N).double())
    )


@pytest.mark.parametrize("wrong", [-1, 1.5, "1"])
def test_a_limit_is_a_number_of_bytes(wrong):
    with pytest.raises(ValueError, match="bytes"):
        cache_limit(wrong)


def test_a_zero_pivot_whose_place_is_not_found(monkeypatch):
    import scipy.sparse.linalg

    def splu(*_, **settings):
        raise RuntimeError("Factor is exactly singular")

    monkeypatch.setattr(scipy.sparse.linalg, "splu", splu)
    with pytest.raises(SolveError, match=r"met a zero pivot$"):
        SuperLU().init(stored(SparseMatrix.from_dense(torch.eye(3) + 1)))


def test_memory_that_does_not_suffice_is_no_property_of_the_matrix(monkeypatch):
    import scipy.sparse.linalg

    def splu(*_, **settings):
        raise MemoryError

    monkeypatch.setattr(scipy.sparse.linalg, "splu", splu)
    with pytest.raises(MemoryError, match="SuperLU found no memory"):
        sparse_solve(SparseMatrix.from_dense(torch.eye(3) + 1), torch.ones(3), solver=SuperLU())
