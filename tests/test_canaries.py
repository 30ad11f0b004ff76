"""What the library leans on: private names of PyTorch, and its bugs that are worked around.

A test of a name fails when PyTorch moves it.  A test of a bug is a strict xfail: it fails when
PyTorch mends the bug, and then the work-around can go.
"""

import pathlib
import re
import subprocess
import sys

import pytest
import torch
from torch import _C
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, jacfwd, jvp, vmap

from tests.planted import FunctionCube, custom_op
from tsgu_func.kernels import mkl

NAMES = [
    "torch._C._AutoDispatchBelowAutograd",
    "torch._C._PreserveDispatchKeyGuard",
    "torch._C._TorchDispatchModeKey.PROXY",
    "torch._C.DispatchKey.ADInplaceOrView",
    "torch._C.DispatchKey.AutogradFunctionality",
    "torch._C.DispatchKey.AutogradOther",
    "torch._C.DispatchKey.Conjugate",
    "torch._C.DispatchKey.FuncTorchDynamicLayerBackMode",
    "torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode",
    "torch._C.DispatchKey.FuncTorchGradWrapper",
    "torch._C._after_autograd_keyset",
    "torch._C._any_requires_grad",
    "torch._C._are_functorch_transforms_active",
    "torch._C._autograd._pop_saved_tensors_default_hooks",
    "torch._C._autograd._push_saved_tensors_default_hooks",
    "torch._C._autograd._top_saved_tensors_default_hooks",
    "torch._C._dispatch_tls_is_dispatch_key_excluded",
    "torch._C._dispatch_tls_set_dispatch_key_excluded",
    "torch._C._functorch.get_dynamic_layer_stack_depth",
    "torch._C._functorch.get_unwrapped",
    "torch._C._functorch.is_batchedtensor",
    "torch._C._functorch.is_functorch_wrapped_tensor",
    "torch._C._functorch.maybe_get_bdim",
    "torch._C._functorch.TransformType.Jvp",
    "torch._C._functorch.maybe_get_level",
    "torch._C._functorch.peek_interpreter_stack",
    "torch._C._get_dispatch_mode",
    "torch._C._set_grad_enabled",
    "torch._C._vmapmode_decrement_nesting",
    "torch._C._vmapmode_increment_nesting",
    "torch._C.parse_schema",
    "torch._functorch.autograd_function.custom_function_call",
    "torch._functorch.autograd_function.enable_single_level_autograd_function",
    "torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack",
    "torch._functorch.pyfunctorch.temporarily_pop_interpreter_stack",
    "torch._ops.OpOverload",
    "torch._ops.OpOverloadPacket",
    "torch.autograd.forward_ad._current_level",
    "torch.autograd.forward_ad._set_fwd_grad_enabled",
    "torch.autograd.function._SingleLevelFunction",
    "torch.utils._python_dispatch._disable_current_modes",
    "torch.fx.experimental.proxy_tensor.get_proxy_slot",
    "torch.utils._pytree.register_pytree_node",
    "torch.library.Library._destroy",
    "torch._subclasses.fake_tensor.FakeTensor",
    "torch._subclasses.fake_tensor.FakeTensorMode",
    "torch._subclasses.fake_tensor.DataDependentOutputException",
    "torch._subclasses.fake_tensor.DynamicOutputShapeException",
    "torch._decomp.core_aten_decompositions",
    "torch._decomp.decomposition_table",
    "torch.UntypedStorage._cdata",
]


@pytest.mark.parametrize("name", NAMES)
def test_private_name(name):
    import torch._decomp
    import torch._functorch.autograd_function
    import torch._functorch.pyfunctorch
    import torch._subclasses.fake_tensor
    import torch.utils._python_dispatch
    import torch.utils._pytree

    found = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part)


