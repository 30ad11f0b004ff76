"""LSMR and LSQR as solver objects, judged by NumPy's pseudo-inverse."""

import pytest
import torch

from tests.systems import (
    DTYPES,
    N,
    close,
    computed,
    matrix_for,
    numpy_lstsq,
    numpy_solve,
    randn,
    stored,
)
from tsgu_func import (
    LinearOperator,
    SparseMatrix,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_solve,
)
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.kernels import products
from tsgu_func.solvers import LSMR, LSQR, ConvergenceError, Custom, Result, SolveError
from tsgu_func.utils import bicgstab

CLASSES = [LSMR, LSQR]
BOTH = [LSMR(), LSQR()]
M_ROWS = 30


def tall(dtype=torch.float64, scales=True, n=8):
    """Return a tall matrix of full column rank, with columns of very different sizes."""
    D = randn(M_ROWS, n, dtype=dtype) * (randn(M_ROWS, n, seed=1).abs() > 0.6)
    D[:n] += 3 * torch.eye(n, dtype=dtype)
    return D * torch.logspace(-2, 2, n).to(dtype) if scales else D


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_least_squares(solver, dtype):
    D, B = tall(dtype, scales=dtype.to_real() == torch.float64), randn(M_ROWS, 3, dtype=dtype)
    solved = computed(solver, D, B)
    torch.testing.assert_close(solved.value, numpy_lstsq(D, B).to(dtype), **close(dtype))
    assert solved.result is Result.SOLVED
    true = torch.linalg.vector_norm(B - D @ solved.value, dim=0)
    true = true / torch.linalg.vector_norm(B, dim=0)
    torch.testing.assert_close(solved.residual, true)
    assert bool((solved.iterations > 0).all())
    assert solved.solver == repr(solver)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_least_norm(solver, dtype):
    D, B = tall(dtype, scales=dtype.to_real() == torch.float64), randn(8, 3, dtype=dtype)
    A = stored(SparseMatrix.from_dense(D))
    solved = computed(solver, A.mH, B)
    torch.testing.assert_close(solved.value, numpy_lstsq(D.mH, B).to(dtype), **close(dtype))
    assert solved.result is Result.SOLVED


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_square_systems(solver, dtype):
    D, B = matrix_for(bicgstab, dtype), randn(N, 2, dtype=dtype)
    X, info = sparse_solve(SparseMatrix.from_dense(D), B, solver=solver, return_info=True)
    torch.testing.assert_close(X, numpy_solve(D, B).to(dtype), **close(dtype))
    limit = 1e-5 if dtype.to_real() == torch.float32 else 1e-10
    assert float(info.residual.max()) <= limit


@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_a_square_system_is_solved_as_far_as_asked_where_the_recurrence_drifts(solver):
    # In single precision it is 1.4e-5 off when the recurrence says 1e-5.
    A = SparseMatrix.from_scipy(PROBLEMS["plane"].build(20).astype("float32"))
    B = randn(400, 20, dtype=torch.float32)
    _, info = sparse_solve(A, B, solver=solver, return_info=True)
    assert info.result is Result.SOLVED
    assert float(info.residual.max()) <= 1e-5


@pytest.mark.parametrize("cls", CLASSES)
def test_a_square_system_without_a_solution_is_not_solved(cls):
    D = torch.diag(torch.tensor([1.0, 2.0, 0.0])).double()
    D[2, 0] = D[0, 2] = 1.0
    D[2] = D[0]
    A, b = SparseMatrix.from_dense(D), torch.tensor([1.0, 1.0, 2.0]).double()
    with pytest.raises(ConvergenceError, match=cls.__name__):
        sparse_solve(A, b, solver=cls())
    x, info = sparse_solve(A, b, solver=cls(), on_failure="ignore", return_info=True)
    assert info.result is Result.LEAST_SQUARES
    torch.testing.assert_close(D @ x, D @ numpy_lstsq(D, b))
    x, info = sparse_solve(A, D @ b, solver=cls(), return_info=True)
    assert info.result is Result.SOLVED


