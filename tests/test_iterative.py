"""What linear_cg, bicgstab, minres and lsmr have in common."""

import pickle
import warnings

import pytest
import torch
from torch.testing import assert_close

from tests.systems import (
    DTYPES,
    KINDS,
    SQUARE_SOLVERS,
    N,
    close,
    counted,
    matrix_for,
    numpy_solve,
    randn,
    stored,
)
from tsgu_func import SparseMatrix, sparse_generic_solve
from tsgu_func.solvers.protocol import ConvergenceError, SolveError
from tsgu_func.utils.bicgstab import BICGSTABSettings, bicgstab
from tsgu_func.utils.linear_cg import linear_cg
from tsgu_func.utils.lsmr import lsmr
from tsgu_func.utils.minres import MINRESSettings, minres

# ------------------------------------------------------------------------------ right numbers


@pytest.mark.parametrize("shape", [(N,), (N, 3), (2, N, 3)], ids=["vector", "columns", "batch"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
def test_against_numpy(solve, dtype, kind, shape):
    A, B = matrix_for(solve, dtype), randn(*shape, dtype=dtype)
    X = solve(KINDS[kind](A), B)
    assert X.shape == B.shape
    assert X.dtype == dtype
    assert_close(X, numpy_solve(A, B).to(dtype), **close(dtype))


@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
def test_default_accuracy(solve):
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        A, B = matrix_for(solve, dtype), randn(N, 3, dtype=dtype)
        bound = max(bound, 1e-6) if solve is bicgstab else bound
        residual = (A.double() @ solve(A, B).double() - B).norm(dim=0) / B.norm(dim=0)
        assert float(residual.max()) <= 1.1 * bound


@pytest.mark.parametrize("kind", ["dense", "matrix", "stored"])
@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
def test_batches_of_matrices(solve, kind, dtype):
    A = matrix_for(solve, dtype)
    D = torch.stack([A, 2 * A, -3 * A if solve is not linear_cg else 3 * A])
    M = SparseMatrix.from_dense(D)
    given = {"dense": D, "matrix": M, "stored": stored(M)}[kind]
    for B in (randn(3, N, 2, dtype=dtype), randn(N, 2, dtype=dtype), randn(N, dtype=dtype)):
        X = solve(given, B)
        columns = B.unsqueeze(-1) if B.ndim == 1 else B
        expected = numpy_solve(D, columns.expand(3, N, columns.shape[-1]))
        assert_close(X, expected.squeeze(-1) if B.ndim == 1 else expected, **close(dtype))


@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
def test_stored_matrix_and_its_views(solve, dtype):
    A, B = matrix_for(solve, dtype), randn(N, 2, dtype=dtype)
    M = SparseMatrix.from_dense(A)
    for flags, D in (
        ({}, A),
        ({"transpose": True}, A.mT),
        ({"conjugate": True}, A.conj()),
        ({"transpose": True, "conjugate": True}, A.mH),
    ):
        expected = numpy_solve(D, B)
        assert_close(solve(stored(M, **flags), B), expected, **close(dtype))


@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
def test_as_the_solver_of_an_op(solve, dtype):
    D = torch.stack([matrix_for(solve, dtype), 2 * matrix_for(solve, dtype)])
    M, B = SparseMatrix.from_dense(D), randn(2, N, 2, dtype=dtype)
    batch = M.with_values(M.values.requires_grad_())
    X = sparse_generic_solve(batch, B, solve=solve)
    assert_close(X.detach(), numpy_solve(D, B), **close(dtype))
    G = randn(2, N, 2, dtype=dtype, seed=8)
    X.backward(G)
    W = numpy_solve(D.mH, G)
    row, col = M.pattern.row.long(), M.pattern.col.long()
    assert_close(M.values.grad, -(W @ X.detach().mH)[:, row, col], **close(dtype))


# -------------------------------------------------------------------- columns, counts, starts


def tight(solve, A, B, start=None, **kwargs):
    """Solve with a start, where the solver takes one, to a tolerance that shows in the counts."""
    if solve is linear_cg:
        return solve(A, B, initial_guess=start, tolerance=1e-11, **kwargs)
    if solve is bicgstab:
        return solve(A, B, start, BICGSTABSettings(reltol=1e-11), **kwargs)
    return solve(A, B, settings=MINRESSettings(minres_tolerance=1e-11), **kwargs)


@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
def test_columns_are_independent(solve, dtype):
    A, B = matrix_for(solve, dtype), randn(N, 4, dtype=dtype)
    B[:, 1] *= 1e6
    B[:, 2] *= 1e-9
    B[:, 3] = 0
    X = tight(solve, A, B)
    assert torch.equal(X[:, 3], B[:, 3])
    for i in range(3):
        assert_close(X[:, i], tight(solve, A, B[:, i]), rtol=1e-8, atol=1e-20)


@pytest.mark.parametrize("solve", [linear_cg, bicgstab])
def test_converged_column_is_left_alone(solve, dtype):
    A, B = matrix_for(solve, dtype), randn(N, 2, dtype=dtype)
    start = torch.zeros_like(B)
    start[:, 0] = numpy_solve(A, B[:, 0])
    X = tight(solve, A, B, start)
    assert torch.equal(X[:, 0], start[:, 0])
    assert_close(A @ X, B, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("solve", "each"), [(linear_cg, 1), (minres, 1), (bicgstab, 2)])
def test_products_per_iteration(solve, each):
    A, B = matrix_for(solve, torch.float64), randn(N, 3)
    multiply, calls = counted(A)
    few = {"settings": BICGSTABSettings(matvec_max=9, reltol=1e-14)}
    with pytest.raises(ConvergenceError) as caught:
        solve(multiply, B, **(few if solve is bicgstab else {"max_iter": 4}))
    # Four iterations, and one product for the true residual; all columns go together.
    assert calls == [(N, 3)] * (4 * each + 1)
    assert caught.value.iterations == (9 if solve is bicgstab else 4)


@pytest.mark.parametrize("solve", [linear_cg, bicgstab])
def test_warm_start(solve, dtype):
    A, b = matrix_for(solve, dtype), randn(N, dtype=dtype)
    x = numpy_solve(A, b)
    multiply, calls = counted(A)
    assert torch.equal(tight(solve, multiply, b, x), x)
    assert len(calls) == 1
    counts = []
    for start in (None, x + 1e-8):
        multiply, calls = counted(A)
        tight(solve, multiply, b, start)
        counts.append(len(calls))
    assert counts[1] < counts[0]


@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
def test_preconditioner_saves_iterations(solve, dtype):
    scale = torch.logspace(0, 2, N, dtype=torch.float64).to(dtype)
    A = matrix_for(solve, dtype)
    A = scale * A * scale[:, None] if solve is not bicgstab else scale[:, None] * A
    B = A @ randn(N, 2, dtype=dtype)
    diagonal = A.diagonal().abs().to(dtype) if solve is minres else A.diagonal()
    X, counts = [], []
    for M in (None, lambda R: R / diagonal[:, None], torch.diag(1 / diagonal)):
        multiply, calls = counted(A)
        if solve is bicgstab:
            settings = BICGSTABSettings(reltol=1e-9, precon=M, matvec_max=5000)
            X.append(solve(multiply, B, settings=settings))
        elif solve is minres:
            settings = MINRESSettings(minres_tolerance=1e-9)
            X.append(solve(multiply, B, preconditioner=M, settings=settings))
        else:
            X.append(solve(multiply, B, preconditioner=M, tolerance=1e-9))
        counts.append(len(calls))
    assert counts[1] < counts[0]
    assert counts[1] == counts[2]
    for x in X:
        assert float(((A @ x - B).norm(dim=0) / B.norm(dim=0)).max()) <= 1e-9


def test_functions_of_vectors_and_of_columns():
    A, b = matrix_for(linear_cg, torch.float64), randn(N)
    d = A.diagonal()
    for M in (lambda r: r / d, lambda R: R / d.unsqueeze(-1)):
        for solve in (linear_cg, minres):
            assert_close(solve(A, b, preconditioner=M), numpy_solve(A, b))
    multiply, calls = counted(A)
    linear_cg(multiply, b)
    assert set(calls) == {(N,)}


# ---------------------------------------------------------------------------------- every solver


def any_solver(solve, A, b, **kwargs):
    return (
        lsmr(A, b, Armat=A, n=b.shape[0], **kwargs)[0] if solve is lsmr else solve(A, b, **kwargs)
    )


ALL = [*SQUARE_SOLVERS, lsmr]


@pytest.mark.parametrize("solve", ALL)
def test_policies(solve):
    A, b = matrix_for(linear_cg, torch.float64), randn(N)
    few = {"settings": BICGSTABSettings(matvec_max=3)} if solve is bicgstab else {"max_iter": 1}
    few = {"maxiter": 1} if solve is lsmr else few
    with pytest.raises(ConvergenceError, match="did not converge: after") as caught:
        any_solver(solve, A, b, **few)
    error = caught.value
    assert error.iterations >= 1
    assert float(error.residual.max()) > 1e-6
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.iterations) == (str(error), error.iterations)
    with pytest.warns(UserWarning, match="did not converge: after") as told:
        x = any_solver(solve, A, b, on_failure="warn", **few)
    assert [w.filename for w in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(any_solver(solve, A, b, on_failure="ignore", **few), x)
    with pytest.raises(ValueError, match="on_failure is 'raise', 'warn' or 'ignore'; got 'no'"):
        any_solver(solve, A, b, on_failure="no")


@pytest.mark.parametrize("solve", ALL)
def test_nothing_in_nothing_out(solve, dtype):
    def forbidden(X):
        raise AssertionError("no product is needed")

    for shape in ((N,), (N, 2), (3, N, 2), (0,), (0, 2), (N, 0), (0, N, 2)):
        B = torch.zeros(*shape, dtype=dtype)
        kwargs = (
            {"Armat": forbidden, "n": B.shape[-2] if B.ndim > 1 else len(B)}
            if solve is lsmr
            else {}
        )
        X = solve(forbidden, B, **kwargs)
        assert torch.equal(X[0] if solve is lsmr else X, B)


@pytest.mark.parametrize("solve", ALL)
def test_bad_arguments(solve):
    A, b = torch.eye(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="holds a value that is not finite"):
            any_solver(solve, A, b * bad)
    for operator in (A * torch.nan, lambda X: X / 0):
        with pytest.raises(SolveError, match="output holds a value that is not finite"):
            any_solver(solve, operator, b)
    for wrong in (lambda X: X[:-1], lambda X: X.float(), lambda X: None):
        with pytest.raises(SolveError, match=r"output must be a tensor of shape .*; got"):
            any_solver(solve, wrong, b)
    with pytest.raises(ValueError, match=r"must have shape \(4, [34]\) for .*; got \(3, 3\)"):
        solve(A[:3, :3], b)
    with pytest.raises(ValueError, match=r"must have one dtype; got torch\.float64 and"):
        any_solver(solve, A, b.float())
    for rhs in (b.long(), b.half(), b.to_sparse()):
        with pytest.raises(TypeError, match=r"is dense and floating-point: .*got torch\."):
            solve(A, rhs)
    with pytest.raises(ValueError, match="has at least one dimension"):
        solve(A, torch.tensor(1.0))
    with pytest.raises(TypeError, match="is a tensor; got list"):
        solve(A, [1.0])
    with pytest.raises(SolveError, match=r"must be a tensor, a SparseMatrix, .*; got object"):
        solve(object(), b, **({"n": 4, "Armat": A} if solve is lsmr else {}))


@pytest.mark.parametrize("solve", [linear_cg, bicgstab, lsmr])
def test_bad_starts(solve):
    A, b = torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    name = "x0" if solve is lsmr else "initial_guess"
    for start, error, message in (
        (b[:2], ValueError, rf"{name} must have shape \(3,\).* got \(2,\)"),
        (b.float(), ValueError, f"{name} must have dtype torch.float64"),
        (b * torch.nan, ValueError, f"{name} holds a value that is not finite"),
        (1.0, TypeError, f"{name} is a tensor; got float"),
    ):
        with pytest.raises(error, match=message):
            solve(A, b, **{name: start})
    for start in (b, b[:, None]):  # a column is as good as a vector
        X = solve(A, b, **{name: start})
        assert torch.equal(X[0] if solve is lsmr else X, b)


@pytest.mark.parametrize("solve", SQUARE_SOLVERS)
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_tiny_and_huge_right_hand_sides(solve, scale):
    A, b = matrix_for(solve, torch.float64), randn(N)
    assert_close(solve(A, b * scale) / scale, solve(A, b), rtol=1e-8, atol=1e-8)


def test_arguments_are_not_changed():
    A = matrix_for(linear_cg, torch.float64)
    b, start = randn(N, 2), randn(N, 2, seed=1)
    saved = b.clone(), start.clone()
    linear_cg(A, b, initial_guess=start)
    bicgstab(A, b, start)
    minres(A, b)
    lsmr(A, b, x0=start)
    assert torch.equal(b, saved[0])
    assert torch.equal(start, saved[1])


@pytest.mark.parametrize("solve", ALL)
def test_autograd_is_refused(solve):
    A, b = matrix_for(linear_cg, torch.float64), randn(N)
    for M, rhs in ((A.clone().requires_grad_(), b), (A, b.clone().requires_grad_())):
        with pytest.raises(RuntimeError, match="sparse_generic_solve or sparse_generic_lstsq"):
            any_solver(solve, M, rhs)
        with torch.no_grad():
            any_solver(solve, M, rhs)
