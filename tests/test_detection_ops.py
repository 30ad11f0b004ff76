"""Patterns of this library's ops, of a user's, and of autograd functions."""

from functools import partial

import pytest
import torch
from torch.func import hessian, jacrev

from tests.detected import check, dense, true_pattern
from tsgu_func import (
    LinearOperator,
    Primitive,
    SparseMatrix,
    gather_mm,
    hessian_pattern,
    jacobian_pattern,
    segment_mm,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_solve,
    sparse_triangular_solve,
)


def matrix(n, m, density=0.4):
    A = (torch.rand(n, m) < density) * torch.randn(n, m, dtype=torch.float64)
    return SparseMatrix.from_dense(A + (5 * torch.eye(n, dtype=torch.float64) if n == m else 0))


torch.manual_seed(1)
A, R = matrix(5, 5), matrix(6, 5)
TALL = SparseMatrix.from_dense(R.to_dense() + 3 * torch.eye(6, 5, dtype=torch.float64))
B = torch.ones(5, 2, dtype=torch.float64)
LENGTHS, ROWS = torch.tensor([2, 3]), torch.tensor([1, 0, 1, 1, 0])
BANK = torch.randn(2, 3, 4, dtype=torch.float64)
VALUES = len(A.values)

# Name, function, size of its argument, whether rules are exact.
FUNCTIONS = {
    "product": (lambda x: R @ x, 5, True),
    "transposed product": (lambda x: R.T @ (R @ x) ** 2, 5, True),
    "product with columns": (lambda x: R @ x.reshape(5, 2), 10, True),
    "batch of products": (lambda x: torch.vmap(lambda v: R @ v)(x.reshape(2, 5)), 10, True),
    "values": (lambda v: A.with_values(v) @ B, VALUES, True),
    "values of a transpose": (lambda v: A.with_values(v).T @ B, VALUES, True),
    "values of a batch": (lambda v: A.with_values(v.reshape(2, -1)) @ B, 2 * VALUES, True),
    "sparse product": (lambda v: (A.with_values(v) @ A).values, VALUES, True),
    "sparse square": (lambda v: (A.with_values(v) @ A.with_values(v).T).values, VALUES, True),
    "sum": (lambda v: (A.with_values(v) + A.T.with_values(v)).values, VALUES, True),
    "entrywise": (lambda v: (A.with_values(v) * A.T).values, VALUES, True),
    "triangle": (lambda v: A.with_values(v).tril().values, VALUES, True),
    "rows": (lambda v: A.with_values(v)[1:3].values, VALUES, True),
    "column sums": (lambda v: A.with_values(v).sum(0), VALUES, True),
    "dense": (lambda v: A.with_values(v).to_dense(), VALUES, True),
    "solve": (lambda x: sparse_solve(A, x.reshape(5, 2)), 10, False),
    "solve by values": (lambda v: sparse_solve(A.with_values(v), B), VALUES, False),
    "triangular solve": (lambda x: sparse_triangular_solve(A.tril(), x, upper=False), 5, False),
    "segments": (lambda x: segment_mm(x.reshape(5, 3), BANK, LENGTHS), 15, True),
    "bank of segments": (
        lambda b: segment_mm(B[:, :1].expand(5, 3), b.view(2, 3, 4), LENGTHS),
        24,
        True,
    ),
    "bank by index": (lambda b: gather_mm(B[:, :1].expand(5, 3), b.view(2, 3, 4), ROWS), 24, True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_own_op(name):
    f, size, exact = FUNCTIONS[name]
    x = torch.randn(size, dtype=torch.float64)
    true = torch.zeros(())
    for k in range(2):  # near A: any other need not be regular
        near = (1 + 0.1 * k) * (A.values.repeat(2)[:size] if "values" in name else x)
        true = true + (torch.func.jacfwd(f)(near).reshape(-1, size) != 0)
    check(jacobian_pattern(f, x), true > 0, exact)


HESSIANS = {
    "product": (lambda x: ((R @ x) ** 3).sum(), 5),
    "values": (lambda v: ((A.with_values(v) @ B) ** 3).sum(), VALUES),
    "sparse square": (lambda v: (A.with_values(v) @ A.with_values(v).T).values.sum(), VALUES),
    "segments": (
        lambda b: segment_mm(B[:, :1].expand(5, 3), b.view(2, 3, 4), LENGTHS).exp().sum(),
        24,
    ),
}


@pytest.mark.parametrize("name", HESSIANS)
def test_own_op_twice(name):
    f, size = HESSIANS[name]
    x = torch.zeros(size, dtype=torch.float64)
    check(hessian_pattern(f, x), true_pattern(f, x, derivative=hessian))


# Of the first argument; PyTorch knows no forward mode, and detection goes by reverse mode.
DISTANCES = {
    "cdist": lambda x: torch.cdist(x.reshape(4, 3), POINTS),
    "cdist of points with themselves": lambda x: torch.cdist(x.reshape(4, 3), x.reshape(4, 3)),
    "cdist, sum of powers": lambda x: torch.cdist(x.reshape(2, 2, 3), POINTS, p=3.0),
    "cdist, both vary": lambda x: torch.cdist(x[:6].reshape(2, 3), x[6:].reshape(2, 3), p=1.0),
    "cdist, some of them": lambda x: torch.cdist(x.reshape(4, 3), POINTS)[::2, 1:].square(),
    "pdist": lambda x: torch.nn.functional.pdist(x.reshape(4, 3)),
    "pairwise_distance": lambda x: torch.nn.functional.pairwise_distance(
        x.reshape(2, 2, 3), x.reshape(2, 2, 3).flip(0)
    ),
}
POINTS = torch.randn(5, 3, dtype=torch.float64)
one_by_one = partial(jacrev, chunk_size=1)  # under vmap PyTorch's derivative of cdist is wrong


@pytest.mark.parametrize("name", DISTANCES)
def test_distances(name):
    f, x = DISTANCES[name], torch.zeros(12, dtype=torch.float64)
    true = true_pattern(f, x, derivative=one_by_one)
    assert true.any()
    check(jacobian_pattern(f, x), true, exact="both" not in name and "themselves" not in name)


LEAST_SQUARES = {
    "right-hand side": lambda x: sparse_lstsq(TALL, x),
    "right-hand sides": lambda x: sparse_lstsq(TALL, x.reshape(6, 2)),
    "least norm": lambda x: sparse_lstsq(TALL.T, x[:10].reshape(5, 2)),
}


@pytest.mark.parametrize("name", LEAST_SQUARES)
def test_least_squares(name):
    f, x = LEAST_SQUARES[name], torch.ones(6 if name == "right-hand side" else 12).double()
    pattern, true = jacobian_pattern(f, x), true_pattern(f, x, draws=2)
    check(pattern, true, exact=False)
    assert name == "right-hand side" or not dense(pattern).all()  # columns are told apart


def test_least_squares_by_values():
    f = lambda v: sparse_lstsq(TALL.with_values(v), torch.eye(6, 2, dtype=torch.float64))
    true = sum((jacrev(f)(k * TALL.values).flatten(0, 1) != 0).int() for k in (1.0, 1.1))
    check(jacobian_pattern(f, TALL.values), true > 0, exact=False)


def test_systems_of_functions_are_dense():
    operator = lambda a: LinearOperator(lambda a, x: a * x, a)
    d = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    solve = lambda A, b: torch.linalg.solve(A.to_dense(), b)
    for f, x in (
        (lambda b: sparse_solve(operator(d), b), d),
        (lambda d: sparse_solve(operator(d), torch.ones_like(d)), d),
        (lambda b: sparse_generic_solve(A, b, solve=solve), B[:, 0]),
    ):
        assert dense(jacobian_pattern(f, x)).all()


# ---------------------------------------------------------------------------- rules of a user


class StraightThrough(torch.autograd.Function):
    """Rounds, and says that it does not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, ct):
        return ct

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()


class Backward(torch.autograd.Function):
    """Has a rule for reverse mode alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, ct):
        return ct * ctx.saved_tensors[0].flip(0)


X = torch.tensor([0.3, 1.2, 2.1, 0.7], dtype=torch.float64)


def test_straight_through():
    f = lambda x: StraightThrough.apply(x)[1:] * x[:-1] ** 2
    check(jacobian_pattern(f, X), jacrev(f)(X) != 0)
    detached = lambda x: (x + (x.round() - x).detach()).roll(1)
    check(jacobian_pattern(detached, X), true_pattern(detached, X))


def test_a_function_without_forward_mode():
    f = lambda x: Backward.apply(x)[1:] * x[:-1]
    check(jacobian_pattern(f, X), jacrev(f)(X + 1) != 0)
    loss = lambda x: f(x).square().sum()
    true = jacrev(jacrev(loss))(X + 1) != 0  # with such a rule not symmetric; the pattern is
    check(hessian_pattern(loss, X), true | true.mT)


def test_a_function_of_the_old_kind():
    class Old(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin()

        @staticmethod
        def backward(ctx, ct):
            return ct

    found = dense(jacobian_pattern(lambda x: Old.apply(x)[1:] * x[:-1], X))
    assert found.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


@pytest.fixture(scope="module")
def custom():
    """Give an op of ``torch.library``, whose tangent PyTorch takes for zero."""

    @torch.library.custom_op("detection::cube", mutates_args=())
    def cube(x: torch.Tensor) -> torch.Tensor:
        return x**3

    cube.register_fake(torch.empty_like)
    save = lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    cube.register_autograd(lambda ctx, ct: 3 * ct * ctx.saved_tensors[0] ** 2, setup_context=save)
    return cube


@pytest.mark.parametrize("detect", ["global", "local"])
def test_a_custom_op_is_not_taken_for_a_constant(custom, detect):
    found = dense(jacobian_pattern(lambda x: custom(x)[1:] * x[:-1], X, detect=detect))
    assert found.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    loss = lambda x: (custom(x)[1:] * x[:-1]).sum()
    found = dense(hessian_pattern(loss, X, detect=detect))
    band = (torch.arange(4)[:, None] - torch.arange(4)).abs() <= 1
    assert found[band].all()


class Opaque(torch.autograd.Function):
    """Calls, in its rule, an op that nothing is known of."""

    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return torch.ops.detection.unknown(tangent)


@pytest.fixture(scope="module")
def unknown():
    library = torch.library.Library("detection", "FRAGMENT")
    library.define("unknown(Tensor x) -> Tensor")
    library.impl("unknown", torch.clone, "CompositeExplicitAutograd")
    torch.library.register_fake("detection::unknown", torch.empty_like, lib=library)
    yield lambda x: Opaque.apply(x[1:])
    library._destroy()


def test_an_unknown_op_is_named(unknown):
    message = r'detection\.unknown.*unknown="dense"'
    with pytest.raises(NotImplementedError, match=message):
        jacobian_pattern(unknown, X)
    # What no output depends on is not looked at.
    assert jacobian_pattern(lambda x: (x, unknown(x))[0], X).nnz == 4


def test_an_unknown_op_is_dense_where_that_is_asked_for(unknown):
    found = dense(jacobian_pattern(unknown, X, unknown="dense"))
    assert found.int().tolist() == [[0, 1, 1, 1]] * 3


def test_a_shape_rule_that_returns_its_argument(unknown):
    """What the op returns is not what it was given, whatever its shape rule says."""
    torch.library.register_fake("detection::unknown", lambda x: x, allow_override=True)
    f = lambda x: torch.stack([unknown(x), x[1:]])
    found = dense(jacobian_pattern(f, X, unknown="dense"))
    assert found.int().tolist() == [[0, 1, 1, 1]] * 3 + torch.eye(4)[1:].int().tolist()


# ---------------------------------------------------------------------------- primitives


@pytest.fixture
def shift():
    """Give a primitive that is linear, and says nothing else."""
    p = Primitive("detection::shift(Tensor x, Tensor by) -> Tensor")
    p.kernel(lambda x, by: x.roll(int(by), -1).clone())
    p.fake(lambda x, by: torch.empty_like(x))
    p.linear_in("x")
    return p


def test_a_primitive_without_a_rule_is_dense(shift):
    by = torch.tensor(1)
    assert dense(jacobian_pattern(lambda x: shift(x, by), X)).all()


def test_members_of_a_batch_do_not_interact(shift):
    by = torch.tensor(1)
    shift.fold(x=1)
    found = dense(jacobian_pattern(lambda x: shift(x.reshape(2, 2), by), X))
    assert found.int().tolist() == torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).tolist()
    shift.fold(x=0)
    assert torch.equal(dense(jacobian_pattern(lambda x: shift(x, by), X)), torch.eye(4).bool())


def test_a_primitive_says_what_it_depends_on(shift):
    @shift.dependence("x")
    def _(x, by, out):
        place = torch.arange(x.numel())
        return place, place.reshape(x.shape).roll(int(by), -1).reshape(-1)

    f = lambda x: shift(x, torch.tensor(1))
    assert torch.equal(dense(jacobian_pattern(f, X)), torch.eye(4).roll(1, 0).bool())
    # An index that depends on an input is not known, and the rule is not asked.
    assert dense(jacobian_pattern(lambda x: shift(x, x.argmax()), X)).all()


def test_a_dependence_is_of_one_tensor(shift):
    with pytest.raises(ValueError, match="no argument 'y' that is one tensor"):
        shift.dependence("y")
    with pytest.raises(ValueError, match="asks for 'ct'"):
        shift.dependence("x")(lambda ct: ct)


def test_a_sparse_layout_is_refused():
    """An error that is raised where PyTorch asks for a device ended the process."""
    for f in (lambda x: x.to_sparse(), lambda x: x.to_sparse().to_dense()):
        with pytest.raises(ValueError, match=r"layout torch\.sparse_coo"):
            jacobian_pattern(f, X[None])
