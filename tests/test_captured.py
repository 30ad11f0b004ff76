"""A user's function that uses a tensor which is differentiated or mapped over says what to do."""

import functools
import gc
import weakref

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jvp, linearize, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import (
    LinearOperator,
    SparseMatrix,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_solve,
)
from tsgu_func.solvers import CG, Custom, cache_info, clear_cache

N = 4
D = randn(N, N) + 5 * torch.eye(N)
A, B = SparseMatrix.from_dense(D), randn(N)
ONE = torch.tensor(1.0, dtype=torch.float64)
OF_A_OR_B = "make it part of A or B, or detach it"
OF_PARAMETERS = "pass it in `parameters`"


def dense(M, B):
    return torch.linalg.solve(M.to_dense(), B)


def transposed(M, B):
    return torch.linalg.solve(M.to_dense().mT, B)


class Scaled:
    """A function that holds a tensor."""

    def __init__(self, t):
        self.t = t

    def __call__(self, M, B):
        return dense(M, B) / self.t

    def method(self, M, B):
        return self(M, B)


def by(scale, M, B):
    return dense(M, B) / scale()


def inside(t):
    """Return a function with a transform of its own, in which the tensor is used."""
    return lambda M, B: vmap(lambda x: x / t)(dense(M, B))


# How a function comes by a tensor t.
WAYS = {
    "cell": lambda t: lambda M, B: dense(M, B) / t,
    "default": lambda t: lambda M, B, t=t: dense(M, B) / t,
    "object": Scaled,
    "method": lambda t: Scaled(t).method,
    "partial": lambda t: functools.partial(by, lambda: t),
    "inner vmap": inside,
    "number": lambda t: lambda M, B: dense(M, B) / float(t),
    "in place": lambda t: lambda M, B: dense(M, B).div_(t),
}
SOLVES = {
    "generic": lambda f: sparse_generic_solve(A, B, f),
    "solve": lambda f: sparse_solve(A, B, solver=f),
    "lstsq": lambda f: sparse_generic_lstsq(A, B, f),
}
# How t is watched.
WATCHED = {
    "grad": lambda loss: grad(loss)(ONE),
    "second": lambda loss: grad(grad(loss))(ONE),
    "jvp": lambda loss: jvp(loss, (ONE,), (ONE,)),
    "vmap": lambda loss: vmap(loss)(torch.ones(N, dtype=torch.float64)),
    "vmap of grad": lambda loss: vmap(grad(loss))(torch.ones(N, dtype=torch.float64)),
    "traced grad": lambda loss: make_fx(grad(loss))(ONE),
    "backward": lambda loss: loss(ONE.clone().requires_grad_()).backward(),
    "linearize": lambda loss: linearize(loss, ONE),
}


def dual(loss):
    with forward_ad.dual_level():
        loss(forward_ad.make_dual(ONE, ONE))


WATCHED["eager forward mode"] = dual
# A number is none of these two's derivatives, and is what it is.
HARMLESS = {("number", "backward"), ("number", "eager forward mode"), ("number", "linearize")}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("watched", WATCHED)
def test_a_function_says_what_to_do(watched, way):
    if (way, watched) in HARMLESS:
        pytest.skip("float(t) has no derivative, as everywhere in PyTorch")
    for solve in SOLVES.values() if way == "cell" else [SOLVES["generic"]]:

        def loss(solve, t):
            return solve(WAYS[way](t)).sum()

        with pytest.raises(RuntimeError, match=OF_A_OR_B):
            WATCHED[watched](functools.partial(loss, solve))


def test_what_is_detached_is_no_more_than_a_number():
    t = ONE.clone().requires_grad_()
    f = WAYS["cell"](2 * t.detach())
    b = B.clone().requires_grad_()
    x = sparse_generic_solve(A, b, f)
    x.sum().backward()
    assert_close(x.detach(), torch.linalg.solve(D, B) / 2)
    assert t.grad is None
    assert_close(b.grad, torch.linalg.solve(D.mT, torch.ones_like(B)) / 2)


def test_the_function_for_the_transpose():
    def loss(t, b):
        return sparse_generic_solve(A, b, dense, lambda M, B: transposed(M, B) / t).sum()

    t, b = ONE.clone().requires_grad_(), B.clone().requires_grad_()
    with pytest.raises(RuntimeError, match=OF_A_OR_B):
        loss(t, b).backward()
    with pytest.raises(RuntimeError, match=OF_A_OR_B):
        grad(loss, (0, 1))(ONE, B)


