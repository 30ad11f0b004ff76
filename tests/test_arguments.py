"""Whatever kind of argument is drawn, values and gradients are those of the dense function."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

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
from tsgu_func.testing.strategies import LAYOUTS, STRIDES, entries, restrided, right_hand_sides
from tsgu_func.utils import bicgstab


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


@pytest.mark.slow
@given(
    st.sampled_from(sorted(PROBLEMS)),
    st.sampled_from(LAYOUTS),
    st.sampled_from(STRIDES),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_any_combination(name, layout, strides, needs_A, needs_B, data):
    e = data.draw(entries("tall" if name == "lstsq" else "dominant"))
    problem, D = PROBLEMS[name], e.dense()
    B = data.draw(right_hand_sides(e))
    A, B = e.stored(layout).requires_grad_(needs_A), B.requires_grad_(needs_B)
    dense = [D.clone().requires_grad_(needs_A), B.detach().clone().requires_grad_(needs_B)]
    out, expected = problem.ours(A, B), problem.dense(*dense)
    close = {"rtol": 1e-6, "atol": 1e-6}
    assert_close(out, expected, **close)
    assert out.requires_grad == (needs_A or needs_B)
    if not out.requires_grad:
        return
    rows = out.shape[0]
    G = data.draw(right_hand_sides(rows, out.shape[1], dtype=D.dtype, strides="contiguous"))
    G = restrided(G, strides)
    out.backward(G)
    expected.backward(G.clone())
    if needs_B:
        assert_close(B.grad, dense[1].grad, **close)
    if needs_A:
        gradient = A.with_values(A.values.grad) if isinstance(A, SparseMatrix) else A.grad
        assert_close(gradient.to_dense(), dense[0].grad * e.places.mask(), **close)


@pytest.mark.parametrize("function", [sparse_solve, sparse_lstsq])
@pytest.mark.parametrize(
    ("A", "B", "message"),
    [
        (3, torch.ones(2), "A is a SparseMatrix or a sparse COO or CSR tensor; got int"),
        (np.eye(2), torch.ones(2), "got ndarray"),
        (torch.eye(2), torch.ones(2), "from_dense"),
        (SparseMatrix.from_dense(torch.eye(2)), np.ones(2), "B is a dense tensor; got ndarray"),
        (SparseMatrix.from_dense(torch.eye(2)), [1.0, 2.0], "B is a dense tensor; got list"),
    ],
)
def test_what_is_no_matrix_or_right_hand_side_is_a_type_error(function, A, B, message):
    with pytest.raises(TypeError, match=message):
        function(A, B)
