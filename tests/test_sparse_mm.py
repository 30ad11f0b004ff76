"""sparse_mm on every kind of argument: layouts, batches, dtypes, gradients, errors, memory."""

import threading

import pytest
import torch
from torch.testing import assert_close

from tsgu_func import SparseMatrix, sparse_mm
from tsgu_func.cache import clear_cache
from tsgu_func.matrix.torch_sparse import from_torch
from tsgu_func.ops.products import sddmm, spmm
from tsgu_func.ops.triangular import triangular_solve
from tsgu_func.selfcheck.records.base import COL, ROW, SHAPE, matrix, randn, solvable
from tsgu_func.sparse_matmul import SparseMatMul


@pytest.fixture
def A(dtype):
    return matrix(ROW, COL, SHAPE, dtype)


def sparse(A, layout, index_dtype=torch.int64):
    if layout == torch.sparse_coo:
        return A.to_coo()
    s = A.pattern.structure
    crow, col = s.crow.to(index_dtype), s.col.to(index_dtype)
    return torch.sparse_csr_tensor(crow, col, A.values, A.shape, check_invariants=True)


LAYOUTS = [
    (torch.sparse_coo, torch.int64),
    (torch.sparse_csr, torch.int64),
    (torch.sparse_csr, torch.int32),
]


@pytest.mark.parametrize(("layout", "index_dtype"), LAYOUTS)
def test_gradient_keeps_layout_pattern_and_index_dtype(A, layout, index_dtype):
    T = sparse(A, layout, index_dtype).requires_grad_()
    B = randn(4, 3, dtype=A.dtype).requires_grad_()
    out = sparse_mm(T, B)
    assert_close(out, A.to_dense() @ B)
    G = randn(4, 3, dtype=A.dtype, seed=7)
    out.backward(G)
    assert_close(B.grad, A.to_dense().mH @ G)
    assert T.grad.layout == layout
    expected = (G @ B.detach().mH)[A.pattern.row.long(), A.pattern.col.long()]
    assert_close(T.grad.to_dense(), A.with_values(expected).to_dense())
    if layout == torch.sparse_csr:
        assert T.grad.col_indices().dtype == index_dtype
        assert T.grad.col_indices().tolist() == COL
    first = T.grad.to_dense().clone()
    sparse_mm(T, B).backward(G)
    assert_close(T.grad.to_dense(), 2 * first)


def test_uncoalesced(A):
    indices = torch.tensor([[3, 0, 3, 0], [2, 1, 2, 0]])
    T = torch.sparse_coo_tensor(indices, A.values[:4], (4, 4)).requires_grad_()
    B = randn(4, 2, dtype=A.dtype)
    out = sparse_mm(T, B)
    assert_close(out, T.detach().to_dense() @ B)
    G = randn(4, 2, dtype=A.dtype, seed=3)
    out.backward(G)
    mask = (T.detach().to_dense() != 0).to(A.dtype)
    assert_close(T.grad.to_dense(), (G @ B.mH) * mask)
    assert not T.is_coalesced()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_batch_of_torch_tensors(A, layout):
    D = torch.stack([A.to_dense(), A.T.to_dense()])
    T = D.to_sparse(layout=layout).requires_grad_()
    B = randn(2, 4, 3, dtype=A.dtype).requires_grad_()
    out = sparse_mm(T, B)
    assert_close(out, D @ B)
    G = randn(2, 4, 3, dtype=A.dtype, seed=3)
    out.backward(G)
    assert T.grad.layout == layout
    assert_close(T.grad.to_dense(), (G @ B.detach().mH) * (D != 0))
    assert_close(B.grad, D.mH @ G)


@pytest.mark.parametrize(
    ("lead", "right"),
    [
        ((), (3,)),
        ((), (2, 3)),
        ((2,), (2,)),
        ((2,), (1,)),
        ((2,), (3, 1)),
        ((2, 1), (3,)),
        ((1, 2), (3, 1)),
        ((2, 1, 3), (5, 1)),
        ((0,), (0,)),
        ((), (0,)),
    ],
)
def test_batches_broadcast(A, lead, right):
    batch = A.with_values(randn(*lead, A.nnz, dtype=A.dtype))
    B = randn(*right, 4, 2, dtype=A.dtype)
    assert_close(sparse_mm(batch, B), batch.to_dense() @ B)
    assert_close(batch @ B[..., 0, :, 0] if not right else batch @ B, batch.to_dense() @ B)
    x = randn(4, dtype=A.dtype)
    assert_close(sparse_mm(batch, x), batch.to_dense() @ x)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("m", [0, 1])
