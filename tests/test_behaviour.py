"""What every op owes its caller: inputs left alone, results of their own, graphs that hold."""

import pickle
import threading
from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from tsgu_func import (
    SparseMatrix,
    gather_mm,
    segment_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_triangular_solve,
)
from tsgu_func.selfcheck.records.base import matrix, randn, solvable
from tsgu_func.solvers import SuperLU
from tsgu_func.sparse_lstsq import SparseGenericLstsq
from tsgu_func.sparse_matmul import SparseMatMul
from tsgu_func.sparse_solve import SparseGenericSolve, SparseTriangularSolve

LAYOUTS = [torch.sparse_coo, torch.sparse_csr]
pytestmark = pytest.mark.usefixtures("device")


@dataclass(frozen=True)
class Op:
    """A public function of a sparse matrix and a dense one, or of two dense tensors."""

    function: object
    shape: tuple[int, int] | None  # of the sparse matrix

    def matrix(self, dtype):
        if self.shape == (3, 3):
            return solvable(dtype)
        A = matrix([0, 1, 1, 2, 3], [0, 0, 1, 1, 0], (4, 2), dtype)
        return A.with_values(A.values + torch.tensor([2.0, 1, 2, 1, 1]))

    def right(self, dtype, columns=2):
        rows = 4 if self.function is sparse_generic_lstsq else self.shape[1]
        return randn(rows, columns, dtype=dtype)


OPS = {
    "sparse_mm": Op(sparse_mm, (4, 2)),
    "sparse_triangular_solve": Op(sparse_triangular_solve, (3, 3)),
    "sparse_generic_solve": Op(lambda A, B: sparse_generic_solve(A, B, solve=SuperLU()), (3, 3)),
    "sparse_generic_lstsq": Op(sparse_generic_lstsq, (4, 2)),
}
# Made on the CPU, where indices may be whatever the device of the data.
INDEX, LENGTHS = torch.tensor([2, 0, 2, 1, 0]), torch.tensor([2, 0, 3])
INDEXED = {
    "gather_mm": lambda a, b: gather_mm(a, b, INDEX),
    "segment_mm": lambda a, b: segment_mm(a, b, LENGTHS),
}


def dense_pair(dtype):
    return randn(5, 3, dtype=dtype), randn(3, 3, 2, dtype=dtype, seed=2)


def calls(name, dtype):
    """Return a function of two tensors, and the tensors: values and B, or a and b."""
    if name in INDEXED:
        return INDEXED[name], dense_pair(dtype)
    op = OPS[name]
    A = op.matrix(dtype)
    return (lambda v, B: op.function(A.with_values(v), B)), (A.values.clone(), op.right(dtype))


EVERY = [*OPS, *INDEXED]


# Substitution and solves keep their solution, not the right-hand side.
NOT_KEPT = {("sparse_triangular_solve", 1), ("sparse_generic_solve", 1)}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("which", [0, 1])
def test_change_between_forward_and_backward_is_noticed(name, which, dtype):
    f, args = calls(name, dtype)
    leaves = [a.requires_grad_() for a in args]
    used = [leaf * 1 for leaf in leaves]
    loss = f(*used).abs().sum()
    expected = torch.autograd.grad(loss, leaves, retain_graph=True)
    with torch.no_grad():
        used[which].mul_(2)
    if (name, which) in NOT_KEPT:
        assert_close(torch.autograd.grad(loss, leaves), expected)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("name", EVERY)
def test_results_are_repeatable_and_own_their_memory(name, dtype):
    f, args = calls(name, dtype)
    before = [a.clone() for a in args]
    storages = {a.untyped_storage().data_ptr() for a in args}
    first, again = f(*args), f(*args)
    assert torch.equal(first, again)
    assert first.untyped_storage().data_ptr() not in storages
    assert first.untyped_storage().data_ptr() != again.untyped_storage().data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(args, before, strict=True))
    assert first.dtype == args[0].dtype


