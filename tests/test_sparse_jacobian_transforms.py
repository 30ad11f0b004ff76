"""What is made of a sparse derivative goes through every transform, eager and compiled."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from tests.functions import wave
from tsgu_func import (
    color,
    hessian_pattern,
    jacobian_pattern,
    sparse_hessian,
    sparse_jacobian,
    sparse_solve,
)
from tsgu_func.testing import check_rules

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
X = wave(6)
ONE = torch.ones((), dtype=torch.float64)
V, W = wave(6, seed=1), wave(6, seed=2)


def cubic(x, p=ONE):
    """Fill three diagonals, and not symmetrically."""
    left, right = torch.nn.functional.pad(x, (1, 0))[:-1], torch.nn.functional.pad(x, (0, 1))[1:]
    return p * x**3 + 4 * x + left * x.sin() - p.sin() * right**2


def energy(x):
    return cubic(x).square().sum()


def arrow(x):
    """Fill a row and a column beside a diagonal."""
    return torch.cat([x.prod()[None], x[0] * x[1:] + x[1:] ** 3])


TRI = jacobian_pattern(cubic, X)
SQUARES = hessian_pattern(energy, X)
JACOBIANS = {
    "forward": (cubic, color(TRI, "forward")),
    "reverse": (cubic, color(TRI, "reverse")),
    "bidirectional": (arrow, color(jacobian_pattern(arrow, X), "bidirectional")),
}
MODES = ("forward-reverse", "reverse-forward", "reverse-reverse", "forward-forward")


def pair(kind, **options):
    """Return a function of x that is made of a sparse derivative, and of the dense one."""
    if kind in JACOBIANS:
        f, coloring = JACOBIANS[kind]
        sparse, dense = sparse_jacobian(f, coloring, **options), jacfwd(f)
    else:
        coloring = color(SQUARES, "symmetric")
        sparse, dense = sparse_hessian(energy, coloring, mode=kind, **options), hessian(energy)
    return lambda x: sparse(x).values.sin().square().sum(), lambda x: dense(x).sin().square().sum()


KINDS = (*JACOBIANS, *MODES)


@pytest.mark.parametrize("kind", KINDS)
def test_first_derivatives(kind):
    f, expected = pair(kind)
    gradient = grad(expected)(X)
    assert_close(grad(f)(X), gradient, **CLOSE)
    assert_close(jvp(f, (X,), (V,))[1], gradient @ V, **CLOSE)
    assert_close(jacfwd(f)(X), gradient, **CLOSE)
    assert_close(jacrev(f)(X), gradient, **CLOSE)
    x = X.clone().requires_grad_()
    f(x).backward()
    assert_close(x.grad, gradient, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    f, expected = pair(kind)
    right = hessian(expected)(X)
    for outer in (jacfwd, jacrev):
        for inner in (jacfwd, jacrev):
            assert_close(outer(inner(f))(X), right, **CLOSE)
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first @ V, x)
    assert_close(second, right @ V, **CLOSE)


@pytest.mark.parametrize("kind", ["forward", "reverse", "bidirectional", "forward-reverse"])
def test_third_derivatives(kind):
    def along(f):
        return jvp(lambda x: jvp(grad(f), (x,), (V,))[1], (X,), (W,))[1]

    f, expected = pair(kind)
    assert_close(along(f), along(expected), **CLOSE)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_batches(kind, chunk_size):
    f, expected = pair(kind, chunk_size=chunk_size)
    batch = torch.stack([X, 2 * X, V])
    assert_close(vmap(f)(batch), vmap(expected)(batch), **CLOSE)
    assert_close(vmap(grad(f))(batch), vmap(grad(expected))(batch), **CLOSE)
    assert_close(vmap(f, in_dims=1, chunk_size=2)(batch.T), vmap(expected)(batch), **CLOSE)


def test_a_batch_of_matrices():
    f, coloring = JACOBIANS["forward"]
    batch = torch.stack([X, V])
    J = vmap(sparse_jacobian(f, coloring))(batch)
    assert J.pattern == coloring.pattern
    assert J.shape == (2, 6, 6)
    assert_close(J.to_dense(), vmap(jacfwd(f))(batch))


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_parameters_that_a_function_is_closed_over(kind):
    coloring = JACOBIANS[kind][1]
    sparse = lambda p: sparse_jacobian(lambda x: cubic(x, p), coloring)(X).values.square().sum()
    dense = lambda p: jacfwd(lambda x: cubic(x, p))(X).square().sum()
    p = torch.tensor(0.7, dtype=torch.float64)
    assert_close(hessian(sparse)(p), hessian(dense)(p), **CLOSE)
    many = torch.stack([p, 2 * p, -p])
    assert_close(vmap(sparse)(many), vmap(dense)(many), **CLOSE)
    assert_close(vmap(grad(sparse))(many), vmap(grad(dense))(many), **CLOSE)


def test_a_network_as_a_function_of_its_parameters():
    model = torch.nn.Linear(3, 2).double()
    x = wave(4, 3)

    def penalty(parameters, jacobian):
        J = jacobian(lambda x: functional_call(model, parameters, (x,)).tanh())
        return J(x)

    coloring = color(jacobian_pattern(lambda x: model(x).tanh(), x))
    parameters = dict(model.named_parameters())
    got = grad(lambda p: penalty(p, lambda f: sparse_jacobian(f, coloring)).values.square().sum())
    right = grad(lambda p: penalty(p, jacfwd).square().sum())
    assert_close(got(parameters), right(parameters), **CLOSE)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_a_newton_step(kind):
    f, coloring = JACOBIANS[kind]
    jac = sparse_jacobian(f, coloring)
    sparse = lambda x: x - sparse_solve(jac(x), f(x))
    J = jacfwd(f)(X)
    assert_close(sparse(X), X - torch.linalg.solve(J, f(X)), **CLOSE)
    # Of the inverse written out, because second derivatives of linalg.solve are wrong (2.13).
    dense = lambda x: x - torch.linalg.inv(jacfwd(f)(x)) @ f(x)
    assert_close(jacrev(sparse)(X), jacrev(dense)(X), **CLOSE)
    assert_close(jacfwd(sparse)(X), jacrev(dense)(X), **CLOSE)
    slope = lambda step: lambda x: step(x).sin().sum()
    assert_close(jacfwd(grad(slope(sparse)))(X), jacfwd(grad(slope(dense)))(X), **CLOSE)
    batch = torch.stack([X, V])
    assert_close(vmap(sparse)(batch), vmap(dense)(batch), **CLOSE)


def test_a_derivative_of_a_derivative():
    """The rows of the inner Jacobian's values are a function with a sparse Jacobian, too."""
    inner = sparse_jacobian(cubic, color(TRI))
    values = lambda x: inner(x).values
    pattern = jacobian_pattern(values, X)
    assert_close(sparse_jacobian(values, pattern)(X).to_dense(), jacfwd(values)(X), **CLOSE)
    of_gradient = sparse_jacobian(grad(energy), SQUARES)
    assert_close(of_gradient(X).to_dense(), hessian(energy)(X), **CLOSE)


