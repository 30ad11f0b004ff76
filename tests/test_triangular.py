"""sparse_triangular_solve on every kind of argument: triangles, layouts, batches, errors."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.derivatives import assert_derivatives
from tsgu_func import SparseMatrix, sparse_mm, sparse_triangular_solve
from tsgu_func.kernels import triangular
from tsgu_func.selfcheck.records.base import matrix, randn
from tsgu_func.solvers import SolveError
from tsgu_func.sparse_solve import SparseTriangularSolve
from tsgu_func.testing.strategies import entries, right_hand_sides

FLAGS = list(product((True, False), repeat=3))  # upper, unitriangular, transpose


def both_triangles(n, dtype, unit=False, seed=0):
    """Return a dense matrix with entries in both triangles and, unless unit, a safe diagonal."""
    D = randn(n, n, dtype=dtype, seed=seed)
    D = D * (torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < 0.5)
    D = D - torch.diag(D.diagonal())
    return D if unit else D + torch.diag(2 + torch.arange(n) / n).to(dtype)


def triangle(D, upper, unit):
    T = D.triu() if upper else D.tril()
    return T + torch.eye(len(D), dtype=D.dtype) if unit else T


def kinds(D):
    """Yield D as everything that the function takes."""
    yield D.to_sparse_coo()
    yield D.to_sparse_csr()
    s = SparseMatrix.from_dense(D).pattern.structure
    values = D.to_sparse_csr().values()
    yield torch.sparse_csr_tensor(s.crow, s.col, values, D.shape)  # int32
    yield SparseMatrix.from_dense(D)
    yield SparseMatrix.from_dense(D.mT.contiguous()).T


@pytest.mark.slow
@pytest.mark.parametrize(("upper", "unit", "transpose"), FLAGS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_every_kind(upper, unit, transpose, kind):
    D = both_triangles(7, kind, unit)
    T = triangle(D, upper, unit)
    T = T.mT if transpose else T
    for p in (0, 1, 5):
        B = randn(7, p, dtype=kind)
        for A in kinds(D):
            X = sparse_triangular_solve(A, B, upper, unit, transpose)
            assert X.shape == B.shape
            assert_close(T @ X, B)


@pytest.mark.slow
@pytest.mark.parametrize(("upper", "unit", "transpose"), FLAGS)
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_gradient_is_that_of_the_triangle(upper, unit, transpose, layout, dtype):
    D = both_triangles(6, dtype, unit)
    A = D.to_sparse(layout=layout).requires_grad_()
    B, G = randn(6, 2, dtype=dtype).requires_grad_(), randn(6, 2, dtype=dtype, seed=5)
    X = sparse_triangular_solve(A, B, upper, unit, transpose)
    X.backward(G)
    T = triangle(D, upper, unit)
    op = T.mT if transpose else T
    W = torch.linalg.inv(op).mH @ G
    assert_close(B.grad, W)
    assert A.grad.layout == layout
    full = -(W @ X.detach().mH)
    full = full.mT if transpose else full
    assert_close(A.grad.to_dense(), (full.triu() if upper else full.tril()) * (D != 0))


def test_other_triangle_may_hold_anything(dtype):
    D = both_triangles(5, dtype)
    B = randn(5, 2, dtype=dtype)
    expected = sparse_triangular_solve(D.tril().to_sparse_csr(), B, upper=False)
    D[0, 4] = torch.nan
    A = SparseMatrix.from_dense(D)
    v = A.values.clone().requires_grad_()
    X = sparse_triangular_solve(A.with_values(v), B, upper=False)
    assert torch.equal(X, expected)
    X.abs().sum().backward()
    assert bool(torch.isfinite(v.grad).all())


def test_unsorted_and_uncoalesced():
    crow, col = torch.tensor([0, 2, 3]), torch.tensor([1, 0, 1])
    values = torch.tensor([3.0, 2.0, 4.0])
    B = torch.tensor([[8.0], [8.0]])
    expected = torch.tensor([[1.0], [2.0]])
    A = torch.sparse_csr_tensor(crow, col, values, (2, 2), check_invariants=False)
    assert_close(sparse_triangular_solve(A, B), expected)
    indices = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 1]])
    A = torch.sparse_coo_tensor(indices, torch.tensor([3.0, 1.0, 1.0, 4.0]), (2, 2))
    assert_close(sparse_triangular_solve(A, B), expected)
    assert not A.is_coalesced()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_batch_of_torch_tensors(layout, dtype):
    D = torch.stack([both_triangles(4, dtype, seed=1), both_triangles(4, dtype, seed=1).mT])
    A = D.to_sparse(layout=layout).requires_grad_()
    B = randn(2, 4, 3, dtype=dtype)
    X = sparse_triangular_solve(A, B)
    assert_close(D.triu() @ X, B)
    X.abs().square().sum().backward()
    assert A.grad.layout == layout
    T = D.clone().requires_grad_()
    loss = torch.linalg.solve_triangular(T, B, upper=True).abs().square().sum()
    loss.backward()
    assert_close(A.grad.to_dense(), T.grad * (D != 0))


@pytest.mark.parametrize(
    ("lead", "right"), [((), (2, 3)), ((2,), ()), ((2,), (3, 1)), ((2, 1), (3,)), ((0,), (0,))]
)
@pytest.mark.parametrize("unit", [True, False])
def test_batches_broadcast(lead, right, unit, dtype):
    A = SparseMatrix.from_dense(both_triangles(4, dtype, unit))
    scale = 1 + torch.arange(float(torch.Size(lead).numel())).reshape(lead)
    batch = A.with_values(scale.unsqueeze(-1) * A.values)
    B = randn(*right, 4, 2, dtype=dtype)
    X = sparse_triangular_solve(batch, B, unitriangular=unit)
    T = batch.to_dense().triu() + (torch.eye(4) if unit else 0)
    assert_close(T @ X, B.expand_as(X))
    x = randn(4, dtype=dtype)
    assert_close(
        (T @ sparse_triangular_solve(batch, x, unitriangular=unit).unsqueeze(-1)).squeeze(-1),
        x.expand(*lead, 4),
    )


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_stored(n, dtype):
    A = SparseMatrix.from_coo([], [], torch.zeros(0, dtype=dtype), (n, n))
    B = randn(n, 2, dtype=dtype)
    for M in (A, A.to_coo(), A.to_csr()):
        X = sparse_triangular_solve(M, B, unitriangular=True)
        assert torch.equal(X, B)
        assert X.data_ptr() != B.data_ptr() or not n


def test_right_hand_sides_are_columns_of_one_call(dtype, monkeypatch):
    A = SparseMatrix.from_dense(both_triangles(4, dtype))
    shapes = []
    solve = triangular.solve

    def spy(structure, values, B, **flags):
        shapes.append(tuple(B.shape))
        return solve(structure, values, B, **flags)

    monkeypatch.setattr(triangular, "solve", spy)
    B = randn(5, 4, 2, dtype=dtype)
    X = torch.func.vmap(lambda B: sparse_triangular_solve(A, B))(B)
    assert_close(A.to_dense().triu() @ X, B)
    assert shapes == [(4, 10)]


# ------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize(("upper", "unit", "transpose"), FLAGS)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_paths_agree(upper, unit, transpose, threads, batch, dtype):
    if not torch.backends.mkl.is_available():
        pytest.skip("PyTorch's CSR triangular solve needs MKL on the CPU")
    n = 300
    generator = torch.Generator().manual_seed(0)
    row, col = torch.randint(0, n, (2, 6000), generator=generator)
    row, col = torch.cat([row, torch.arange(n)]), torch.cat([col, torch.arange(n)])
    A = matrix(row, col, (n, n), dtype)
    values = randn(*batch, A.nnz, dtype=dtype) * 0.1
    values[..., triangular.triangle_of(A.pattern.structure, upper).diagonal.long()] += 5
    B = randn(*batch, n, 7, dtype=dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = [
            path(A.pattern.structure, values, B, upper, transpose, unit)
            for path in (triangular._solve_loops, triangular._solve_loops, triangular._solve_torch)
        ]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(runs[0], runs[1])
    assert_close(runs[0], runs[2])
    D = A.with_values(values).to_dense()
    T = D.triu() if upper else D.tril()
    if unit:
        T.diagonal(dim1=-2, dim2=-1).fill_(1)
    assert_close((T.mT if transpose else T) @ runs[0], B)


@pytest.mark.parametrize("path", [triangular._solve_loops, triangular._solve_torch])
@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("transpose", [False, True])
def test_a_zero_on_the_diagonal_is_seen_by_each_path(path, columns, transpose, dtype):
    A = SparseMatrix.from_dense(both_triangles(4, dtype))
    place = triangular.triangle_of(A.pattern.structure, upper=False).diagonal
    values = A.values.expand(2, -1).clone()
    values[1, int(place[2])] = 0
    with pytest.raises(ZeroDivisionError, match="diagonal is zero"):
        path(
            A.pattern.structure, values, randn(2, 4, columns, dtype=dtype), False, transpose, False
        )


# ------------------------------------------------------------------------------------- errors

EYE = torch.eye(3).to_sparse_csr()
ERRORS = [
    (EYE, [1.0], "B is a dense tensor; got list"),
    (EYE, EYE, "B is a dense tensor; got a sparse_csr tensor"),
    (3, torch.ones(3, 1), "A is a SparseMatrix or a sparse COO or CSR tensor; got int"),
    (torch.eye(3), torch.ones(3, 1), "from_dense"),
    (torch.eye(3).to_sparse_csc(), torch.ones(3, 1), "to_sparse_csr"),
    (EYE, torch.ones(2, 1), r"got A \(3, 3\) and B \(2, 1\)"),
    (EYE, torch.ones(3), "both matrices or both batches"),
    (torch.ones(3, 2).to_sparse_coo(), torch.ones(2, 1), r"square; got shape \(3, 2\)"),
    (EYE, torch.ones(3, 1).double(), "one dtype; got torch.float32 and torch.float64"),
    (EYE.half(), torch.ones(3, 1).half(), "float32, float64 or complex"),
    (EYE, torch.ones(3, 1, device="meta"), "one device; got cpu and meta"),
    (SparseMatrix.from_torch(EYE), torch.ones(4), "as many rows"),
]


@pytest.mark.parametrize(("A", "B", "message"), ERRORS)
def test_errors(A, B, message):
    with pytest.raises(ValueError, match=message):
        sparse_triangular_solve(A, B)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_stored_unit_diagonal_is_an_error_at_the_call(requires_grad):
    A = torch.eye(3).to_sparse_csr().requires_grad_(requires_grad)
    for transpose in (False, True):
        with pytest.raises(ValueError, match="row 0 stores a diagonal entry"):
            sparse_triangular_solve(A, torch.ones(3, 1), True, True, transpose)
    S = SparseMatrix.from_coo([0, 1], [1, 1], torch.ones(2), (2, 2))
    with pytest.raises(ValueError, match="row 1 stores a diagonal entry"):
        sparse_triangular_solve(S, torch.ones(2), unitriangular=True)
    compiled = torch.compile(
        lambda B: sparse_triangular_solve(S, B, unitriangular=True),
        fullgraph=True,
        backend="aot_eager",
    )
    with pytest.raises(ValueError, match="row 1 stores a diagonal entry"):
        compiled(torch.ones(2, 1))


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
def test_singular(upper, transpose):
    missing = torch.tensor([[0.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0]]).to_sparse_csr()
    B = torch.ones(3, 1)
    with pytest.raises(SolveError, match="row 0 stores no diagonal entry"):
        sparse_triangular_solve(missing, B, upper, False, transpose)
    zero = SparseMatrix.from_coo([0, 1, 2], [0, 1, 2], torch.tensor([1.0, 0.0, 1.0]), (3, 3))
    with pytest.raises(SolveError, match="diagonal entry of row 1 is zero"):
        sparse_triangular_solve(zero, B, upper, False, transpose)
    batch = zero.with_values(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
    with pytest.raises(SolveError, match="row 2 of member 1 of the batch is zero"):
        sparse_triangular_solve(batch, B, upper, False, transpose)
    with pytest.raises(SolveError, match="row 2 of member 1"):
        torch.func.vmap(lambda A: sparse_triangular_solve(A, B, upper, False, transpose))(batch)


def test_function_class(dtype):
    D = both_triangles(4, dtype)
    A, B = D.to_sparse_coo().requires_grad_(), randn(4, 2, dtype=dtype)
    SparseTriangularSolve.apply(A, B, False, False, True).abs().sum().backward()
    assert A.grad.is_sparse
    closed, T = D.to_sparse_csr(), D.tril().mT.contiguous()
    twice = lambda f: torch.func.jvp(lambda X: torch.func.jvp(f, (X,), (B,))[1], (B,), (B,))[1]
    ours = twice(lambda X: SparseTriangularSolve.apply(closed, X, False, False, True).sin())
    assert_close(ours, twice(lambda X: (torch.linalg.inv(T) @ X).sin()))


# ----------------------------------------------------------------------------------- properties


@st.composite
def systems(draw):
    """Draw entries in both triangles, and whether the diagonal is one and so not stored."""
    e, unit = draw(entries("dominant")), draw(st.booleans())
    kept = (e.row != e.col) | (not unit)
    return e._replace(row=e.row[kept], col=e.col[kept], values=e.values[kept]), unit


@given(systems(), st.data(), st.booleans(), st.booleans())
def test_solve_undoes_the_product(system, data, upper, transpose):
    e, unit = system
    A, X = e.matrix(), data.draw(right_hand_sides(e))
    keep = A.pattern.row <= A.pattern.col if upper else A.pattern.row >= A.pattern.col
    T = A.with_values(A.values * keep)
    B = sparse_mm(T.T if transpose else T, X) + (X if unit else 0)
    assert_close(sparse_triangular_solve(A, B, upper, unit, transpose), X)


@pytest.mark.slow
@given(systems(), st.data(), st.booleans(), st.booleans(), st.integers(0, 99))
def test_derivatives(system, data, upper, transpose, seed):
    e, unit = system
    B = data.draw(right_hand_sides(e, (1, 2), strides="contiguous"))

    def f(values, B):
        A = e._replace(values=values).matrix()
        return torch.sin(0.5 * sparse_triangular_solve(A, B, upper, unit, transpose))

    assert_derivatives(f, (e.values, B), seed)


@pytest.mark.parametrize("name", ["upper", "unitriangular", "transpose"])
@pytest.mark.parametrize("flag", [None, 0, 1, 2, "lower", torch.tensor(False)])
def test_a_flag_is_true_or_false(name, flag):
    A, B = SparseMatrix.from_dense(torch.eye(2)), torch.ones(2, 1)
    with pytest.raises(TypeError, match=f"{name} is True or False; got"):
        sparse_triangular_solve(A, B, **{name: flag})
    assert_close(sparse_triangular_solve(A, B, transpose=np.bool_(True)), B)
