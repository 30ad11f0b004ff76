"""Vectors, batches of vectors and columns: what the shape of a right-hand side means."""

import itertools

import pytest
import torch
from torch.func import jacrev, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import (
    SparseMatrix,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_mm,
    sparse_solve,
    sparse_triangular_solve,
)
from tsgu_func.solvers import SuperLU

DTYPES = [torch.float64, torch.complex128]


def by_hand(A, B):
    """Return the dense solution, in which the shape of the right-hand side is given."""
    return torch.linalg.solve(A, B.unsqueeze(-1)).squeeze(-1)


def least(A, B):
    return torch.linalg.lstsq(A, B.unsqueeze(-1)).solution.squeeze(-1)


def lower(A, B):
    return sparse_triangular_solve(A, B, upper=False)


def general(A, B):
    return sparse_generic_solve(A, B, solve=SuperLU())


def function(A, B):
    return sparse_generic_solve(A, B, solve=lambda A, b: torch.linalg.solve(A.to_dense(), b))


SQUARE = [sparse_solve, general, function]
TALL = [sparse_lstsq, sparse_generic_lstsq]


def batch(solve, *sizes, dtype=torch.float64, tall=0):
    """Return a batch of dense matrices with zeros at common places, which a function can solve."""
    n = 4
    D = randn(*sizes, n + tall, n, dtype=dtype) * (randn(n + tall, n, seed=3).abs() > 0.4)
    D = D + 4 * torch.eye(n + tall, n)
    return torch.tril(D) if solve is lower else D


LAYOUTS = {
    "SparseMatrix": SparseMatrix.from_dense,
    "coo": lambda D: D.to_sparse_coo(),
    "csr": lambda D: D.to_sparse_csr(),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("solve", "layout"),
    # The specification asks for as many axes of B as of a torch tensor that is triangular.
    [*itertools.product([*SQUARE, *TALL], LAYOUTS), (lower, "SparseMatrix")],
)
def test_a_vector_for_each_member(solve, layout, dtype):
    tall = 3 if solve in TALL else 0
    D = batch(solve, 3, dtype=dtype, tall=tall)
    if layout == "csr":  # whose members store as many entries each
        D = D[:1].expand(3, -1, -1) * torch.tensor([1, 2, 3])[:, None, None]
    dense = least if solve in TALL else by_hand
    for b in (randn(3, 4 + tall, dtype=dtype), randn(4 + tall, dtype=dtype)):
        x = solve(LAYOUTS[layout](D), b)
        assert_close(x, dense(D, b.expand(3, -1)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solve", [*SQUARE, lower])
def test_it_is_what_a_map_over_the_members_gives(solve):
    D = batch(solve, 2, 3)
    A, b = SparseMatrix.from_dense(D), randn(2, 3, 4)
    values = A.values.clone().requires_grad_()
    x = solve(A.with_values(values), b)
    assert_close(x, by_hand(D, b))
    assert_close(x, vmap(vmap(solve))(A, b))
    x.square().sum().backward()
    dense = D.clone().requires_grad_()
    by_hand(dense, b).square().sum().backward()
    row, col = A.pattern.row.long(), A.pattern.col.long()
    assert_close(values.grad, dense.grad[..., row, col])
    assert_close(jacrev(lambda b: solve(A, b))(b), jacrev(lambda b: by_hand(D, b))(b))


def test_a_function_is_handed_a_vector_of_each_member():
    seen = []

    def solve(A, b):
        seen.append(tuple(b.shape))
        return torch.linalg.solve(A.to_dense(), b)

    sparse_generic_solve(SparseMatrix.from_dense(batch(solve, 3)), randn(3, 4), solve=solve)
    assert seen == [(4,)] * 3


def test_the_report_has_a_number_for_each_vector():
    A, b = SparseMatrix.from_dense(batch(sparse_solve, 3)), randn(3, 4)
    x, info = sparse_solve(A, b, return_info=True)
    assert x.shape == (3, 4)
    assert info.residual.shape == info.code.shape == info.condition.shape == (3,)
    D = batch(sparse_lstsq, 3, tall=2)
    for A in (SparseMatrix.from_dense(D), D.to_sparse_coo()):
        x, info = sparse_lstsq(A, randn(3, 6), return_info=True)
        assert x.shape == (3, 4)
        assert info.residual.shape == (3,)


@pytest.mark.parametrize("solve", [*SQUARE, *TALL, lower])
def test_what_could_be_a_matrix_for_all_members_is_refused_with_the_cure(solve):
    D = batch(solve, 4)
    A, B = SparseMatrix.from_dense(D), randn(4, 4)
    cures = r"ambiguous for A \(4, 4, 4\): B.unsqueeze\(-1\) .*B.expand\(4, 4, 4\)"
    with pytest.raises(ValueError, match=cures):
        solve(A, B)
    assert_close(solve(A, B.unsqueeze(-1)).squeeze(-1), by_hand(D, B), rtol=1e-7, atol=1e-7)
    together = solve(A, B.expand(4, 4, 4))
    assert_close(together, torch.linalg.solve(D, B.expand(4, 4, 4)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solve", SQUARE)
def test_a_torch_tensor_is_refused_what_is_ambiguous_too(solve):
    with pytest.raises(ValueError, match="ambiguous"):
        solve(batch(solve, 4).to_sparse_coo(), randn(4, 4))


@pytest.mark.parametrize("solve", SQUARE)
def test_what_cannot_be_a_matrix_for_all_members_is_not_ambiguous(solve):
    D = batch(solve, 3, 4)  # B (3, 4, 4) as matrices does not broadcast with (3, 4)
    B = randn(3, 4, 4)
    assert_close(solve(SparseMatrix.from_dense(D), B), by_hand(D, B))


def test_a_matrix_for_all_members_is_still_one():
    D, B = batch(sparse_solve, 3), randn(4, 2)
    assert_close(
        sparse_solve(SparseMatrix.from_dense(D), B), torch.linalg.solve(D, B.expand(3, 4, 2))
    )


def test_a_compiled_function_takes_vectors_for_members():
    A, b = SparseMatrix.from_dense(batch(sparse_solve, 3)), randn(3, 4)
    compiled = torch.compile(sparse_solve, fullgraph=True, backend="aot_eager")
    assert_close(compiled(A, b), by_hand(A.to_dense(), b))


def test_a_product_keeps_the_rule_of_matmul_and_says_how_to_mend_it():
    D = randn(3, 4, 4)
    A, b = SparseMatrix.from_dense(D), randn(3, 4)
    with pytest.raises(ValueError, match=r"a vector for each member is B.unsqueeze\(-1\)"):
        sparse_mm(A, b)
    assert_close(sparse_mm(A, b.unsqueeze(-1)), D @ b.unsqueeze(-1))
    assert_close(A @ randn(4, 4), D @ randn(4, 4))


@pytest.mark.parametrize("multiply", [sparse_mm, sparse_triangular_solve])
def test_the_specification_asks_for_as_many_axes_of_a_torch_tensor(multiply):
    A = torch.eye(3).to_sparse_coo()
    with pytest.raises(ValueError, match=r"a vector is B.unsqueeze\(-1\)"):
        multiply(A, torch.ones(3))


@pytest.mark.parametrize("solve", [*SQUARE, lower])
def test_vectors_of_another_number_are_told_the_shape(solve):
    A = SparseMatrix.from_dense(batch(solve, 3))
    with pytest.raises(ValueError, match=r"vectors for all members have shape \(3, 4\)"):
        solve(A, randn(2, 4))