def test_a_name_that_has_moved_is_told(monkeypatch):
    from tsgu_func.registration import transforms

    message = rf"needs in torch._C of PyTorch {re.escape(torch.__version__)}: .*'parse_schema'.*"
    with monkeypatch.context() as patch:
        patch.delattr(torch._C, "parse_schema")
        with pytest.raises(ImportError, match=message + r"this is tested with PyTorch 2.13"):
            transforms._private("torch._C", "_any_requires_grad", "parse_schema")
    with pytest.raises(ImportError, match=r"needs in torch\._gone of PyTorch"):
        transforms._private("torch._gone")


def test_private_names_are_looked_for_at_import():
    from tsgu_func.registration import transforms

    source = pathlib.Path(transforms.__file__).read_text()
    modules = "_C|_autograd|_functorch|_functions|_interpreters|_forward|_function|_dispatch"
    used = set(re.findall(rf"(?<!torch\.)\b(?:{modules})\.(_?\w+)", source)) - {"unpack_dual"}
    assert "_any_requires_grad" in used
    assert {name for name in used if f'"{name}' not in source} == set()


def test_constant_result_is_what_the_compiler_marks():
    marked = torch.compiler.assume_constant_result(lambda: 1)
    assert marked._dynamo_marked_constant is True


def test_a_static_size_is_what_the_compiler_marks():
    marked = torch.ones(2)
    torch._dynamo.mark_static(marked)
    assert marked._dynamo_static_indices == {0}


@pytest.mark.xfail(
    torch.__version__ < (2, 13), strict=True, reason="the compiler guards on the code of a function"
)
def test_the_compiler_guards_on_the_id_of_a_function():
    """Where it does not, `ops.constants` asks for the ids of its cells."""
    torch.compiler.reset()
    called = torch.compiler.assume_constant_result(lambda f, identity: f())
    run = torch.compile(lambda f, x: x * called(f, id(f)), backend="eager", fullgraph=True)
    make = lambda k: lambda: k
    assert [float(run(make(k), torch.ones(()))) for k in (1.0, 2.0)] == [1.0, 2.0]


@pytest.mark.xfail(
    torch.__version__ < (2, 13), strict=True, reason="the compiler tells the id of the shell"
)
def test_what_is_made_inside_is_not_what_the_compiler_hands_over():
    """Where it is, `ops.constants` counts attributes."""
    torch.compiler.reset()
    same = torch.compiler.assume_constant_result(lambda x, identity: id(x) == identity)

    def made(x):
        inside = Inside()
        return x * same(inside, id(inside))

    assert torch.compile(made, backend="eager", fullgraph=True)(torch.ones(())) == 0


class Inside:
    """An object without attributes."""


@pytest.mark.parametrize("constant", [True, False])
def test_what_is_made_in_place_over_a_tensor_breaks_the_graph(constant):
    """As `ops.constants` takes functions apart."""

    def called(x):
        k = 2.0 if constant else x.sum()
        function = lambda y: k * y
        repr(function)
        return function(x)

    torch.compiler.reset()
    run = torch.compile(called, backend="eager", fullgraph=True)
    if constant:
        assert run(X).equal(2 * X)
    else:
        named = "closure" if torch.__version__ >= (2, 13) else "repr"  # in PyTorch's message
        with pytest.raises(torch._dynamo.exc.Unsupported, match=named):
            run(X)


# ------------------------------------------------------------------------------- PyTorch's bugs


@pytest.fixture(scope="module")
def custom_cube():
    return custom_op().wrong


X = torch.tensor([1.0, 2.0], dtype=torch.float64)


@pytest.mark.xfail(
    strict=True, reason="custom_op has a zero tangent under jvp", raises=AssertionError
)
def test_custom_op_jvp(custom_cube):
    torch.testing.assert_close(jvp(custom_cube, (X,), (X,))[1], 3 * X**3)


@pytest.mark.xfail(
    strict=True, reason="custom_op raises under torch.func.grad", raises=RuntimeError
)
def test_custom_op_grad(custom_cube):
    torch.testing.assert_close(grad(lambda x: custom_cube(x).sum())(X), 3 * X**2)