@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_columns_and_members_converge_by_themselves(solver):
    D = torch.stack([tall(scales=False), torch.eye(M_ROWS).double()[:, :8] * 2])
    A = stored(SparseMatrix.from_dense(D))
    B = randn(2, M_ROWS, 2)
    B[0, :, 1] = 0
    solved = computed(solver, A, B)
    for k in range(2):
        torch.testing.assert_close(solved.value[k], numpy_lstsq(D[k], B[k]), rtol=1e-8, atol=1e-8)
    assert solved.iterations.shape == (2, 2)
    assert int(solved.iterations[0, 1]) == 0
    assert int(solved.iterations[1].max()) <= 2 < int(solved.iterations[0, 0])
    alone = computed(solver, D[0], B[0, :, :1].clone())
    torch.testing.assert_close(solved.value[0, :, :1], alone.value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", CLASSES)
def test_warm_start(cls):
    solver, D, B = cls(rtol=1e-10), tall(), randn(M_ROWS, 2)
    cold = computed(solver, D, B)
    warm = computed(solver, D, B, cold.value * (1 + 1e-9))
    assert int(warm.iterations.max()) < int(cold.iterations.max())
    torch.testing.assert_close(warm.value, cold.value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_derivatives_are_finite_differences(solver, dtype):
    A = SparseMatrix.from_dense(tall(dtype, scales=False, n=4))
    B = randn(M_ROWS, 2, dtype=dtype)

    def f(values, B):
        return sparse_generic_lstsq(A.with_values(values), B, lstsq=solver)

    args = (A.values.clone().requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_gradients_of_square_systems(solver):
    A = SparseMatrix.from_dense(matrix_for(bicgstab, torch.float64, 6))
    exact, B = type(solver)(rtol=1e-14), randn(6, 2)

    def f(values, B):
        return sparse_generic_solve(A.with_values(values), B, solve=exact)

    args = (A.values.clone().requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_vmap_costs_as_one_call(solver, monkeypatch):
    calls = []
    spmm = products.spmm
    monkeypatch.setattr(
        products, "spmm", lambda s, v, B, **kw: calls.append(B.shape[-1]) or spmm(s, v, B, **kw)
    )
    A, B = SparseMatrix.from_dense(tall()), randn(4, M_ROWS, 2)
    together = sparse_generic_lstsq(A, B.movedim(0, -2).flatten(-2), lstsq=solver)
    made = list(calls)
    calls.clear()
    mapped = torch.func.vmap(lambda b: sparse_generic_lstsq(A, b, lstsq=solver))(B)
    assert calls == made
    torch.testing.assert_close(mapped, together.unflatten(-1, (4, 2)).movedim(-2, 0))


@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_what_lacks_rank_is_an_error(solver):
    D = tall(scales=False)
    D[:, 3] = D[:, 2]
    A, b = SparseMatrix.from_dense(D), randn(M_ROWS).requires_grad_()
    loss = (sparse_generic_lstsq(A, b, lstsq=solver) * torch.arange(8)).sum()
    with pytest.raises(SolveError, match="column rank"):
        loss.backward()
    empty = SparseMatrix.from_dense(torch.eye(4).double()[:, :2] * torch.tensor([1.0, 0.0]))
    with pytest.raises((SolveError, ValueError)):
        sparse_generic_lstsq(empty, randn(4), lstsq=solver)


@pytest.mark.parametrize("cls", CLASSES)
def test_too_few_iterations_raise(cls):
    with pytest.raises(ConvergenceError, match="no iterations were left"):
        sparse_generic_lstsq(
            SparseMatrix.from_dense(tall()), randn(M_ROWS), lstsq=cls(max_iterations=2)
        )


@pytest.mark.parametrize("cls", CLASSES)
def test_bad_settings(cls):
    with pytest.raises(ValueError, match="rtol"):
        cls(rtol=-1.0)
    with pytest.raises(ValueError, match="max_iterations"):
        cls(max_iterations=-1)
    with pytest.raises(TypeError, match="brings its own"):
        sparse_generic_lstsq(
            SparseMatrix.from_dense(tall()), randn(M_ROWS), lstsq=cls(), transpose_lstsq=lambda a: a
        )


# ------------------------------------------------------------------------------ preconditioners


def factor_of(D):
    """Return the Cholesky factor of ``Dᴴ D``, whose inverse makes the columns orthonormal."""
    return torch.linalg.cholesky(D.mH @ D).mH


def by(M):
    def inverse(R):
        return torch.linalg.solve_triangular(M, R, upper=True)

    def adjoint(R):
        return torch.linalg.solve_triangular(M.mH, R, upper=False)

    return Custom(inverse, adjoint)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", ["stored", "transposed", "operator", "batch"])
def test_a_right_preconditioner(cls, kind, dtype):
    # Columns that depend on each other nearly, which no scaling mends.
    D = tall(dtype, scales=False) @ (torch.ones(8, 8).tril() ** 3).to(dtype)
    D[:, 1] = D[:, 0] + 1e-4 * D[:, 1]
    B, G = randn(M_ROWS, 2, dtype=dtype), randn(8, 2, dtype=dtype)
    makes = {
        "stored": SparseMatrix.from_dense,
        "transposed": lambda D: SparseMatrix.from_dense(D.mT).T,
        "operator": lambda D: LinearOperator(lambda D, x: D @ x, D, tuple(D.shape)),
        "batch": lambda D: SparseMatrix.from_dense(torch.stack([D, D])),
    }
    right = B if kind != "batch" else torch.stack([B, 2 * B])
    solver = cls(preconditioner=by(factor_of(D)))
    A = makes[kind](D)
    X, info = sparse_lstsq(A, right, solver=solver, return_info=True)
    expected = numpy_lstsq(D, B)
    torch.testing.assert_close(X[0] if kind == "batch" else X, expected, rtol=1e-6, atol=1e-6)
    assert int(info.iterations.max()) <= 8
    if kind in ("stored", "transposed"):
        _, pull = torch.func.vjp(lambda B: sparse_lstsq(A, B, solver=solver), B)
        torch.testing.assert_close(pull(G)[0], numpy_lstsq(D.mH, G), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)])
def test_no_derivative_is_that_of_a_preconditioner(cls, shape):
    D = randn(*shape) + 2 * torch.eye(*shape).double()
    A, b = SparseMatrix.from_dense(D), randn(shape[0])
    solver = cls(rtol=1e-10, preconditioner=by(factor_of(D if shape[0] >= shape[1] else D.mH)))

    def f(values, b):
        return sparse_lstsq(A.with_values(values), b, solver=solver)

    args = (A.values.clone().requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_preconditioner_and_a_start(cls):
    D, B = tall(), randn(M_ROWS, 2)
    solver = cls(preconditioner=by(factor_of(D)))
    cold = computed(solver, D, B)
    warm = computed(solver, D, B, cold.value * (1 + 1e-9))
    torch.testing.assert_close(warm.value, cold.value, rtol=1e-6, atol=1e-8)
    assert warm.result is Result.SOLVED
    assert int(warm.iterations.max()) <= int(cold.iterations.max())


def test_what_is_no_preconditioner_is_refused():
    with pytest.raises(TypeError, match=r"Custom\(f\)"):
        LSMR(preconditioner=torch.eye(2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="call it"):
        LSMR(preconditioner=Custom)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="damp"):
        LSMR(damp=-1.0)
