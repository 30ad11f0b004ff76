"""What a Primitive takes and returns: groups, defaults, keywords, options, lists and tuples."""

import functools
import math

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from tsgu_func import Primitive

X = torch.tensor([1.0, 2.0], dtype=torch.float64)

TRANSFORMS = {
    "value": lambda f: f(X),
    "backward": lambda f: torch.autograd.functional.jacobian(f, X),
    "jacrev": lambda f: jacrev(f)(X),
    "jvp": lambda f: jvp(f, (X,), (X + 1,)),
    "hessian": lambda f: hessian(f)(X),
    "forward twice": lambda f: jacfwd(jacfwd(f))(X),
    "reverse twice": lambda f: jacrev(jacrev(f))(X),
    "vmap": lambda f: vmap(f)(torch.stack([X, X + 1])),
    "per sample": lambda f: vmap(jacrev(f))(torch.stack([X, X + 1])),
    "batch inside": lambda f: jacfwd(vmap(f))(torch.stack([X, X + 1])),
    "compiled": lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")(X),
    "compiled jacrev": lambda f: torch.compile(jacrev(f), fullgraph=True, backend="aot_eager")(X),
}
every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


def along_axis(size, *args):
    """Give each tensor the mapped axis, in front."""
    return [x.expand(size, *x.shape) if d is None else x.movedim(d, 0) for x, d in args]


# ------------------------------------------------------------------------------------------- groups


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
        x, y = along_axis(size, (args.x, dims.x), (args.y, dims.y))
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


def _with_keywords(rule):
    @functools.wraps(rule)
    def taken_by_name(**given):
        return rule(**given)

    return taken_by_name


def _in_another_order(rule):
    taken = lambda a, b: rule(b, a)  # whose parameters have other names
    return lambda by, ct: taken(by, ct)


def _which_says_what_it_uses(rule):
    def uses(*, by, ct):
        return rule(ct, by)

    uses.uses = ("by", "ct")
    return uses


class _Callable:
    def __init__(self, rule):
        self.rule = rule

    def __call__(self, ct, *, by):
        return self.rule(ct, by)


def _swapped(rule):
    @functools.wraps(rule)
    def swapped(by, ct):
        return rule(ct, by)

    return swapped


FORMS = {
    "keywords": _with_keywords,
    "another order": _in_another_order,
    "uses": _which_says_what_it_uses,
    "callable": _Callable,
    "partial": functools.partial,
    "decorated": _swapped,
    "partial of a decorated one": lambda rule: functools.partial(_swapped(rule)),
    "partial of keywords": lambda rule: functools.partial(_with_keywords(rule)),
    "method": lambda rule: _Callable(rule).__call__,
    "decorated callable": lambda rule: type("Rule", (), {"__call__": _of_self(rule)})(),
}


def _of_self(rule):
    """Return a method that a decorator has given another order."""

    def call(self, ct, by):
        return rule(ct, by)

    @functools.wraps(call)
    def swapped(self, by, ct):
        return call(self, ct, by)

    return swapped


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rules_are_given_what_they_name_in_any_form(form):
    p = Primitive("tests::quotient(Tensor x, Tensor by) -> Tensor")
    p.kernel(lambda x, by: x / by)
    p.vjp("x")(form(lambda ct, by: ct / by))
    x, by = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([4.0, 5.0])
    assert_close(torch.autograd.grad(p(x, by).sum(), x)[0], 1 / by)


def test_rules_that_are_registered_after_a_call_count():
    p = Primitive("tests::tripled(Tensor x) -> Tensor")
    p.kernel(lambda x: 3 * x)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    first, second = p(x).sum(), p(x).sum()
    with pytest.raises(NotImplementedError, match="no vjp rule"):
        first.backward(retain_graph=True)
    p.vjp("x")(lambda ct: 3 * ct)
    assert_close(torch.autograd.grad(first, x)[0], 3 + 0 * x)
    p.vjp("x")(lambda ct: 4 * ct)
    assert_close(torch.autograd.grad(second, x)[0], 4 + 0 * x)


