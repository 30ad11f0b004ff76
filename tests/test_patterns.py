"""One pattern for given indices, which nobody can write to, whatever they came from or went to."""

import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.func import grad, jvp, linearize, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from tsgu_func import SparseMatrix, SparsityPattern, sparse_generic_solve, sparse_mm
from tsgu_func.cache import cache_info, cache_limit, clear_cache
from tsgu_func.kernels import structure as structures
from tsgu_func.matrix import torch_sparse
from tsgu_func.utils import block_diag
from tsgu_func.utils.reading import readable

D = torch.tensor([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]], dtype=torch.float64)
ROW, COL = D.nonzero(as_tuple=True)


def from_csr(dense, index_dtype=torch.int64):
    csr = dense.to_sparse_csr()
    crow, col = csr.crow_indices().to(index_dtype), csr.col_indices().to(index_dtype)
    return crow, col, csr.values(), tuple(dense.shape)


def unsorted(dense):
    row, col = dense.nonzero(as_tuple=True)
    order = torch.arange(len(row) - 1, -1, -1)
    return row[order], col[order], dense[row, col][order], tuple(dense.shape)


CONSTRUCTORS = {
    "from_dense": SparseMatrix.from_dense,
    "from_coo": lambda D: SparseMatrix.from_coo(*unsorted(D)),
    "from_csr": lambda D: SparseMatrix.from_csr(*from_csr(D)),
    "from_csr, int32": lambda D: SparseMatrix.from_csr(*from_csr(D, torch.int32)),
    "from_torch, COO": lambda D: SparseMatrix.from_torch(D.to_sparse_coo()),
    "from_torch, CSR": lambda D: SparseMatrix.from_torch(D.to_sparse_csr()),
    "from_torch, CSC": lambda D: SparseMatrix.from_torch(D.mT.to_sparse_csc()).T,
    "from_scipy": lambda D: SparseMatrix.from_scipy(scipy.sparse.csc_array(D.numpy())),
    "pattern": lambda D: SparseMatrix(
        SparsityPattern(*from_csr(D)[:2], tuple(D.shape)), from_csr(D)[2]
    ),
    "pattern.from_coo": lambda D: SparseMatrix(
        SparsityPattern.from_coo(*unsorted(D)[:2], tuple(D.shape))[0], D[D != 0]
    ),
    "pickle": lambda D: pickle.loads(pickle.dumps(SparseMatrix.from_dense(D))),
    "sum": lambda D: SparseMatrix.from_dense(D.tril()) + SparseMatrix.from_dense(D.triu()),
    "blocks": lambda D: block_diag([SparseMatrix.from_dense(D)]),
}


@pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
def test_equal_indices_are_one_pattern(make):
    A, B = SparseMatrix.from_dense(D), make(D)
    assert B.pattern == A.pattern
    assert hash(B.pattern) == hash(A.pattern)
    assert B.pattern.T == A.pattern.T
    assert (A + B).pattern == A.pattern
    clear_cache()  # a pattern that lives is found all the same
    assert make(D).pattern == A.pattern
    assert make(D.flip(1)).pattern != A.pattern


def test_matrices_made_apart_are_trees_of_one_kind(dtype):
    A, B = (SparseMatrix.from_dense(x * D.to(dtype)) for x in (1, 2))
    assert_close(tree_map(torch.add, A, B).to_dense(), 3 * D.to(dtype))
    x = torch.ones(3, dtype=dtype)
    value, tangent = jvp(lambda A: A @ x, (A,), (B,))
    assert_close((value, tangent), (D.to(dtype) @ x, 2 * D.to(dtype) @ x))


def test_the_transpose_of_a_pattern_keeps_its_order():
    A = SparseMatrix.from_dense(D)
    assert A.pattern != A.pattern.T
    assert not A.pattern.same_pattern(A.pattern.T)
    assert SparseMatrix.from_dense(torch.eye(3)).pattern.T.same_pattern(
        SparseMatrix.from_dense(torch.eye(3)).pattern
    )
    with pytest.raises(ValueError, match=r"pattern\.T\.crow"):
        _ = A.pattern.T.crow
    assert_close(A.pattern.crow, torch.tensor([0, 2, 5, 7], dtype=torch.int32))


def test_a_device_is_moved_to_once(device):
    A = SparseMatrix.from_dense(D.to("cpu"))
    there = A.to(device)
    assert A.to(device).pattern == there.pattern
    assert there.to("cpu").pattern == A.pattern
    assert A.to("cpu:0").pattern is A.pattern
    meta = A.to("meta")
    assert A.to("meta").pattern == meta.pattern
    assert meta.pattern != SparseMatrix.from_dense(D.flip(0).to("cpu")).to("meta").pattern
    if device == "cuda":
        assert A.to("cuda:0").pattern == there.pattern
        assert SparseMatrix.from_dense(D.cuda()).pattern == there.pattern
        assert_close(there.to_dense().cpu(), D.cpu())


