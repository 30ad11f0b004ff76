"""Primitive as public API: what users may define, and what they are told when a rule is missing."""

import sys
import types

import pytest
import torch
from torch.func import grad, jacfwd, jvp, vmap
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


# ------------------------------------------------------------------------- the schemas it serves


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("(Tensor(a!) x) -> Tensor", "no argument is modified"),
        ("(Tensor(a) x) -> Tensor(a)", "no output is a view"),
        ("(Tensor x) -> ()", "returns one Tensor"),
        ("(Tensor x) -> int", "returns one Tensor"),
        ("(Tensor x) -> Tensor[]", "returns one Tensor"),
        ("(Tensor x) -> (Tensor, int)", "returns one Tensor"),
        ("(Tensor?[] x) -> Tensor", "argument 'x' may hold tensors"),
        ("(Tensor[]? x) -> Tensor", "argument 'x' may hold tensors"),
        ("(Dict(str, Tensor) x) -> Tensor", "argument 'x' may hold tensors"),
        ("(Any x) -> Tensor", "argument 'x' may hold tensors"),
        ("(*, Tensor x) -> Tensor", "tensor 'x' is keyword-only"),
        (".overload(Tensor x) -> Tensor", "no overload name"),
    ],
)
def test_a_schema_that_is_not_served_is_refused(schema, reason):
    with pytest.raises(ValueError, match=f"^tests::refused.*{reason}"):
        Primitive(f"tests::refused{schema}")
    assert not hasattr(torch.ops.tests, "refused")


def test_an_op_of_somebody_else_is_not_taken_over():
    library = torch.library.Library("tests", "FRAGMENT")
    library.define("foreign(Tensor x) -> Tensor")
    library.impl("foreign", torch.sin, "CompositeExplicitAutograd")
    for name in ("aten::sin", "tests::foreign", "tests::foreign"):
        with pytest.raises(RuntimeError, match="multiple times"):
            Primitive(f"{name}(Tensor x) -> Tensor")
    assert_close(torch.ops.tests.foreign(X), X.sin())


def test_a_namesake_in_another_module_is_refused(bare):
    with pytest.raises(RuntimeError, match="multiple times"):
        exec('Primitive("tests::cube(Tensor x) -> Tensor")', {"Primitive": Primitive})
    assert_close(bare(X), X**3)


# ------------------------------------------------------------------- what rules and kernels return


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda ct: ct.expand(2, 2), r"shape \(2,\); got \(2, 2\)"),
        (lambda ct: ct[:1], r"shape \(2,\); got \(1,\)"),
        (lambda ct: ct.sum(), r"shape \(2,\); got \(\)"),
        (lambda ct: (ct, ct), "a tensor or None; got tuple"),
        (lambda ct: 3.0, "a tensor or None; got float"),
    ],
)
def test_what_a_rule_returns_is_checked(rule, message):
    p = Primitive("tests::checked(Tensor x) -> Tensor")
    p.kernel(torch.clone)
    p.fake(torch.empty_like)
    p.vjp("x")(rule)
    p.jvp("x")(lambda tangent: rule(tangent))
    f = lambda x: p(x).sum()
    for use in (
        lambda: f(X.clone().requires_grad_()).backward(),
        lambda: grad(f)(X),
        lambda: vmap(grad(f))(torch.stack([X, X])),
        lambda: jvp(p, (X,), (X,)),
    ):
        p.fold(x=0)
        with pytest.raises(ValueError, match=rf"tests::checked: .* rule of \('x',\).*{message}"):
            use()


@pytest.mark.parametrize("parts", [1, 3, None])
def test_how_much_a_rule_returns_is_checked(parts):
    p = Primitive("tests::counted(Tensor x, Tensor y) -> (Tensor, Tensor)")
    p.kernel(lambda x, y: (x + y, x - y))
    p.fake(lambda x, y: (torch.empty_like(x), torch.empty_like(x)))
    returned = X if parts is None else (X,) * parts
    p.vjp("x", "y")(lambda needs, ct: returned)
    p.jvp("x")(lambda tangent: returned)
    got = "Tensor" if parts is None else f"a tuple of {parts}"
    message = f"tests::counted: .*a tuple of 2, with None for zero; got {got}"
    with pytest.raises(ValueError, match=message):
        p(X.clone().requires_grad_(), X)[0].sum().backward()
    with pytest.raises(ValueError, match=message):
        jvp(lambda x: p(x, X), (X,), (X,))


