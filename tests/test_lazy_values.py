"""Values that are conjugated or negated lazily, wherever a number of them is looked at."""

import pickle

import pytest
import torch
from torch.testing import assert_close

from tsgu_func import SparseMatrix, factorize, sparse_lstsq, sparse_solve
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers import AMG, CG, DIC, GMRES, IC0, ICCG, ILU0, ILUT, SSOR, DenseLU, SuperLU
from tsgu_func.solvers.traits import sums_of_magnitudes, traits_of

D = torch.tensor([[4.0, 1, 0], [1, 3, 1], [0, 1, 5]], dtype=torch.float64)
KINDS = ["negated", "conjugated"]


def lazily(x, kind):
    """Return a view of other numbers that stands for x (of its conjugate, for complex ones)."""
    if kind == "negated":
        seen = torch.complex(torch.zeros_like(x), -x).conj().imag
        assert seen.is_neg()
        return seen
    return x.conj()


def values_of(kind):
    stored = SparseMatrix.from_dense(D)
    if kind == "negated":
        return stored.pattern, stored.values
    # Hermitian: with imaginary parts of both signs above and below the diagonal.
    sign = torch.sign(stored.pattern.col - stored.pattern.row)
    return stored.pattern, torch.complex(stored.values, 0.3 * sign.double())


@pytest.fixture(params=KINDS)
def pair(request):
    """Return a matrix with lazy values, and the same with plain ones."""
    pattern, values = values_of(request.param)
    lazy = lazily(values, request.param)
    return SparseMatrix(pattern, lazy), SparseMatrix(pattern, lazy.resolve_conj().resolve_neg())


def test_conversions(pair):
    A, plain = pair
    for view in (lambda M: M, lambda M: M.T, lambda M: M.mH, lambda M: M.conj()):
        expected = view(plain).to_dense()
        assert_close(torch.from_numpy(view(A).to_scipy().toarray()), expected)
        assert_close(view(A).to_csr().to_dense(), expected)
        assert_close(view(A).to_coo().to_dense(), expected)
        assert_close(pickle.loads(pickle.dumps(view(A))).to_dense(), expected)


def test_inspection(pair):
    lazy, plain = (StoredMatrix(M.pattern.structure, M.values) for M in pair)
    assert traits_of(lazy) == traits_of(plain)
    assert_close(sums_of_magnitudes(lazy), sums_of_magnitudes(plain))
    assert abs(lazy.to_scipy() - plain.to_scipy()).max() == 0


SOLVERS = [None, DenseLU(), SuperLU(), CG(), ICCG(), CG(IC0()), CG(DIC()), CG(SSOR())]
SOLVERS += [GMRES(ILU0()), GMRES(ILUT()), CG(AMG("smoothed_aggregation"))]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_solvers(pair, solver):
    A, plain = pair
    b = plain @ torch.ones(3, dtype=A.dtype)
    right = lazily(b, "negated" if not b.is_complex() else "conjugated")
    expected = torch.linalg.solve(plain.to_dense(), right.resolve_conj().resolve_neg())
    close = {"rtol": 1e-7, "atol": 1e-7}
    assert_close(sparse_solve(A, right, solver=solver), expected, **close)
    assert_close(factorize(A, solver).solve(right), expected, **close)
    assert_close(sparse_lstsq(A, right), expected, **close)