@pytest.mark.parametrize("name", EVERY)
def test_gradients_accumulate_and_graphs_are_retained(name, dtype):
    f, args = calls(name, dtype)
    leaves = [a.requires_grad_() for a in args]
    loss = f(*leaves).abs().square().sum()
    loss.backward(retain_graph=True)
    first = [a.grad.clone() for a in leaves]
    loss.backward()
    for leaf, once in zip(leaves, first, strict=True):
        assert_close(leaf.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_only_what_is_asked_for_is_differentiated(name, needs, dtype):
    f, args = calls(name, dtype)
    everything = [a.clone().requires_grad_() for a in args]
    expected = torch.autograd.grad(f(*everything).abs().sum(), everything)
    some = [a.requires_grad_(need) for a, need in zip(args, needs, strict=True)]
    out = f(*some)
    assert out.requires_grad == any(needs)
    if any(needs):
        out.abs().sum().backward()
    for a, need, grad in zip(some, needs, expected, strict=True):
        assert (a.grad is not None) == need
        if need:
            assert_close(a.grad, grad)


@pytest.mark.parametrize("name", EVERY)
def test_strides(name, dtype):
    f, (first, second) = calls(name, dtype)
    expected = f(first, second)
    wide = torch.stack([second, second + 1], -1)
    offset = torch.cat([second.flatten()[:1], second.flatten()])[1:].view(second.shape)
    for strided in (second.mT.contiguous().mT, wide[..., 0], offset):
        assert_close(f(first, strided), expected)
    sliced = torch.stack([first, first + 1], -1)[..., 0]
    assert_close(f(sliced, second), expected)
    expanded = second[..., :1].expand_as(second)
    assert_close(f(first, expanded), f(first, expanded.contiguous()))
    lazy = second.conj()
    assert_close(f(first.conj(), lazy), f(first.conj().resolve_conj(), lazy.resolve_conj()))
    out, pull = torch.func.vjp(f, first, second)
    G = randn(*out.shape, dtype=dtype, seed=8)
    assert_close(pull(G.mT.contiguous().mT), pull(G))
    assert_close(pull(G[..., :1].expand_as(G)), pull(G[..., :1].expand_as(G).contiguous()))


@pytest.mark.parametrize("name", EVERY)
def test_eight_threads(name, dtype):
    f, args = calls(name, dtype)
    leaves = [a.requires_grad_() for a in args]
    results = []

    def work():
        results.append(torch.autograd.grad(f(*leaves).abs().sum(), leaves))

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 8
    for result in results:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_devices_differ(name, device, dtype):
    f, args = calls(name, dtype)
    assert f(*args).device.type == device
    with pytest.raises(ValueError, match=f"one device; got {device}.*meta"):
        f(args[0], args[1].to("meta"))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_autocast(name, given, device):
    """Products go down to the lower dtype, solves up to the one that they are computed in."""
    f, args = calls(name, torch.float32)
    expected = f(*args)
    leaves = [a.to(given).requires_grad_() for a in args]
    with torch.autocast(device, dtype=torch.bfloat16):
        out = f(*leaves)
    assert out.dtype == (torch.bfloat16 if name in {"sparse_mm", *INDEXED} else torch.float32)
    assert_close(out.float(), expected, rtol=0.1, atol=0.1)
    gradients = torch.autograd.grad(out.float().sum(), leaves)
    assert all(g.dtype == given for g in gradients)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "name", "others"),
    [
        (SparseMatMul, "sparse_mm", ()),
        (SparseTriangularSolve, "sparse_triangular_solve", (True, False, False)),
        (SparseGenericSolve, "sparse_generic_solve", (SuperLU(), None, {})),
        (SparseGenericLstsq, "sparse_generic_lstsq", (None, None)),
    ],
)
def test_classes(function, name, others, dtype):
    """They are autograd functions by name, and `apply` is under every transform."""
    assert issubclass(function, torch.autograd.Function)
    assert pickle.loads(pickle.dumps(function)) is function
    A, B = OPS[name].matrix(dtype), OPS[name].right(dtype)
    expected = OPS[name].function(A, B)
    assert_close(function.forward(A, B, *others), expected)
    assert_close(function.apply(A, B, *others), expected)
    batch = torch.stack([B, 2 * B])
    mapped = torch.func.vmap(lambda B: function.apply(A, B, *others))(batch)
    assert_close(mapped, torch.stack([expected, 2 * expected]))

    def curvature(f):
        slope = torch.func.grad(lambda v: f(A.with_values(v), B).abs().square().sum())
        return torch.func.jvp(slope, (A.values,), (A.values,))[1]

    ours = curvature(lambda A, B: function.apply(A, B, *others))
    assert_close(ours, curvature(OPS[name].function))

    loss = lambda f: lambda v: f(A.with_values(v), B).abs().square().sum()
    compiled = torch.compile(
        loss(lambda A, B: function.apply(A, B, *others)), backend="aot_eager", fullgraph=True
    )
    v = A.values.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(compiled(v), v)
    assert_close(gradient, torch.autograd.grad(loss(OPS[name].function)(v), v)[0])


