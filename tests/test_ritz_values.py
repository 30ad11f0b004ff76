"""Ritz values of CG, ICCG and MINRES, by dense eigenvalues."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.systems import randn
from tests.textbook import definite, solved
from tsgu_func import SparseMatrix
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers import CG, DIC, ICCG, MINRES, Custom, Jacobi

N = 12
DTYPES = [torch.float64, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 2.0**300])
@pytest.mark.parametrize("name", ["none", "jacobi", "custom"])
@pytest.mark.parametrize("cls", [CG, MINRES])
def test_ritz_values_are_eigenvalues(cls, name, scale, dtype):
    """Of A, or M⁻¹ A, after n iterations; after few, they are between those."""
    D = definite(dtype) + torch.diag(torch.linspace(0, 20, N)).to(dtype)
    if name == "none" and cls is MINRES:
        D = D - 12 * torch.eye(N, dtype=dtype)  # indefinite
    m = 1 + randn(N).abs()
    M = {"jacobi": Jacobi(), "custom": Custom(lambda R: R / m[:, None])}.get(name)
    root = {"jacobi": D.diagonal().real, "custom": m}.get(name, torch.ones_like(m)).rsqrt()
    expected = torch.linalg.eigvalsh(root[:, None] * D * root)
    expected = expected * (1 if name == "jacobi" else scale)
    check_ritz_values(scale * D, expected, cls(M, history=40, rtol=1e-13))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_ritz_values_of_the_compiled_loop(dtype):
    D, eye = definite(dtype), torch.eye(N, dtype=dtype)
    A = SparseMatrix.from_dense(D)
    inverse = DIC().apply(DIC().init(StoredMatrix(A.pattern.structure, A.values)), eye)
    root = torch.linalg.cholesky(inverse)
    expected = torch.linalg.eigvalsh(root.mH @ D @ root)
    check_ritz_values(D, expected, ICCG(history=40, rtol=1e-13))


def check_ritz_values(D, expected, solver):
    b = randn(N, dtype=D.dtype)
    _, info = solved(D, b, solver)
    assert_close(info.smallest_ritz, expected[0], rtol=1e-6, atol=0)
    assert_close(info.largest_ritz, expected[-1], rtol=1e-6, atol=0)
    _, info = solved(D, b, replace(solver, history=3))
    assert expected[0] < info.smallest_ritz < info.largest_ritz < expected[-1]


def test_ritz_values_of_an_indefinite_matrix():
    saddle, rest = torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.diag(torch.tensor([2.0, 5.0]))
    D, b = torch.block_diag(saddle, rest).double(), torch.tensor([1.0, -1.2, 1.0, 1.0]).double()
    for solver in (CG(history=9), ICCG(history=9)):
        _, info = solved(D, b, solver, on_failure="ignore")
        assert info.result.name == "INDEFINITE"
        assert info.smallest_ritz < 0
    _, info = solved(D, b, MINRES(history=9))
    assert_close((float(info.smallest_ritz), float(info.largest_ritz)), (-1.0, 5.0))


def test_ritz_values_where_all_are_equal():
    _, info = solved(-torch.eye(N).double(), randn(N, 2), MINRES(history=9))
    assert_close(info.smallest_ritz, torch.tensor([-1.0, -1.0]).double())
    assert_close(info.largest_ritz, torch.tensor([-1.0, -1.0]).double())


@pytest.mark.parametrize("cls", [CG, MINRES])
def test_there_are_none_with_a_preconditioner_that_is_not_definite(cls):
    solver = cls(Custom(lambda R: -R), history=9)
    _, info = solved(definite(torch.float64), randn(N), solver, on_failure="ignore")
    assert info.result.name == "PRECONDITIONER"
    assert info.smallest_ritz.isnan()
    assert info.largest_ritz.isnan()