@pytest.mark.xfail(
    strict=True, reason="autograd.Function is zero under jacfwd(jacfwd)", raises=AssertionError
)
def test_function_forward_over_forward():
    second = jacfwd(jacfwd(lambda x: FunctionCube.apply(x).sum()))(X)
    torch.testing.assert_close(second, torch.diag(6 * X))


@pytest.mark.xfail(
    torch.__version__ < (2, 15),
    strict=True,
    reason="linalg.solve is wrong in forward over forward",
    raises=AssertionError,
)
def test_dense_solve_forward_over_forward():
    A = (
        torch.eye(3, dtype=torch.float64) * 3
        + torch.arange(9.0, dtype=torch.float64).view(3, 3).sin()
    )
    b = torch.ones(3, dtype=torch.float64)

    def along(t, order):
        """Differentiate t -> A(t)⁻¹ b, for A(t) = A + t D with D = A.sin()."""
        f = lambda t: torch.linalg.solve(A + t * A.sin(), b)
        for _ in range(order):
            f = (lambda g: lambda t: jvp(g, (t,), (torch.ones_like(t),))[1])(f)
        return f(t)

    t, h = torch.zeros((), dtype=torch.float64), 1e-5
    difference = (along(t + h, 1) - along(t - h, 1)) / (2 * h)
    torch.testing.assert_close(along(t, 2), difference, rtol=1e-6, atol=1e-6)


@pytest.mark.xfail(
    strict=True, reason="parts of CSR cannot be read under a transform", raises=RuntimeError
)
def test_closed_over_csr():
    csr = torch.eye(2, dtype=torch.float64).to_sparse_csr()
    grad(lambda x: (csr.values() * x).sum())(X)


@pytest.mark.xfail(strict=True, reason="sparse tensors cannot be mapped over", raises=RuntimeError)
def test_vmap_of_sparse():
    stack = torch.stack([torch.eye(2).to_sparse_coo()] * 2)
    vmap(lambda A: A.values())(stack)


@pytest.mark.xfail(
    strict=True, reason="jacrev cannot stack sparse cotangents", raises=NotImplementedError
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_jacrev_of_a_sparse_argument():
    torch.func.jacrev(lambda A: torch.sparse.mm(A, torch.ones(2, 1)))(torch.eye(2).to_sparse_coo())


@pytest.mark.xfail(strict=True, reason="the compiler refuses sparse tensors", raises=Exception)
def test_compiled_sparse():
    csr = torch.eye(2, dtype=torch.float64).to_sparse_csr()
    torch.compile(lambda x: csr @ x, fullgraph=True, backend="eager")(X.unsqueeze(1))


@pytest.mark.xfail(strict=True, reason="legacy vmap fails on lazy conj", raises=RuntimeError)
def test_legacy_vmap_of_conj():
    x = torch.tensor([1 + 2j], requires_grad=True)
    torch.autograd.functional.jacobian(torch.conj, x, vectorize=True, strategy="forward-mode")


@pytest.mark.xfail(
    strict=True, reason="lazy conj is ignored in __torch_dispatch__", raises=AssertionError
)
def test_conj_while_tracing():
    seen = []
    library = torch.library.Library("canary_conj", "FRAGMENT")
    library.define("peek(Tensor x) -> Tensor")

    def peek(x):
        seen.append((x.conj() * 1).resolve_conj())
        return x.clone()

    library.impl("peek", peek, "CompositeExplicitAutograd")
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.tensor([1 + 2j])
    make_fx(torch.ops.canary_conj.peek)(x)
    assert seen[-1].imag.item() == -2


COMPILED_BUGS = {
    "vmap of hessian": "vmap(hessian(lambda x: x.pow(3).sin().sum()))(torch.ones(2, 3))",
    "jvp of jvp, with a constant made inside": (
        "jvp(lambda x: jvp(lambda x: x * torch.arange(3.0).sin(), (x,), (x,))[1],"
        " (torch.ones(3),), (torch.ones(3),))"
    ),
}


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="raises when compiled, for PyTorch's own ops")
@pytest.mark.parametrize("expression", COMPILED_BUGS.values(), ids=COMPILED_BUGS)
def test_compiled_transform(expression):
    assert compiles(expression)


