"""Systems known by products alone, and functions that no transform looks into."""

import gc
import weakref

import numpy as np
import optree
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from tests.systems import randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_solve
from tsgu_func.ops.callback import Callback, callback
from tsgu_func.solvers import (
    CG,
    GMRES,
    Auto,
    BiCGStab,
    ConvergenceError,
    Jacobi,
    SolveError,
    SuperLU,
)

N = 5
SOLVER = GMRES(rtol=1e-13)
EXACT = [torch.float64, torch.complex128]


def multiply(p, x):
    return p["a"] * x + p["b"] * x.roll(1)


def dense(p):
    shift = torch.eye(N, dtype=p["a"].dtype).roll(1, 0)
    return torch.diag(p["a"]) + p["b"].unsqueeze(-1) * shift


def parameters(dtype=torch.float64):
    return {"a": randn(N, dtype=dtype) + 4, "b": randn(N, dtype=dtype, seed=1)}


def inverse_solve(p, b):
    """Solve densely; ``torch.linalg.solve`` is not right in all second derivatives (2.13)."""
    return torch.linalg.inv(dense(p)) @ b


def solve(a, b, right):
    return sparse_solve(LinearOperator(multiply, {"a": a, "b": b}), right, solver=SOLVER)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3)])
def test_solutions(dtype, shape):
    p, B = parameters(dtype), randn(*shape, dtype=dtype, seed=2)
    X, info = sparse_solve(LinearOperator(multiply, p), B, return_info=True)
    expected = np.linalg.solve(dense(p).numpy(), B.reshape(N, -1).numpy()).reshape(shape)
    torch.testing.assert_close(X, torch.from_numpy(expected), rtol=1e-8, atol=1e-8)
    assert info.residual.shape == shape[1:]
    assert info.solver.startswith("GMRES")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_derivatives_are_finite_differences(dtype):
    p, b = parameters(dtype), randn(N, 2, dtype=dtype, seed=2)
    args = tuple(x.requires_grad_() for x in (p["a"], p["b"], b))
    assert torch.autograd.gradcheck(solve, args, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, args, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("inner", [jacfwd, jacrev])
@pytest.mark.parametrize("outer", [jacfwd, jacrev])
def test_second_derivatives_in_any_nesting(inner, outer):
    p, b = parameters(), randn(N, seed=2)
    ours = outer(inner(lambda p: solve(p["a"], p["b"], b)))(p)
    dense_ones = jacrev(jacrev(lambda p: inverse_solve(p, b)))(p)
    torch.testing.assert_close(ours, dense_ones, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("over_parameters", [False, True])
def test_vmap(over_parameters):
    p, B = parameters(), randn(3, N, seed=2)
    if over_parameters:
        p = {name: torch.stack([x, 2 * x, x + 1]) for name, x in p.items()}
    dims = ({"a": 0, "b": 0} if over_parameters else None, 0)

    def loss(p, b):
        return solve(p["a"], p["b"], b).square().sum()

    def dense_loss(p, b):
        return inverse_solve(p, b).square().sum()

    for make in (lambda f: f, grad, hessian):
        ours, theirs = vmap(make(loss), dims)(p, B), vmap(make(dense_loss), dims)(p, B)
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_gradients_through_a_batch():
    p, B = parameters(), randn(3, N, seed=2)

    def loss(a, right):
        return vmap(lambda b: solve(a, p["b"], b))(right).square().sum()

    def dense_loss(a, right):
        return vmap(lambda b: inverse_solve({"a": a, "b": p["b"]}, b))(right).square().sum()

    torch.testing.assert_close(
        grad(loss, (0, 1))(p["a"], B), grad(dense_loss, (0, 1))(p["a"], B), rtol=1e-8, atol=1e-8
    )


def test_it_is_a_pytree_and_so_is_its_gradient():
    p, b = parameters(), randn(N, seed=2)
    gradient = grad(lambda A: sparse_solve(A, b, solver=SOLVER).sum())(LinearOperator(multiply, p))
    assert isinstance(gradient, LinearOperator)
    expected = grad(lambda p: inverse_solve(p, b).sum())(p)
    torch.testing.assert_close(gradient.parameters, expected, rtol=1e-8, atol=1e-8)


def test_a_sparse_matrix_among_the_parameters_gets_its_gradient():
    D = torch.diag(torch.arange(1.0, N + 1)).double() + torch.eye(N).double().roll(1, 0)
    A, b = SparseMatrix.from_dense(D), randn(N)

    def normal(p, x):
        A, shift = p
        return A.T @ (A @ x) + shift * x

    def loss(A, shift):
        return sparse_solve(LinearOperator(normal, (A, shift)), b, solver=CG(rtol=1e-13)).sum()

    def dense_loss(D, shift):
        return (torch.linalg.inv(D.T @ D + shift * torch.eye(N).double()) @ b).sum()

    shift = torch.tensor(0.5).double()
    ours, of_shift = grad(loss, (0, 1))(A, shift)
    theirs, expected = grad(dense_loss, (0, 1))(D, shift)
    torch.testing.assert_close(ours.to_dense(), theirs * (D != 0), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(of_shift, expected, rtol=1e-8, atol=1e-8)


def test_real_parameters_of_a_complex_system_have_real_gradients():
    a, b = randn(N) + 4, randn(N, dtype=torch.complex128)

    def function(p, x):
        return p * x + 1j * x.roll(1)

    def loss(a):
        return sparse_solve(LinearOperator(function, a), b, solver=SOLVER).abs().sum()

    def dense_loss(a):
        D = torch.diag(a) + 1j * torch.eye(N).roll(1, 0)
        return (torch.linalg.inv(D) @ b).abs().sum()

    gradient = grad(loss)(a)
    assert gradient.dtype == torch.float64
    torch.testing.assert_close(gradient, grad(dense_loss)(a), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("transform", ["value", "grad", "jvp"])
def test_compiled(transform):
    p, b = parameters(), randn(N, seed=2)

    def loss(a):
        return solve(a, p["b"], b).square().sum()

    function = {
        "value": loss,
        "grad": grad(loss),
        "jvp": lambda a: jvp(loss, (a,), (torch.ones_like(a),))[1],
    }[transform]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(p["a"]), function(p["a"]), rtol=1e-8, atol=1e-8)


def test_parameters_live_no_longer_than_the_graph():
    class Multiply:
        def __call__(self, p, x):
            return p * x

    function = Multiply()
    gone = weakref.ref(function)
    a = (randn(N) + 4).requires_grad_()
    x = sparse_solve(LinearOperator(function, a), randn(N), solver=SOLVER)
    del function
    x.sum().backward()
    assert a.grad is not None
    del x
    gc.collect()
    assert gone() is None


def test_products():
    A, D = LinearOperator(multiply, parameters()), dense(parameters())
    x, X = randn(N), randn(N, 2)
    torch.testing.assert_close(A(x), D @ x)
    torch.testing.assert_close(A @ x, D @ x)
    torch.testing.assert_close(A @ X, D @ X)
    assert "multiply" in repr(A)


def test_a_solution_that_is_not_reached_is_an_error():
    A = LinearOperator(multiply, parameters())
    with pytest.raises(ConvergenceError, match="max_iterations"):
        sparse_solve(A, randn(N), solver=BiCGStab(max_iterations=1))


@pytest.mark.parametrize(
    ("right", "options", "error", "message"),
    [
        (randn(2, N, 1), {}, ValueError, r"\(n,\) or \(n, p\)"),
        (randn(N).float(), {}, ValueError, "dtype"),
        ([1.0] * N, {}, TypeError, "dense tensor"),
        (torch.ones(N).double() * torch.nan, {}, ValueError, "B holds a value"),
        (randn(N), {"solver": SuperLU()}, TypeError, "entries"),
        (randn(N), {"solver": CG(Jacobi())}, TypeError, "entries"),
        (randn(N + 1), {}, ValueError, r"as many rows; got A \(5, 5\) and B \(6,\)"),
        (randn(N), {"solver": Auto}, TypeError, "call it"),
        (randn(N), {"on_failure": "shrug"}, ValueError, "on_failure"),
        (torch.ones(N, dtype=torch.int64), {}, ValueError, "float32, float64 or complex"),
    ],
)
def test_bad_arguments(right, options, error, message):
    with pytest.raises(error, match=message):
        sparse_solve(LinearOperator(multiply, parameters(), (N, N)), right, **options)


def test_bad_parameters_and_functions():
    p = parameters()
    with pytest.raises(TypeError, match="callable"):
        LinearOperator(3, p)  # pyright: ignore
    with pytest.raises(ValueError, match="a parameter of A"):
        sparse_solve(LinearOperator(multiply, {**p, "a": p["a"] * torch.nan}), randn(N))
    with pytest.raises(SolveError, match="shape"):
        sparse_solve(LinearOperator(lambda p, x: x[:-1] * p["a"][0], p), randn(N))


# ------------------------------------------------------------------------------ callbacks


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_an_callback_differentiates_to_any_order(dtype):
    g = Callback(lambda x: (x[:3] * x[1:] * x[0]).sin(), 4, 3)
    x = randn(4, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: callback(x, g.key), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(
        lambda x: callback(x, g.key), x, check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("transforms", [(jacfwd,) * 3, (jacrev,) * 3, (jacfwd, jacrev, jacfwd)])
def test_an_callback_is_what_it_calls(transforms):
    def function(x):
        return (x[:3] * x[1:] * x[0]).sin()

    g = Callback(function, 4, 3)
    ours, plain = (lambda x: callback(x, g.key)), function
    for transform in transforms:
        ours, plain = transform(ours), transform(plain)
    x = randn(2, 4)
    torch.testing.assert_close(vmap(ours)(x), vmap(plain)(x))


def test_an_operator_is_a_pytree_with_names(dtype):
    p = torch.ones(2, dtype=dtype)
    A = LinearOperator(lambda p, x: p["d"] * x, {"d": p})
    (path, leaf), *others = torch.utils._pytree.tree_flatten_with_path(A)[0]
    assert not others
    assert leaf is p
    assert torch.utils._pytree.keystr(path) == ".parameters['d']"
    assert optree.tree_leaves(A, namespace="tsgu_func") == [p]
    assert optree.tree_map(lambda x: 2 * x, A, namespace="tsgu_func").parameters["d"].equal(2 * p)
