"""Derivatives of roots: formulas, dense Newton steps, differences; through every transform."""

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from tests import nonlinear as of
from tests.differentiated import Doubled
from tests.systems import randn
from tsgu_func import SparseMatrix, sparse_root
from tsgu_func.solvers import GMRES, SuperLU
from tsgu_func.testing import check_rules

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
N = 6
U0 = torch.zeros(N, dtype=torch.float64)
GIVEN = of.convected(N)


def convected(diffusion, speed, f, **options):
    given = {"diffusion": diffusion, "speed": speed, "f": f}
    return sparse_root(of.convection, U0, given, **options)


def convected_densely(diffusion, speed, f):
    return of.dense_root(of.convection, U0, {"diffusion": diffusion, "speed": speed, "f": f})


ARGS = GIVEN["diffusion"], GIVEN["speed"], GIVEN["f"]


@pytest.mark.slow
def test_rules_where_the_jacobian_is_not_symmetric():
    check_rules(
        convected,
        ARGS,
        order=2,
        transforms=("first", "higher", "jacobian", "vmap"),  # at once: they share differences
        reference=convected_densely,
        dtypes=(torch.float64,),
        rtol=1e-8,
    ).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["value", "backward", "fr", "rf"])
def test_compiled(cell):
    check_rules(
        convected,
        ARGS,
        transforms=(f"compiled {cell}",),
        reference=convected_densely,
        dtypes=(torch.float64,),
        rtol=1e-8,
    ).raise_if_failed()


def test_what_f_uses_may_change_between_derivatives():
    """The root stays where it is, and so does its derivative; the Jacobian does not."""
    c, t = torch.tensor([2.0, 3.0]).double(), torch.ones(2, dtype=torch.float64)
    scaled = lambda x, t: c * (x - t)
    root = lambda t: sparse_root(scaled, torch.zeros_like(t), t).sum()
    slope = torch.compile(grad(root), fullgraph=True, backend="aot_eager")
    recorded = t.clone().requires_grad_()
    y = root(recorded)
    for _ in range(3):
        assert_close(torch.autograd.grad(y, recorded, retain_graph=True)[0], torch.ones_like(t))
        assert_close(slope(t), torch.ones_like(t))
        c.mul_(10)


def test_the_gradient_is_that_of_differences():
    loss = lambda diffusion, speed, f: convected(diffusion, speed, f).sin().sum()
    found, h = grad(loss, (0, 1, 2))(*ARGS), 1e-5
    for place, gradient in enumerate(found):
        v = torch.linspace(1, 2, ARGS[place].numel()).double().reshape(ARGS[place].shape)
        moved = [
            loss(*(x + s * h * v if i == place else x for i, x in enumerate(ARGS))) for s in (1, -1)
        ]
        assert_close((gradient * v).sum(), (moved[0] - moved[1]) / (2 * h), rtol=1e-7, atol=1e-9)