@pytest.mark.parametrize("p", [0, 1])
def test_nothing_stored(n, m, p, dtype):
    A = SparseMatrix.from_coo([], [], torch.zeros(0, dtype=dtype), (n, m))
    B = torch.ones(m, p, dtype=dtype, requires_grad=True)
    for T in (A, A.to_coo(), A.to_csr()):
        out = sparse_mm(T, B)
        assert_close(out.detach(), torch.zeros(n, p, dtype=dtype))
        assert_close(torch.autograd.grad(out.abs().sum(), B)[0], torch.zeros(m, p, dtype=dtype))


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_single(low):
    n = 4000
    A = SparseMatrix.from_csr([0, n], torch.arange(n), torch.full((n,), 0.1), (1, n)).to(low)
    B = torch.ones(n, 1, dtype=low, requires_grad=True)
    out = sparse_mm(A, B)
    assert out.dtype == low
    exact = A.values.double().sum()
    assert abs(out.item() - exact) / exact < torch.finfo(low).eps
    out.sum().backward()
    assert B.grad.dtype == low
    assert_close(B.grad, A.values.unsqueeze(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_single_precision(kind):
    A, B = matrix(ROW, COL, SHAPE, kind), randn(4, 20, dtype=kind)
    for p in (1, 3, 20):
        assert_close(A @ B[:, :p], A.to_dense() @ B[:, :p])
        assert_close(A.T @ B[:, :p], A.to_dense().mT @ B[:, :p])


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(compiled):
    A = matrix(ROW, COL, SHAPE, torch.float32)
    v, B = A.values.clone().requires_grad_(), randn(4, 2, dtype=torch.float32).requires_grad_()

    def f(v, B):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return sparse_mm(A.with_values(v), B)

    out = (torch.compile(f, fullgraph=True, backend="aot_eager") if compiled else f)(v, B)
    assert out.dtype == torch.bfloat16
    assert_close(out.float(), A.to_dense() @ B, rtol=2e-2, atol=2e-2)
    out.sum().backward()
    assert v.grad.dtype == B.grad.dtype == torch.float32
    assert_close(B.grad, A.to_dense().mT @ torch.ones(4, 2), rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sparse_mm(A, B.detach().bfloat16()).dtype == torch.bfloat16
        assert sparse_mm(A.to(torch.float64), B.double()).dtype == torch.float64


def test_argument_of_grad_as_coo(A):
    B = randn(4, 2, dtype=A.dtype)
    gradient = torch.func.grad(lambda T: sparse_mm(T, B).abs().square().sum())(A.to_coo())
    expected = torch.func.grad(lambda A: sparse_mm(A, B).abs().square().sum())(A)
    assert_close(gradient.to_dense(), expected.to_dense())


COO = torch.eye(3).to_sparse_coo()
ERRORS = [
    (COO, [1.0], "B is a dense tensor; got list"),
    (COO, COO, "B is a dense tensor; got a sparse_coo tensor"),
    (3, torch.ones(3, 1), "A is a SparseMatrix or a sparse COO or CSR tensor; got int"),
    (torch.eye(3), torch.ones(3, 1), "from_dense"),
    (torch.eye(3).to_sparse_csc(), torch.ones(3, 1), "to_sparse_csr"),
    (COO, torch.ones(2, 1), r"as many columns as B has rows; got A \(3, 3\) and B \(2, 1\)"),
    (COO, torch.ones(3), "both matrices or both batches"),
    (COO, torch.ones(1, 3, 1), "both matrices or both batches"),
    (torch.stack([COO, COO]), torch.ones(3, 3, 1), "one batch size; got 2 and 3"),
    (COO, torch.ones(3, 1).double(), "one dtype; got torch.float32 and torch.float64"),
    (COO.to(torch.int64), torch.ones(3, 1), "floating-point or complex; got torch.int64"),
    (COO, torch.ones(3, 1, device="meta"), "one device; got cpu and meta"),
    (SparseMatrix.from_torch(COO), torch.tensor(1.0), "got a number"),
    (SparseMatrix.from_torch(COO), torch.ones(4), "as many columns"),
    (
        SparseMatrix.from_dense(torch.ones(2, 3, 3)),
        torch.ones(5, 3, 1),
        r"batches of A and B broadcast; got \(2,\) and \(5,\)",
    ),
]


@pytest.mark.parametrize(("A", "B", "message"), ERRORS)
def test_errors(A, B, message):
    with pytest.raises(ValueError, match=message):
        sparse_mm(A, B)


def test_hybrid_tensor_is_refused():
    hybrid = torch.ones(3, 3, 2).to_sparse(2)
    with pytest.raises(ValueError, match="no dense axes"):
        sparse_mm(hybrid, torch.ones(3, 3, 2))


def test_transforms_of_sparse_tensors_name_the_way_out():
    stack = torch.stack([COO, COO])
    with pytest.raises(ValueError, match="SparseMatrix"):
        torch.func.vmap(lambda T: sparse_mm(T, torch.ones(3, 1)))(stack)


def test_pattern_of_torch_tensors_is_found_again_by_content(A):
    clear_cache()
    for layout in (torch.sparse_coo, torch.sparse_csr):
        first, _ = from_torch(sparse(A, layout))
        again, _ = from_torch(sparse(A * 2.0, layout))
        assert first == again
    other, _ = from_torch(A.T.to_csr())
    assert other != first
    changed = sparse(A, torch.sparse_csr)
    changed.col_indices()[0] = 0
    changed.col_indices()[1] = 3
    B = torch.eye(4, dtype=A.dtype)
    assert_close(sparse_mm(changed, B), changed.to_dense())


def test_invalid_torch_tensor_is_refused():
    bad = torch.sparse_coo_tensor(
        torch.tensor([[0], [7]]), torch.ones(1), (3, 3), check_invariants=False, is_coalesced=True
    )
    with pytest.raises(ValueError, match=r"col\[0\] = 7 is out of range"):
        sparse_mm(bad, torch.ones(3, 1))


def test_arguments_are_left_alone_and_shared_by_threads(A):
    T, B = A.to_coo(), randn(4, 40, dtype=A.dtype)
    before = T.to_dense().clone(), B.clone()
    results = []
    threads = [threading.Thread(target=lambda: results.append(sparse_mm(T, B))) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 8
    assert all(torch.equal(r, results[0]) for r in results)
    assert_close(results[0], before[0] @ before[1])
    assert torch.equal(T.to_dense(), before[0])
    assert torch.equal(B, before[1])


def test_change_between_forward_and_backward_is_noticed(A):
    v, B = A.values.clone().requires_grad_(), randn(4, 2, dtype=A.dtype).requires_grad_()
    out = sparse_mm(A.with_values(v * 1), B * 1)
    out.abs().sum().backward(retain_graph=True)
    b = (B * 1).detach().requires_grad_()
    scaled = b * 1
    out = sparse_mm(A.with_values(v), scaled)
    with torch.no_grad():
        scaled.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.abs().sum().backward()


def test_only_what_a_rule_uses_is_kept(A):
    """B may change where only its own gradient is asked for."""
    B = randn(4, 2, dtype=A.dtype).requires_grad_()
    scaled = B * 1
    out = sparse_mm(A, scaled)
    with torch.no_grad():
        scaled.mul_(2)
    out.abs().square().sum().backward()
    assert B.grad is not None


def test_memory_of_the_gradient_is_that_of_the_pattern():
    """A dense gradient of this matrix would take 400 GB."""
    n = 316_000
    row = torch.arange(n)
    A = SparseMatrix.from_coo(row, row.flip(0), torch.ones(n), (n, n))
    gradient = torch.func.grad(lambda A, B: (A @ B).square().sum())(A, torch.ones(n, 2))
    assert gradient.pattern == A.pattern
    assert_close(gradient.values, torch.full((n,), 4.0))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_function_class(A, layout):
    T, B = sparse(A, layout).requires_grad_(), randn(4, 2, dtype=A.dtype)
    SparseMatMul.apply(T, B).abs().sum().backward()
    assert T.grad.layout == layout
    closed = sparse(A, layout)
    D = A.to_dense()
    twice = lambda f: torch.func.jvp(lambda X: torch.func.jvp(f, (X,), (B,))[1], (B,), (B,))[1]
    ours = twice(lambda X: SparseMatMul.apply(closed, X).sin())
    assert_close(ours, twice(lambda X: (D @ X).sin()))


def test_expanded_values_are_a_batch(dtype):
    # A batch of one memory: the loop must not read past it.
    A = matrix(ROW, COL, SHAPE, dtype)
    B = randn(300, SHAPE[1], 2, dtype=dtype)
    batch = A.with_values(A.values.expand(300, -1))
    assert_close(sparse_mm(batch, B), A.to_dense() @ B)
    loss = lambda v: sparse_mm(A.with_values(v.expand(300, -1)), B).abs().square().sum()
    each = lambda v: torch.stack([sparse_mm(A.with_values(v), b) for b in B]).abs().square().sum()
    assert_close(torch.func.grad(loss)(A.values), torch.func.grad(each)(A.values))


def test_primitives_refuse_batches_that_differ(dtype):
    s = matrix(ROW, COL, SHAPE, dtype).pattern.structure
    values, B = randn(2, s.nnz, dtype=dtype), randn(3, SHAPE[1], 2, dtype=dtype)
    for v, right in ((values, B), (values, B[0]), (values[0], B)):
        with pytest.raises(ValueError, match="batch"):
            spmm(v, right, s.crow, s.col, s.cols, False)
    with pytest.raises(ValueError, match="batch"):
        sddmm(B, B[:2], s.crow, s.col, s.cols)


def test_primitives_refuse_sizes_that_differ(dtype):
    s = matrix(ROW, COL, SHAPE, dtype).pattern.structure
    values, B = randn(s.nnz, dtype=dtype), randn(SHAPE[1], 2, dtype=dtype)
    for v, right in ((values[1:], B), (values, B[1:])):
        with pytest.raises(ValueError, match="as the pattern says"):
            spmm(v, right, s.crow, s.col, s.cols, False)
    for X, Y in ((B[1:], B), (B, B[1:]), (B, B[:, 1:])):
        with pytest.raises(ValueError, match="as the pattern says"):
            sddmm(X, Y, s.crow, s.col, s.cols)
    S = solvable(dtype)
    s = S.pattern.structure
    with pytest.raises(ValueError, match="B has 3 rows"):
        triangular_solve(S.values, B, s.crow, s.col, s.cols, False, True, False)
