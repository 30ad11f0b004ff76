"""An op that PyTorch's forward mode takes for a constant is refused, wherever f calls it."""

import re

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from tests.functions import wave
from tests.planted import FunctionCube
from tsgu_func import (
    Primitive,
    SparsityPattern,
    check_pattern,
    color,
    jacobian_pattern,
    sparse_hessian,
    sparse_jacobian,
)
from tsgu_func.registration.transforms import SingleLevelFunction, record

# Of ops without a batching rule PyTorch warns, from 2.14 on in forward mode, too.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

X = wave(4)
DIAGONAL = SparsityPattern.from_coo(range(4), range(4), (4, 4))[0]  # as one makes it by hand


class Cube(SingleLevelFunction):
    """Has a rule for reverse mode alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return below(x)

    @staticmethod
    def backward(ctx, ct):
        return 3 * ct * ctx.saved_tensors[0] ** 2


def below(x):
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.lost.hand(x)


def by_hand(x):
    """Do as PyTorch's kernel for a ``custom_op``: where no gradient is asked for, none is made."""
    return record(Cube, x) if torch.is_grad_enabled() and x.requires_grad else below(x)


@pytest.fixture(scope="module", autouse=True)
def ops():
    """Register ops of all kinds that lose tangents."""

    @torch.library.custom_op("lost::documented", mutates_args=())
    def documented(x: torch.Tensor) -> torch.Tensor:
        return x**3

    documented.register_fake(torch.empty_like)
    save = lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    documented.register_autograd(
        lambda ctx, ct: 3 * ct * ctx.saved_tensors[0] ** 2, setup_context=save
    )
    library = torch.library.Library("lost", "FRAGMENT")
    for name in ("bare", "hand", "composed", "signs"):
        library.define(f"{name}(Tensor x) -> Tensor")
    library.define("write(Tensor(a!) x) -> ()")
    library.impl("bare", lambda x: x**3, "CompositeExplicitAutograd")
    library.impl("hand", lambda x: x**3, "CompositeExplicitAutograd")
    library.impl("hand", by_hand, "Autograd")
    library.impl(
        "composed", lambda x: torch.ops.lost.documented(x) * x, "CompositeImplicitAutograd"
    )
    library.impl("signs", lambda x: x > 0, "CompositeExplicitAutograd")

    @torch.library.impl(library, "write", "CompositeExplicitAutograd")
    def write(x):
        x.pow_(3)

    yield
    library._destroy()


def written(x):
    y = x.clone()
    torch.ops.lost.write(y)
    return y


FUNCTIONS = {
    "documented": lambda x: torch.ops.lost.documented(x),
    "by its overload": lambda x: torch.ops.lost.documented.default(x),
    "multiplied": lambda x: torch.ops.lost.documented(x) * x,
    "without any rule": lambda x: torch.ops.lost.bare(x) + x,
    "by hand": lambda x: torch.ops.lost.hand(x),
    "inside of another one": lambda x: torch.ops.lost.composed(x),
    "mapped": lambda x: vmap(torch.ops.lost.hand)(x),
}
LOST = r"lost::\w+ has no derivative in forward mode, .* for zero.*Primitive.*mode='reverse'"
# On PyTorch 2.14 a warning that it gives meanwhile may be raised over the error, as its effect.
LOSES = (NotImplementedError, SystemError)[: 1 + ((2, 14) <= torch.__version__ < (2, 15))]


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobian(name, chunk_size):
    for given in (DIAGONAL, color(DIAGONAL, "forward")):
        jac = sparse_jacobian(FUNCTIONS[name], given, chunk_size=chunk_size)
        with pytest.raises(NotImplementedError, match=LOST):
            jac(X)


def test_written_in_place():
    with pytest.raises(NotImplementedError, match=LOST):
        sparse_jacobian(written, DIAGONAL, mode="forward")(X)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_under_transforms(name):
    jac = sparse_jacobian(FUNCTIONS[name], DIAGONAL)
    entries = lambda x: jac(x).values
    for call in (vmap(entries), vmap(lambda x: jvp(entries, (x,), (x,)))):
        with pytest.raises(LOSES) as caught:
            call(X[None])
        lost = caught.value.__cause__ if caught.type is SystemError else caught.value
        assert re.search(LOST, str(lost))
    with pytest.raises(RuntimeError, match=rf"{LOST}|setup_context"):  # what PyTorch says of some
        grad(lambda x: entries(x).sum())(X)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_check_pattern(name):
    with pytest.raises(NotImplementedError, match=LOST):
        check_pattern(FUNCTIONS[name], X, DIAGONAL)


@pytest.mark.parametrize("mode", ["forward-reverse", "reverse-forward", "forward-forward"])
def test_hessian(mode):
    loss = lambda x: FUNCTIONS["by hand"](x).sum()
    with pytest.raises(NotImplementedError, match=LOST):
        sparse_hessian(loss, DIAGONAL, mode=mode)(X)