# What PyTorch refuses around its own jacfwd and jacrev; around ours, test_sparse_jacobian_rules.py.
REFUSED = ("forward_ad", "backward through forward_ad", "linearize", "checkpoint")


def test_what_is_refused_is_refused_to_the_dense_ones():
    forward = [name for name in REFUSED if name != "checkpoint"]
    for dense, names in ((jacfwd, forward), (jacrev, ["checkpoint"])):
        f = lambda x, dense=dense: dense(cubic)(x).sin().square().sum()
        report = check_rules(f, (X,), transforms=tuple(names), dtypes=(torch.float64,))
        assert {cell.name for cell in report.failures} == set(names)


# ------------------------------------------------------------------------------------- compiled


def compiled(f):
    return torch.compile(f, fullgraph=True, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bidirectional", "forward-reverse"])
def test_compiled(kind):
    f, expected = pair(kind)
    assert_close(compiled(f)(X), expected(X), **CLOSE)
    assert_close(compiled(grad(f))(X), grad(expected)(X), **CLOSE)
    x = X.clone().requires_grad_()
    compiled(f)(x).backward()
    assert_close(x.grad, grad(expected)(X), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("transform", [hessian, lambda f: vmap(grad(f))], ids=["hessian", "vmap"])
def test_compiled_transforms(transform):
    # Compiled in forward mode, PyTorch fails on numbers inside of other transforms, in jacfwd too.
    f, expected = pair("reverse")
    x = torch.stack([X, V]) if transform is not hessian else X
    assert_close(compiled(transform(f))(x), transform(expected)(x), **CLOSE)


@pytest.mark.slow
def test_compiled_newton_step():
    """The matrix is made, and solved with, inside of one graph; so is the function itself."""
    coloring = JACOBIANS["forward"][1]

    def step(x, p):
        J = sparse_jacobian(lambda x: cubic(x, p), coloring)(x)
        return x - sparse_solve(J, cubic(x, p))

    p = torch.tensor(0.7, dtype=torch.float64)
    assert_close(compiled(step)(X, p), step(X, p), **CLOSE)
    slope = lambda p: step(X, p).sum()
    assert_close(compiled(grad(slope))(p), grad(slope)(p), **CLOSE)


@pytest.mark.slow
def test_compiled_by_inductor():
    f, expected = pair("forward")
    run = torch.compile(f, fullgraph=True)
    assert_close(run(X), expected(X), **CLOSE)


def test_cotangents_of_values():
    f, coloring = JACOBIANS["forward"]
    values, pull = vjp(lambda x: sparse_jacobian(f, coloring)(x).values, X)
    row, col = coloring.pattern.row.long(), coloring.pattern.col.long()
    right, dense = vjp(lambda x: jacfwd(f)(x)[row, col], X)
    assert_close(values, right)
    assert_close(pull(values), dense(values), **CLOSE)