def test_the_digest_for_other_devices_tells_patterns_apart():
    digests = set()
    for dense in (D, D.flip(0), D.triu(), D.tril(), torch.eye(3), torch.ones(3, 3)):
        s = SparseMatrix.from_dense(dense).pattern.structure
        digests.add(tuple(int(structures._mixed(index)) for index in (s.crow, s.col)))
    assert len(digests) == 6


def test_one_digest_is_not_one_pattern(monkeypatch):
    monkeypatch.setattr(structures, "_digest", lambda s: 0)
    A, B = SparseMatrix.from_dense(D), SparseMatrix.from_dense(D.flip(1))
    assert A.nnz == B.nnz
    assert A.pattern != B.pattern
    assert_close((A.to_dense(), B.to_dense()), (D, D.flip(1)))


def test_threads_make_one_pattern():
    clear_cache()
    found, barrier = [], threading.Barrier(8)

    def work():
        barrier.wait()
        found.append(SparseMatrix.from_coo(*unsorted(D)).pattern)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(set(found)) == 1


# ------------------------------------------------------------------------------- what is kept


def test_patterns_count_with_what_was_derived_and_have_an_end(limit):
    clear_cache()
    A = SparseMatrix.from_dense(torch.eye(3, 7, dtype=D.dtype))  # a pattern that nobody else holds
    before = cache_info().kinds["patterns"]
    assert before.entries == 1
    assert before.bytes >= A.pattern.crow.nbytes + A.pattern.col.nbytes
    A.T @ torch.ones(3, 20, dtype=D.dtype)
    assert cache_info().kinds["patterns"].bytes > before.bytes
    for n in range(200):
        SparseMatrix.from_coo([0], [n], torch.ones(1), (1, 200))
    assert cache_info().kinds["patterns"].entries <= 64
    gone = weakref.ref(A.pattern.structure)
    del A
    gc.collect()
    assert gone() is None


def test_a_limit_of_nothing_keeps_no_pattern():
    before = cache_limit()
    try:
        cache_limit(0)
        A = SparseMatrix.from_dense(D)
        assert cache_info().kinds["patterns"].entries == 0
        assert SparseMatrix.from_dense(D).pattern == A.pattern
        assert_close(sparse_mm(D.to_sparse_csr(), D), D @ D)
    finally:
        cache_limit(before)


