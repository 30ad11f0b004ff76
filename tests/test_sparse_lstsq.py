"""`sparse_lstsq`: values, what is told of them, and what is refused."""

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, vmap

from tests.systems import DTYPES, close, numpy_lstsq, randn
from tsgu_func import SparseMatrix, sparse_generic_lstsq, sparse_lstsq
from tsgu_func.solvers import LSMR, LSQR, ConvergenceError, Result, SolveError

M, N = 30, 12


def tall(dtype=torch.float64, seed=0):
    D = randn(M, N, dtype=dtype, seed=seed) * (randn(M, N, seed=seed + 1).abs() > 0.8)
    return D + torch.eye(M, N, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [None, LSQR(), LSMR(rtol=1e-7)], ids=repr)
@pytest.mark.parametrize("shape", [(M,), (M, 1), (M, 3)])
def test_solutions(dtype, solver, shape):
    D, B = tall(dtype), randn(*shape, dtype=dtype)
    A = SparseMatrix.from_dense(D)
    X, info = sparse_lstsq(A, B, solver=solver, return_info=True)
    assert X.shape == (N, *shape[1:])
    expected = numpy_lstsq(D, B.reshape(M, -1)).reshape(X.shape).to(dtype)
    torch.testing.assert_close(X, expected, **close(dtype))
    torch.testing.assert_close(sparse_lstsq(A, B, solver=solver), X)
    left = torch.linalg.vector_norm(B - D @ X, dim=0) / torch.linalg.vector_norm(B, dim=0)
    torch.testing.assert_close(info.residual, left, **close(dtype))
    assert info.result is Result.SOLVED
    assert info.solver == repr(solver or LSMR())
    assert info.iterations.shape == shape[1:]
    assert int(info.iterations.min()) > 0


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_torch_sparse_tensors(layout):
    D, B = tall(), randn(M, 2)
    A = D.to_sparse_coo() if layout == "coo" else D.to_sparse_csr()
    A.requires_grad_()
    X, info = sparse_lstsq(A, B, return_info=True)
    X.square().sum().backward()
    assert not info.residual.requires_grad
    assert A.grad.layout == A.layout
    values = SparseMatrix.from_dense(D).values.clone().requires_grad_()
    other = sparse_generic_lstsq(SparseMatrix.from_dense(D).with_values(values), B)
    other.square().sum().backward()
    torch.testing.assert_close(A.grad.to_dense()[D != 0], values.grad)


def test_a_batch_of_matrices_and_one_of_right_hand_sides():
    A = SparseMatrix.from_dense(tall())
    A = A.with_values(A.values * torch.tensor([1.0, 2.0]).double()[:, None, None])
    B = randn(3, M, 2)
    X, info = sparse_lstsq(A, B, return_info=True)
    assert X.shape == (2, 3, N, 2)
    assert info.residual.shape == (2, 3, 2)
    torch.testing.assert_close(X[1, 2], numpy_lstsq(2 * tall(), B[2]))


def test_what_is_told_goes_through_transforms():
    A, B = SparseMatrix.from_dense(tall()), randn(4, M, 2)

    def f(B):
        return sparse_lstsq(A, B, return_info=True)

    X, info = vmap(f)(B)
    torch.testing.assert_close(X, torch.stack([f(b)[0] for b in B]))
    assert info.residual.shape == (4, 2)
    (gradient, told) = grad(lambda B: (lambda X, i: (X.sum(), i))(*f(B)), has_aux=True)(B[0])
    torch.testing.assert_close(gradient, jacrev(lambda B: f(B)[0].sum())(B[0]))
    torch.testing.assert_close(gradient, jacfwd(lambda B: f(B)[0].sum())(B[0]))
    assert told.result is Result.SOLVED


def test_nothing_to_solve():
    A = SparseMatrix.from_dense(tall())
    X, info = sparse_lstsq(A, torch.zeros(M, 0).double(), return_info=True)
    assert X.shape == (N, 0)
    assert info.residual.shape == (0,)
    empty = SparseMatrix.from_coo([], [], torch.zeros(0), (3, 0))
    X, info = sparse_lstsq(empty, torch.ones(3), return_info=True)
    assert X.shape == (0,)


def test_failure_is_what_was_asked_for():
    A, b, short = SparseMatrix.from_dense(tall()), randn(M), LSMR(max_iterations=2)
    with pytest.raises(ConvergenceError, match="no iterations were left"):
        sparse_lstsq(A, b, solver=short)
    with pytest.warns(UserWarning, match="no iterations were left"):
        sparse_lstsq(A, b, solver=short, on_failure="warn")
    _, info = sparse_lstsq(A, b, solver=short, on_failure="ignore", return_info=True)
    assert info.result is Result.ITERATIONS
    with pytest.raises(SolveError, match="column 0 holds but zeros"):
        sparse_lstsq(SparseMatrix.from_coo([0], [1], torch.ones(1), (3, 2)), torch.ones(3))


@pytest.mark.parametrize(
    ("right", "options", "error", "message"),
    [
        (randn(M + 1), {}, ValueError, "as many rows"),
        (randn(M).float(), {}, ValueError, "one dtype"),
        (randn(M) * torch.nan, {}, ValueError, "B holds a value that is not finite"),
        (randn(M), {"solver": LSMR}, TypeError, "call it"),
        (randn(M), {"solver": torch.linalg.lstsq}, TypeError, "solver is a Solver"),
        (randn(M), {"on_failure": "explode"}, ValueError, "on_failure"),
    ],
)
def test_bad_arguments(right, options, error, message):
    with pytest.raises(error, match=message):
        sparse_lstsq(SparseMatrix.from_dense(tall()), right, **options)


def test_a_wide_matrix_is_refused():
    with pytest.raises(ValueError, match="at least as many rows"):
        sparse_lstsq(SparseMatrix.from_dense(tall().mT), randn(N))