@pytest.mark.parametrize("order", ["Tensor x, Tensor y", "Tensor y, Tensor x"])
def test_a_rule_of_its_own_is_asked_before_that_of_several(order):
    p = Primitive(f"tests::pair{'xy'.index(order[7])}({order}) -> Tensor")
    p.kernel(lambda x, y: x + y)
    seen = []
    p.vjp("x", "y")(lambda ct, needs: (seen.append(needs), (10 * ct, 10 * ct))[1])
    p.vjp("y")(lambda ct: 100 * ct)
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    given = {"x": x, "y": y}
    grads = torch.autograd.grad(p(**given).sum(), (x, y))
    assert [float(g[0]) for g in grads] == [10, 100]
    assert seen == [(True, False)]


def test_lists_of_many_lengths_are_not_planned_forever():
    p = Primitive("tests::total(Tensor[] xs) -> Tensor")
    p.kernel(lambda xs: sum(xs[1:], xs[0].clone()))
    p.vjp("xs")(lambda ct, xs: [ct for _ in xs])
    for n in (*range(1, 400), 3):
        xs = [torch.ones(2, requires_grad=i % 3 == 0) for i in range(n)]
        p(xs).sum().backward()
        assert all((x.grad is not None) == x.requires_grad for x in xs)
    assert len(p._plans._plans) <= 256


def test_a_kernel_leaves_the_recording_of_gradients_as_it_was():
    p = Primitive("tests::switched(Tensor x) -> Tensor")

    @p.kernel
    def _(x):
        torch.set_grad_enabled(True)
        return x + 1

    with torch.no_grad():
        p(torch.ones(2))
        assert not torch.is_grad_enabled()


def test_a_parameter_with_a_default_is_a_name_too():
    p = Primitive("tests::shifted(Tensor x, Tensor by) -> Tensor")
    p.kernel(lambda x, by: x * by)
    with pytest.raises(ValueError, match="a rule asks for 'factor'"):
        p.vjp("x")(lambda ct, factor=3.0, by=None: factor * ct * by)


# ---------------------------------------------------------------------------------- several outputs


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
        x, y = along_axis(size, (args.x, dims.x), (args.y, dims.y))
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


# ------------------------------------------------------------ defaults, keywords, options and lists


@pytest.fixture(scope="module")
def power():
    """X -> a x^n + m, with defaults and arguments that are keyword-only."""
    p = Primitive("tests::power(Tensor x, int n=3, float a=1., *, int m=5, bool double) -> Tensor")

    @p.kernel
    def _(x, n, a, m, *, double):
        return (a * x**n + m) * (1 + double)

    p.fake(lambda x, n, a, m, double: torch.empty_like(x))
    slope = lambda x, n, a, double: a * (1 + double) * n * x ** (n - 1)
    p.vjp("x")(lambda ct, x, n, a, double: ct * slope(x, n, a, double))
    p.jvp("x")(lambda tangent, x, n, a, double: tangent * slope(x, n, a, double))
    p.fold(x=0)
    p.autocast("float32")
    return p


POWERS = {
    "all left out": (lambda p, x: p(x, double=False), lambda x: x**3 + 5),
    "the default": (lambda p, x: p(x, 3, 1.0, m=5, double=False), lambda x: x**3 + 5),
    "all given": (lambda p, x: p(x, 2, 3.0, m=1, double=True), lambda x: 6 * x**2 + 2),
    "one by name": (lambda p, x: p(x, a=3.0, double=True), lambda x: 6 * x**3 + 10),
}


@pytest.mark.slow
@every_transform
@pytest.mark.parametrize("how", POWERS)
def test_defaults_and_keywords(power, how, transform):
    call, reference = POWERS[how]
    assert_close(transform(lambda x: call(power, x)), transform(reference))


@pytest.mark.parametrize("keywords", [{"double": False}, {"double": True, "m": 1}])
def test_defaults_and_keywords_pass_opcheck(power, keywords):
    torch.library.opcheck(power.op, (X.clone().requires_grad_(),), keywords)


def test_autocast_hands_keywords_on(power):
    with torch.autocast("cpu"):
        assert power(X.bfloat16(), 2, m=1, double=True).dtype == torch.float32


