"""CG, MINRES, BiCGStab and GMRES as solver objects, judged by NumPy's dense solutions."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg as scipy_cg

from tests.preconditioning import Diagonal
from tests.systems import (
    DTYPES,
    FLAGS,
    N,
    close,
    computed,
    matrix_for,
    numpy_solve,
    randn,
    read_as,
    stored,
)
from tsgu_func import SparseMatrix, sparse_generic_solve, sparse_solve
from tsgu_func.kernels import products
from tsgu_func.solvers import (
    CG,
    GMRES,
    ICCG,
    MINRES,
    BiCGStab,
    ConvergenceError,
    Result,
    Solver,
)
from tsgu_func.utils import bicgstab, linear_cg, minres

CLASSES = [CG, ICCG, MINRES, BiCGStab, GMRES]
ANY = [CG, MINRES, BiCGStab, GMRES]  # which take any preconditioner
SHORT = GMRES(restart=4)
SOLVERS = [CG(), ICCG(), MINRES(), BiCGStab(), GMRES(), SHORT]
GENERAL = [BiCGStab(), GMRES(), SHORT]
FUNCTIONS = {CG: linear_cg, ICCG: linear_cg, MINRES: minres, BiCGStab: bicgstab, GMRES: bicgstab}


def dense_for(solver, dtype=torch.float64, n=N):
    return matrix_for(FUNCTIONS[type(solver)], dtype, n)


@pytest.fixture
def products_made(monkeypatch):
    """Count the columns that the library multiplies a matrix with."""
    columns = []
    spmm = products.spmm

    def counting(structure, values, B, **kwargs):
        columns.append(B.shape[-1])
        return spmm(structure, values, B, **kwargs)

    monkeypatch.setattr(products, "spmm", counting)
    return columns


# ------------------------------------------------------------------------------------ solutions


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flags", FLAGS)
def test_solutions(solver, dtype, flags):
    D = dense_for(solver, dtype)
    A = stored(SparseMatrix.from_dense(D))
    B = randn(N, 3, dtype=dtype)
    solution = solver.compute(solver.init(A), read_as(A, *flags), B)
    D = read_as(D, *flags)
    expected = numpy_solve(D, B)
    torch.testing.assert_close(solution.value, expected.to(dtype), **close(dtype))
    true = torch.linalg.vector_norm(B - D @ solution.value, dim=0)
    limit = 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-10
    assert bool((true <= 1.01 * limit * torch.linalg.vector_norm(B, dim=0)).all())
    torch.testing.assert_close(
        solution.residual, true / torch.linalg.vector_norm(B, dim=0), rtol=0.5, atol=1e-12
    )
    assert solution.result is Result.SOLVED
    assert bool((solution.iterations > 0).all())
    assert solution.solver == repr(solver)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_members_of_a_batch_are_what_each_is(solver):
    D = dense_for(solver)
    shift = torch.tensor([0.0, 2.0, 40.0])[:, None, None] * torch.eye(N).double()
    M = SparseMatrix.from_dense(D + shift)
    B = randn(3, N, 2)
    B[1, :, 1] = 0
    solution = computed(solver, stored(M), B)
    for k in range(3):
        torch.testing.assert_close(
            solution.value[k], numpy_solve(D + shift[k], B[k]), rtol=1e-7, atol=1e-7
        )
    assert solution.residual.shape == solution.iterations.shape == (3, 2)
    # Members far from singular converge sooner, and are counted by themselves.
    assert int(solution.iterations[2].max()) < int(solution.iterations[0].max())
    assert int(solution.iterations[1, 1]) == 0


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_zero_right_hand_side_costs_nothing(solver, products_made):
    D = dense_for(solver)
    A = stored(SparseMatrix.from_dense(D))
    state = solver.init(A)
    solution = solver.compute(state, A, torch.zeros(N, 2).double())
    assert not solution.value.any()
    assert not solution.residual.any()
    assert not solution.iterations.any()
    assert not products_made
    started = solver.compute(state, A, torch.zeros(N, 2).double(), randn(N, 2))
    assert not started.value.any()


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_converged_column_is_left_alone_and_dropped(solver, products_made):
    D = dense_for(solver)
    A = stored(SparseMatrix.from_dense(D))
    state = solver.init(A)
    B = randn(N, 6)
    # Columns that need one iteration, or none.
    eigenvalues, vectors = torch.linalg.eigh(D) if solver in SOLVERS[:2] else (None, None)
    B[:, 1:5] = 0
    if vectors is not None:
        B[:, 2] = vectors[:, 0] * eigenvalues[0]
    alone = solver.compute(state, A, B[:, :1].clone())
    products_made.clear()
    together = solver.compute(state, A, B)
    torch.testing.assert_close(together.value[:, :1], alone.value, rtol=1e-9, atol=1e-9)
    assert together.iterations[0] == alone.iterations[0]
    # In all but the first products and the check of the residual, only what is not done takes part.
    assert sum(width > 3 for width in products_made) <= 1


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_warm_start(solver):
    D = dense_for(solver)
    A, B = stored(SparseMatrix.from_dense(D)), randn(N, 2)
    state = solver.init(A)
    cold = solver.compute(state, A, B)
    near = cold.value + 1e-6 * randn(N, 2, seed=5)
    warm = solver.compute(state, A, B, near)
    assert int(warm.iterations.max()) < int(cold.iterations.max())
    torch.testing.assert_close(warm.value, cold.value, rtol=1e-8, atol=1e-8)
    done = solver.compute(state, A, B, cold.value)
    assert not done.iterations.any()
    assert torch.equal(done.value, cold.value)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("exponent", [-150, 150])
def test_the_size_of_the_right_hand_side_does_not_matter(solver, exponent):
    D = dense_for(solver)
    B = randn(N, 2) * 10.0**exponent
    solution = computed(solver, D, B)
    assert solution.result is Result.SOLVED
    X = numpy_solve(D, B)
    torch.testing.assert_close(solution.value / X.abs().max(), X / X.abs().max())


@pytest.mark.parametrize("cls", ANY)
def test_a_preconditioner_saves_iterations(cls):
    D = dense_for(cls())
    scale = torch.logspace(0, 4, N).double()
    D = scale[:, None] * D * scale
    # CG and MINRES take a definite M; |D| is near enough here.
    M = Diagonal(*D.diagonal().abs().tolist())
    B = randn(N, 2)
    plain = computed(cls(max_iterations=2000), D, B)
    solver = cls(M)
    helped = computed(solver, D, B)
    assert helped.result is Result.SOLVED
    assert int(helped.iterations.max()) < int(plain.iterations.max())
    X = numpy_solve(D, B)
    assert float((helped.value - X).norm() / X.norm()) < 1e-4


def test_iterations_are_those_of_scipy():
    D = matrix_for(linear_cg, torch.float64)
    b = randn(N, 1)
    counted = []
    A = LinearOperator((N, N), lambda x: D.numpy() @ x, dtype=np.float64)
    scipy_cg(A, b[:, 0].numpy(), rtol=1e-10, callback=counted.append)
    solution = computed(CG(), D, b)
    assert abs(int(solution.iterations) - len(counted)) <= 1


def test_gmres_needs_n_iterations_at_most():
    D = randn(N, N)
    solver = GMRES(restart=N)
    solution = computed(solver, D, randn(N, 2))
    assert solution.result is Result.SOLVED
    assert int(solution.iterations.max()) <= N + 1


def test_gmres_is_not_stopped_by_a_cycle_that_gains_nothing_at_first():
    """The cyclic shift: no residual falls before iteration n."""
    D = torch.eye(5).double().roll(1, 0)
    b = torch.eye(5).double()[:, :1]
    whole = GMRES(restart=5)
    assert computed(whole, D, b).result is Result.SOLVED
    short = GMRES(restart=3)
    assert computed(short, D, b).result is Result.STAGNATED


# ------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != ICCG()], ids=repr)
@pytest.mark.parametrize("batched", [False, True])
def test_a_singular_matrix_is_said_to_be_one(solver, batched):
    D = torch.diag(torch.tensor([1.0, 2.0, 0.0, 3.0])).double()
    M = SparseMatrix.from_coo([0, 1, 2, 3], [0, 1, 2, 3], D.diagonal(), (4, 4))
    values = M.values.expand(2, -1) if batched else M.values
    A = stored(M.with_values(values))
    B = torch.ones(2, 4, 1).double() if batched else torch.ones(4, 1).double()
    solution = computed(solver, A, B)
    assert solution.result.failed
    assert float(solution.residual.max()) > 0.1
    assert bool(solution.value.isfinite().all())


def test_an_indefinite_matrix_is_named():
    D = torch.diag(torch.tensor([1.0, -2.0, 3.0])).double()
    solution = computed(CG(), D, torch.ones(3, 1).double())
    assert solution.result is Result.INDEFINITE
    assert "not Hermitian positive definite" in solution.message


@pytest.mark.parametrize("cls", [CG, MINRES])
def test_an_indefinite_preconditioner_is_named(cls):
    solver = cls(Diagonal(1.0, -1.0, 1.0))
    D = torch.diag(torch.tensor([1.0, 2.0, 3.0])).double()
    b = torch.tensor([[1.0], [2.0], [1.0]]).double()
    assert computed(solver, D, b).result is Result.PRECONDITIONER


@pytest.mark.parametrize("cls", [BiCGStab])
def test_a_skew_matrix_breaks_down_and_says_so(cls):
    D = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()
    solution = computed(cls(), D, torch.tensor([[1.0], [0.0]]).double())
    assert solution.result in (Result.SOLVED, Result.BREAKDOWN)
    if solution.result is Result.SOLVED:
        torch.testing.assert_close(solution.value, torch.tensor([[0.0], [1.0]]).double())


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_too_few_iterations_raise_through_the_op(solver):
    few = type(solver)(max_iterations=2)
    A = SparseMatrix.from_dense(dense_for(solver))
    with pytest.raises(ConvergenceError, match="max_iterations") as caught:
        sparse_generic_solve(A, randn(N, 2), solve=few)
    assert caught.value.iterations == 2
    assert caught.value.residual.shape == (2,)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("power", [-1000, -100, 0, 100, 1000])
def test_the_scale_of_the_matrix_does_not_matter(solver, dtype, power):
    if dtype is torch.float32:
        power = power // 10
    A = SparseMatrix.from_dense(dense_for(solver, dtype))
    B = randn(N, 2, dtype=dtype)
    plain = sparse_solve(A, B, solver=solver)
    scaled = sparse_solve(A * 2.0**power, B, solver=solver)
    torch.testing.assert_close(scaled * 2.0**power, plain, **close(dtype))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"atol": float("nan")}, ValueError, "atol"),
        ({"max_iterations": -1}, ValueError, "max_iterations"),
        ({"preconditioner": 3}, TypeError, "preconditioner is a Preconditioner"),
        ({"preconditioner": Diagonal}, TypeError, "call it"),
        ({"callback": 3}, TypeError, "callback"),
    ],
)
@pytest.mark.parametrize("cls", CLASSES)
def test_bad_settings(cls, settings, error, message):
    with pytest.raises(error, match=message):
        cls(**settings)


def test_bad_restart():
    with pytest.raises(ValueError, match="restart"):
        GMRES(restart=0)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_they_are_solvers_by_protocol_and_by_value(solver):
    assert isinstance(solver, Solver)
    assert solver == type(solver)(**{"restart": solver.restart} if solver is SHORT else {})
    assert hash(solver) == hash(solver)


# ------------------------------------------------------------------------- through the derivatives


def permuted_and_scaled(dtype, hermitian):
    """Return an ill-scaled, permuted matrix (12, 12)."""
    D = randn(12, 12, dtype=dtype, seed=7) * (randn(12, 12, seed=8).abs() > 0.8)
    D = 0.2 * (D + D.mH) if hermitian else 0.4 * D
    D = D + 3 * torch.eye(12, dtype=dtype)
    scale = torch.logspace(-1, 1, 12).double()
    D = scale[:, None] * D * scale
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    return D[order] if not hermitian else D[order][:, order]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("cls", [BiCGStab, GMRES])
def test_gradients_are_finite_differences(cls, dtype):
    A = SparseMatrix.from_dense(permuted_and_scaled(dtype, hermitian=False))
    solver = cls(rtol=3e-13)
    B = randn(12, 2, dtype=dtype)

    def f(values, B):
        return sparse_generic_solve(A.with_values(values), B, solve=solver)

    args = (A.values.clone().requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(
        f, args, check_forward_ad=True, atol=1e-4, rtol=1e-4, fast_mode=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("cls", [CG, MINRES])
def test_hermitian_gradients_are_finite_differences(cls, dtype):
    """The values move within Hermitian matrices, where these methods are at home."""
    D = permuted_and_scaled(dtype, hermitian=True)
    upper = SparseMatrix.from_dense(D.triu())
    B, solver = randn(12, 2, dtype=dtype), cls(rtol=1e-14)

    def f(values, B):
        A = upper.with_values(values)
        return sparse_generic_solve(A + A.mH, B, solve=solver)

    args = (upper.values.clone().requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(
        f, args, check_forward_ad=True, atol=1e-4, rtol=1e-4, fast_mode=True
    )


@pytest.mark.parametrize("solver", GENERAL, ids=repr)
def test_vmap_over_right_hand_sides_costs_as_one_call(solver, products_made):
    A = SparseMatrix.from_dense(dense_for(solver))
    B = randn(5, N, 2)
    together = sparse_generic_solve(A, B.movedim(0, -2).flatten(-2), solve=solver)
    made = list(products_made)
    products_made.clear()
    mapped = torch.func.vmap(lambda b: sparse_generic_solve(A, b, solve=solver))(B)
    assert products_made == made
    torch.testing.assert_close(mapped, together.unflatten(-1, (5, 2)).movedim(-2, 0))


@pytest.mark.parametrize("cls", ANY)
def test_the_adjoint_takes_as_many_products_as_the_solution(cls, products_made):
    solver = cls(Diagonal(*[6.0] * N))
    A = SparseMatrix.from_dense(dense_for(solver))
    values, b = A.values.clone().requires_grad_(), randn(N)
    x = sparse_generic_solve(A.with_values(values), b, solve=solver)
    forward = len(products_made)
    products_made.clear()
    x.backward(randn(N, seed=9))
    assert 0.5 * forward <= len(products_made) <= 1.5 * forward + 3


def test_warm_start_serves_the_adjoint_too(products_made):
    cold, warm = CG(), CG(warm_start=True)
    A = SparseMatrix.from_dense(dense_for(cold))
    b = randn(N)

    def step(solver, change):
        values = (A.values * (1 + change)).requires_grad_()
        products_made.clear()
        x = sparse_generic_solve(A.with_values(values), b, solve=solver)
        forward = len(products_made)
        x.sum().backward()
        return forward, len(products_made) - forward

    first, second = step(warm, 0.0), step(warm, 1e-7)
    assert first == step(cold, 0.0)
    assert second[0] < first[0]
    assert second[1] < first[1]


def test_a_warm_start_changes_nothing_but_the_start():
    solver = CG(warm_start=True)
    A = SparseMatrix.from_dense(dense_for(solver))
    b = randn(N)
    x = sparse_generic_solve(A, b, solve=solver)
    expected = x.clone()
    x.zero_()  # what was handed out is the caller's
    torch.testing.assert_close(sparse_generic_solve(A, b, solve=solver), expected)


# -------------------------------------------------------------------------------------- progress


def test_callback():
    seen = []
    solver = CG(callback=lambda step, residual: seen.append((step, residual)))
    A = SparseMatrix.from_dense(dense_for(solver))
    sparse_generic_solve(A, randn(N), solve=solver)
    assert [step for step, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1] <= 1e-10 < seen[0][1]


def test_a_callback_is_called_in_the_backward_and_then_let_go():
    import gc
    import weakref

    class Listener:
        calls = 0

        def __call__(self, step, residual):
            Listener.calls += 1

    listener = Listener()
    gone = weakref.ref(listener)
    A = SparseMatrix.from_dense(dense_for(CG()))
    b = randn(N).requires_grad_()
    x = sparse_generic_solve(A, b, solve=CG(callback=listener))
    del listener
    before = Listener.calls
    x.sum().backward()
    assert Listener.calls > before
    del x
    gc.collect()
    assert gone() is None


def test_progress_shows_a_bar(capsys):
    solver = CG(progress=True)
    sparse_generic_solve(SparseMatrix.from_dense(dense_for(solver)), randn(N), solve=solver)
    assert "CG" in capsys.readouterr().out


def test_progress_without_rich_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich.progress", None)
    solver = CG(progress=True)
    with pytest.raises(ImportError, match=r'pip install "tsgu_func\[progress\]"'):
        sparse_generic_solve(SparseMatrix.from_dense(dense_for(solver)), randn(N), solve=solver)
