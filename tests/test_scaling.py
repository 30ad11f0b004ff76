"""``A * d`` and ``A / d`` are what they are for the dense matrix, at the stored entries."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, hessian, jvp, vmap
from torch.testing import assert_close

from tsgu_func import SparseMatrix, sparse_lstsq
from tsgu_func.testing import check_rules, strategies

SIZES = {
    "number": (),
    "one": (1,),
    "columns": (3,),
    "one row": (1, 3),
    "rows": (4, 1),
    "one by one": (1, 1),
    "dense": (4, 3),
    "members": (2, 1, 1),
    "columns of members": (2, 1, 3),
    "a larger batch": (5, 2, 4, 1),
    "a batch of dense": (2, 4, 3),
    "a batch of none": (0, 1, 1, 1),
}


def filled(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator) + 3.0


def matrices(dtype):
    row, col = [0, 0, 1, 3, 3], [0, 2, 1, 0, 1]
    single = SparseMatrix.from_coo(row, col, filled((5,), dtype), (4, 3))
    transposed = SparseMatrix.from_coo(col, row, filled((5,), dtype, 1), (3, 4)).T
    return [single, transposed, single.with_values(filled((2, 5), dtype, 2))]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_factor_is_that_of_the_dense_matrix(size, dtype):
    d = filled(size, dtype, 3)
    for A in matrices(dtype):
        for product in (A * d, d * A, A.mul(d)):
            assert product.pattern == A.pattern
            assert_close(product.to_dense(), A.to_dense() * d)
        for quotient in (A / d, A.div(d)):
            assert_close(quotient.to_dense(), A.to_dense() / d)


@pytest.mark.parametrize("number", [2, 2.5, True, 1j, np.float32(2.5), np.int64(2)])
def test_numbers_scale(number):
    for A in matrices(torch.complex128):
        assert_close((A * number).to_dense(), A.to_dense() * complex(number))
        assert_close((number * A).to_dense(), A.to_dense() * complex(number))
        assert_close((A / number).to_dense(), A.to_dense() / complex(number))


@pytest.mark.parametrize(
    "size", [(4,), (2,), (3, 1), (4, 2), (1, 4), (3, 3), (2, 4), (3, 1, 1, 4), (0,), (7, 3, 3)]
)
def test_a_factor_that_does_not_fit_is_refused(size):
    for A in matrices(torch.float64)[:2]:
        for operation in (lambda d, A=A: A * d, lambda d, A=A: d * A, lambda d, A=A: A / d):
            with pytest.raises(ValueError, match=r"shape \(n, 1\) scales rows.*t\[\.\.\., None"):
                operation(torch.ones(size, dtype=torch.float64))


def test_a_factor_makes_no_matrix_larger():
    row, column = (SparseMatrix.from_dense(torch.ones(s)) for s in ((1, 3), (3, 1)))
    for A, size in ((row, (3, 1)), (column, (3,)), (row, (3, 3)), (column, (2, 3, 3))):
        with pytest.raises(ValueError, match="leaves it its size"):
            A * torch.ones(size)
    assert_close((row * torch.arange(3.0)).to_dense(), torch.arange(3.0)[None])
    assert_close((column * torch.arange(3.0)[:, None]).to_dense(), torch.arange(3.0)[:, None])


def test_other_factors_are_refused():
    A = matrices(torch.float64)[0]
    for wrong in ("x", None, [1.0], np.ones(3)):
        with pytest.raises(TypeError):
            A * wrong
        with pytest.raises(TypeError):
            A / wrong
        with pytest.raises(TypeError, match="scaled by a number or a tensor"):
            A.mul(wrong)
    with pytest.raises(TypeError, match=r"not divided by a sparse one.*A \* B\.map"):
        A / A
    with pytest.raises(TypeError, match="dense tensor; got a sparse_coo"):
        A * torch.ones(4, 3).to_sparse_coo()
    with pytest.raises(ValueError, match="one device"):
        A * torch.ones(3, device="meta")


def test_a_weighted_least_squares_problem():
    J, w = SparseMatrix.from_dense(torch.tensor([[1.0, 0], [2, 1], [0, 3]])), torch.arange(1.0, 4)
    r = torch.tensor([1.0, -1.0, 2.0])
    with pytest.raises(ValueError, match="scales rows"):
        J * w
    expected = torch.linalg.lstsq(J.to_dense() * w[:, None], (w * r)[:, None]).solution[:, 0]
    assert_close(sparse_lstsq(J * w[:, None], w * r), expected)


@pytest.mark.parametrize("size", [(), (3,), (4, 1), (4, 3), (2, 1, 1), (1, 1)])
@pytest.mark.parametrize("operation", [SparseMatrix.mul, SparseMatrix.div])
def test_every_rule(operation, size, dtype):
    A, d = matrices(dtype)[0], filled(size, dtype, 4)

    def f(values, d):
        return operation(A.with_values(values), d).values

    check_rules(f, (A.values, d), transforms=["first", "higher", "vmap"]).raise_if_failed()


def test_derivatives_are_those_of_the_dense_matrix():
    A, d = matrices(torch.float64)[0], filled((4, 1), torch.float64, 5)
    sparse = lambda v, d: (A.with_values(v) / d * d[:, 0].sum()).to_dense().pow(3).sum()
    row, col = A.pattern.row.long(), A.pattern.col.long()
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    at = lambda v: zeros.index_put((row, col), v)
    dense = lambda v, d: (at(v) / d * d[:, 0].sum()).pow(3).sum()
    for argument in (0, 1):
        assert_close(grad(sparse, argument)(A.values, d), grad(dense, argument)(A.values, d))
        assert_close(hessian(sparse, argument)(A.values, d), hessian(dense, argument)(A.values, d))
    tangents = (torch.ones_like(A.values), torch.ones_like(d))
    assert_close(jvp(sparse, (A.values, d), tangents), jvp(dense, (A.values, d), tangents))


def test_a_batch_of_factors_by_vmap(dtype):
    A, d = matrices(dtype)[0], filled((6, 3), dtype, 6)
    assert_close(vmap(lambda d: (A * d).to_dense())(d), A.to_dense() * d[:, None])
    batch = A.with_values(filled((6, 5), dtype, 7))
    assert_close(vmap(torch.mul)(batch.to_dense(), d[:, None]), vmap(scaled)(batch, d).to_dense())


def scaled(A, d):
    return A * d


def test_an_expanded_factor_is_never_made_dense():
    n = 10**6
    A = SparseMatrix.from_coo([0, n - 1], [1, n - 2], torch.tensor([1.0, 2.0]), (n, n))
    assert_close((A * torch.tensor(3.0).expand(n, n)).values, 3 * A.values)
    assert_close((A * torch.arange(float(n))).values, torch.tensor([1.0, 2.0 * (n - 2)]))


@given(st.data())
def test_any_factor_of_any_matrix(data):
    A = data.draw(strategies.sparse_matrices(dtype=torch.float64))
    shape = [data.draw(st.sampled_from([1, n])) for n in A.shape]
    keep = data.draw(st.integers(0, len(shape)))
    d = filled(tuple(shape[len(shape) - keep :]), torch.float64, data.draw(st.integers(0, 9)))
    assert_close((A * d).to_dense(), A.to_dense() * d)
    assert_close((A / d).to_dense(), A.to_dense() / d)
