"""`sparse_lstsq`: values, what is told of them, and what is refused."""

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, vmap

from tests.systems import DTYPES, close, numpy_lstsq, randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_generic_lstsq, sparse_lstsq
from tsgu_func.solvers import LSMR, LSQR, Augmented, ConvergenceError, Result, SolveError
from tsgu_func.solvers.lstsq import auto

M, N = 30, 12


def tall(dtype=torch.float64, seed=0):
    D = randn(M, N, dtype=dtype, seed=seed) * (randn(M, N, seed=seed + 1).abs() > 0.8)
    return D + torch.eye(M, N, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [None, LSMR(), LSQR(), LSMR(rtol=1e-7)], ids=repr)
@pytest.mark.parametrize("shape", [(M,), (M, 3)])
def test_solutions(dtype, solver, shape):
    D, B = tall(dtype), randn(*shape, dtype=dtype)
    A = SparseMatrix.from_dense(D)
    X, info = sparse_lstsq(A, B, solver=solver, return_info=True)
    assert X.shape == (N, *shape[1:])
    expected = numpy_lstsq(D, B.reshape(M, -1)).reshape(X.shape).to(dtype)
    torch.testing.assert_close(X, expected, **close(dtype))
    torch.testing.assert_close(sparse_lstsq(A, B, solver=solver), X)
    left = torch.linalg.vector_norm(B - D @ X, dim=0) / torch.linalg.vector_norm(B, dim=0)
    torch.testing.assert_close(info.residual, left, **close(dtype))
    assert info.result is Result.SOLVED
    assert info.solver == repr(solver or Augmented())
    assert info.iterations.shape == shape[1:]
    assert (int(info.iterations.min()) > 0) == (solver is not None)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_torch_sparse_tensors(layout):
    D, B = tall(), randn(M, 2)
    A = D.to_sparse_coo() if layout == "coo" else D.to_sparse_csr()
    A.requires_grad_()
    X, info = sparse_lstsq(A, B, return_info=True)
    X.square().sum().backward()
    assert not info.residual.requires_grad
    assert A.grad.layout == A.layout
    values = SparseMatrix.from_dense(D).values.clone().requires_grad_()
    other = sparse_generic_lstsq(SparseMatrix.from_dense(D).with_values(values), B)
    other.square().sum().backward()
    torch.testing.assert_close(A.grad.to_dense()[D != 0], values.grad)


def test_a_batch_of_matrices_and_one_of_right_hand_sides():
    A = SparseMatrix.from_dense(tall())
    A = A.with_values(A.values * torch.tensor([1.0, 2.0]).double()[:, None, None])
    B = randn(3, M, 2)
    X, info = sparse_lstsq(A, B, return_info=True)
    assert X.shape == (2, 3, N, 2)
    assert info.residual.shape == (2, 3, 2)
    torch.testing.assert_close(X[1, 2], numpy_lstsq(2 * tall(), B[2]))


def test_what_is_told_goes_through_transforms():
    A, B = SparseMatrix.from_dense(tall()), randn(4, M, 2)

    def f(B):
        return sparse_lstsq(A, B, return_info=True)

    X, info = vmap(f)(B)
    torch.testing.assert_close(X, torch.stack([f(b)[0] for b in B]))
    assert info.residual.shape == (4, 2)
    (gradient, told) = grad(lambda B: (lambda X, i: (X.sum(), i))(*f(B)), has_aux=True)(B[0])
    torch.testing.assert_close(gradient, jacrev(lambda B: f(B)[0].sum())(B[0]))
    torch.testing.assert_close(gradient, jacfwd(lambda B: f(B)[0].sum())(B[0]))
    assert told.result is Result.SOLVED


def test_nothing_to_solve():
    A = SparseMatrix.from_dense(tall())
    X, info = sparse_lstsq(A, torch.zeros(M, 0).double(), return_info=True)
    assert X.shape == (N, 0)
    assert info.residual.shape == (0,)
    empty = SparseMatrix.from_coo([], [], torch.zeros(0), (3, 0))
    X, info = sparse_lstsq(empty, torch.ones(3), return_info=True)
    assert X.shape == (0,)


def test_failure_is_what_was_asked_for():
    A, b, short = SparseMatrix.from_dense(tall()), randn(M), LSMR(max_iterations=2)
    with pytest.raises(ConvergenceError, match="no iterations were left"):
        sparse_lstsq(A, b, solver=short)
    with pytest.warns(UserWarning, match="no iterations were left"):
        sparse_lstsq(A, b, solver=short, on_failure="warn")
    _, info = sparse_lstsq(A, b, solver=short, on_failure="ignore", return_info=True)
    assert info.result is Result.ITERATIONS
    with pytest.raises(SolveError, match="column 0 holds but zeros"):
        sparse_lstsq(SparseMatrix.from_coo([0], [1], torch.ones(1), (3, 2)), torch.ones(3))


