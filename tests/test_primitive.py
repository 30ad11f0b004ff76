"""Primitive as public API: what users may define, and what they are told when a rule is missing."""

import math

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from tsgu_func import Primitive


def cube() -> Primitive:
    p = Primitive("tests::cube(Tensor x) -> Tensor")
    p.kernel(lambda x: torch.from_numpy(x.numpy() ** 3))
    p.fake(lambda x: torch.empty_like(x))
    return p


@pytest.fixture(scope="module")
def bare():
    return cube()


X = torch.tensor([1.0, 2.0], dtype=torch.float64)


def test_value_needs_no_rules(bare):
    assert_close(bare(X), X**3)
    assert "tests::cube" in repr(bare)


@pytest.mark.parametrize(
    ("use", "rule"),
    [
        (lambda f: grad(lambda x: f(x).sum())(X), "vjp"),
        (lambda f: f(X.clone().requires_grad_()).sum().backward(), "vjp"),
        (lambda f: jvp(f, (X,), (X,)), "jvp"),
        (lambda f: vmap(f)(X), "batching"),
        (lambda f: jacfwd(f)(X), "batching|jvp"),
    ],
)
def test_missing_rule_is_named(bare, use, rule):
    with pytest.raises(NotImplementedError, match=rf"tests::cube .*({rule}) rule"):
        use(bare)


def test_definitions_are_checked(bare):
    with pytest.raises(ValueError, match="namespace"):
        Primitive("op(Tensor x) -> Tensor")
    with pytest.raises(ValueError, match=r"\['ct'\] name what rules are given"):
        Primitive("tests::clash(Tensor ct) -> Tensor")
    with pytest.raises(ValueError, match="no argument 'y'"):
        bare.vjp("y")
    with pytest.raises(ValueError, match="asks for 'z'"):
        bare.vjp("x")(lambda ct, z: ct)
    with pytest.raises(ValueError, match="fold names 'y'"):
        bare.fold(y=0)
    with pytest.raises(ValueError, match="'lower' or 'float32'"):
        bare.autocast("double")


def scaled(tag, asks):
    """X -> a b x, whose factors are a group; `asks` says who asks for the group by name."""
    schema = f"tests::scaled_{tag}(Tensor x, float a, Tensor y, float b) -> Tensor"
    p = Primitive(schema, groups={"ab": ("a", "b")})
    if asks:
        p.kernel(lambda ab, x, y: ab[0] * ab[1] * x * y)
        p.fake(lambda y, ab, x: torch.empty_like(x))
    else:
        p.kernel(lambda u, v, w, z: v * z * u * w)
        p.fake(lambda u, v, w, z: torch.empty_like(u))
    p.vjp("x")(lambda y, ab, ct: ct * math.prod(ab) * y)
    p.vjp("y")(lambda a, ct, ab, x: ct * a * ab[1] * x)
    p.linear_in("x")
    p.jvp("y")(lambda ab, tangent, x: p(x, ab[0], tangent, ab[1]))

    @p.batch
    def _(size, dims, args):
        assert dims.ab == (None, None)
        x, y = (
            v.expand(size, *v.shape) if d is None else v.movedim(d, 0)
            for v, d in ((args.x, dims.x), (args.y, dims.y))
        )
        return p(x, args.ab[0], y, args.ab[1]), 0

    return p


@pytest.fixture(scope="module", params=[True, False])
def grouped(request):
    return scaled(f"asked_{request.param}", request.param)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: f(X, X),
        lambda f: jacrev(f, (0, 1))(X, X + 1),
        lambda f: jacfwd(jacrev(f, (0, 1)), (0, 1))(X, X + 1),
        lambda f: vmap(f, (None, 1))(X, torch.stack([X, X + 1], 1)),
        lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")(X, X),
    ],
)
def test_a_group_of_arguments_has_a_name(grouped, transform):
    reference = lambda x, y: 6.0 * x * y
    assert_close(transform(lambda x, y: grouped(x, 2.0, y, 3.0)), transform(reference))


def test_a_group_can_be_retained():
    p = scaled("retained", asks=True)
    seen = []
    p.retain(lambda ab, b: seen.append((ab, b)))
    p(X.clone().requires_grad_(), 2.0, X, 3.0)
    assert seen == [((2.0, 3.0), 3.0)]


@pytest.mark.parametrize("name", ["x", "ct", "not a name"])
def test_names_of_groups_are_free(name):
    with pytest.raises(ValueError, match=f"group cannot be called '{name}'"):
        Primitive("tests::named_group(Tensor x, int n) -> Tensor", groups={name: ("n",)})


