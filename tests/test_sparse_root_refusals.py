"""What has no root, no Jacobian or no sense is told."""

import pytest
import torch
from torch.func import grad, jacfwd, jvp, vmap

from tests import nonlinear as of
from tsgu_func import SparsityPattern, color, sparse_root
from tsgu_func.solvers import CG, ConvergenceError, SolveError

N = 5
U0 = torch.zeros(N, dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)
PASS_IT = "pass it in `parameters`"


def start(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


# ------------------------------------------------------------------------------------- no root


NO_ROOT = "no root nearby|no iterations were left|the matrix is singular"


@pytest.mark.parametrize("x0", [0.3, 1.0, 3**-0.5, 5.0])
def test_no_root(x0):
    with pytest.raises(SolveError, match=NO_ROOT):
        sparse_root(lambda x: x * x + 1, start(x0))


def test_what_is_told_where_there_is_no_root():
    with pytest.raises(ConvergenceError, match=r"\|F\(x\)\| = .* iterations, the last") as told:
        sparse_root(lambda x: x * x + 1, start(0.3), max_iterations=9)
    assert told.value.iterations > 0
    assert told.value.residual >= 1


def test_a_jump_over_zero_is_no_root():
    F = lambda x: torch.where(x < 1, x - 3, x + 2)
    with pytest.raises(ConvergenceError):
        sparse_root(F, start(0.0))


def test_an_asymptote_is_no_root():
    with pytest.raises(SolveError, match=NO_ROOT):
        sparse_root(lambda x: 1 + 1 / x**2, start(1.0))


def test_too_few_steps():
    with pytest.raises(ConvergenceError, match=r"after 2 iterations.*max_iterations") as told:
        sparse_root(of.bratu, U0, 3 * ONE, max_iterations=2)
    assert told.value.iterations == 2
    with pytest.raises(ConvergenceError):
        sparse_root(of.bratu, U0, ONE, max_iterations=0)


def test_a_singular_jacobian_where_it_starts():
    with pytest.raises(SolveError, match=r"in step 1 of Newton's method, .*singular"):
        sparse_root(lambda x: x * x - 1, start(0.0, 0.0))


def test_a_function_without_a_derivative():
    with pytest.raises(SolveError, match="singular"):
        sparse_root(lambda x: x.round() - 3, start(0.0, 0.0))
    with pytest.raises(SolveError, match="singular"):
        sparse_root(lambda x: x.detach() - 3, start(0.0, 0.0))


def test_a_singular_jacobian_at_the_root_where_a_derivative_is_taken():
    def F(x, p):
        return torch.stack([x[0] ** 2 - p, x[1] - p])

    root = lambda p: sparse_root(F, start(0.0, 0.0), p).sum()
    assert root(0 * ONE) == 0
    for derivative in (grad, jacfwd):
        with pytest.raises(SolveError, match="singular"):
            derivative(root)(0 * ONE)


def test_a_double_root_that_is_zero():
    with pytest.raises(ConvergenceError, match="close to singular at the root"):
        sparse_root(lambda x: x * x, start(1.0), max_iterations=30)


def test_a_member_without_a_root_is_named():
    with pytest.raises(ConvergenceError, match="member 1 of the batch"):
        vmap(lambda p: sparse_root(lambda x, p: x * x - p, start(1.3), p))(start(1.0, -1.0))


def test_no_root_in_a_compiled_function():
    run = torch.compile(
        lambda p: sparse_root(square, start(1.3), p), fullgraph=True, backend="aot_eager"
    )
    assert abs(run(start(4.0)) - 2) < 1e-12
    with pytest.raises(ConvergenceError):
        run(start(-4.0))


def square(x, p):
    return x * x - p


# ------------------------------------------------------------------------------- not finite numbers


def test_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match=r"F\(x0\) holds a value that is not finite: nan"):
        sparse_root(lambda x: x.log(), start(1.0, -1.0))
    with pytest.raises(ValueError, match=r"F\(x0\) holds .* inf"):
        sparse_root(lambda x: 1 / x, start(0.0))
    with pytest.raises(ValueError, match="x0 holds a value that is not finite"):
        sparse_root(torch.sin, start(float("nan")))
    with pytest.raises(ValueError, match="a parameter of F holds a value that is not finite"):
        sparse_root(square, start(1.0), start(float("inf")))
    with pytest.raises(ValueError, match=r"in step 1 of Newton's .*the Jacobian holds .* inf"):
        sparse_root(lambda x: x.sqrt() - 1, start(0.0))


# ---------------------------------------------------------------------------------- what F returns


@pytest.mark.parametrize(
    ("F", "error", "message"),
    [
        (lambda x: x[1:], ValueError, r"as many elements as x has, 5.*got 4 \(\(4,\)\)"),
        (lambda x: (x, x), ValueError, r"got 10 \(\(5,\), \(5,\)\)"),
        (lambda x: x.sum(), ValueError, "got 1"),
        (lambda x: x.float(), ValueError, "same dtype, torch.float64; got 5.*float32"),
        (lambda x: x + 1j, ValueError, "same dtype, torch.float64; got 5.*complex128"),
        (lambda x: None, TypeError, "F returns tensors, in any pytree; got NoneType"),
        (lambda x: [], TypeError, "F returns tensors, in any pytree; got nothing"),
        (lambda x: 3.0, TypeError, "got float"),
    ],
)
def test_values_that_do_not_fit(F, error, message):
    with pytest.raises(error, match=message):
        sparse_root(F, U0)


def test_what_is_not_complex_differentiable():
    z0 = torch.zeros(2, dtype=torch.complex128)
    with pytest.raises(ValueError, match="not complex differentiable"):
        sparse_root(lambda z: z + 0.5 * z.conj() - 1, z0)