def test_functions_with_transforms_and_derivatives_of_their_own():
    """What watches a function says nothing of what it does itself, nor of sizes."""

    def newton(M, B):
        def residual(x):
            return D @ x - B

        D = M.to_dense()
        x = torch.zeros_like(B)
        J = torch.func.jacrev(residual)(x)
        assert_close(vmap(lambda row: row @ x)(J), torch.zeros_like(B))
        return x - torch.linalg.solve(J, residual(x))

    def descent(M, B):
        with torch.enable_grad():
            x = torch.zeros_like(B, requires_grad=True)
            y = M.to_dense() @ x - B
            (slope,) = torch.autograd.grad(y.sum(), x)
        assert_close(slope, M.to_dense().sum(0))
        return dense(M, B)

    for f in (newton, descent):
        solve = functools.partial(sparse_generic_solve, A, solve=f)
        slope = grad(lambda b, solve=solve: solve(b).sum())(B)
        assert_close(slope, torch.linalg.solve(D.mT, torch.ones_like(B)))
        b = B.clone().requires_grad_()
        solve(b).sum().backward()
        assert_close(b.grad, slope)

    def loss(b):  # of b nothing is used but the shape
        return sparse_generic_solve(A, b, lambda M, B: dense(M, B).reshape(b.shape)).sum()

    assert_close(grad(loss)(B), torch.linalg.solve(D.mT, torch.ones_like(B)))


def test_where_nobody_looks_on_tensors_are_constants():
    t = (2 * ONE).requires_grad_()
    with torch.no_grad():
        assert_close(sparse_generic_solve(A, B, WAYS["cell"](t)), torch.linalg.solve(D, B) / 2)


@pytest.mark.parametrize("watched", sorted({*WATCHED} - {"eager forward mode", "linearize"}))
@pytest.mark.parametrize("solve", [sparse_solve, sparse_lstsq])
def test_an_operator_says_what_to_do(solve, watched):
    def loss(t):
        return solve(LinearOperator(lambda p, x: t * p * x, 1 + B**2, (N, N)), B).sum()

    with pytest.raises(ValueError, match=OF_PARAMETERS):
        WATCHED[watched](loss)


@pytest.mark.parametrize("watched", ["grad", "jvp", "vmap", "vmap of grad"])
@pytest.mark.parametrize("way", ["cell", "default", "partial", "nested"])
def test_a_preconditioner_says_what_to_do(way, watched):
    def loss(t):
        function = {
            "cell": lambda R: R / t,
            "default": lambda R, t=t: R / t,
            "partial": functools.partial(lambda t, R: R / t, t),
            "nested": lambda R, f=lambda R: R / t: f(R),
        }[way]
        S = SparseMatrix.from_dense(D @ D.mT)
        return sparse_solve(S, B, solver=CG(Custom(function))).sum()

    with pytest.raises(ValueError, match="pass Custom"):
        WATCHED[watched](loss)


def test_of_a_preconditioner_there_is_no_derivative_to_see():
    """The solution does not depend on it, so a trained one is used as it is."""
    t = (2 * ONE).requires_grad_()
    S = SparseMatrix.from_dense(D @ D.mT)
    x = sparse_solve(S, B, solver=CG(Custom(lambda R: R / t)))
    assert_close(x, torch.linalg.solve(D @ D.mT, B))
    assert not x.requires_grad


# ------------------------------------------------------------------- inside of a compiled function


def of_operator(b, t):
    return sparse_solve(LinearOperator(lambda M, x: t * (M @ x), A), b)


def of_function(b, t):
    return sparse_solve(A, b, solver=lambda M, B: dense(M, B) / t)


def of_lstsq(b, t):
    return sparse_generic_lstsq(A, b, lambda M, B: dense(M, B) / t)


def of_preconditioner(b, t):
    return 1 / t * sparse_solve(A @ A.mT, A @ b, solver=CG(Custom(lambda R: t * R)))


@pytest.mark.slow
@pytest.mark.parametrize("solve", [of_operator, of_function, of_lstsq])
def test_made_in_place_in_a_compiled_function(solve):
    torch.compiler.reset()
    expected = solve(B, ONE)
    run = torch.compile(lambda b: solve(b, b.sum() * 0 + 1), backend="eager")
    assert_close(run(B), expected)
    assert_close(run(2 * B), 2 * expected)
    torch.compiler.reset()
    run = torch.compile(lambda b: solve(b, b.sum() * 0 + 1), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="make x outside, or pass it in parameters") as caught:
        run(B)
    assert "Internal" not in type(caught.value).__name__


@pytest.mark.parametrize("solve", [of_operator, of_function, of_lstsq])
def test_made_in_place_over_a_number(solve):
    torch.compiler.reset()
    run = torch.compile(lambda b: solve(b, 1.0), backend="eager", fullgraph=True)
    assert_close(run(B), torch.linalg.solve(D, B))


def test_functions_that_graphs_name_are_let_go_by_clear_cache():
    held = []
    for _ in range(2):

        def multiply(P, x, big=torch.zeros(1000)):  # noqa: B008 - what is to be let go
            return P @ x

        held.append(weakref.ref(multiply))
        S = D @ D.mT
        linearize(lambda b, f=multiply, S=S: sparse_solve(LinearOperator(f, S), b, solver=CG()), B)
        del multiply
    assert cache_info().kinds["functions in graphs"].entries >= 2
    clear_cache()
    gc.collect()
    assert [ref() for ref in held] == [None, None]