def test_reverse_mode_is_right():
    f = FUNCTIONS["by hand"]
    assert_close(sparse_jacobian(f, DIAGONAL, mode="reverse")(X).to_dense(), (3 * X**2).diag())
    check_pattern(f, X, DIAGONAL, mode="reverse")
    hess = sparse_hessian(lambda x: f(x).sum(), DIAGONAL, mode="reverse-reverse")
    assert_close(hess(X).to_dense(), (6 * X).diag())
    assert_close(sparse_jacobian(f)(X).to_dense(), (3 * X**2).diag())


@pytest.mark.slow
@pytest.mark.parametrize("fullgraph", [True, False])
def test_compiled(fullgraph):
    for name in ("documented", "without any rule"):
        torch.compiler.reset()
        jac = sparse_jacobian(FUNCTIONS[name], DIAGONAL)
        compiled = torch.compile(
            lambda x, jac=jac: jac(x).values, backend="aot_eager", fullgraph=fullgraph
        )
        with pytest.raises((NotImplementedError, RuntimeError), match=r"lost::\w+"):
            compiled(X)


def test_what_loses_nothing_passes():
    """Ops on constants, ops that return no numbers, and those that have a rule."""
    own = Primitive("lost::own(Tensor x) -> Tensor")
    own.kernel(lambda x: x**3)
    own.fake(torch.empty_like)
    own.jvp("x")(lambda x, tangent: 3 * x**2 * tangent)
    for f in (
        lambda x: x * torch.ops.lost.bare(X),
        lambda x: x * torch.ops.lost.bare(x.detach()),
        lambda x: torch.where(torch.ops.lost.signs(x), x, 2 * x),
        lambda x: vmap(lambda y: y * torch.ops.lost.signs(y))(x),
        lambda x: own(x),
    ):
        expected = jacrev(f)(X) if "own" not in f.__code__.co_freevars else (3 * X**2).diag()
        assert_close(sparse_jacobian(f, DIAGONAL, mode="forward")(X).to_dense(), expected)


def test_patterns_are_detected_in_reverse_mode():
    for name in ("documented", "multiplied", "by hand"):
        assert jacobian_pattern(FUNCTIONS[name], X) == DIAGONAL


INDEX = torch.tensor([0, 1, 2, 0])


def chunked(x):
    return torch.nn.functional.linear_cross_entropy(
        x[None],
        torch.eye(4).double(),
        INDEX[:1],
        options=torch.nn.LinearCrossEntropyOptions(),
    )


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.ones(3).double().scatter_reduce(0, INDEX, x, "prod"),
        lambda x: torch.scatter_reduce(torch.ones(3).double(), 0, INDEX, x, "prod"),
        lambda x: torch.ones(3).double().scatter_reduce_(0, INDEX, x, "prod"),
        lambda x: torch.ones(3).double().scatter_reduce_(0, INDEX, x, reduce="prod").square(),
        pytest.param(
            chunked,
            marks=pytest.mark.skipif(
                torch.__version__ < (2, 13), reason="PyTorch 2.12 has no such function"
            ),
        ),
    ],
)
def test_ops_of_pytorch_that_do_the_same(f):
    row = INDEX if f(X).ndim else [0] * 4
    pattern = SparsityPattern.from_coo(row, range(4), (f(X).numel(), 4))[0]
    with pytest.raises(NotImplementedError, match="has no derivative in forward mode"):
        sparse_jacobian(f, color(pattern, "forward"))(X)
    assert jacobian_pattern(f, X) == pattern


entries_of_cubed = lambda x: (
    sparse_jacobian(FunctionCube.apply, color(DIAGONAL, "forward"))(x).values
)


def test_forward_over_forward_mode_of_an_autograd_function():
    """PyTorch's ``jacfwd(jacfwd(...))`` of it is zero."""
    told = "FunctionCube is an autograd.Function, whose jvp is a constant"
    loss = lambda x: FunctionCube.apply(x).sum()
    with pytest.raises(NotImplementedError, match=told):
        sparse_hessian(loss, DIAGONAL, mode="forward-forward")(X)
    with pytest.raises(NotImplementedError, match=told):
        jacfwd(entries_of_cubed)(X)
    with pytest.raises(NotImplementedError, match=told):
        vmap(jacfwd(entries_of_cubed))(X[None])
    with pytest.raises(NotImplementedError, match=told):
        jvp(lambda x: vmap(entries_of_cubed)(x[None]), (X,), (X,))


def test_forward_mode_of_an_autograd_function():
    for mode in ("forward-reverse", "reverse-forward", "reverse-reverse"):
        hess = sparse_hessian(lambda x: FunctionCube.apply(x).sum(), DIAGONAL, mode=mode)
        assert_close(hess(X).to_dense(), (6 * X).diag())
    assert_close(jacrev(entries_of_cubed)(X), (6 * X).diag())
    assert_close(vmap(entries_of_cubed)(X[None]), 3 * X[None] ** 2)
    # It is a constant for the outer jvp.
    product = lambda y: sparse_jacobian(lambda x: FunctionCube.apply(x) * y, DIAGONAL)(X).values
    assert_close(jacfwd(product)(X), (3 * X**2).diag())
