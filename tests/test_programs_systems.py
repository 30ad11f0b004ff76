"""Programs that solve systems, written as a user would from the docs alone."""

import math
from functools import partial

import pytest
import torch
from torch.func import grad, hessian, jvp, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import SparseMatrix, factorize, kron, sparse_solve, vstack

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


def neighbours(n):
    """Return the matrix that takes the differences of neighbours among n."""
    return (
        SparseMatrix.eye(n, dtype=torch.float64)[1:] - SparseMatrix.eye(n, dtype=torch.float64)[:-1]
    )


class Field:
    """A Gaussian Markov random field on a grid, seen with noise at some of its nodes.

    Its precision is ``exp(2 theta[0]) + exp(theta[1]) D.T @ D``, where D takes the differences of
    neighbours; the noise has the standard deviation ``exp(theta[2])``.
    """

    def __init__(self, rows=7, cols=10):
        eye = partial(SparseMatrix.eye, dtype=torch.float64)
        self.n = rows * cols
        self.eye = eye(self.n)
        self.D = vstack([kron(eye(rows), neighbours(cols)), kron(neighbours(rows), eye(cols))])
        self.sites = torch.randperm(self.n)[:25]
        self.S = self.eye[self.sites]
        self.rough, self.seen = self.D.T @ self.D, self.S.T @ self.S
        self.y = randn(25, seed=7)

    def precision(self, theta):
        return self.rough.mul(torch.exp(theta[1])) + self.eye.mul(torch.exp(2 * theta[0]))

    def posterior(self, theta):
        """Return precision and mean."""
        weight = torch.exp(-2 * theta[2])
        Q = self.precision(theta) + self.seen.mul(weight)
        return Q, sparse_solve(Q, weight * self.S.T.matmul(self.y))

    def log_likelihood(self, theta, y):
        weight = torch.exp(-2 * theta[2])
        Q = self.precision(theta)
        F = factorize(Q + self.seen.mul(weight))
        right = weight * self.S.T.matmul(y)
        quadratic = weight * y @ y - right @ F.solve(right)
        determinants = F.logabsdet - factorize(Q).logabsdet + 2 * len(y) * theta[2]
        return -0.5 * (quadratic + determinants + len(y) * math.log(2 * math.pi))

    def samples(self, theta, noise):
        """Perturb and solve: a sample of the posterior for each column of the noise."""
        for_nodes, for_edges, for_sites = noise
        Q, mean = self.posterior(theta)
        right = torch.exp(theta[0]) * for_nodes + torch.exp(0.5 * theta[1]) * (self.D.T @ for_edges)
        right = right + torch.exp(-theta[2]) * (self.S.T @ for_sites)
        return mean[:, None] + factorize(Q).solve(right)

    def noise(self, samples):
        return [torch.randn(k, samples, dtype=torch.float64) for k in (self.n, self.D.shape[0], 25)]


class DenseField(Field):
    """The same by dense algebra, and with the covariance of what is seen."""

    def precision(self, theta):
        D, eye = self.D.to_dense(), torch.eye(self.n, dtype=torch.float64)
        return torch.exp(theta[1]) * D.T @ D + torch.exp(2 * theta[0]) * eye

    def posterior(self, theta):
        weight, S = torch.exp(-2 * theta[2]), self.S.to_dense()
        Q = self.precision(theta) + weight * S.T @ S
        return Q, torch.linalg.inv(Q) @ S.T @ (weight * self.y)

    def log_likelihood(self, theta, y):
        covariance = torch.linalg.inv(self.precision(theta))[self.sites][:, self.sites]
        C = covariance + torch.exp(2 * theta[2]) * torch.eye(len(y), dtype=torch.float64)
        quadratic = y @ torch.linalg.solve(C, y)
        return -0.5 * (quadratic + torch.linalg.slogdet(2 * math.pi * C).logabsdet)

    def samples(self, theta, noise):
        for_nodes, for_edges, for_sites = noise
        Q, mean = self.posterior(theta)
        right = torch.exp(theta[0]) * for_nodes
        right = right + torch.exp(0.5 * theta[1]) * (self.D.to_dense().T @ for_edges)
        right = right + torch.exp(-theta[2]) * (self.S.to_dense().T @ for_sites)
        return mean[:, None] + torch.linalg.solve(Q, right)


def both_fields():
    torch.manual_seed(0)
    sparse = Field()
    torch.manual_seed(0)
    return sparse, DenseField()


HYPER = torch.tensor([-0.4, 0.5, -1.2], dtype=torch.float64)


def test_random_field_has_the_posterior_mean_of_a_dense_one():
    field, dense = both_fields()
    mean = lambda field, theta: field.posterior(theta)[1]
    primals, tangents = (HYPER,), (randn(3, seed=3),)
    actual = jvp(partial(mean, field), primals, tangents)
    assert_close(actual, jvp(partial(mean, dense), primals, tangents))


def test_random_field_has_the_likelihood_of_a_dense_one_and_its_derivatives():
    field, dense = both_fields()
    f, expected = field.log_likelihood, dense.log_likelihood
    assert_close(f(HYPER, field.y), expected(HYPER, field.y))
    assert_close(grad(f, (0, 1))(HYPER, field.y), grad(expected, (0, 1))(HYPER, field.y))
    primals, tangents = (HYPER, field.y), (randn(3, seed=3), randn(25, seed=4))
    assert_close(jvp(f, primals, tangents), jvp(expected, primals, tangents))
    gradient = lambda theta: grad(expected)(theta, field.y)
    H = hessian(f)(HYPER, field.y)
    assert_close(H, differences(gradient, HYPER), rtol=1e-6, atol=1e-6)


def test_random_field_has_likelihoods_for_many_hyperparameters_and_data():
    field, dense = both_fields()
    thetas, y = HYPER + 0.2 * randn(4, 3, seed=3), randn(4, 25, seed=4)
    for in_dims, arguments in [((0, 0), (thetas, y)), ((0, None), (thetas, y[0]))]:
        for f in (lambda g: g, grad):
            actual = vmap(f(field.log_likelihood), in_dims)(*arguments)
            assert_close(actual, vmap(f(dense.log_likelihood), in_dims)(*arguments))


@pytest.mark.slow
def test_likelihood_of_a_random_field_has_a_compiled_gradient():
    field, dense = both_fields()
    compiled = torch.compile(grad(field.log_likelihood), fullgraph=True, backend="aot_eager")
    assert_close(compiled(HYPER, field.y), grad(dense.log_likelihood)(HYPER, field.y))


def test_samples_of_a_random_field_have_its_mean_and_covariance():
    field, dense = both_fields()
    samples = field.samples(HYPER, field.noise(5000))
    Q, mean = dense.posterior(HYPER)
    covariance = torch.linalg.inv(Q)
    deviation = covariance.diagonal().sqrt()
    assert ((samples.mean(1) - mean) / deviation).abs().max() < 0.06
    assert ((samples.var(1).sqrt() / deviation) - 1).abs().max() < 0.05
    assert (torch.cov(samples) - covariance).norm() < 0.15 * covariance.norm()


def test_samples_of_a_random_field_are_differentiable():
    field, dense = both_fields()
    noise = field.noise(3)
    of = lambda field: grad(lambda theta: field.samples(theta, noise).square().sum())(HYPER)
    assert_close(of(field), of(dense))