def test_what_is_asked_for_by_name_exists():
    with pytest.raises(ValueError, match="group 'g' has the member 'm'"):
        Primitive("tests::no_member(Tensor x, int n) -> Tensor", groups={"g": ("n", "m")})
    p = Primitive("tests::no_name(Tensor x, int n) -> Tensor", groups={"g": ("n",)})
    for register in (p.kernel, p.fake, p.vjp("x"), p.retain):
        with pytest.raises(ValueError, match=r"tests::no_name: a rule asks for 'z', .*'g'"):
            register(lambda g, z: g)


@pytest.fixture(scope="module")
def polar():
    """x, y -> (x y, x / y, how often y is negative): several outputs, one without a derivative."""
    p = Primitive("tests::polar(Tensor x, Tensor y, int shift) -> (Tensor, Tensor, Tensor)")

    @p.kernel
    def _(x, y, shift):
        return x * y + shift, x / y, (y < 0).sum(-1)

    @p.fake
    def _(x, y, shift):
        return torch.empty_like(x), torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.long)

    @p.vjp("x", "y")
    def _(needs, cts, outs, x, y):
        product, quotient = (torch.zeros_like(x) if c is None else c for c in cts[:2])
        dx = product * y + quotient / y if needs[0] else None
        return dx, (product * x - quotient * x / y / y if needs[1] else None)

    @p.jvp("x")
    def _(tangent, y):
        return tangent * y, tangent / y, None

    @p.jvp("y")
    def _(tangent, x, y):
        return tangent * x, -tangent * x / y / y, None

    @p.batch
    def _(size, dims, args):
        x, y = (
            a.expand(size, *a.shape) if d is None else a.movedim(d, 0)
            for a, d in zip(args[:2], dims[:2], strict=True)
        )
        return p(x, y, args.shift), (0, 0, 0)

    return p


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: jacrev(f, (0, 1))(X, X + 1),
        lambda f: jacfwd(f, (0, 1))(X, X + 1),
        lambda f: jacfwd(jacfwd(f, (0, 1)), (0, 1))(X, X + 1),
        lambda f: hessian(lambda x, y: f(x, y).sin().sum(), (0, 1))(X, X + 1),
        lambda f: vmap(grad(lambda x, y: f(x, y).sum()), (None, 0))(X, torch.stack([X, X + 1])),
    ],
)
def test_several_outputs(polar, which, transform):
    reference = (lambda x, y: x * y + 3, lambda x, y: x / y)[which]
    assert_close(transform(lambda x, y: polar(x, y, 3)[which]), transform(reference))


def test_output_without_derivative(polar):
    product, _, count = polar(X.clone().requires_grad_(), -X, 0)
    assert product.requires_grad
    assert not count.requires_grad
    assert count.item() == 2


def test_elementwise_fold_broadcasts():
    p = Primitive("tests::hypot(Tensor x, Tensor y) -> Tensor")
    p.kernel(torch.hypot)
    p.fake(lambda x, y: torch.empty(torch.broadcast_shapes(x.shape, y.shape), dtype=x.dtype))
    p.fold(x=0, y=0)
    x, y = torch.rand(3, 4), torch.rand(5, 3)
    assert_close(vmap(p, (0, 1))(x[:, 0], y), torch.hypot(x[:, :1], y.mT))
    assert_close(vmap(vmap(p, (0, None)), (None, 0))(x[0], y[0]), torch.hypot(x[0], y[:1].mT))


def test_batched_index_is_refused():
    from tsgu_func.ops.products import spmm
    from tsgu_func.selfcheck.records.base import COL, ROW, SHAPE, matrix

    A = matrix(ROW, COL, SHAPE, torch.float64)
    s = A.pattern.structure
    with pytest.raises(NotImplementedError, match="cannot be mapped over its argument 'col'"):
        vmap(lambda col: spmm(A.values, torch.ones(4, 1).double(), s.crow, col, 4, False))(
            torch.stack([s.col, s.col])
        )


def test_namesake_schema_is_refused_by_torch(bare):
    with pytest.raises(RuntimeError, match="cube"):
        cube()


def test_a_saved_output_makes_no_reference_cycle():
    import gc
    import weakref

    x = X.clone().requires_grad_()
    p = Primitive("tests::keep(Tensor x) -> Tensor")
    p.kernel(lambda x: x.exp())
    p.fake(torch.empty_like)
    p.vjp("x")(lambda ct, out: ct * out)
    gc.disable()
    try:
        out = p(x)
        node = weakref.ref(out.grad_fn)
        assert_close(torch.autograd.grad(out.sum(), x)[0], X.exp())
        del out
        assert node() is None
    finally:
        gc.enable()


def test_kernel_of_one_device():
    p = Primitive("tests::where(Tensor x) -> Tensor")
    p.kernel(lambda x: x + 1)
    p.kernel_on("cpu")(lambda x: x + 2)
    p.fake(torch.empty_like)
    assert_close(p(X), X + 2)
