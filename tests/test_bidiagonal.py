"""The compiled steps of LSMR and LSQR are those of PyTorch, for any number of columns."""

import pytest
import torch

from tests.systems import DTYPES, numpy_lstsq, randn
from tsgu_func import SparseMatrix, sparse_generic_lstsq
from tsgu_func.kernels import scaling
from tsgu_func.solvers import LSMR, LSQR, SolveError
from tsgu_func.solvers.history import Log
from tsgu_func.solvers.lstsq import vectors
from tsgu_func.solvers.lstsq.bidiagonal import solve
from tsgu_func.solvers.lstsq.problem import problem_of, rules_of
from tsgu_func.solvers.system import as_operator, read_system
from tsgu_func.utils import lsmr

# As many columns as the loops take at a time, and rests of all sizes; one column in two threads is
# taken by other loops than in one.
COLUMNS = [1, 2, 3, 4, 5, 7, 8, 15, 17]


def sparse(*shape, dtype=torch.float64):
    return randn(*shape, dtype=dtype) * (randn(*shape, seed=1).abs() > 0.6)


def both_ways(A, B, start, method, monkeypatch):
    """Solve in compiled loops, and by operations of PyTorch."""
    cols = A.shape[-1]
    system = read_system(A, B, start, cols=cols, names=("A", "B", "X0"))
    problem = problem_of(system, as_operator(A.mH, "Aᴴ", False, cols), cols)
    rules = rules_of(1e-9, 1e-9, 1e8, 200)
    compiled = solve(problem, rules, method, Log(0))
    monkeypatch.setattr(vectors, "_are_for_loops", lambda *_: False)
    return compiled, solve(problem, rules, method, Log(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("method", ["lsmr", "lsqr"])
@pytest.mark.parametrize(("p", "workers"), [*((p, 1) for p in COLUMNS), (1, 2)])
@pytest.mark.parametrize("kind", ["tall", "wide", "batch", "start"])
def test_loops_are_operations(kind, p, workers, method, dtype, monkeypatch):
    monkeypatch.setattr("tsgu_func.kernels.threads.workers", lambda: workers)
    D = sparse(40, 9, dtype=dtype) + 2 * torch.eye(40, 9, dtype=dtype)
    D = torch.stack([D, 3 * D.roll(1, 0)]) if kind == "batch" else D
    D = D.mH if kind == "wide" else D
    B = randn(*D.shape[:-1], p, dtype=dtype)
    B[..., :, -1] *= 0 if p > 2 else 1
    start = randn(D.shape[-1], p, dtype=dtype) if kind == "start" else None
    A = SparseMatrix.from_dense(D)
    A = vectors.StoredMatrix(A.pattern.structure, A.values, A.pattern.transposed)
    loops, general = both_ways(A, B, start, method, monkeypatch)
    assert torch.equal(loops.iterations, general.iterations)
    assert bool(loops.state.converged.all())
    torch.testing.assert_close(loops.state.change, general.state.change, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(loops.condition, general.condition, rtol=0.05, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [LSMR(), LSQR()], ids=repr)
def test_parts_in_several_threads_are_the_whole(solver, dtype, monkeypatch):
    D = sparse(300, 20, dtype=dtype) + 2 * torch.eye(300, 20, dtype=dtype)
    A, B = SparseMatrix.from_dense(D), randn(300, 3, dtype=dtype)
    monkeypatch.setattr("tsgu_func.kernels.products._WORTH_A_THREAD", 64)
    monkeypatch.setattr("tsgu_func.kernels.threads.workers", lambda: 3)
    X = sparse_generic_lstsq(A, B, lstsq=solver)
    small = 1e-4 if dtype.to_real() == torch.float32 else 1e-10
    torch.testing.assert_close(X, numpy_lstsq(D, B).to(dtype), rtol=small, atol=small)
    assert torch.equal(X, sparse_generic_lstsq(A, B, lstsq=solver))


def test_what_overflows_is_an_error():
    A = SparseMatrix.from_dense(torch.eye(5, 3).double() * 1e200)
    with pytest.raises(SolveError, match="overflowed"):
        lsmr(A, torch.ones(5).double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_scaled_columns_have_norm_one(batch, transpose, dtype):
    D = randn(6, 4, dtype=dtype) * torch.logspace(-3, 3, 4, dtype=torch.float64)
    D = (D.mT if transpose else D).to(dtype)
    D[:, 1] = 0
    A = SparseMatrix.from_dense(D.mT if transpose else D)
    values = A.values.expand(*batch, -1)
    s, column = A.pattern.structure, A.pattern.structure.row if transpose else A.pattern.col
    new, scale = scaling.scale_columns(s, values, transpose=transpose)
    zeros = torch.zeros(*batch, D.shape[1], dtype=dtype.to_real())
    other, expected = scaling._by_torch(column.long(), values, zeros)
    torch.testing.assert_close(new, other)
    torch.testing.assert_close(scale, expected)
    assert bool((scale[..., 1] == 0).all())
    norms = torch.linalg.vector_norm(D * scale.reshape(-1, 1, D.shape[1])[0], dim=0)
    torch.testing.assert_close(norms, (scale.reshape(-1, D.shape[1])[0] > 0).to(norms.dtype))


# Of what is looked at before the iterations.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_a_compiled_function_may_call_lsmr():
    D, b = randn(9, 4), randn(9)

    def doubled(b):
        return 2 * lsmr(D, 3 * b, atol=1e-13, btol=1e-13)[0]

    found = torch.compile(doubled, backend="eager")(b)
    torch.testing.assert_close(found, 6 * numpy_lstsq(D, b))
