"""`sparse_solve`: what it chooses, what it reports, and that it goes through every transform."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from tests.systems import DTYPES, N, close, matrix_for, numpy_solve, randn
from tsgu_func import SparseMatrix, sparse_generic_solve, sparse_solve
from tsgu_func.solvers import (
    CG,
    GMRES,
    Auto,
    BiCGStab,
    ConvergenceError,
    Result,
    SolveError,
    Substitution,
    SuperLU,
    auto,
    cache_info,
    choice,
    clear_cache,
)
from tsgu_func.utils import bicgstab, linear_cg, minres

FAST = GMRES(rtol=1e-13)


def general(n=N, dtype=torch.float64):
    return matrix_for(bicgstab, dtype, n)


def chosen(A, B=None, **settings):
    B = randn(A.shape[-1], dtype=A.dtype) if B is None else B
    return sparse_solve(A, B, solver=Auto(**settings), return_info=True)[1]


def poisson(rows, cols=None, dtype=torch.float64):
    line = lambda n: sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    A = sp.kron(line(rows), sp.eye_array(cols or rows)) + sp.kron(
        sp.eye_array(rows), line(cols or rows)
    )
    return SparseMatrix.from_scipy(A).to(dtype)


@pytest.fixture
def without(monkeypatch):
    """Pretend that optional packages are not installed."""

    def pretend(*packages):
        installed = choice.installed
        monkeypatch.setattr(choice, "installed", lambda p: p not in packages and installed(p))

    clear_cache()
    yield pretend
    clear_cache()


# ------------------------------------------------------------------------------------ solutions


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [linear_cg, minres, bicgstab])
@pytest.mark.parametrize("n", [1, 20, 150])
def test_solutions(dtype, kind, n):
    D = matrix_for(kind, dtype, n) + (3 * n**0.5 * torch.eye(n) if n > 20 else 0)
    D = D.to(dtype)
    for B in (randn(n, dtype=dtype), randn(n, 3, dtype=dtype)):
        X, info = sparse_solve(SparseMatrix.from_dense(D), B, return_info=True)
        torch.testing.assert_close(X, numpy_solve(D, B).to(dtype), **close(dtype))
        assert info.residual.shape == B.shape[1:]
        assert info.result is Result.SOLVED
        assert info._fields[0] == "code"  # and not the solution again


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_torch_sparse_tensors(layout):
    D, B = general(), randn(N, 2)
    A = D.to_sparse_coo() if layout == "coo" else D.to_sparse_csr()
    A.requires_grad_()
    X = sparse_solve(A, B)
    torch.testing.assert_close(X.detach(), numpy_solve(D, B))
    X.sum().backward()
    assert A.grad.layout == A.layout
    expected = -numpy_solve(D.mT, torch.ones(N, 2).double()) @ X.detach().mT
    torch.testing.assert_close(A.grad.to_dense(), expected * (D != 0))


def test_a_batch_of_torch_tensors_is_told_about_by_member():
    D = torch.stack([general(), general() + torch.eye(N)])
    B = randn(2, N, 3)
    X, info = sparse_solve(D.to_sparse_coo(), B, return_info=True)
    torch.testing.assert_close(
        X, torch.stack([numpy_solve(d, b) for d, b in zip(D, B, strict=True)])
    )
    assert info.residual.shape == (2, 3)


@pytest.mark.parametrize("n", [20, 150])
def test_a_batch_of_values_and_right_hand_sides_broadcasts(n):
    D = general(n) + 3 * n**0.5 * torch.eye(n)
    A = SparseMatrix.from_dense(D)
    A = A.with_values(A.values * torch.tensor([1.0, 2.0]).double()[:, None, None])
    B = randn(3, n, 2)
    X, info = sparse_solve(A, B, return_info=True)
    assert X.shape == (2, 3, n, 2)
    assert info.residual.shape == info.iterations.shape == (2, 3, 2)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(X[i, j], numpy_solve((i + 1) * D, B[j]))


def test_nothing_to_solve():
    A = SparseMatrix.from_coo([], [], torch.zeros(0), (0, 0))
    X, info = sparse_solve(A, torch.zeros(0, 2), return_info=True)
    assert X.shape == (0, 2)
    assert info.residual.tolist() == [0, 0]
    B = SparseMatrix.from_dense(torch.eye(3))
    assert sparse_solve(B, torch.zeros(3, 0)).shape == (3, 0)


# -------------------------------------------------------------------------------- what it chooses


def test_a_triangular_matrix_is_substituted():
    D = torch.tril(randn(100, 100)) * (randn(100, 100, seed=1).abs() > 1.5) + 3 * torch.eye(100)
    for matrix in (D, D.mT):
        A, b = SparseMatrix.from_dense(matrix), randn(100)
        x, info = sparse_solve(A, b, return_info=True)
        assert info.solver == "Substitution()"
        torch.testing.assert_close(x, numpy_solve(matrix, b))
        y = sparse_solve(A.mH, b)
        torch.testing.assert_close(y, numpy_solve(matrix.mH, b))


def test_a_tiny_matrix_is_dense():
    assert chosen(SparseMatrix.from_dense(general(8))).solver.startswith("DenseLU")


def cube(n):
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    one = sp.eye_array(n)
    A = sp.kron(sp.kron(line, one), one) + sp.kron(sp.kron(one, line), one)
    return SparseMatrix.from_scipy(A + sp.kron(sp.kron(one, one), line))


def test_diffusion_in_space_is_iterated_with():
    info = chosen(cube(20))
    assert info.solver.startswith("ICCG")
    assert int(info.iterations) > 0
    assert float(info.residual) <= 1e-10
    assert float(chosen(cube(20), rtol=1e-4).residual) > 1e-10


def test_diffusion_on_a_grid_is_iterated_with_in_its_natural_order_only(without):
    A = poisson(70)
    assert chosen(A).solver.startswith("ICCG")
    without("pyamg", "pypardiso")
    order = torch.randperm(4900, generator=torch.Generator().manual_seed(0)).numpy()
    S = A.to_scipy()[order][:, order]
    assert chosen(SparseMatrix.from_scipy(S)).solver == "SuperLU()"


def test_the_adjoint_of_a_hermitian_matrix_is_not_made():
    A = poisson(50)
    x = sparse_solve(A.requires_grad_(), randn(2500))
    assert "transpose" not in A.pattern.structure._derived
    x.sum().backward()
    assert "transpose" not in A.pattern.structure._derived
    w = numpy_solve(A.detach().to_dense(), torch.ones(2500).double())
    row, col = A.pattern.row.long(), A.pattern.col.long()
    torch.testing.assert_close(A.values.grad, -w[row] * x.detach()[col], rtol=1e-7, atol=1e-7)


def test_a_general_matrix_is_factored(without):
    without("pypardiso")
    A = poisson(30) + SparseMatrix.from_scipy(sp.diags_array([0.5], offsets=[1], shape=(900, 900)))
    info = chosen(A)
    assert info.solver == "SuperLU()"
    assert not info.iterations.any()
    assert 1 < float(info.condition) < 1e4


def test_pardiso_is_for_what_is_real_and_not_small():
    pytest.importorskip("pypardiso")
    for n, scale, solver in (
        (2500, 1, "Pardiso()"),
        (2500, 1j, "SuperLU()"),
        (900, 1, "SuperLU()"),
    ):
        drift = sp.diags_array([0.5], offsets=[1], shape=(n, n))
        A = poisson(int(n**0.5)) + SparseMatrix.from_scipy(drift)
        assert chosen(A.with_values(A.values * scale)).solver == solver


def test_what_is_expensive_to_factor_is_tried_iteratively_first(without, monkeypatch):
    without("pypardiso")
    monkeypatch.setattr(choice, "_LONG", 0.0)
    monkeypatch.setattr(choice, "_SMALL", 100)
    general = poisson(12) + SparseMatrix.from_scipy(
        sp.diags_array([0.5], offsets=[1], shape=(144, 144))
    )
    assert chosen(general).solver.startswith("BiCGStab")
    definite = poisson(12) * 1.0
    values = definite.values.clone()
    off = definite.pattern.row != definite.pattern.col
    values[off] *= -1.0  # positive beside the diagonal: no M-matrix
    clear_cache()
    assert chosen(definite.with_values(values)).solver.startswith("CG")


def test_an_iteration_that_does_not_end_is_followed_by_a_factorization(without, monkeypatch):
    without("pypardiso")
    monkeypatch.setattr(choice, "_LONG", 0.0)
    monkeypatch.setattr(choice, "_PATIENCE", 1)
    monkeypatch.setattr(choice, "_SMALL", 100)
    A = poisson(12) + SparseMatrix.from_scipy(sp.diags_array([0.5], offsets=[1], shape=(144, 144)))
    b = randn(144)
    x, info = sparse_solve(A, b, return_info=True)
    assert info.solver == "SuperLU()"
    torch.testing.assert_close(x, numpy_solve(A.to_dense(), b))
    monkeypatch.setattr(BiCGStab, "compute", None)  # it is not asked again
    sparse_solve(A, 2 * b)


def test_a_singular_matrix_of_diffusion_is_an_error_not_a_number():
    n = 5000
    A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tolil()
    A[0, 0] = A[n - 1, n - 1] = 1.0  # Neumann: constants are in the kernel
    with pytest.raises(SolveError):
        sparse_solve(SparseMatrix.from_scipy(A), randn(n))


def test_it_chooses_once_for_given_values(monkeypatch):
    clear_cache()
    calls = []
    choose = auto.choose
    monkeypatch.setattr(auto, "choose", lambda *args: calls.append(1) or choose(*args))
    A = SparseMatrix.from_dense(general())
    values = A.values.clone().requires_grad_()
    sparse_solve(A.with_values(values), randn(N)).sum().backward()
    sparse_solve(A.with_values(values), randn(N, seed=2))
    assert len(calls) == 1
    assert cache_info().hits >= 2


# ------------------------------------------------------------------------------------ derivatives


@pytest.mark.parametrize("solver", [None, FAST, SuperLU()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("reported", [False, True])
def test_derivatives_are_finite_differences(solver, dtype, reported):
    A, B = SparseMatrix.from_dense(general(6, dtype)), randn(6, 2, dtype=dtype)

    def f(values, B):
        solved = sparse_solve(A.with_values(values), B, solver=solver, return_info=reported)
        return solved[0] if reported else solved

    args = (A.values.clone().requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, atol=1e-4, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, args, check_fwd_over_rev=True, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_the_report_goes_through_every_transform(transform):
    A, b = SparseMatrix.from_dense(general(6)), randn(6)

    def reported(values):
        return sparse_solve(A.with_values(values), b, return_info=True)[0].sum()

    def plain(values):
        return sparse_generic_solve(A.with_values(values), b, solve=SuperLU()).sum()

    torch.testing.assert_close(transform(reported)(A.values), transform(plain)(A.values))


def test_what_is_reported_has_no_derivative():
    A, b = SparseMatrix.from_dense(general(6)), randn(6)

    def residual(values):
        return sparse_solve(A.with_values(values), b, solver=FAST, return_info=True)[1].residual

    assert jvp(residual, (A.values,), (A.values,))[1].item() == 0
    assert not residual(A.values.clone().requires_grad_()).requires_grad


def test_vmap_of_reports():
    A, B = SparseMatrix.from_dense(general(6)), randn(4, 6, 2)
    X, info = vmap(lambda b: sparse_solve(A, b, solver=FAST, return_info=True))(B)
    assert X.shape == (4, 6, 2)
    assert info.residual.shape == info.code.shape == (4, 2)
    values = torch.stack([A.values, 2 * A.values])
    X, info = vmap(lambda v: sparse_solve(A.with_values(v), B[0], return_info=True))(values)
    assert info.method.shape == (2, 2)


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled(backend):
    A, b = SparseMatrix.from_dense(general(6)), randn(6)
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend=backend)
    def compiled(values, b):
        x, info = sparse_solve(A.with_values(values), b, return_info=True)
        return x.sum(), info.residual

    values = A.values.clone().requires_grad_()
    total, residual = compiled(values, b)
    total.backward()
    expected = grad(lambda v: sparse_solve(A.with_values(v), b).sum())(A.values)
    torch.testing.assert_close(values.grad, expected)
    assert float(residual.detach()) < 1e-10


# -------------------------------------------------------------------------------------- failures


def test_policies():
    A, b = SparseMatrix.from_dense(matrix_for(linear_cg, torch.float64)), randn(N)
    few = CG(max_iterations=2)
    with pytest.raises(ConvergenceError, match=r"CG\(max_iterations=2\).*no iterations were left"):
        sparse_solve(A, b, solver=few)
    with pytest.warns(UserWarning, match="no iterations were left"):
        warned = sparse_solve(A, b, solver=few, on_failure="warn")
    x, info = sparse_solve(A, b, solver=few, on_failure="ignore", return_info=True)
    assert torch.equal(x, warned)
    assert info.result is Result.ITERATIONS
    true = torch.linalg.vector_norm(b - A @ x) / torch.linalg.vector_norm(b)
    torch.testing.assert_close(info.residual, true)


def test_a_policy_holds_in_the_backward_too():
    A, b = SparseMatrix.from_dense(general()), randn(N)
    few = BiCGStab(max_iterations=1)
    values = A.values.clone().requires_grad_()
    x = sparse_solve(A.with_values(values), b, solver=few, on_failure="ignore")
    x.sum().backward()
    assert bool(values.grad.isfinite().all())


def test_a_matrix_with_entries_on_both_sides_is_not_substituted():
    with pytest.raises(SolveError, match="both sides"):
        sparse_solve(SparseMatrix.from_dense(general()), randn(N), solver=Substitution())


@pytest.mark.parametrize("stored", [True, False])
def test_a_zero_on_the_diagonal_of_a_triangle_is_named(stored):
    row, col, values = [0, 1, 1], [0, 0, 1], [1.0, 1.0, 2.0]
    if stored:
        row, col, values = [*row, 2], [*col, 2], [*values, 0.0]
    A = SparseMatrix.from_coo(row, col, torch.tensor(values), (3, 3))
    with pytest.raises(SolveError, match="row 2"):
        sparse_solve(A, torch.ones(3), solver=Substitution())


@pytest.mark.parametrize(
    ("A", "b", "options", "error", "message"),
    [
        (torch.eye(3), torch.ones(3), {}, TypeError, "from_dense"),
        (torch.eye(3).to_sparse_coo(), torch.ones(4), {}, ValueError, "as many rows"),
        (torch.eye(3).to_sparse_coo(), torch.ones(3).double(), {}, ValueError, "one dtype"),
        (torch.ones(2, 3).to_sparse_coo(), torch.ones(2), {}, ValueError, "square"),
        (torch.eye(3).to_sparse_coo(), torch.ones(3) / 0, {}, ValueError, "B holds a value"),
        (torch.eye(3).to_sparse_coo() * torch.nan, torch.ones(3), {}, ValueError, "A holds"),
        (torch.eye(3).to_sparse_coo(), torch.ones(3), {"solver": CG}, TypeError, "call it"),
        (torch.eye(3).to_sparse_coo(), torch.ones(3), {"solver": "CG"}, TypeError, "a Solver"),
        (sp.eye_array(3), torch.ones(3), {}, TypeError, "got dia_array"),
        (torch.eye(3).to_sparse_coo(), np.ones(3), {}, TypeError, "B is a dense tensor"),
        (torch.eye(3).to_sparse_coo(), torch.ones(3), {"on_failure": 1}, ValueError, "on_failure"),
    ],
)
@pytest.mark.parametrize("reported", [False, True])
def test_bad_arguments(A, b, options, error, message, reported):
    with pytest.raises(error, match=message):
        sparse_solve(A, b, return_info=reported, **options)


def test_numbers_of_numpy_agree_with_the_residual():
    A, b = poisson(70), randn(4900)
    x, info = sparse_solve(A, b, return_info=True)
    S = A.to_scipy()
    true = np.linalg.norm(b.numpy() - S @ x.numpy()) / np.linalg.norm(b.numpy())
    assert float(info.residual) == pytest.approx(true, rel=0.1, abs=1e-15)


def test_a_matrix_that_stores_nothing_is_singular():
    A = SparseMatrix.from_coo([], [], torch.zeros(0), (100, 100))
    with pytest.raises(SolveError, match="the diagonal of row 0 is zero"):
        sparse_solve(A, torch.ones(100))