def in_place(x):
    values = x.numpy()
    values *= 1
    return torch.from_numpy(values[1:]), x.sin()


@pytest.mark.parametrize(
    ("kernel", "whose"),
    [
        (lambda x: (x, x.sin()), "argument 'x'"),
        (lambda x: (x.sin(), x[1:]), "argument 'x'"),
        (lambda x: x.sin().expand(2, 2).unbind(), "output 0"),
        (in_place, "argument 'x'"),
    ],
)
def test_outputs_are_new(kernel, whose):
    p = Primitive("tests::fresh(Tensor x) -> (Tensor, Tensor)")
    p.kernel(kernel)
    p.fake(lambda x: (torch.empty_like(x), torch.empty_like(x)))
    with pytest.raises(RuntimeError, match=f"tests::fresh: the kernel .*{whose}; return a clone"):
        p(X.clone())


def test_shapes_are_new():
    p = Primitive("tests::fresh_shapes(Tensor x) -> Tensor")
    p.kernel(torch.clone)
    p.fake(lambda x: x.view(-1))
    with pytest.raises(RuntimeError, match=r"tests::fresh_shapes: the shape rule .*argument 'x'"):
        torch.compile(p, fullgraph=True, backend="aot_eager")(X)


# ----------------------------------------------------------------------------- defined once more

CELL = """
cell = Primitive("tests::cell(Tensor x) -> Tensor")
cell.kernel(lambda x: {factor} * x**3)
cell.fake(torch.empty_like)
cell.vjp("x")(lambda ct, x: {factor} * 3 * ct * x * x)
cell.jvp("x")(lambda tangent, x: {factor} * 3 * tangent * x * x)
cell.fold(x=0)
"""


def run_cell(factor, notebook):
    exec(CELL.format(factor=factor), notebook)
    return notebook["cell"]


@pytest.mark.slow
def test_a_cell_is_run_again(monkeypatch):
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    notebook = vars(module)
    notebook |= {"Primitive": Primitive, "torch": torch}
    first = run_cell(1.0, notebook)
    f = eval("lambda x: cell(x).sum()", notebook)
    compiled = torch.compile(grad(f), fullgraph=True, backend="aot_eager")
    of_first = torch.compile(lambda x: first(x).sum(), fullgraph=True, backend="aot_eager")
    held, recorded = first.op, first(X.clone().requires_grad_()).sum()

    def gradients():
        x, y = (X.clone().requires_grad_() for _ in range(2))
        f(x).backward()
        of_first(y).backward()
        return (
            x.grad,
            y.grad,
            grad(f)(X),
            compiled(X),
            jacfwd(f)(X),
            vmap(grad(f))(X[None])[0],
            grad(lambda x: held(x).sum())(X),
        )

    for factor in (1.0, 2.0, 3.0):
        if factor > 1:
            tag = torch.compiler.config.cache_key_tag
            run_cell(factor, notebook)
            assert tag != torch.compiler.config.cache_key_tag  # what is on disk is not looked at
        assert_close(gradients(), (3 * factor * X * X,) * 7)
        assert_close(first(X), factor * X**3)
    for old in (
        recorded.backward,
        lambda: first.vjp("x")(lambda ct: ct),
        lambda: first.kernel(torch.clone),
    ):
        with pytest.raises(RuntimeError, match="tests::cell has been defined again"):
            old()


def test_another_schema_in_a_cell_that_is_run_again():
    first = Primitive("tests::schema(Tensor x) -> Tensor")
    first.kernel(torch.clone)
    first.kernel_on("cpu")(torch.clone)
    held = first.op
    again = Primitive("tests::schema(Tensor x, int n=2) -> Tensor")
    again.kernel(lambda x, n: n * x)
    for op in (again, first, held, torch.ops.tests.schema):
        assert_close((op(X), op(X, 3)), (2 * X, 3 * X))