def test_second_derivatives_are_those_of_differences_of_the_first():
    slope = grad(lambda speed: convected(ARGS[0], speed, ARGS[2]).square().sum())
    h = 1e-5
    expected = (slope(ARGS[1] + h) - slope(ARGS[1] - h)) / (2 * h)
    assert_close(grad(slope)(ARGS[1]), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("outer", [grad, jacfwd, jacrev], ids=lambda f: f.__name__)
@pytest.mark.parametrize("middle", [grad, jacfwd, jacrev], ids=lambda f: f.__name__)
@pytest.mark.parametrize("inner", [grad, jacfwd, jacrev], ids=lambda f: f.__name__)
def test_third_derivatives_in_any_nesting(outer, middle, inner):
    def third(root):
        loss = lambda p: root(of.cycle, torch.zeros(3, dtype=torch.float64), p * weights).sum()
        return outer(middle(inner(loss)))(torch.tensor(0.8, dtype=torch.float64))

    weights = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    assert_close(third(sparse_root), third(of.dense_root), **CLOSE)


def test_the_formula_of_bratu():
    """On a fine grid the peak, and how fast it grows, are those of the differential equation."""
    strength = torch.tensor(1.0, dtype=torch.float64)
    u0 = torch.zeros(399, dtype=torch.float64)
    peak = lambda s: sparse_root(of.bratu, u0, s)[199]
    expected, slope = of.bratu_peak(1.0)
    assert peak(strength).item() == pytest.approx(expected, rel=1e-4)
    for derivative in (grad, jacfwd):
        assert derivative(peak)(strength).item() == pytest.approx(slope, rel=1e-4)
    bend = (of.bratu_peak(1.001)[1] - of.bratu_peak(0.999)[1]) / 0.002
    assert grad(grad(peak))(strength).item() == pytest.approx(bend, rel=1e-3)


def test_the_p_laplacian():
    f, p = 1 + randn(4, 4).square(), torch.tensor(3.0, dtype=torch.float64)
    u0 = torch.zeros(4, 4, dtype=torch.float64)
    loss = lambda root: lambda p, f: root(of.p_laplacian, u0, {"p": p, "f": f}).cos().sum()
    found = grad(loss(sparse_root), (0, 1))(p, f)
    assert_close(found, grad(loss(of.dense_root), (0, 1))(p, f), **CLOSE)
    by_p = loss(sparse_root)
    slope = (by_p(p + 1e-5, f) - by_p(p - 1e-5, f)) / 2e-5
    assert found[0].item() == pytest.approx(slope.item(), rel=1e-6)
    found = hessian(loss(sparse_root))(p, f)
    assert_close(found, jacrev(jacrev(loss(of.dense_root)))(p, f), **CLOSE)
    bend = (grad(by_p)(p + 1e-5, f) - grad(by_p)(p - 1e-5, f)) / 2e-5
    assert found.item() == pytest.approx(bend.item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_complex_numbers(dtype):
    p, x0 = randn(4, dtype=dtype), torch.zeros(4, dtype=dtype)
    check_rules(
        lambda p: sparse_root(of.cycle, x0, p),
        (p,),
        transforms=("first",),
        reference=lambda p: of.dense_root(of.cycle, x0, p),
        dtypes=(dtype,),
        rtol=1e-8,
    ).raise_if_failed()


def test_real_parameters_of_complex_equations():
    def F(z, given):
        return given["a"] * z + z * z * given["b"].conj() - given["c"]

    z0 = torch.zeros(2, dtype=torch.complex128)
    a, b, c = 4 + randn(2).square(), 0.3 * randn(2, dtype=z0.dtype, seed=1), randn(2, seed=2)

    def loss(root):
        return lambda a, b, c: root(F, z0, {"a": a, "b": b, "c": c}).abs().square().sum()

    for place in range(3):
        found = grad(loss(sparse_root), place)(a, b, c)
        assert found.dtype == (a, b, c)[place].dtype
        assert_close(found, grad(loss(of.dense_root), place)(a, b, c), **CLOSE)


# ------------------------------------------------------------------------------------- batches


def test_each_member_of_a_batch_is_solved_until_it_has_converged():
    """Some need many steps, and others few."""
    strengths = torch.tensor([0.01, 1.0, 3.4], dtype=torch.float64)
    solve = lambda s: sparse_root(of.bratu, U0, s, return_info=True)
    u, info = vmap(solve)(strengths)
    assert info.iterations.shape == (3,)
    assert info.iterations[0] < info.iterations[2]
    for k, s in enumerate(strengths):
        alone, told = solve(s)
        assert_close(u[k], alone, rtol=0, atol=0)
        assert info.iterations[k] == told.iterations
        assert of.bratu(u[k], s).abs().max() < 1e-10


def test_batches_of_starts_and_of_parameters():
    starts = 0.1 * randn(3, N)
    strengths = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    both = vmap(lambda u0, s: sparse_root(of.bratu, u0, s))(starts, strengths)
    one = vmap(lambda s: sparse_root(of.bratu, U0, s))(strengths)
    other = vmap(lambda u0: sparse_root(of.bratu, u0, strengths[1]))(starts)
    assert_close(both, one, **CLOSE)
    assert_close(other, one[1].expand(3, N), **CLOSE)
    nested = vmap(lambda u0: vmap(lambda s: sparse_root(of.bratu, u0, s))(strengths))(starts)
    assert_close(nested, one.expand(3, 3, N), **CLOSE)


def test_gradients_of_members():
    speeds = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    slope = grad(lambda speed: convected(ARGS[0], speed, ARGS[2]).square().sum())
    assert_close(vmap(slope)(speeds), torch.stack([slope(s) for s in speeds]), **CLOSE)


# ------------------------------------------------------------------------------ what else there is


def test_there_is_no_derivative_with_respect_to_the_start():
    loss = lambda u0: sparse_root(of.bratu, u0, torch.ones((), dtype=torch.float64)).sum()
    assert not grad(loss)(U0).any()
    assert not jacfwd(loss)(U0).any()
    assert not vjp(loss, U0)[1](torch.ones((), dtype=torch.float64))[0].any()
    s = torch.ones((), dtype=torch.float64)
    _, tangent = jvp(lambda u0, s: sparse_root(of.bratu, u0, s).sum(), (U0, s), (U0 + 1, 0 * s))
    assert tangent == 0
    u0 = U0.clone().requires_grad_()
    loss(u0).backward()
    assert not u0.grad.any()


def test_a_root_as_parameter_of_another_and_as_its_start():
    def chained(root):
        def loss(s):
            first = root(of.bratu, U0, s)
            again = root(of.bratu, first, s)  # starts at the root, which has a derivative
            return (again * root(of.cycle, first, again)).sum()

        return loss

    s = torch.tensor(1.3, dtype=torch.float64)
    for derivative in (grad, jacfwd, hessian):
        expected = derivative(chained(of.dense_root))(s)
        assert_close(derivative(chained(sparse_root))(s), expected, **CLOSE)


@pytest.mark.parametrize(
    "solver",
    [SuperLU(), GMRES(rtol=1e-12), lambda A, b: torch.linalg.solve(A.to_dense(), b)],
    ids=["SuperLU", "GMRES", "function"],
)
def test_any_solver_serves_derivatives(solver):
    loss = lambda speed: convected(ARGS[0], speed, ARGS[2], solver=solver).square().sum()
    expected = lambda speed: convected_densely(ARGS[0], speed, ARGS[2]).square().sum()
    assert_close(grad(loss)(ARGS[1]), grad(expected)(ARGS[1]), **CLOSE)
    assert_close(hessian(loss)(ARGS[1]), hessian(expected)(ARGS[1]), **CLOSE)


def test_a_function_without_forward_mode():
    F = lambda x, p: Doubled.apply(x) ** 3 + x.roll(1) * Doubled.apply(p**3) - 1
    plain = lambda x, p: 8 * x**3 + x.roll(1) * 2 * p**3 - 1
    p = torch.tensor(0.7, dtype=torch.float64)
    loss = lambda root, F: lambda p: root(F, U0 + 1, p).sin().sum()
    dense = loss(of.dense_root, plain)
    assert_close(grad(loss(sparse_root, F))(p), grad(dense)(p), **CLOSE)
    assert_close(grad(grad(loss(sparse_root, F)))(p), grad(grad(dense))(p), **CLOSE)
    assert_close(jacfwd(loss(sparse_root, F))(p), grad(dense)(p), **CLOSE)


def test_a_sparse_matrix_among_the_parameters():
    D = torch.diag(randn(4).abs() + 4) + torch.diag(randn(3, seed=1), 1)
    A, b = SparseMatrix.from_dense(D), randn(4, seed=2)

    def F(x, given):
        return given[0].matmul(x) + x**3 - given[1]

    def densely(x, given):
        return given[0].to_dense() @ x + x**3 - given[1]

    x0 = torch.zeros(4, dtype=torch.float64)
    found = grad(lambda A: sparse_root(F, x0, (A, b)).square().sum())(A)
    expected = grad(lambda A: of.dense_root(densely, x0, (A, b)).square().sum())(A)
    assert found.pattern == A.pattern
    assert_close(found.values, expected.values, **CLOSE)


def test_leaves_that_require_gradients():
    given = {name: x.clone().requires_grad_() for name, x in GIVEN.items()}
    sparse_root(of.convection, U0, given).square().sum().backward()
    dense = {name: x.clone().requires_grad_() for name, x in GIVEN.items()}
    of.dense_root(of.convection, U0, dense).square().sum().backward()
    for name, x in given.items():
        assert_close(x.grad, dense[name].grad, **CLOSE)


def test_compiled_with_a_warm_start_and_its_info():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(u0, s):
        u, info = sparse_root(of.bratu, u0, s, return_info=True)
        return u, info.iterations

    s = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    u, cold = run(U0, s)
    (slope,) = torch.autograd.grad(u.sum(), s)
    again, warm = run(u.detach(), s)
    assert int(warm) < int(cold)
    assert_close(again, u, **CLOSE)
    assert_close(slope, grad(lambda s: of.dense_root(of.bratu, U0, s).sum())(s.detach()), **CLOSE)