@pytest.fixture(scope="module")
def scale():
    """x^3 y, or x^3."""
    p = Primitive("tests::scale(Tensor x, Tensor? y=None) -> Tensor")
    p.kernel(lambda x, y: x**3 if y is None else x**3 * y)
    p.fake(lambda x, y: torch.empty_like(x))
    times = lambda z, y: z if y is None else z * y
    p.vjp("x")(lambda ct, x, y: times(3 * ct * x * x, None if y is None else y))
    p.vjp("y")(lambda ct, x: ct * x**3)
    p.jvp("x")(lambda tangent, x, y: times(3 * tangent * x * x, y))
    p.jvp("y")(lambda tangent, x: tangent * x**3)

    @p.batch
    def _(size, dims, args):
        if args.y is None:
            return p(args.x.movedim(dims.x, 0)), 0
        return p(*along_axis(size, *zip(args, dims, strict=True))), 0

    return p


SCALES = {
    "left out": (lambda p, x: p(x), lambda x: x**3),
    "None": (lambda p, x: p(x, None), lambda x: x**3),
    "given": (lambda p, x: p(x, x.sin()), lambda x: x**3 * x.sin()),
    "constant": (lambda p, x: p(x, X), lambda x: x**3 * X),
    "alone": (lambda p, x: p(X, x), lambda x: X**3 * x),
}


@every_transform
@pytest.mark.parametrize("how", SCALES)
def test_a_tensor_that_may_be_left_out(scale, how, transform):
    call, reference = SCALES[how]
    assert_close(transform(lambda x: call(scale, x)), transform(reference))


@pytest.mark.parametrize("y", [None, X])
def test_a_tensor_that_may_be_left_out_passes_opcheck(scale, y):
    torch.library.opcheck(scale.op, (X.clone().requires_grad_(), y))


@pytest.fixture(scope="module")
def join():
    """Concatenation of lists, scaled by y."""
    p = Primitive("tests::join(Tensor[] xs, Tensor y, int n=1) -> Tensor")

    @p.kernel
    def _(xs, y, n):
        return n * torch.cat(xs, -1) * y

    @p.fake
    def _(xs, y, n):
        return torch.cat(xs, -1)

    @p.vjp("xs")
    def _(ct, xs, y, n):
        return [c * n * y for c in ct.split([x.shape[-1] for x in xs], -1)]

    @p.vjp("y")
    def _(ct, xs, n):
        return (ct * n * torch.cat(xs, -1)).sum(-1, keepdim=True)

    p.linear_in("xs", "y")

    @p.batch
    def _(size, dims, args):
        *xs, y = along_axis(size, *zip((*args.xs, args.y), (*dims.xs, dims.y), strict=True))
        return p(xs, y, args.n), 0

    return p


JOINTS = {
    "one": (lambda p, x: p([x], X[:1]), lambda x: x * X[:1]),
    "two": (lambda p, x: p([x, x.sin()], X[:1], 2), lambda x: 2 * torch.cat([x, x.sin()]) * X[:1]),
    "partly": (lambda p, x: p([X, x, X], X[:1]), lambda x: torch.cat([X, x, X]) * X[:1]),
    "beside": (lambda p, x: p([X, X], x[1:]), lambda x: torch.cat([X, X]) * x[1:]),
    "all": (lambda p, x: p([x, X, x], x[1:]), lambda x: torch.cat([x, X, x]) * x[1:]),
}


@every_transform
@pytest.mark.parametrize("how", JOINTS)
def test_a_list_of_tensors(join, how, transform):
    call, reference = JOINTS[how]
    assert_close(transform(lambda x: call(join, x)), transform(reference))


def test_a_list_of_tensors_passes_opcheck(join):
    x = X.clone().requires_grad_()
    torch.library.opcheck(join.op, ([x, X, x], X[:1]))


def test_a_list_is_not_folded(join):
    p = Primitive("tests::folded_list(Tensor[] xs, Tensor y) -> Tensor")
    p.kernel(lambda xs, y: xs[0] * y)
    p.fake(lambda xs, y: torch.empty_like(y))
    p.fold(y=0)
    assert_close(vmap(lambda y: p([X], y))(torch.stack([X, X])), torch.stack([X * X] * 2))
    with pytest.raises(NotImplementedError, match="cannot be mapped over its argument 'xs'"):
        vmap(lambda x: p([X[0], x], X[0]))(X)
