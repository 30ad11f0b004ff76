"""sparse_generic_lstsq: arguments, both terms of its derivative, rank, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.derivatives import assert_derivatives
from tsgu_func import SparseMatrix, sparse_generic_lstsq
from tsgu_func.selfcheck.records.base import conjugated, eliminate, matrix, randn
from tsgu_func.solvers import SolveError
from tsgu_func.sparse_lstsq import SparseGenericLstsq
from tsgu_func.testing.strategies import entries, right_hand_sides


@pytest.fixture
def A(dtype):
    row, col = [0, 1, 1, 2, 3, 4, 5, 5], [0, 0, 1, 1, 2, 2, 0, 2]
    return matrix(row, col, (6, 3), dtype)


def solution(D, B):
    X = np.linalg.lstsq(D.numpy(), B.numpy(), rcond=None)[0]
    return torch.from_numpy(X)


def normal(D, B):
    """Solve by the normal equations, in ops whose derivatives of every order are right."""
    return eliminate(conjugated(D).mT @ D, conjugated(D).mT @ B)


@pytest.mark.slow
@pytest.mark.parametrize("make", [SparseMatrix.to_coo, SparseMatrix.to_csr, lambda A: A])
def test_kinds_of_matrix(A, make):
    for B in (randn(6, dtype=A.dtype), randn(6, 4, dtype=A.dtype), randn(6, 0, dtype=A.dtype)):
        X = sparse_generic_lstsq(make(A), B)
        assert X.shape == (3, *B.shape[1:])
        assert_close(X, solution(A.to_dense(), B))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_single_precision(kind):
    A = matrix([0, 1, 1, 2, 3], [0, 0, 1, 1, 1], (4, 2), kind)
    B = randn(4, 3, dtype=kind)
    assert_close(sparse_generic_lstsq(A, B), solution(A.to_dense(), B), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_gradient_keeps_layout_and_pattern(A, layout):
    D = A.to_dense()
    T = D.to_sparse(layout=layout).requires_grad_()
    B, G = randn(6, 2, dtype=A.dtype).requires_grad_(), randn(3, 2, dtype=A.dtype, seed=5)
    sparse_generic_lstsq(T, B).backward(G)
    P = torch.linalg.pinv(D)
    Y, X = P.mH @ G, P @ B.detach()
    assert_close(B.grad, Y)
    assert T.grad.layout == layout
    full = (B.detach() - D @ X) @ (P @ Y).mH - Y @ X.mH
    assert_close(T.grad.to_dense(), full * (D != 0))


@pytest.mark.slow
def test_uncoalesced():
    indices = torch.tensor([[0, 1, 0, 2], [0, 1, 0, 1]])
    T = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, 1.0, 1.0]), (3, 2))
    B = torch.tensor([1.0, 2.0, 4.0])
    assert_close(sparse_generic_lstsq(T.requires_grad_(), B), solution(T.detach().to_dense(), B))


def test_batches(A):
    batch = A.with_values(torch.stack([A.values, 2 * A.values + 1]))
    D = batch.to_dense()
    for B in (randn(2, 6, 4, dtype=A.dtype), randn(6, 4, dtype=A.dtype), randn(6, dtype=A.dtype)):
        X = sparse_generic_lstsq(batch, B)
        rights = B if B.ndim == 3 else (B, B)
        expected = [solution(d, b) for d, b in zip(D, rights, strict=True)]
        assert_close(X, torch.stack(expected))
    stacked = torch.stack([A.to_dense(), 2 * A.to_dense()])
    B = randn(2, 6, 2, dtype=A.dtype)
    for T in (stacked.to_sparse_coo(), stacked.to_sparse_csr()):
        assert_close(sparse_generic_lstsq(T, B), torch.linalg.pinv(stacked) @ B)


@pytest.mark.parametrize("power", [8, 120])
def test_badly_scaled_columns(A, power):
    """Scaling a column scales its unknown, and costs neither digits nor iterations."""
    scale = torch.tensor([10.0**-power, 1.0, 10.0**power], dtype=torch.float64)
    bad = A.with_values(A.values * scale[A.pattern.col.long()])
    B, G = randn(6, 2, dtype=A.dtype), randn(3, 2, dtype=A.dtype, seed=5)
    X, pull = torch.func.vjp(lambda B: sparse_generic_lstsq(bad, B), B)
    expected, expected_pull = torch.func.vjp(lambda B: sparse_generic_lstsq(A, B), B)
    assert_close(X * scale.unsqueeze(1), expected)
    assert_close(pull(G * scale.unsqueeze(1))[0], expected_pull(G)[0])


@pytest.mark.slow
def test_square_and_empty(dtype):
    A = SparseMatrix.from_dense(torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=dtype))
    B = randn(2, 2, dtype=dtype)
    assert_close(A.to_dense() @ sparse_generic_lstsq(A, B), B)
    none = SparseMatrix.from_coo([], [], torch.zeros(0, dtype=dtype), (3, 0))
    assert sparse_generic_lstsq(none, randn(3, 2, dtype=dtype)).shape == (0, 2)
    assert torch.equal(sparse_generic_lstsq(A, 0 * B), 0 * B)


def test_functions_get_the_matrix_itself(A):
    seen = []

    def lstsq(M, B):
        seen.append(("lstsq", M.layout, tuple(M.shape), tuple(B.shape)))
        return solution(M.to_dense(), B)

    def transpose_lstsq(M, G):
        seen.append(("transpose", M.layout, tuple(M.shape), tuple(G.shape)))
        return torch.linalg.pinv(M.to_dense().mT) @ G

    def gradients(*functions):
        v, b = A.values.clone().requires_grad_(), randn(6, dtype=A.dtype).requires_grad_()
        x = sparse_generic_lstsq(A.with_values(v), b, *functions)
        return torch.autograd.grad(x.abs().square().sum(), (v, b))

    expected = gradients()
    assert_close(gradients(lstsq, transpose_lstsq), expected)
    assert seen == [
        ("lstsq", torch.sparse_csr, (6, 3), (6,)),
        ("transpose", torch.sparse_csr, (6, 3), (3,)),
        ("lstsq", torch.sparse_csr, (6, 3), (6,)),
    ]
    assert_close(gradients(lstsq), expected)
    assert_close(gradients(None, transpose_lstsq), expected)


def test_right_hand_sides_are_columns_of_one_call(A):
    shapes = []

    def lstsq(M, B):
        shapes.append(tuple(B.shape))
        return solution(M.to_dense(), B)

    B = randn(5, 6, 2, dtype=A.dtype)
    X = torch.func.vmap(lambda B: sparse_generic_lstsq(A, B, lstsq))(B)
    assert_close(X, torch.linalg.pinv(A.to_dense()) @ B)
    assert shapes == [(6, 10)]


TALL = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).to_sparse_csr()
ERRORS = [
    (TypeError, TALL.to_dense(), torch.ones(3), "A is a SparseMatrix or sparse COO or CSR"),
    (TypeError, [1], torch.ones(3), "got list"),
    (TypeError, TALL, TALL, "B is a dense tensor"),
    (ValueError, torch.ones(2, 3).to_sparse_coo(), torch.ones(2), r"rows as columns; got .*2, 3"),
    (ValueError, TALL, torch.ones(2), r"as many rows; got A \(3, 2\) and B \(2,\)"),
    (ValueError, TALL, torch.ones(1, 3, 1), "both"),
    (ValueError, TALL, torch.tensor(1.0), "got a number"),
    (ValueError, TALL, torch.ones(3).double(), "one dtype; got torch.float32 and torch.float64"),
    (ValueError, TALL.half(), torch.ones(3).half(), "float32, float64 or complex"),
    (ValueError, TALL, torch.ones(3, device="meta"), "one device"),
    (ValueError, TALL, torch.tensor([1.0, torch.nan, 1.0]), r"B holds .*nan at \(1, 0\)"),
    (ValueError, TALL * torch.inf, torch.ones(3), "A holds a value that is not finite"),
]


@pytest.mark.parametrize(("error", "A", "B", "message"), ERRORS)
def test_errors(error, A, B, message):
    with pytest.raises(error, match=message):
        sparse_generic_lstsq(A, B)


def test_bad_functions():
    with pytest.raises(TypeError, match="lstsq is a function of A and B; got int"):
        sparse_generic_lstsq(TALL, torch.ones(3), lstsq=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SolveError, match=r"returns X with shape \(2,\)"):
        sparse_generic_lstsq(TALL, torch.ones(3), lstsq=lambda A, B: B)


@pytest.mark.slow
def test_rank_is_watched(dtype):
    b = randn(4, dtype=dtype)
    empty = SparseMatrix.from_coo([0, 1], [0, 2], torch.ones(2, dtype=dtype), (4, 3))
    with pytest.raises(SolveError, match="its column 1 holds but zeros"):
        sparse_generic_lstsq(empty, b)
    D = torch.tensor([[1.0, 1, 0], [2, 2, 0], [0, 0, 1], [1, 1, 1]], dtype=dtype)
    twice = SparseMatrix.from_dense(D)  # two columns are equal
    with pytest.raises(SolveError, match=r"full column rank|condition"):
        torch.func.grad(lambda A: sparse_generic_lstsq(A, b)[0].abs())(twice)


def test_function_class(A):
    T, b = A.to_coo().requires_grad_(), randn(6, dtype=A.dtype)
    SparseGenericLstsq.apply(T, b, None, None).abs().sum().backward()
    assert T.grad.is_sparse
    closed, P = A.to_csr(), torch.linalg.pinv(A.to_dense())
    twice = lambda f: torch.func.jvp(lambda X: torch.func.jvp(f, (X,), (b,))[1], (b,), (b,))[1]
    ours = twice(lambda X: SparseGenericLstsq.apply(closed, X).sin())
    assert_close(ours, twice(lambda X: (P @ X).sin()))


# ----------------------------------------------------------------------------------- properties


@given(entries("tall"), st.data())
def test_solution_is_the_dense_one(e, data):
    B = data.draw(right_hand_sides(e))
    X = sparse_generic_lstsq(e.matrix(), B)
    assert_close(X, normal(e.dense(), B) if e.shape[1] else X.new_zeros(X.shape))


@pytest.mark.slow
@given(entries("tall"), st.data(), st.integers(0, 99))
def test_derivatives(e, data, seed):
    B = data.draw(right_hand_sides(e, (1, 2), strides="contiguous"))

    def f(values, B):
        return torch.sin(sparse_generic_lstsq(e._replace(values=values).matrix(), B))

    assert_derivatives(f, (e.values, B), seed)
