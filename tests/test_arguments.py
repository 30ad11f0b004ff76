"""Whatever kind of argument is drawn, values and gradients are those of the dense function."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.strategies import Entries, numbers, restrided, systems
from tsgu_func import (
    SparseMatrix,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_triangular_solve,
)
from tsgu_func.solvers import SuperLU
from tsgu_func.utils import bicgstab

KINDS = ("COO", "uncoalesced", "CSR int64", "CSR int32", "SparseMatrix", "transposed")


class Problem(NamedTuple):
    """A function of a sparse matrix and a dense one, and what it is of dense ones."""

    ours: object
    dense: object


PROBLEMS = {
    "mm": Problem(sparse_mm, torch.matmul),
    "upper": Problem(
        sparse_triangular_solve, lambda A, B: torch.linalg.solve_triangular(A, B, upper=True)
    ),
    "lower": Problem(
        lambda A, B: sparse_triangular_solve(A, B, upper=False),
        lambda A, B: torch.linalg.solve_triangular(A, B, upper=False),
    ),
    "transposed": Problem(
        lambda A, B: sparse_triangular_solve(A, B, transpose=True),
        lambda A, B: torch.linalg.solve_triangular(A.mT, B, upper=False),
    ),
    "SuperLU": Problem(
        lambda A, B: sparse_generic_solve(A, B, solve=SuperLU()), torch.linalg.solve
    ),
    "bicgstab": Problem(
        lambda A, B: sparse_generic_solve(A, B, solve=bicgstab), torch.linalg.solve
    ),
    "lstsq": Problem(sparse_generic_lstsq, lambda A, B: torch.linalg.solve(A.mH @ A, A.mH @ B)),
}


def as_kind(e: Entries, kind: str) -> SparseMatrix | Tensor:
    """Store entries, duplicates among them, as one of the kinds."""
    A = SparseMatrix.from_coo(e.row, e.col, e.values, e.shape)
    if kind == "COO":
        return A.to_coo()
    if kind == "uncoalesced":
        return torch.sparse_coo_tensor(torch.tensor([e.row, e.col]), e.values, e.shape)
    if kind == "SparseMatrix":
        return A
    if kind == "transposed":
        return SparseMatrix.from_coo(e.col, e.row, e.values, e.shape[::-1]).T
    s, dtype = A.pattern.structure, getattr(torch, kind.removeprefix("CSR "))
    return torch.sparse_csr_tensor(s.crow.to(dtype), s.col.to(dtype), A.values, e.shape)


@given(
    systems(),
    st.sampled_from(sorted(PROBLEMS)),
    st.sampled_from(KINDS),
    st.integers(1, 3),
    restrided(),
    restrided(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_combination(e, name, kind, p, place, place_ct, needs_A, needs_B, seed):
    scale = e.values.abs().max()
    e = e._replace(values=e.values / scale)
    problem, D = PROBLEMS[name], e.dense()
    B = place(numbers((e.shape[1], p), D.dtype, seed))
    A = as_kind(e, kind)
    A, B = A.requires_grad_(needs_A), B.requires_grad_(needs_B)
    dense = [D.clone().requires_grad_(needs_A), B.detach().clone().requires_grad_(needs_B)]
    out, expected = problem.ours(A, B), problem.dense(*dense)
    close = {"rtol": 1e-6, "atol": 1e-6}
    assert_close(out, expected, **close)
    assert out.requires_grad == (needs_A or needs_B)
    if not out.requires_grad:
        return
    G = numbers(tuple(out.shape), D.dtype, seed + 1)
    out.backward(place_ct(G))
    expected.backward(G)
    if needs_B:
        assert_close(B.grad, dense[1].grad, **close)
    if needs_A:
        gradient = A.with_values(A.values.grad) if isinstance(A, SparseMatrix) else A.grad
        stored = torch.zeros(e.shape, dtype=torch.bool)
        stored[e.row, e.col] = True
        assert_close(gradient.to_dense(), dense[0].grad * stored, **close)
