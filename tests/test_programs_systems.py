"""Programs that solve systems, written as a user would from the docs alone."""

from functools import partial

import pytest
import torch
from torch.func import grad, hessian, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import SparseMatrix, sparse_solve

SMALL_AND_LARGE = pytest.mark.parametrize("n", [30, 70])  # a dense and a sparse factor


def tridiagonal(n, members=32):
    """Return a batch of matrices, as a SparseMatrix and as dense ones."""
    lower, upper = randn(2, members, n - 1)
    main = 6 + randn(members, n, seed=1)
    A = SparseMatrix.diag(lower, -1) + SparseMatrix.diag(main) + SparseMatrix.diag(upper, 1)
    dense = torch.diag_embed(lower, -1) + torch.diag_embed(main) + torch.diag_embed(upper, 1)
    return A, dense


@SMALL_AND_LARGE
def test_tridiagonal_systems_are_solved_as_a_batch(n):
    A, dense = tridiagonal(n)
    b = randn(32, n, seed=2)
    expected = torch.linalg.solve(dense, b)
    assert_close(sparse_solve(A, b), expected)
    assert_close(vmap(sparse_solve)(A, b), expected)
    assert_close(sparse_solve(A, b[..., None]).squeeze(-1), expected)
    assert_close(vmap(lambda v, b: sparse_solve(A.with_values(v), b))(A.values, b), expected)
    assert_close(torch.stack([sparse_solve(A[k], b[k]) for k in range(32)]), expected)


@SMALL_AND_LARGE
def test_tridiagonal_systems_have_a_gradient_for_each_member(n):
    A, dense = tridiagonal(n)
    b = randn(32, n, seed=2)

    def misfit(solve, A, b):
        return solve(A, b).square().sum()

    gradient = grad(partial(misfit, sparse_solve))(A, b)
    expected = grad(partial(misfit, torch.linalg.solve))(dense, b)
    stored = A.with_values(torch.ones_like(A.values)).to_dense()
    assert_close(gradient.to_dense(), expected * stored)
    assert_close(vmap(grad(partial(misfit, sparse_solve)))(A, b).values, gradient.values)


def test_as_many_vectors_as_rows_are_told_from_a_matrix():
    A, dense = tridiagonal(n=10, members=10)
    b = randn(10, 10, seed=2)
    with pytest.raises(ValueError, match=r"ambiguous.*unsqueeze.*expand"):
        sparse_solve(A, b)
    vectors = torch.linalg.solve(dense, b)
    assert_close(sparse_solve(A, b.unsqueeze(-1)).squeeze(-1), vectors)
    assert_close(vmap(sparse_solve)(A, b), vectors)
    matrices = torch.linalg.solve(dense, b.expand(10, 10, 10))
    assert_close(sparse_solve(A, b.expand(10, 10, 10)), matrices)
    assert_close(vmap(sparse_solve, in_dims=(0, None))(A, b), matrices)


def heat(theta, u, steps=5):
    """Five implicit steps of a rod whose conductivity and source depend on theta."""
    n = len(u)
    x = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    D = SparseMatrix.eye(n + 1, n, dtype=torch.float64) - SparseMatrix.diag(
        torch.ones(n, dtype=torch.float64), -1, shape=(n + 1, n)
    )
    K = D.T @ D.scale_rows(torch.exp(theta[0] + theta[1] * x))
    step = SparseMatrix.eye(n, dtype=torch.float64) + 0.5 * K
    for _ in range(steps):
        u = sparse_solve(step, u + theta[2] * x[1:])
    return u


def heat_dense(theta, u, steps=5):
    n = len(u)
    x = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    D = torch.eye(n + 1, n, dtype=torch.float64)
    D = D - torch.eye(n + 1, n + 1, dtype=torch.float64)[:, 1:]
    step = torch.eye(n, dtype=torch.float64) + 0.5 * D.T @ (
        torch.exp(theta[0] + theta[1] * x)[:, None] * D
    )
    for _ in range(steps):
        u = torch.linalg.solve(step, u + theta[2] * x[1:])
    return u


def heat_loss(program, u, data, theta):
    return (program(theta, u) - data).square().sum()


def differences(f, x, h=1e-5):
    """Differentiate f along each coordinate of x, by central differences."""
    return torch.stack([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in torch.eye(len(x)).to(x)])


THETA = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)


@SMALL_AND_LARGE
def test_hessian_through_implicit_time_steps(n):
    u, data = randn(n), randn(n, seed=1)
    H = hessian(partial(heat_loss, heat, u, data))(THETA)
    gradient = grad(partial(heat_loss, heat_dense, u, data))
    assert_close(grad(partial(heat_loss, heat, u, data))(THETA), gradient(THETA))
    assert_close(H, differences(gradient, THETA), rtol=1e-6, atol=1e-6)


def test_hessians_through_implicit_time_steps_for_many_data():
    u, data = randn(4, 20), randn(4, 20, seed=1)
    thetas = THETA + 0.1 * randn(4, 3, seed=2)

    def one(u, data, theta):
        return hessian(partial(heat_loss, heat, u, data))(theta)

    expected = torch.stack([one(*arguments) for arguments in zip(u, data, thetas, strict=True)])
    assert_close(vmap(one)(u, data, thetas), expected)
    assert_close(vmap(partial(one, u[0], data[0]))(thetas)[0], expected[0])