# -------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sparse_root(U0, U0), TypeError, "F is a function of x, or of x and parameters"),
        (lambda: sparse_root(torch.sin, 1.0), TypeError, "x0 is a float"),
        (lambda: sparse_root(torch.sin, torch.ones(2, dtype=torch.int64)), TypeError, "int64"),
        (lambda: sparse_root(torch.sin, {}), ValueError, "x0 holds no tensor"),
        (lambda: sparse_root(torch.sin, torch.ones(2).half()), NotImplementedError, "float16"),
        (lambda: sparse_root(square, U0, 1j * ONE), ValueError, "fit into the dtype of x0"),
        (lambda: sparse_root(square, U0.float(), ONE), ValueError, "fit into the dtype of x0"),
        (lambda: sparse_root(torch.sin, U0, solver="CG"), TypeError, "solver is a Solver"),
        (lambda: sparse_root(torch.sin, U0, solver=CG), TypeError, "call it"),
        (lambda: sparse_root(torch.sin, U0, rtol=-1.0), ValueError, "rtol must be"),
        (lambda: sparse_root(torch.sin, U0, rtol="1"), TypeError, "rtol is a number"),
        (lambda: sparse_root(torch.sin, U0, atol=-1.0), ValueError, "atol must be"),
        (lambda: sparse_root(torch.sin, U0, max_iterations=2.5), TypeError, "max_iterations"),
        (lambda: sparse_root(torch.sin, U0, pattern=torch.eye(5)), TypeError, "SparsityPattern"),
    ],
)
def test_arguments_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()


def eye(n, m=None):
    i = torch.arange(n)
    return SparsityPattern.from_coo(i, i, (n, n if m is None else m))[0]


@pytest.mark.parametrize("shape", [(4, 4), (4, 5)])
def test_patterns_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"the pattern is that of the Jacobian, \(5, 5\)"):
        sparse_root(torch.sin, U0, pattern=eye(*shape))


def test_a_symmetric_colouring():
    with pytest.raises(ValueError, match="for sparse_hessian"):
        sparse_root(torch.sin, U0, pattern=color(eye(5), "symmetric"))


@pytest.mark.parametrize("mode", [None, "forward", "reverse"])
def test_patterns_that_lack_entries(mode):
    """Newton's method with a wrong Jacobian may find a root; its derivatives would be wrong."""
    pattern = eye(5) if mode is None else color(eye(5), mode)
    F = lambda x: x**3 + 4 * x + 0.01 * x.roll(1) - 1
    with pytest.raises(ValueError, match="the pattern lacks entries of the Jacobian"):
        sparse_root(F, U0, pattern=pattern)
    # One with which there is no convergence.
    with pytest.raises(ValueError, match="the pattern lacks entries of the Jacobian"):
        sparse_root(lambda x: x + 9 * x.roll(1) + 3 * x.roll(2) - 1, U0, pattern=pattern)


def test_entries_that_moved_since_they_were_detected():
    shift = [1]
    F = lambda x: x**3 + 4 * x + 0.01 * x.roll(shift[0]) - 1
    before = sparse_root(F, U0)
    shift[0] = -1
    with pytest.raises(ValueError, match=r"changed since .* make F anew: the pattern lacks"):
        sparse_root(F, U0)
    again = lambda x: F(x)
    torch.testing.assert_close(sparse_root(again, U0), before)  # all elements are the same


def test_a_root_without_a_finite_derivative():
    zero = torch.zeros(3, dtype=torch.float64)
    for _ in range(2):
        assert torch.equal(sparse_root(torch.sqrt, zero), zero)
    with pytest.raises(ValueError, match="derivatives are not finite at this point"):
        sparse_root(torch.sqrt, zero, pattern=eye(3))
    F = lambda x, p: x.sqrt() + 0 * p
    with pytest.raises(ValueError, match="not finite"):
        grad(lambda p: sparse_root(F, zero, p).sum())(ONE)


# ----------------------------------------------------------------------------- tensors from outside


def closed_over(t):
    return lambda x: x**3 + x - t


WATCHED = {
    "grad": lambda loss: grad(loss)(ONE),
    "second": lambda loss: grad(grad(loss))(ONE),
    "jvp": lambda loss: jvp(loss, (ONE,), (ONE,)),
    "jacfwd": lambda loss: jacfwd(loss)(ONE),
    "vmap": lambda loss: vmap(loss)(torch.ones(3, dtype=torch.float64)),
    "backward": lambda loss: loss(ONE.clone().requires_grad_()).backward(),
}


@pytest.mark.parametrize("watched", WATCHED)
def test_a_tensor_that_is_watched(watched):
    with pytest.raises(RuntimeError, match=PASS_IT):
        WATCHED[watched](lambda t: sparse_root(closed_over(t), U0).sum())


def test_a_watched_tensor_beside_parameters():
    def loss(t, p):
        return sparse_root(lambda x, p: x**3 + x - t * p, U0, p).sum()

    with pytest.raises(RuntimeError, match=PASS_IT):
        grad(loss, (0, 1))(ONE, ONE)
    with pytest.raises(RuntimeError, match=PASS_IT):
        loss(ONE.clone().requires_grad_(), ONE)


def test_a_watched_tensor_in_a_compiled_function():
    t = ONE.clone().requires_grad_()
    F = closed_over(t)
    run = torch.compile(lambda x0: sparse_root(F, x0), backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match=f"{PASS_IT}|make x outside"):
        run(U0)


def test_what_is_detached_is_no_more_than_a_number():
    t = ONE.clone().requires_grad_()
    x = sparse_root(closed_over(2 * t.detach()), U0)
    assert not x.requires_grad
    assert (x - 1).abs().max() < 1e-12
    with torch.no_grad():
        sparse_root(closed_over(t), U0)