@pytest.mark.parametrize(
    ("right", "options", "error", "message"),
    [
        (randn(M + 1), {}, ValueError, "as many rows"),
        (randn(M).float(), {}, ValueError, "one dtype"),
        (randn(M) * torch.nan, {}, ValueError, "B holds a value that is not finite"),
        (randn(M), {"solver": LSMR}, TypeError, "call it"),
        (randn(M), {"solver": torch.linalg.lstsq}, TypeError, "solver is a Solver"),
        (randn(M), {"on_failure": "explode"}, ValueError, "on_failure"),
    ],
)
def test_bad_arguments(right, options, error, message):
    with pytest.raises(error, match=message):
        sparse_lstsq(SparseMatrix.from_dense(tall()), right, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("stored", ["wide", "tall"])
@pytest.mark.parametrize("solver", [None, LSMR(), Augmented()], ids=repr)
def test_a_wide_matrix_has_the_solution_of_least_norm(dtype, stored, solver):
    D = tall(dtype)
    wide = stored == "wide"
    A = SparseMatrix.from_dense(D.mT.contiguous()) if wide else SparseMatrix.from_dense(D).mH
    B = randn(N, 2, dtype=dtype)
    X, info = sparse_lstsq(A, B, solver=solver, return_info=True)
    torch.testing.assert_close(X, numpy_lstsq(A.to_dense(), B))
    assert info.result is Result.SOLVED
    assert float(info.residual.max()) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_derivatives_for_any_shape_are_finite_differences(dtype, shape):
    D = randn(*shape, dtype=dtype) * (randn(*shape, seed=1).abs() > 0.7) + 2 * torch.eye(*shape)
    A, B = SparseMatrix.from_dense(D.to(dtype)), randn(shape[0], dtype=dtype)

    def f(values, B):
        return sparse_lstsq(A.with_values(values), B)

    args = (A.values.clone().requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, args, fast_mode=True)


def test_a_wide_matrix_under_transforms():
    D = tall().mT.contiguous()
    A, B = SparseMatrix.from_dense(D), randn(3, N, 2)
    P = torch.linalg.pinv(D)
    torch.testing.assert_close(vmap(lambda B: sparse_lstsq(A, B))(B), P @ B)
    several = torch.stack([A.values, 2 * A.values])
    X = vmap(lambda v: sparse_lstsq(A.with_values(v), B[0]))(several)
    torch.testing.assert_close(X, torch.stack([P @ B[0], P @ B[0] / 2]))

    def loss(values):
        return sparse_lstsq(A.with_values(values), B[0]).square().sum()

    def composite(values):
        W = A.with_values(values).to_dense()
        return (W.mT @ torch.linalg.inv(W @ W.mT) @ B[0]).square().sum()

    for derivative in (grad, lambda f: jacfwd(jacrev(f))):
        torch.testing.assert_close(derivative(loss)(A.values), derivative(composite)(A.values))


def test_a_wide_operator_has_the_solution_of_least_norm():
    D, b = tall().mT.contiguous(), randn(N)

    def f(D, b):
        return sparse_lstsq(LinearOperator(lambda D, x: D @ x, D, tuple(D.shape)), b)

    torch.testing.assert_close(f(D, b), numpy_lstsq(D, b), rtol=1e-9, atol=1e-9)
    both = grad(lambda D, b: f(D, b).square().sum(), argnums=(0, 1))(D, b)
    expected = grad(lambda D, b: (torch.linalg.pinv(D) @ b).square().sum(), argnums=(0, 1))(D, b)
    torch.testing.assert_close(both, expected, rtol=1e-8, atol=1e-8)


def test_the_generic_function_refuses_a_wide_matrix():
    with pytest.raises(ValueError, match="at least as many rows"):
        sparse_generic_lstsq(SparseMatrix.from_dense(tall().mT), randn(N))


def smoothing(n, penalty):
    """Return the matrix of n values and, weighted, their second differences."""
    i = torch.arange(n - 2)
    row = torch.cat([torch.arange(n), *(n + i for _ in range(3))])
    col = torch.cat([torch.arange(n), i, i + 1, i + 2])
    weight = penalty * torch.ones(n - 2)
    values = torch.cat([torch.ones(n), weight, -2 * weight, weight]).double()
    return SparseMatrix.from_coo(row, col, values, (2 * n - 2, n))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1e3, 1e5, 1e7])
def test_smoothing_with_a_strong_penalty_is_factored(penalty):
    n = 400
    A, b = smoothing(n, penalty), torch.cat([randn(n), torch.zeros(n - 2).double()])
    x, info = sparse_lstsq(A, b, return_info=True)
    assert (info.solver, info.result) == ("Augmented()", Result.SOLVED)
    D = A.to_dense()
    expected = numpy_lstsq(D / D.norm(dim=0), b) / D.norm(dim=0)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-7)