LAYOUTS = {
    "COO": lambda D: D.to_sparse_coo().coalesce(),
    "CSR": lambda D: D.to_sparse_csr(),
    "batch of COO": lambda D: torch.stack([D, D]).to_sparse_coo().coalesce(),
    "batch of CSR": lambda D: torch.stack([D, D]).to_sparse_csr(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_indices_of_a_tensor_are_looked_at_once(layout, monkeypatch):
    A = layout(D)
    B = D if A.ndim == 2 else torch.stack([D, D])
    expected = sparse_mm(A, B)
    for name in ("assemble_coo", "assemble_csr"):
        monkeypatch.setattr(torch_sparse, name, None)
    for _ in range(100):
        assert_close(sparse_mm(A, B), expected)
    with pytest.raises(TypeError):
        sparse_mm(layout(D), B)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_indices_that_were_changed_in_place_are_looked_at_again(layout, inference):
    with torch.inference_mode(inference):
        A = layout(D)
        B = D if A.ndim == 2 else torch.stack([D, D])
        sparse_mm(A, B)
        index = A.indices()[-1] if A.layout == torch.sparse_coo else A.col_indices()
        index[..., :2] = torch.tensor([1, 2])  # of the first row
        assert_close(sparse_mm(A, B), A.to_dense() @ B)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_an_address_that_is_used_again_is_another_tensor(layout):
    for k in range(50):  # the allocator hands out the same memory
        E = torch.zeros(5, 5)
        E[k % 5, k * 7 % 5] = E[k * 3 % 5, k % 5] = 1.0
        A = layout(E)
        B = torch.ones(5, 1) if A.ndim == 2 else torch.ones(2, 5, 1)
        assert_close(sparse_mm(A, B), A.to_dense() @ B)
        del A


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([[1, 0, 1], [0, 2, 1]], r"col\[1\] = 2 is out of range"),
        ([[0, 0, 1], [0, -1, 0]], r"col\[1\] = -1 is out of range"),
        ([[2, 0, 1], [-2, 0, 1]], r"row\[0\] = 2 is out of range"),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_places_out_of_range_are_refused_before_they_are_merged(places, message, batch):
    places = [[0] * 3, *places] if batch else places
    size = (1, 2, 2) if batch else (2, 2)
    A = torch.sparse_coo_tensor(places, torch.ones(3), size, check_invariants=False)
    with pytest.raises(ValueError, match=message):
        sparse_mm(A, torch.ones(*size[:-1], 1))


def test_entries_marked_as_sorted_that_are_not():
    A = torch.sparse_coo_tensor(
        [[1, 0], [0, 1]], [2.0, 3.0], (2, 2), is_coalesced=True, check_invariants=False
    )
    for _ in range(2):
        assert_close(SparseMatrix.from_torch(A).to_dense(), torch.tensor([[0.0, 3.0], [2.0, 0.0]]))


# ------------------------------------------------------------------------------- immutability


def tensors(x):
    if x.layout == torch.sparse_coo:
        return [x.indices(), x.values()]
    return [x.crow_indices(), x.col_indices(), x.values()]


OUTPUTS = {
    "to_csr": lambda A: tensors(A.to_csr()),
    "to_coo": lambda A: tensors(A.to_coo()),
    "to_scipy": lambda A: [getattr(A.to_scipy(), n) for n in ("indptr", "indices", "data")],
    "transpose to_csr": lambda A: tensors(A.T.to_csr()),
    "transpose to_coo": lambda A: tensors(A.T.to_coo()),
    "transpose to_scipy": lambda A: [getattr(A.T.to_scipy(), n) for n in ("indptr", "indices")],
    "row": lambda A: [A.pattern.row, A.pattern.T.row],
    "col": lambda A: [A.pattern.col, A.pattern.T.col],
    "crow": lambda A: [A.pattern.crow],
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_what_leaves_can_be_written_to(output, used, dtype):
    A = SparseMatrix.from_dense(D.to(dtype))
    B = torch.ones(3, 20, dtype=dtype)
    if used:
        sparse_mm(A, B), sparse_mm(A.T, B)
    for part in output(A):
        part[...] = 2**30
    for M, dense in ((A, D), (A.T, D.mT)):
        assert_close(M.to_dense(), dense.to(dtype))
        assert_close(sparse_mm(M, B), dense.to(dtype) @ B)


INPUTS = {
    "from_dense": lambda: (D.clone(), SparseMatrix.from_dense, lambda x: [x]),
    "from_torch, COO": lambda: (D.to_sparse_coo().coalesce(), SparseMatrix.from_torch, tensors),
    "from_torch, CSR": lambda: (D.to_sparse_csr(), SparseMatrix.from_torch, tensors),
    "from_scipy": lambda: (
        scipy.sparse.csr_array(D.numpy()),
        SparseMatrix.from_scipy,
        lambda S: [S.indptr, S.indices, S.data],
    ),
    "from_coo": lambda: (
        (ROW.int(), COL.int()),
        lambda index: SparseMatrix.from_coo(*index, D[ROW, COL], (3, 3)),
        list,
    ),
    "from_csr": lambda: (
        from_csr(D, torch.int32)[:2],
        lambda index: SparseMatrix.from_csr(*index, D[ROW, COL], (3, 3)),
        list,
    ),
    "pattern": lambda: (
        from_csr(D, torch.int32)[:2],
        lambda index: SparseMatrix(SparsityPattern(*index, (3, 3)), D[ROW, COL]),
        list,
    ),
}


@pytest.mark.parametrize("case", INPUTS.values(), ids=INPUTS)
def test_what_a_matrix_was_made_from_can_be_written_to(case):
    source, make, parts = case()
    A = make(source)
    for part in parts(source):
        part[...] = 0
    assert_close(A.to_dense(), D)
    assert_close(sparse_mm(A, D), D @ D)


@pytest.mark.parametrize("transpose", [False, True])
def test_the_matrix_of_a_users_solver_can_be_written_to(transpose, dtype):
    A = SparseMatrix.from_dense(D.to(dtype) + torch.triu(torch.ones(3, 3, dtype=dtype)))
    A = A.T if transpose else A
    dense, b = A.to_dense().clone(), torch.ones(3, 1, dtype=dtype)

    def solve(M, B):
        X = torch.linalg.solve(M.to_dense(), B)
        for part in tensors(M):
            part[...] = 2**30
        return X

    b.requires_grad_()
    X = sparse_generic_solve(A, b, solve=solve)
    X.abs().sum().backward()
    assert_close(dense @ X, b)
    assert_close(A.to_dense(), dense)
    assert_close(sparse_mm(A, b), dense @ b)


def test_the_values_of_a_matrix_are_the_leaf():
    values = torch.ones(7, dtype=torch.float64, requires_grad=True)
    assert SparseMatrix(SparseMatrix.from_dense(D).pattern, values).values is values


# ---------------------------------------------------------------- derived outside of transforms


def fresh():
    """Make a pattern that nothing was derived from."""
    pattern = SparsityPattern(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), (2, 3))
    s = pattern.structure
    return SparsityPattern.of_structure(structures.Structure(s.crow, s.col, s.cols))


def coordinates(P):
    return lambda v: SparseMatrix(P, v).T.to_coo().to_dense().square().sum()


def rows(P):
    return lambda v: readable(SparseMatrix(P, v).T).values.square().sum()


def diagonals(P):
    return lambda v: (
        SparseMatrix(P, v).T.diagonal().square().sum()
        + (SparseMatrix(P, v).to_dense().square().sum())
    )


def in_inference_mode(f, v):
    with torch.inference_mode():
        return f(v)


INSIDE = {
    "grad": lambda f, v: grad(f)(v),
    "jvp": lambda f, v: jvp(f, (v,), (v,)),
    "jvp of grad": lambda f, v: jvp(grad(f), (v,), (v,)),
    "make_fx": lambda f, v: make_fx(f)(v),
    "linearize": lambda f, v: linearize(f, v),
    "inference_mode": in_inference_mode,
}


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("function", [coordinates, rows, diagonals])
def test_what_is_derived_inside_of_a_transform_serves_outside(function, inside):
    if inside not in ("grad", "inference_mode") and function is coordinates:
        pytest.skip("PyTorch's sparse constructors have no other rules")
    clear_cache()
    P, v = fresh(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    INSIDE[inside](function(P), v)
    v.requires_grad_()
    function(P)(v).backward()
    assert_close(v.grad, grad(function(fresh()))(v.detach()))


def test_what_is_derived_under_vmap_serves_outside():
    clear_cache()
    P, v = fresh(), torch.rand(4, 3, dtype=torch.float64)
    expected = torch.stack([SparseMatrix(P, x).to_dense() for x in v])
    clear_cache()
    P = fresh()
    assert_close(vmap(lambda x: SparseMatrix(P, x).T.to_dense())(v), expected.mT)
    assert_close(SparseMatrix(P, v).to_dense(), expected)


# ------------------------------------------------------------------------------------- wrong


PARTED = {
    "short": lambda v: v[:5],
    "long": lambda v: torch.cat([v, v]),
    "number": lambda v: v.sum(),
    "column": lambda v: v[:, None],
    "meta": lambda v: v.to("meta"),
}
USES = {
    "product": lambda A: A @ torch.ones(3, dtype=D.dtype),
    "solve": lambda A: sparse_generic_solve(A, torch.ones(3, dtype=D.dtype)),
    "to_dense": lambda A: A.to_dense(),
    "to_csr": lambda A: A.to_csr(),
    "to_coo": lambda A: A.T.to_coo(),
    "to_scipy": lambda A: A.to_scipy(),
    "diagonal": lambda A: A.diagonal(),
    "sum": lambda A: SparseMatrix.from_dense(D) + A,
    "multiple": lambda A: A * 2.0,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("part", PARTED.values(), ids=PARTED)
def test_values_that_left_their_pattern_are_refused(part, use):
    A = tree_map(part, SparseMatrix.from_dense(D))
    with pytest.raises(ValueError, match=r"one value for each of the 7|A\.to\(device\) moves both"):
        use(A)


def test_indices_that_are_elsewhere_or_no_indices():
    values = torch.ones(2, device="meta")
    with pytest.raises(ValueError, match="row and values are on one device; got cpu and meta"):
        SparseMatrix.from_coo(torch.tensor([0, 1]), torch.tensor([0, 1]), values, (2, 2))
    with pytest.raises(ValueError, match="meta device, which keeps no numbers"):
        SparseMatrix.from_coo([0, 1], [0, 1], values, (2, 2))
    for shape in ((2.5, 2), "22", None):
        with pytest.raises(TypeError, match="two integers"):
            SparsityPattern.from_coo([0], [0], shape)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="row is a vector of integers"):
        SparsityPattern.from_coo(["a"], [0], (2, 2))
    with pytest.raises(TypeError, match=r"from_dense\(torch.from_numpy"):
        SparseMatrix.from_scipy(np.eye(2))


def test_truth_and_arrays_explain_themselves():
    A = SparseMatrix.from_dense(D)
    for ask in (bool, lambda A: A or None, lambda A: not A):
        with pytest.raises(TypeError, match="A is not None"):
            ask(A)
    for convert in (np.asarray, np.array):
        with pytest.raises(TypeError, match=r"A\.to_scipy\(\)"):
            convert(A)
    with pytest.raises(TypeError, match=r"A\.values"):
        torch.autograd.grad(D.sum(), A)  # pyright: ignore[reportArgumentType, reportCallIssue]
    for wrong in (lambda: A @ np.ones(3), lambda: np.ones(3) @ A, lambda: A * np.ones(3)):
        with pytest.raises(TypeError):
            wrong()