@pytest.mark.slow
@pytest.mark.xfail(
    torch.__version__ < (2, 13), strict=True, reason="raises when compiled, for several arguments"
)
def test_compiled_jacobian_of_several_arguments():
    assert compiles("jacfwd(lambda x, y: x**3 * y, (0, 1))(torch.ones(3), torch.ones(3))")


def compiles(expression):
    """Try in a process of its own: a failure leaves functorch's stack in disorder."""
    program = (
        "import torch; from torch.func import hessian, jacfwd, jvp, vmap\n"
        f"print(torch.compile(lambda: {expression}, fullgraph=True, backend='aot_eager')())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.xfail(strict=True, reason="the compiler swaps the factors of a reflected matmul")
def test_compiled_matmul_of_foreign_class():
    class Left:
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return torch.ones(()) if isinstance(args[0], Left) else torch.zeros(())

    left = Left()
    assert torch.matmul(left, X) == 1
    compiled = torch.compile(lambda x: left @ x, fullgraph=True, backend="eager")
    assert compiled(X) == 1


TWICE = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="its number is a variable first, and then a constant"
)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [pytest.param((), marks=TWICE), (1,)], ids=str)
def test_what_takes_a_tensor_without_axes_is_compiled_once(shape):
    # So the checker gives its scales as many axes as what they scale.
    counter = CompileCounterWithBackend("aot_eager")
    torch.compile(lambda x: x * X, fullgraph=True, backend=counter)(X.new_ones(shape))
    assert counter.frame_count == 1


def test_a_csr_tensor_is_of_the_values_that_it_is_given():
    """Sampled products are written there: what `values()` returns cannot be conjugated."""
    values = torch.zeros(2, dtype=torch.complex128)
    crow, col = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
    at = torch.sparse_csr_tensor(crow, col, values, (2, 2), check_invariants=False)
    X = torch.tensor([[1j], [2j]])
    torch.sparse.sampled_addmm(at, X.to(values), X.mT.to(values), beta=0.0, out=at)
    assert values.tolist() == [-1, -4]


@pytest.mark.skipif(sys.platform != "linux", reason="the library is found by its name on Linux")
def test_mkl_is_found_where_it_is_built_in():
    assert (mkl.library() is not None) == torch.backends.mkl.is_available()


def test_an_mkl_that_reads_long_integers_is_left_alone(monkeypatch):
    monkeypatch.setenv("MKL_INTERFACE_LAYER", "ILP64,GNU")
    assert mkl.library.__wrapped__() is None


def test_no_other_module_uses_private_names():
    import tsgu_func

    root = pathlib.Path(tsgu_func.__file__).parent
    allowed = {"transforms.py"}
    private = (
        "torch._C",
        "torch._functorch",
        "torch._library",
        "torch._subclasses",
        "torch._decomp",
        "_C.",
        "import _pytree",
        "._pytree",
    )
    users = [
        path.name
        for path in root.rglob("*.py")
        if path.name not in allowed and any(name in path.read_text() for name in private)
    ]
    assert users == []
    assert _C is torch._C


@pytest.mark.xfail(
    strict=True, reason="vmap of the derivative of cdist is wrong", raises=AssertionError
)
def test_vmap_of_the_derivative_of_cdist():
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    distances = lambda x: torch.cdist(x, y)
    one_by_one = torch.func.jacrev(distances, chunk_size=1)(x)
    torch.testing.assert_close(torch.func.jacrev(distances)(x), one_by_one)