def test_smoothing_of_many_values():
    n = 2000
    A, b = smoothing(n, 1e5), torch.cat([randn(n), torch.zeros(n - 2).double()])
    x, info = sparse_lstsq(A, b, return_info=True)
    assert (info.solver, info.result) == ("Augmented()", Result.SOLVED)
    gradient = A.mT @ (b - A @ x)
    assert float(gradient.norm()) < 3e-12 * 4e5 * float((b - A @ x).norm())


def test_many_unknowns_without_structure_are_iterated_with():
    row, seed = torch.arange(8000).repeat_interleave(5), torch.Generator().manual_seed(0)
    col = torch.randint(4000, row.shape, generator=seed)
    values = torch.randn(row.shape, generator=seed).double()
    A, b = SparseMatrix.from_coo(row, col, values, (8000, 4000)), randn(8000)
    x, info = sparse_lstsq(A, b, return_info=True)
    assert info.solver.startswith("LSMR")
    assert info.result is Result.SOLVED
    assert float((A.mT @ (b - A @ x)).norm()) < 1e-9


def test_what_iterates_in_vain_is_followed_by_a_factorization(monkeypatch):
    A, b = smoothing(60, 1e5), torch.cat([randn(60), torch.zeros(58).double()])
    plan = LSMR(max_iterations=20), Augmented()
    monkeypatch.setattr(auto, "choose_least_squares", lambda A: plan)
    asked = []
    run = auto._solved
    monkeypatch.setattr(auto, "_solved", lambda s, *args: asked.append(s) or run(s, *args))
    b.requires_grad_()
    x, info = sparse_lstsq(A, b, return_info=True)
    assert (info.solver, info.result) == ("Augmented()", Result.SOLVED)
    x.sum().backward()  # which knows by then
    assert asked == [*plan, plan[1]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("noise", [0.0, 1e-15])
def test_without_full_rank_the_code_says_so(dtype, noise):
    D = tall(dtype)
    D[:, 2] = D[:, 0] + D[:, 1] + noise * D[:, 3]
    A, B = SparseMatrix.from_dense(D), randn(M, 2, dtype=dtype)
    with pytest.raises(SolveError, match="full rank"):
        sparse_lstsq(A, B)
    X, info = sparse_lstsq(A, B, on_failure="ignore", return_info=True)
    assert info.result is Result.SINGULAR
    left = B - D @ X
    torch.testing.assert_close(D.mH @ left, 0 * X, rtol=0, atol=1e-9)  # one of the minimizers
    _, info = sparse_lstsq(A.mH, B[:N], on_failure="ignore", solver=Augmented(), return_info=True)
    assert info.result is Result.SINGULAR


def test_an_estimate_of_what_was_not_seen_is_none():
    D = tall()
    D[:, 2] = D[:, 0] + D[:, 1]
    A = SparseMatrix.from_dense(D)
    for solver in (LSMR(rtol=1e-8), LSQR(rtol=1e-8)):
        _, info = sparse_lstsq(A, A @ torch.ones(N).double(), solver=solver, return_info=True)
        assert bool(info.condition.isnan())  # fewer steps than unknowns
    _, info = sparse_lstsq(A.with_values(A.values + 0.01), randn(M), return_info=True)
    sizes = torch.linalg.vector_norm(D + 0.01 * (D != 0), dim=0)
    s = torch.linalg.svdvals((D + 0.01 * (D != 0)) / sizes)
    assert 0.3 < float(info.condition) / float(s[0] / s[-1]) < 3


def test_members_of_a_batch_have_codes_of_their_own():
    D = torch.stack([tall(), tall(), tall(seed=7)])
    D[1, :, 2] = D[1, :, 0]
    A, B = SparseMatrix.from_dense(D), randn(3, M, 2)
    X, info = sparse_lstsq(A, B, on_failure="ignore", return_info=True)
    assert info.code.tolist() == [[0, 0], [int(Result.SINGULAR)] * 2, [0, 0]]
    for i in (0, 2):
        torch.testing.assert_close(X[i], numpy_lstsq(D[i], B[i]))


@pytest.mark.parametrize("solver", [None, LSMR()], ids=repr)
def test_errors_name_the_member_of_a_batch(solver):
    A = SparseMatrix.from_dense(torch.stack([tall(), tall()]))
    values = A.values.clone()
    values[1, A.pattern.col == 3] = 0
    with pytest.raises(SolveError, match="column 3 of member 1 holds but zeros"):
        sparse_lstsq(A.with_values(values), randn(2, M, 1), solver=solver)
    with pytest.raises(SolveError, match=r"row (or column )?3 of member 1 holds but zeros"):
        sparse_lstsq(A.with_values(values).mH, randn(2, N, 1), solver=solver)
