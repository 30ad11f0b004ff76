"""What solvers are handed with an operator: other shapes, adjoints, preconditioners, closures."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_lstsq, sparse_solve
from tsgu_func.solvers import CG, GMRES, LSMR, LSQR, MINRES, BiCGStab, Custom, SolveError

N, ROWS = 4, 7
EXACT = [torch.float64, torch.complex128]
GIVEN = "that is not among its parameters.*pass it in `parameters`"


def tall(p, x):
    """Multiply with a matrix of N columns and N + 3 rows."""
    return torch.cat([p * x + x.roll(1), 2 * x[:3] - p[:3] * x[1:]])


def tall_adjoint(p, y):
    top, low = p.conj() * y[:N] + y[:N].roll(-1), y[N:]
    zero = torch.zeros_like(low[:1])
    return top + torch.cat([2 * low, zero]) - torch.cat([zero, p[:3].conj() * low])


def dense_tall(p):
    eye = torch.eye(N, dtype=p.dtype)
    return torch.cat([torch.diag(p) + eye.roll(1, 0), 2 * eye[:3] - p[:3, None] * eye[1:]])


def minimized(p, b, **options):
    return sparse_lstsq(LinearOperator(tall, p, (ROWS, N), **options), b)


def minimized_densely(p, b):
    D = dense_tall(p)
    return torch.linalg.inv(D.mH @ D) @ (D.mH @ b)


# ------------------------------------------------------------------------------- least squares


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("solver", [LSMR(), LSQR()], ids=repr)
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 2)])
def test_least_squares(shape, solver, dtype):
    p, b = randn(N, dtype=dtype), randn(*shape, dtype=dtype, seed=1)
    A = LinearOperator(tall, p, (ROWS, N))
    x, info = sparse_lstsq(A, b, solver=solver, return_info=True)
    assert_close(x, minimized_densely(p, b))
    assert info.residual.shape == shape[1:]
    assert info.solver == repr(solver)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("adjoint", [None, tall_adjoint])
def test_derivatives_of_least_squares(adjoint, dtype):
    p, b = randn(N, dtype=dtype), randn(ROWS, dtype=dtype, seed=1)

    def ours(p, b):
        return minimized(p, b, adjoint=adjoint).abs().square().sum()

    def theirs(p, b):
        return minimized_densely(p, b).abs().square().sum()

    assert_close(grad(ours, (0, 1))(p, b), grad(theirs, (0, 1))(p, b))
    leaves = p.clone().requires_grad_(), b.clone().requires_grad_()

    def solve(p, b):
        return minimized(p, b, adjoint=adjoint)

    assert torch.autograd.gradcheck(solve, leaves, check_forward_ad=True, fast_mode=True)
    if adjoint is None:
        assert torch.autograd.gradgradcheck(solve, leaves, fast_mode=True)
    if not dtype.is_complex:
        assert_close(hessian(ours)(p, b), hessian(theirs)(p, b))
        P = torch.stack([p, p + 1])
        assert_close(vmap(grad(ours), (0, None))(P, b), vmap(grad(theirs), (0, None))(P, b))


def test_compiled_least_squares():
    p, b = randn(N), randn(ROWS, seed=1)
    function = grad(lambda p: minimized(p, b).square().sum())
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_close(compiled(p), function(p))


def test_least_squares_of_a_composition_are_preconditioned():
    p, b = randn(N), randn(ROWS, seed=1)
    A, D = LinearOperator(tall, p, (ROWS, N)), dense_tall(p)
    scale = torch.tensor([1.0, 1e3, 1e-3, 1.0]).double()
    S = LinearOperator(lambda s, x: s * x, scale, (N, N))
    P = LinearOperator(lambda s, x: x / s, scale, (N, N))
    x = P @ sparse_lstsq(A @ S @ P, b)
    assert_close(x, torch.linalg.inv(torch.diag(scale)) @ minimized_densely(p, b))
    assert_close(sparse_lstsq(LinearOperator.from_matrix(D), b), minimized_densely(p, b))


def test_a_square_operator_needs_no_shape_for_least_squares():
    A = LinearOperator(lambda p, x: p * x, torch.tensor([1.0, 2.0]))
    assert_close(sparse_lstsq(A, torch.ones(2)), torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize(
    ("A", "options", "error", "message"),
    [
        (LinearOperator(tall, randn(N), (N, ROWS)), {}, ValueError, "as many rows; got A"),
        (LinearOperator(tall, randn(N), (ROWS, N)), {"solver": 3}, TypeError, "needs the entries"),
        (LinearOperator(lambda p, x: x[1:], ()), {}, ValueError, r"needs shape=\(n, m\)"),
    ],
)
def test_bad_least_squares(A, options, error, message):
    with pytest.raises(error, match=message):
        sparse_lstsq(A, randn(ROWS), **options)


def test_a_system_is_square():
    with pytest.raises(ValueError, match=r"A is square.*sparse_lstsq takes a tall one"):
        sparse_solve(LinearOperator(tall, randn(N), (ROWS, N)), randn(ROWS))


def test_no_full_rank_is_told():
    A = LinearOperator(
        lambda p, x: torch.cat([p * x, 0 * x]), randn(N) * torch.eye(N)[0], (2 * N, N)
    )
    with pytest.raises(SolveError, match="full column rank"):
        grad(lambda A: sparse_lstsq(A, randn(2 * N)).sum())(A)


# ----------------------------------------------------------------------------------- adjoints


def multiply(p, x):
    return p * x + 0.5 * x.roll(1)


def dense(p):
    return torch.diag(p) + 0.5 * torch.eye(len(p), dtype=p.dtype).roll(1, 0)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_an_adjoint_that_is_given(dtype):
    calls = []

    def adjoint(p, y):
        calls.append(1)
        return p.conj() * y + 0.5 * y.roll(-1)

    p, b = randn(N, dtype=dtype) + 3, randn(N, dtype=dtype, seed=1)

    def ours(p):
        A = LinearOperator(multiply, p, adjoint=adjoint)
        return sparse_solve(A, b, solver=GMRES(rtol=1e-13)).abs().square().sum()

    theirs = lambda p: (torch.linalg.inv(dense(p)) @ b).abs().square().sum()
    assert_close(grad(ours)(p), grad(theirs)(p))
    assert len(calls) > 2


def test_a_wrong_adjoint_is_refused():
    def transposed(p, y):
        return p * y + 0.5 * y.roll(-1)

    b = randn(N, dtype=torch.complex128)
    p = b + 3
    A = LinearOperator(multiply, p, adjoint=transposed)
    with pytest.raises(ValueError, match="<adjoint y, x> differ: leave it out"):
        sparse_solve(A, b)
    with pytest.raises(ValueError, match="and its adjoint back"):
        sparse_lstsq(LinearOperator(tall, p, (ROWS, N), adjoint=lambda p, y: y), randn(ROWS) + 0j)


# ----------------------------------------------------------------------------- preconditioners


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("solver", [CG, MINRES, GMRES, BiCGStab])
@pytest.mark.parametrize("stored", [False, True])
def test_preconditioners(stored, solver, dtype):
    n = 40
    d = torch.logspace(0, 5, n).double()
    shift = 0.2j if dtype.is_complex else 0.2
    D = torch.diag(d).to(dtype) + torch.diag(torch.full((n - 1,), shift, dtype=dtype), 1)
    D = D + torch.diag(torch.full((n - 1,), shift, dtype=dtype), 1).mH
    A = SparseMatrix.from_dense(D) if stored else LinearOperator.from_matrix(D)
    b = randn(n, 2, dtype=dtype)
    M = Custom(lambda R: R / d[:, None])
    x, info = sparse_solve(A, b, solver=solver(M, rtol=1e-9), return_info=True)
    bare = sparse_solve(
        A, b, solver=solver(rtol=1e-9, max_iterations=100), return_info=True, on_failure="ignore"
    )[1]
    assert int(info.iterations.max()) < 20 < int(bare.iterations.max())
    assert_close(x, torch.linalg.inv(D) @ b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_an_operator_preconditions_itself_and_its_adjoint(dtype):
    p, b = randn(N, dtype=dtype) + 3, randn(N, dtype=dtype, seed=1)
    M = LinearOperator.from_matrix(torch.linalg.inv(dense(p)))
    A, seen = LinearOperator(multiply, p), []
    solver = GMRES(Custom(M), callback=lambda step, residual: seen.append(step))
    value = lambda p: sparse_solve(LinearOperator(multiply, p), b, solver=solver).abs().sum()
    grad(value)(p)
    assert seen == [1, 1]  # one iteration each, for A and for its adjoint
    info = sparse_solve(A.T, b, solver=GMRES(Custom(M.T)), return_info=True)[1]
    assert int(info.iterations) == 1
    state = Custom(M).init(None)
    R, inverse = randn(N, 2, dtype=dtype), torch.linalg.inv(dense(p))
    given = Custom(M)
    assert_close(given.apply(state, R, transpose=True), inverse.T @ R)
    assert_close(given.apply(state, R, conjugate=True), inverse.conj() @ R)
    assert_close(given.apply(state, R, transpose=True, conjugate=True), inverse.mH @ R)


def test_a_preconditioner_may_be_made_of_what_is_differentiated():
    b = randn(N)

    def value(p):
        M = Custom(LinearOperator(lambda p, x: x / p, p))
        return sparse_solve(LinearOperator(multiply, p), b, solver=GMRES(M, rtol=1e-13)).sum()

    p = randn(N) + 3
    theirs = lambda p: (torch.linalg.inv(dense(p)) @ b).sum()
    assert_close(hessian(value)(p), hessian(theirs)(p))
    with pytest.raises(ValueError, match="is one for all that vmap maps over"):
        vmap(value)(torch.stack([p, p]))
    with pytest.raises(ValueError, match=r"pass Custom\(LinearOperator\(function, parameters\)\)"):
        grad(lambda p: sparse_solve(
            LinearOperator(multiply, p), b, solver=GMRES(Custom(lambda R: R / p[:, None]))
        ).sum())(p)  # fmt: skip


def test_bad_preconditioners():
    A, b = LinearOperator(multiply, randn(N) + 3), randn(N)
    with pytest.raises(TypeError, match="inverse is a function"):
        Custom(3)  # pyright: ignore
    with pytest.raises(TypeError, match="adjoint is a function"):
        Custom(torch.neg, 3)  # pyright: ignore
    assert isinstance(CG(torch.neg).preconditioner, Custom)
    with pytest.raises(SolveError, match=r"returns a tensor of shape \(4, 1\)"):
        sparse_solve(A, b, solver=GMRES(Custom(lambda R: R[1:])))


# ------------------------------------------------------------------------------------ closures

HERE, LONG = randn(N), randn(2 * N)


def closed_over(a):
    return sparse_solve(LinearOperator(lambda p, x: a * x + p * x.roll(1), HERE), HERE).sum()


class Object:
    def multiply(self, p, x):
        return self.a * x + p * x.roll(1)


def in_an_object(a):
    A = Object()
    A.a = a
    return sparse_solve(LinearOperator(A.multiply, HERE), HERE).sum()


def in_a_default(a):
    function = lambda p, x, a=a: a * x + p * x.roll(1)
    return sparse_solve(LinearOperator(function, HERE), HERE).sum()


def within(a):
    """Use it where a transform of the function itself is active."""

    def function(p, x):
        return vmap(lambda y, c: c * y)(x, a) + p * x.roll(1)

    return sparse_solve(LinearOperator(function, HERE), HERE).sum()


def in_least_squares(a):
    A = LinearOperator(lambda p, x: torch.cat([a * x, p * x]), HERE, (2 * N, N))
    return sparse_lstsq(A, LONG).sum()


def in_an_adjoint(a):
    A = LinearOperator(lambda p, x: 3 * x, HERE, adjoint=lambda p, y: 3 * y + 0 * a)
    return sparse_solve(A, HERE).sum()


CLOSURES = [closed_over, in_an_object, in_a_default, within, in_least_squares, in_an_adjoint]
TRANSFORMS = {
    "grad": lambda f: grad(f)(randn(N) + 3),
    "jvp": lambda f: jvp(f, (randn(N) + 3,), (randn(N),)),
    "vmap": lambda f: vmap(f)(randn(N, N) + 3),
    "vmap of one": lambda f: vmap(f)(randn(1, N) + 3),
    "hessian": lambda f: hessian(f)(randn(N) + 3),
    "vmap of grad": lambda f: vmap(grad(f))(randn(2, N) + 3),
    "grad of vmap": lambda f: grad(lambda a: vmap(f)(a).sum())(randn(2, N) + 3),
    "outer": lambda f: grad(lambda a: vmap(lambda _: f(a))(randn(2)).sum())(randn(N) + 3),
    "eager": lambda f: f((randn(N) + 3).requires_grad_()).backward(),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("function", CLOSURES)
def test_a_closure_over_what_is_watched_is_refused(function, transform):
    with pytest.raises(ValueError, match=GIVEN):
        TRANSFORMS[transform](function)


@pytest.mark.parametrize("function", [closed_over, in_an_object])
def test_so_it_is_in_eager_forward_mode(function):
    with forward_ad.dual_level(), pytest.raises(ValueError, match=GIVEN):
        function(forward_ad.make_dual(randn(N) + 3, randn(N)))


LEAF = (randn(N) + 3).requires_grad_()


def uses_a_global(p, x):
    return LEAF * x + p * x.roll(1)


def test_a_global_is_refused_too_and_in_compiled_functions():
    b = randn(N)
    function = lambda p: sparse_solve(LinearOperator(uses_a_global, p), b)
    torch.compiler.reset()
    for f in (function, torch.compile(function, backend="aot_eager")):
        with pytest.raises(ValueError, match=GIVEN):
            f(randn(N))
        with torch.no_grad():
            D = torch.diag(LEAF) + torch.diag(randn(N)) @ torch.eye(N).double().roll(1, 0)
            assert_close(f(randn(N)), torch.linalg.inv(D) @ b)


def test_no_false_alarm():
    kept, ended = torch.arange(1, N + 1), []
    grad(lambda a: (ended.append(2 * a), a.sum())[1])(randn(N))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(randn(N) + 5)

        def multiply(self, p, x):
            inner = vmap(lambda y: torch.func.vjp(lambda z: z * p, y)[1](y)[0])(x[None])[0]
            return inner + kept * x + 0 * ended[0].detach() * x

        def forward(self, b):
            return sparse_solve(LinearOperator(self.multiply, self.weight), b)

    model, b = Model(), randn(N)
    model(b).sum().backward()
    weights = dict(model.named_parameters())
    value = lambda w: functional_call(model, {"weight": w}, (b,)).sum()
    assert_close(grad(value)(weights["weight"].detach()), model.weight.grad)
    assert_close(model.weight.grad, -b / (model.weight.detach() + kept) ** 2)
    vmap(grad(value))(torch.stack([weights["weight"].detach()] * 2))


def test_constants_that_are_mapped_over_are_refused():
    def solve(index):
        A = LinearOperator(lambda p, x: p[0] * x[p[1]], (HERE + 3, index))
        return sparse_solve(A, HERE)

    index = torch.tensor([1, 0, 3, 2])
    assert torch.isfinite(solve(index)).all()
    assert torch.isfinite(grad(lambda s: s * solve(index + 0 * s.long()).sum())(randn(1)[0]))
    with pytest.raises(ValueError, match="so a constant, and cannot be mapped over"):
        vmap(solve)(torch.stack([index, index]))