# ------------------------------------------------------------------------ torch sparse tensors


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_tensors_are_left_alone(name, layout, dtype):
    op = OPS[name]
    A = op.matrix(dtype).to_dense().to_sparse(layout=layout)
    if layout == torch.sparse_coo:  # the same, without the flag
        A = torch.sparse_coo_tensor(A.indices(), A.values(), A.shape)
    flag = layout == torch.sparse_coo and A.is_coalesced()
    before, B = A.to_dense(), op.right(dtype)
    A.requires_grad_()
    op.function(A, B).abs().sum().backward()
    assert torch.equal(A.detach().to_dense(), before)
    assert A.grad.layout == layout
    assert layout != torch.sparse_coo or A.is_coalesced() == flag


@pytest.mark.parametrize("name", OPS)
def test_coo_as_the_argument(name, dtype):
    op = OPS[name]
    A, B = op.matrix(dtype), op.right(dtype)
    loss = lambda A: op.function(A, B).abs().square().sum()
    expected = torch.func.grad(loss)(A).to_dense()
    coo = A.to_coo()
    assert_close(torch.func.grad(loss)(coo).to_dense(), expected)
    out, pull = torch.func.vjp(loss, coo)
    assert_close(pull(torch.ones_like(out))[0].to_dense(), expected)


@pytest.mark.parametrize("name", OPS)
def test_what_pytorch_cannot_map_over_names_the_way_out(name, dtype):
    op = OPS[name]
    A, B = op.matrix(dtype).to_coo(), op.right(dtype)
    with pytest.raises(ValueError, match="SparseMatrix"):
        torch.func.vmap(lambda A: op.function(A, B))(torch.stack([A, A]))


@pytest.mark.parametrize("name", OPS)
def test_second_derivative_at_a_leaf(name, dtype):
    """PyTorch's sparse constructors drop part of a graph, but not at a leaf."""
    op = OPS[name]
    A, B = op.matrix(dtype), op.right(dtype)
    v = A.values.clone().requires_grad_()
    w = randn(A.nnz, dtype=dtype, seed=9)

    def slope(gradient):
        return (gradient.conj() * w).sum().real

    first = torch.autograd.grad(
        op.function(A.with_values(v), B).abs().square().sum(), v, create_graph=True
    )[0]
    expected = torch.autograd.grad(slope(first) if dtype.is_complex else (first * w).sum(), v)[0]
    coo = A.to_coo().requires_grad_()
    first = torch.autograd.grad(op.function(coo, B).abs().square().sum(), coo, create_graph=True)[0]
    values = first.coalesce().values()
    second = torch.autograd.grad(slope(values) if dtype.is_complex else (values * w).sum(), coo)[0]
    assert_close(second.to_dense(), A.with_values(expected).to_dense())


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_memory_is_that_of_the_pattern(name):
    """A dense gradient of this matrix would take 400 GB."""
    n = 316_000
    i = torch.arange(n)
    A = SparseMatrix.from_coo(i, i, torch.full((n,), 2.0), (n, n))
    gradient = torch.func.grad(lambda A: OPS[name].function(A, torch.ones(n, 2)).sum())(A)
    assert gradient.pattern == A.pattern
    assert bool(torch.isfinite(gradient.values).all())
