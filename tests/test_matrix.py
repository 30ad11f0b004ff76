"""SparsityPattern and SparseMatrix: construction, checks, algebra, as values, in threads."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import optree
import pytest
import scipy.sparse
import torch
from torch.func import grad, jacfwd, vmap
from torch.testing import assert_close

from tsgu_func import SparseMatrix, SparsityPattern, sparse_mm
from tsgu_func.kernels.structure import index_dtype, patterns, structure_of
from tsgu_func.selfcheck.records.base import COL, ROW, SHAPE, matrix
from tsgu_func.utils import block_diag, block_split


@pytest.fixture
def A(dtype):
    return matrix(ROW, COL, SHAPE, dtype)


def test_attributes(A, dtype):
    assert A.shape == (4, 4)
    assert (A.nnz, A.ndim, A.dtype, A.device) == (5, 2, dtype, torch.device("cpu"))
    assert A.pattern.row.tolist() == ROW
    assert A.pattern.col.tolist() == COL
    assert A.pattern.row.dtype == torch.int32
    batch = A.with_values(A.values.expand(2, 3, 5))
    assert batch.shape == (2, 3, 4, 4)
    assert str(dtype) in repr(batch)
    assert "nnz=5" in repr(batch)


def test_index_dtype_grows_with_the_matrix():
    assert index_dtype(2**31 - 1, 5, 5) == torch.int32
    assert index_dtype(5, 2**31, 5) == torch.int64
    assert index_dtype(5, 5, 2**31) == torch.int64


def test_wide_matrix_uses_wide_indices():
    col = torch.tensor([5, 2**33])
    A = SparseMatrix.from_coo([0, 2], col, torch.tensor([2.0, 3.0]), (3, 2**34))
    assert A.pattern.col.dtype == torch.int64
    assert A.pattern.col.tolist() == [5, 2**33]
    assert_close(A.diagonal(), torch.zeros(3))


@pytest.mark.parametrize(
    ("row", "col", "shape", "message"),
    [
        ([0, 3], [0, 0], (3, 2), r"row\[1\] = 3 is out of range: indices run from 0 to 2"),
        ([0, -1], [0, 0], (3, 2), r"row\[1\] = -1 is out of range"),
        ([0, 1], [2, 0], (3, 2), r"col\[0\] = 2 is out of range"),
        ([0], [0], (3, 0), r"col\[0\] = 0 is out of range: that axis is empty"),
        ([0, 1, 2], [0, 1], (3, 2), "same length|one value for each"),
        ([0, 1], [0, 1], (3,), "shape"),
        ([0, 1], [0, 1], (3, -1), "shape"),
    ],
)
def test_bad_coo(row, col, shape, message):
    with pytest.raises(ValueError, match=message):
        SparseMatrix.from_coo(row, col, torch.ones(2 if len(row) > 1 else 1), shape)


@pytest.mark.parametrize(
    ("crow", "col", "message"),
    [
        ([0, 1], [0, 1], "crow has one entry more than there are rows, 3; got 2"),
        ([1, 1, 2], [0, 1], r"crow starts with 0; got crow\[0\] = 1"),
        ([0, 2, 1], [0, 1], r"crow never decreases; got crow\[2\] = 1"),
        ([0, 1, 3], [0, 1], "crow ends with the number of entries"),
        ([0, 1, 2], [0, 9], r"col\[1\] = 9 is out of range"),
    ],
)
def test_bad_csr(crow, col, message):
    with pytest.raises(ValueError, match=message):
        SparseMatrix.from_csr(crow, col, torch.ones(2), (2, 2))
    with pytest.raises(ValueError, match=message):
        SparsityPattern(torch.tensor(crow), torch.tensor(col), (2, 2))


def test_kinds_are_checked():
    with pytest.raises(TypeError, match="integers"):
        SparseMatrix.from_coo(torch.ones(1), torch.ones(1), torch.ones(1), (2, 2))
    with pytest.raises(TypeError, match="pattern is a SparsityPattern"):
        SparseMatrix([0], torch.ones(1))  # pyright: ignore[reportArgumentType]
    pattern = SparsityPattern(torch.tensor([0, 1]), torch.tensor([0]), (1, 1))
    with pytest.raises(TypeError, match="values is a dense tensor"):
        SparseMatrix(pattern, [1.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one entry for each of the 1"):
        SparseMatrix(pattern, torch.ones(2))
    with pytest.raises(ValueError, match="sorts them"):
        SparsityPattern(torch.tensor([0, 2]), torch.tensor([1, 0]), (1, 2))
    for make in (SparseMatrix.from_torch, SparseMatrix.from_scipy):
        with pytest.raises(TypeError, match="takes a"):
            make(torch.ones(2, 2))
    with pytest.raises(TypeError, match="dense"):
        SparseMatrix.from_dense(torch.eye(2).to_sparse_coo())


def test_unsorted_csr_with_duplicates():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    A = SparseMatrix.from_csr([0, 3, 4], [2, 0, 2, 1], values, (2, 3))
    assert_close(A.to_dense(), torch.tensor([[2.0, 0.0, 5.0], [0.0, 8.0, 0.0]]))
    twice = jacfwd(lambda v: SparseMatrix.from_csr([0, 3, 4], [2, 0, 2, 1], v, (2, 3)).values)
    assert_close(twice(values).sum(0), torch.ones(4))


def test_batched_from_dense():
    D = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
    A = SparseMatrix.from_dense(D)
    assert A.shape == (2, 1, 2)
    assert A.nnz == 2
    assert_close(A.to_dense(), D)


def test_scipy_formats():
    D = np.array([[1.0, 0, 2], [0, 0, 3]])
    for kind in ("csr", "csc", "coo", "lil", "dok", "dia", "bsr"):
        for make in (scipy.sparse.csr_matrix, scipy.sparse.csr_array):
            A = SparseMatrix.from_scipy(make(D).asformat(kind))
            assert_close(A.to_dense(), torch.from_numpy(D))


def test_algebra(A):
    D = A.to_dense()
    B = matrix([0, 3], [1, 0], SHAPE, A.dtype)
    assert_close((A + B).to_dense(), D + B.to_dense())
    assert_close((A - A.T).to_dense(), D - D.mT)
    assert_close((-A * 2 / 4.0).to_dense(), -D / 2)
    assert_close((2 * A).to_dense(), 2 * D)
    assert_close(A.mH.to_dense(), D.mH)
    assert_close(A.conj().to_dense(), D.conj())
    assert_close(A.diagonal(), D.diagonal())
    assert_close(matrix([0, 1], [2, 1], (2, 3), A.dtype).T.diagonal().shape, torch.Size([2]))
    x = torch.arange(8.0).to(A.dtype).view(2, 4)
    assert_close(x @ A, x @ D)
    assert_close(x[0] @ A, x[0] @ D)
    assert_close(A @ x[0], D @ x[0])
    assert (A + A).pattern == A.pattern
    with pytest.raises(ValueError, match="one shape"):
        A + matrix([0], [0], (2, 2), A.dtype)
    for wrong in (lambda: A + 1, lambda: A * "x", lambda: A @ 3):
        with pytest.raises(TypeError):
            wrong()


def test_algebra_is_differentiable(A):
    if A.dtype.is_complex:
        A = A.with_values(A.values.real)
    B = matrix([0, 3], [1, 0], SHAPE, A.dtype)
    f = lambda v: (A.with_values(v) * 3.0 + B.T - A.with_values(v).T).to_dense().pow(3).sum()
    D = A.to_dense()
    expected = grad(lambda D: (D * 3 + B.to_dense().mT - D.mT).pow(3).sum())(D)
    row, col = A.pattern.row.long(), A.pattern.col.long()
    assert_close(grad(f)(A.values), expected[row, col])


def test_batch(A):
    batch = A.with_values(torch.stack([A.values, 2 * A.values]))
    assert len(batch) == 2
    assert_close([m.to_dense() for m in batch], list(batch.to_dense()))
    assert_close(batch[1].to_dense(), 2 * A.to_dense())
    assert batch[None].shape == (1, 2, 4, 4)
    assert batch[torch.tensor([True, False])].shape == (1, 4, 4)
    assert_close((batch * torch.tensor([1.0, 0.5])[:, None, None]).to_dense()[1], A.to_dense())
    for wrong in (lambda: len(A), lambda: list(A), lambda: iter(A)):
        with pytest.raises(TypeError, match="no batch"):
            wrong()
    with pytest.raises(ValueError, match="index it first"):
        batch.to_csr()


def test_to(A):
    assert A.to(torch.complex64).dtype == torch.complex64
    assert A.to("cpu", torch.complex64).pattern == A.pattern
    moved = A.to("meta")
    assert moved.device.type == "meta"
    assert moved.shape == A.shape


def test_equality_and_hash(A):
    same = SparsityPattern(A.pattern.crow, A.pattern.col, (4, 4))
    assert A.pattern == same
    assert hash(A.pattern) == hash(same)
    assert A.pattern.same_pattern(same)
    assert not A.pattern.same_pattern(A.pattern.T)
    assert A.pattern == A.pattern.T.T
    assert hash(A.pattern) == hash(A.pattern.T.T)
    assert A.pattern != A.pattern.T
    assert A.pattern != 3


def test_copies_and_pickles(A):
    assert copy.copy(A.pattern) is A.pattern
    deep = copy.deepcopy(A)
    assert deep.pattern is A.pattern
    assert deep.values.data_ptr() != A.values.data_ptr()
    for M in (A, A.T):
        B, C = pickle.loads(pickle.dumps((M, M * 2.0)))
        assert B.pattern == C.pattern
        assert B.pattern.same_pattern(M.pattern)
        assert_close(B.to_dense(), M.to_dense())
    x = torch.ones(4, 1, dtype=A.dtype)
    gradient = grad(lambda A: (A @ x).abs().sum())(A)
    assert_close(pickle.loads(pickle.dumps(gradient)).values, gradient.values)


def test_is_a_pytree(A):
    leaves, spec = torch.utils._pytree.tree_flatten({"A": A})
    assert len(leaves) == 1
    assert torch.utils._pytree.tree_unflatten([object()], spec)["A"].pattern == A.pattern
    assert "values=" in repr(torch.utils._pytree.tree_unflatten([None], spec)["A"])
    keys = torch.utils._pytree.tree_flatten_with_path(A)[0][0][0]
    assert torch.utils._pytree.keystr(keys) == ".values"
    doubled = optree.tree_map(lambda v: 2 * v, A, namespace="tsgu_func")
    assert_close(doubled.to_dense(), 2 * A.to_dense())
    assert optree.tree_accessors(A, namespace="tsgu_func")[0](A) is A.values


def test_vmap_maps_values(A):
    batch = A.with_values(torch.stack([A.values, 2 * A.values]))
    x = torch.ones(4, 1, dtype=A.dtype)
    assert_close(vmap(lambda A: A @ x)(batch), batch.to_dense() @ x)
    spec = A.with_values(torch.zeros(A.nnz))._of(A.pattern, 0)
    assert_close(vmap(lambda A, y: A @ y, in_dims=(spec, None))(batch, x), batch.to_dense() @ x)
    assert vmap(lambda A: A * 2.0)(batch).shape == (2, 4, 4)


def test_pieces_are_derived_once_by_many_threads(A):
    x = torch.ones(4, 3, dtype=A.dtype)
    expected = A.to_dense().mT @ x
    results, errors = [], []
    barrier = threading.Barrier(8)

    def work():
        try:
            barrier.wait()
            B = x.clone().requires_grad_()
            out = sparse_mm(A.T, B)
            out.abs().sum().backward()
            results.append((out.detach(), id(A.pattern.structure.transpose)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors
    assert len({piece for _, piece in results}) == 1
    for out, _ in results:
        assert_close(out, expected)


def test_kernels_find_the_pattern_while_it_lives(dtype):
    A = matrix([0, 4, 6], [1, 0, 2], (7, 3), dtype)  # which nobody else holds
    s = A.pattern.structure
    assert structure_of(s.crow.detach(), s.col.detach(), s.cols) is s
    gone = weakref.ref(s)
    del A, s
    patterns.clear()
    gc.collect()
    assert gone() is None


def test_changed_indices_are_another_structure():
    crow, col = torch.tensor([0, 1]), torch.tensor([0])
    first = structure_of(crow, col, 2)
    assert structure_of(crow, col, 2) is first
    col += 1
    assert structure_of(crow, col, 2) is not first


def test_blocks(A):
    B = matrix([0, 1], [2, 0], (2, 3), A.dtype)
    packed = block_diag([A, B, A.T])
    assert_close(packed.to_dense(), torch.block_diag(*(M.to_dense() for M in (A, B, A.T))))
    parts = [torch.ones(M.shape[1], 2, dtype=A.dtype) for M in (A, B, A.T)]
    split = block_split(packed @ torch.cat(parts), [A, B, A.T])
    assert_close(list(split), [M.to_dense() @ p for M, p in zip((A, B, A.T), parts, strict=True)])
    with pytest.raises(ValueError, match="one matrix or more"):
        block_diag([])
    with pytest.raises(ValueError, match="rows"):
        block_split(torch.ones(3), [A])


def test_made_under_a_transform_and_used_after(dtype):
    kept = []

    def f(v):
        A = SparseMatrix.from_coo([1, 0], [0, 1], v, (2, 2))
        kept.append(A.pattern)
        return A.to_dense().abs().square().sum()

    values = torch.ones(2, dtype=dtype)
    grad(f)(values)
    vmap(f)(torch.stack([values, values]))
    with torch.inference_mode():
        kept.append(SparseMatrix.from_coo([1, 0], [0, 1], values, (2, 2)).pattern)
        _ = kept[-1].row, kept[-1].T.col
    for pattern in kept:
        v = values.clone().requires_grad_()
        A = SparseMatrix(pattern, v)
        (A.to_dense().abs().sum() + (A.T @ torch.ones(2, dtype=dtype)).abs().sum()).backward()
        assert_close(v.grad, 2 * values)


# --------------------------------------------------------------------------- saved, and in modules


@pytest.mark.parametrize("transposed", [False, True])
def test_saved_and_loaded_with_weights_only(tmp_path, dtype, transposed):
    A = SparseMatrix.from_coo([1, 0, 1], [0, 2, 1], torch.tensor([1.0, 2, 3], dtype=dtype), (2, 3))
    A = A.T if transposed else A
    torch.save({"A": A}, tmp_path / "A.pt")
    loaded = torch.load(tmp_path / "A.pt", weights_only=True)["A"]
    assert loaded.pattern == A.pattern
    assert torch.equal(loaded.values, A.values)


class Layer(torch.nn.Module):
    """The values are a parameter; the pattern is static."""

    def __init__(self, A):
        super().__init__()
        self.A, self.values = A, torch.nn.Parameter(A.values)

    def forward(self, B):
        A = self.A.to(self.values.device).with_values(self.values)
        return sparse_mm(A, B)


def test_the_values_of_a_module_are_trained_saved_and_converted():
    A = SparseMatrix.from_dense(torch.tensor([[1.0, 2], [0, 3]]))
    layer, B = Layer(A), torch.ones(2, 1)
    before = layer(B)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(B).sum().backward()
    optimizer.step()
    assert torch.allclose(layer(B), before - 0.1 * torch.tensor([[2.0], [1.0]]))
    other = Layer(A)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(B), layer(B))
    assert layer.double()(B.double()).dtype == torch.float64


def test_a_subclass_is_a_pytree_as_well():
    class Named(SparseMatrix):
        """A matrix with another name."""

    A = Named.from_dense(torch.eye(2))
    assert type(A) is Named
    gradient = torch.func.grad(lambda A: (A @ torch.ones(2)).sum())(A)
    assert type(gradient) is Named
    assert torch.equal(gradient.values, torch.ones(2))
