"""sparse_generic_solve, its solvers and their factors."""

import gc

import pytest
import torch
from torch.testing import assert_close

from tsgu_func import SparseMatrix, sparse_generic_solve
from tsgu_func.selfcheck.records.base import matrix, randn, solvable
from tsgu_func.solvers import (
    ConvergenceError,
    SolveError,
    SuperLU,
    cache_info,
    clear_cache,
)
from tsgu_func.sparse_solve import SparseGenericSolve
from tsgu_func.utils import BICGSTABSettings, LinearCGSettings, bicgstab, linear_cg


@pytest.fixture
def S(dtype):
    return solvable(dtype)


def direct(A, B):
    return sparse_generic_solve(A, B, solve=SuperLU())


def laplacian(n: int, dtype: torch.dtype = torch.float64) -> SparseMatrix:
    i = torch.arange(n)
    row, col = torch.cat([i, i[1:], i[:-1]]), torch.cat([i, i[:-1], i[1:]])
    values = torch.cat([torch.full((n,), 2.1), torch.full((2 * n - 2,), -1.0)]).to(dtype)
    return SparseMatrix.from_coo(row, col, values, (n, n))


# --------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("make", [SparseMatrix.to_coo, SparseMatrix.to_csr, lambda A: A])
def test_kinds_of_matrix(S, make):
    A = make(S)
    for B in (randn(3, dtype=S.dtype), randn(3, 2, dtype=S.dtype), randn(3, 0, dtype=S.dtype)):
        X = direct(A, B)
        assert X.shape == B.shape
        assert_close(S.to_dense() @ X, B)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_gradient_keeps_layout_and_pattern(S, layout):
    A = S.to_dense().to_sparse(layout=layout).requires_grad_()
    B = randn(3, 2, dtype=S.dtype).requires_grad_()
    X = direct(A, B)
    G = randn(3, 2, dtype=S.dtype, seed=5)
    X.backward(G)
    W = torch.linalg.solve(S.to_dense().mH, G)
    assert_close(B.grad, W)
    assert A.grad.layout == layout
    assert_close(A.grad.to_dense(), -(W @ X.detach().mH) * (S.to_dense() != 0))


def test_batches(S):
    batch = S.with_values(torch.stack([S.values, 2 * S.values]))
    D = batch.to_dense()
    for B in (randn(2, 3, 4, dtype=S.dtype), randn(3, 4, dtype=S.dtype), randn(3, dtype=S.dtype)):
        X = direct(batch, B)
        product = (D @ X.unsqueeze(-1)).squeeze(-1) if B.ndim == 1 else D @ X
        assert_close(product, B.expand_as(X))
    stacked = torch.stack([S.to_dense(), S.T.to_dense()]).to_sparse_coo()
    B = randn(2, 3, 2, dtype=S.dtype)
    assert_close(stacked.to_dense() @ direct(stacked, B), B)


def test_dtypes_differ():
    S = solvable(torch.float64)
    with pytest.warns(UserWarning, match=r"torch.float64 and torch.float32; B is converted"):
        X = direct(S, torch.ones(3))
    assert X.dtype == torch.float64


EYE = torch.eye(3).to_sparse_csr()
ERRORS = [
    (TypeError, torch.eye(3), torch.ones(3), "A is a SparseMatrix or sparse COO or CSR"),
    (ValueError, [1], torch.ones(3), "A is a SparseMatrix or a tensor; got list"),
    (TypeError, EYE, EYE, "B is a dense tensor"),
    (ValueError, EYE, [1.0], "B is a tensor; got list"),
    (ValueError, torch.ones(3, 2).to_sparse_coo(), torch.ones(3), r"square; got shape \(3, 2\)"),
    (ValueError, EYE, torch.ones(4), "as many rows"),
    (ValueError, EYE, torch.ones(1, 3, 1), "both"),
    (ValueError, EYE, torch.tensor(1.0), "got a number"),
    (ValueError, EYE, torch.ones(3, dtype=torch.complex64), "convert A"),
    (ValueError, EYE.half(), torch.ones(3).half(), "float32, float64 or complex"),
    (ValueError, EYE, torch.ones(3, device="meta"), "one device"),
    (ValueError, EYE, torch.tensor([1.0, torch.nan, 1.0]), r"B holds .*nan at \(1, 0\)"),
    (ValueError, EYE * torch.inf, torch.ones(3), "A holds a value that is not finite"),
]


@pytest.mark.parametrize(("error", "A", "B", "message"), ERRORS)
def test_errors(error, A, B, message):
    with pytest.raises(error, match=message):
        direct(A, B)


def test_bad_solvers():
    with pytest.raises(TypeError, match="solve is a function or a Solver; got int"):
        sparse_generic_solve(EYE, torch.ones(3), solve=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="its own transposed solve"):
        sparse_generic_solve(EYE, torch.ones(3), solve=SuperLU(), tolerance=1)
    with pytest.raises(SolveError, match=r"shape \(3,\) and dtype torch.float32; got \(2,\)"):
        sparse_generic_solve(EYE, torch.ones(3), solve=lambda A, B: B[:2])
    with pytest.raises(SolveError, match="got NoneType"):
        sparse_generic_solve(EYE, torch.ones(3), solve=lambda A, B: None)  # pyright: ignore


# --------------------------------------------------------------------------- user's functions


def test_function_gets_csr_and_the_shape_of_b(S):
    seen = []

    def solve(A, B, *, scale):
        seen.append((A.layout, tuple(A.shape), tuple(B.shape), scale))
        return torch.linalg.solve(A.to_dense(), B)

    b = randn(3, dtype=S.dtype)
    sparse_generic_solve(S, b, solve=solve, scale=2)
    sparse_generic_solve(S, b.unsqueeze(1), solve=solve, scale=2)
    assert seen == [
        (torch.sparse_csr, (3, 3), (3,), 2),
        (torch.sparse_csr, (3, 3), (3, 1), 2),
    ]


def test_transpose_solve_gets_the_matrix_itself(S):
    calls = []

    def solve(A, B):
        calls.append("solve")
        return torch.linalg.solve(A.to_dense(), B)

    def transpose_solve(A, G):
        calls.append("transpose")
        return torch.linalg.solve(A.to_dense().mT, G)

    def gradients(**kwargs):
        v, b = S.values.clone().requires_grad_(), randn(3, dtype=S.dtype).requires_grad_()
        x = sparse_generic_solve(S.with_values(v), b, **kwargs)
        return torch.autograd.grad(x.abs().square().sum(), (v, b))

    expected = gradients(solve=SuperLU())
    assert_close(gradients(solve=solve), expected)
    assert calls == ["solve", "solve"]
    calls.clear()
    assert_close(gradients(solve=solve, transpose_solve=transpose_solve), expected)
    assert calls == ["solve", "transpose"]


@pytest.mark.slow
def test_function_outlives_its_name(S):
    v = S.values.clone().requires_grad_()
    x = sparse_generic_solve(
        S.with_values(v),
        randn(3, dtype=S.dtype),
        solve=lambda A, B: torch.linalg.solve(A.to_dense(), B),
    )
    gc.collect()
    first = torch.autograd.grad(x.abs().sum(), v, create_graph=True)[0]
    gc.collect()
    torch.autograd.grad(first.abs().sum(), v)


def test_function_is_freed_with_its_graph(S):
    import weakref

    class Solve:
        def __call__(self, A, B):
            return torch.linalg.solve(A.to_dense(), B)

    solve = Solve()
    gone = weakref.ref(solve)
    x = sparse_generic_solve(S.requires_grad_(), randn(3, dtype=S.dtype), solve=solve)
    del solve
    assert gone() is not None
    del x
    gc.collect()
    assert gone() is None


def test_a_batch_of_right_hand_sides_is_one_call(S):
    calls = []

    def solve(A, B):
        calls.append(tuple(B.shape))
        return torch.linalg.solve(A.to_dense(), B)

    B = randn(5, 3, 2, dtype=S.dtype)
    X = torch.func.vmap(lambda b: sparse_generic_solve(S, b, solve=solve))(B)
    assert_close(S.to_dense() @ X, B)
    assert calls == [(3, 10)]
    torch.func.vmap(lambda b: sparse_generic_solve(S, b, solve=solve))(B[..., 0])
    assert calls[1:] == [(3, 5)]


# ------------------------------------------------------------------------ MINRES, the default


def test_minres_is_the_default(dtype):
    upper = matrix([0, 0, 1, 1, 2], [0, 1, 1, 2, 2], (3, 3), dtype)
    H = upper + upper.mH
    D, B = H.to_dense(), randn(3, 2, dtype=dtype).requires_grad_()
    A, G = H.to_csr().requires_grad_(), randn(3, 2, dtype=dtype, seed=5)
    X = sparse_generic_solve(A, B)
    assert_close(D @ X, B.detach(), check_dtype=False)
    X.backward(G)
    W = torch.linalg.solve(D, G)
    assert_close(B.grad, W)
    assert_close(A.grad.to_dense(), -(W @ X.detach().mH) * (D != 0))


def test_minres_says_that_a_matrix_is_not_for_it(S):
    with pytest.raises(ConvergenceError, match=r"MINRES is for Hermitian A: bicgstab and SuperLU"):
        sparse_generic_solve(S, randn(3, dtype=S.dtype))


def test_minres_takes_arguments(dtype):
    A, b = laplacian(30).to(dtype), randn(30, dtype=dtype)
    with pytest.raises(ConvergenceError, match="after 3 iterations"):
        sparse_generic_solve(A, b, max_iter=3)
    with pytest.warns(UserWarning, match="after 3 iterations"):
        sparse_generic_solve(A, b, max_iter=3, on_failure="warn")


# ------------------------------------------------------------------- bicgstab, for any matrix


def test_gradients_of_a_matrix_that_is_not_symmetric(S):
    """The default transposed solver has to solve with the transpose."""
    D = S.to_dense()
    A, B = S.to_coo().requires_grad_(), randn(3, 2, dtype=S.dtype).requires_grad_()
    X = sparse_generic_solve(A, B, solve=bicgstab)
    G = randn(3, 2, dtype=S.dtype, seed=5)
    X.backward(G)
    W = torch.linalg.solve(D.mH, G)
    assert_close(B.grad, W, rtol=1e-5, atol=1e-5)
    assert_close(A.grad.to_dense(), -(W @ X.detach().mH) * (D != 0), rtol=1e-5, atol=1e-5)


def test_function_class(S):
    A, b = S.to_coo().requires_grad_(), randn(3, dtype=S.dtype)
    x = SparseGenericSolve.apply(A, b, bicgstab, None, {"settings": BICGSTABSettings(reltol=1e-12)})
    assert_close(S.to_dense() @ x, b)
    x.abs().sum().backward()
    assert A.grad.is_sparse
    closed, inverse = S.to_csr(), torch.linalg.inv(S.to_dense())
    twice = lambda f: torch.func.jvp(lambda X: torch.func.jvp(f, (X,), (b,))[1], (b,), (b,))[1]
    ours = twice(lambda X: SparseGenericSolve.apply(closed, X, SuperLU()).sin())
    assert_close(ours, twice(lambda X: (inverse @ X).sin()))
    vmapped = torch.func.vmap(lambda X: SparseGenericSolve.apply(closed, X, SuperLU()))
    assert_close(vmapped(b.expand(4, 3)), (inverse @ b).expand(4, 3))


# ------------------------------------------------------------------------------------ SuperLU


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_superlu(kind, symmetric):
    A = laplacian(50, kind)
    if not symmetric:
        A = A + matrix(range(40), range(10, 50), (50, 50), kind)
    B = randn(50, 3, dtype=kind)
    for M in (A, A.T, A.mH, A.conj()):
        close = {"rtol": 1e-3, "atol": 1e-3} if B.real.dtype == torch.float32 else {}
        assert_close(M.to_dense() @ direct(M, B), B, **close)


def test_zero_diagonal_falls_back_to_pivoting():
    D = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 3.0]], dtype=torch.float64)
    A = SparseMatrix.from_dense(D)
    B = randn(3, 2, dtype=torch.float64)
    assert_close(D @ direct(A, B), B)


def test_small_pivots_on_the_diagonal_cost_no_digits():
    D = torch.tensor([[1e-18, 1.0], [1.0, 1.0]], dtype=torch.float64)
    B = randn(2, 1, dtype=torch.float64)
    assert_close(D @ direct(SparseMatrix.from_dense(D), B), B)


@pytest.mark.parametrize(
    ("D", "message"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "zeros in row 1"),
        ([[1.0, 1.0], [1.0, 1.0]], "singular"),
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], "singular"),
    ],
)
def test_singular(D, message):
    n = len(D)
    row, col = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
    A = SparseMatrix.from_coo(row, col, torch.tensor(D, dtype=torch.float64).flatten(), (n, n))
    with pytest.raises(SolveError, match=message):
        direct(A, torch.arange(1.0, n + 1, dtype=torch.float64))


def test_what_only_the_norm_calls_singular():
    """The condition number is 1e20, and no digit of X is lost."""
    D = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 1e-20]], dtype=torch.float64)
    x = direct(SparseMatrix.from_dense(D), torch.arange(1.0, 4.0, dtype=torch.float64))
    assert_close(x, torch.tensor([-2e20, 1.0, 1e20], dtype=torch.float64))


def test_tiny_and_huge_numbers():
    A, B = laplacian(20), randn(20, 2, dtype=torch.float64)
    for scale in (1e-200, 1e-20, 1e20, 1e150):
        X = direct(A * scale, B)
        assert_close((A * scale).to_dense() @ X, B)
    assert torch.equal(direct(A, B * 0), B * 0)


def test_one_factor_serves_all_derivatives():
    clear_cache()
    A = laplacian(30)
    v = A.values.clone().requires_grad_()
    b = randn(30, dtype=torch.float64)
    x = direct(A.with_values(v), b)
    first = torch.autograd.grad(x.square().sum(), v, create_graph=True)[0]
    torch.autograd.grad(first.square().sum(), v)
    direct(A.with_values(v), 2 * b)
    direct(A.with_values(v).T, b)
    assert cache_info().misses == 1
    assert cache_info().hits >= 4
    assert cache_info().bytes > 0


def test_factor_goes_with_its_values():
    clear_cache()
    A, b = laplacian(30), randn(30, dtype=torch.float64)
    other = A * 2.0
    direct(A, b)
    direct(other, b)
    assert cache_info().kinds["factors"].entries == 2
    del other
    gc.collect()
    assert cache_info().kinds["factors"].entries == 1
    clear_cache()
    assert cache_info()[:4] == (0, 0, 0, 0)


def test_values_changed_in_place_are_noticed():
    clear_cache()
    A, b = laplacian(30), randn(30, dtype=torch.float64)
    x = direct(A, b)
    for change in (A.values.mul_, A.values.data.mul_):
        change(2)
        assert_close(direct(A, b), x / 2)
        x = x / 2
    assert cache_info().kinds["factors"].entries == 1


def test_factors_of_a_batch():
    clear_cache()
    A, b = laplacian(10), randn(10, 2, dtype=torch.float64)
    batch = A.with_values(torch.stack([A.values, 2 * A.values, 3 * A.values]).requires_grad_())
    direct(batch, b).sum().backward()
    assert cache_info()[:2] == (1, 1)  # a batch is one


# ---------------------------------------------------------------------------------- linear_cg


def test_cg_columns_batches_and_info(dtype):
    A = laplacian(40).to(dtype)
    if dtype.is_complex:  # a Hermitian one that is not symmetric
        upper = A.pattern.row < A.pattern.col
        lower = A.pattern.row > A.pattern.col
        A = A.with_values(A.values * (1 + 0j) + 0.3j * upper - 0.3j * lower)
    for shape in ((40,), (40, 3), (2, 40, 3)):
        B = randn(*shape, dtype=dtype)
        for matrix_like in (A, A.to_dense(), A.__matmul__):
            X, info = linear_cg(matrix_like, B, tolerance=1e-12, return_info=True)
            assert bool(info.converged.all())
            assert info.residual.shape == (B.shape[:-2] + B.shape[-1:] if B.ndim > 1 else (1,))
            assert_close(A @ X, B, rtol=1e-9, atol=1e-9)


def test_cg_uses_its_arguments():
    A = laplacian(60) * torch.logspace(0, 3, 1, dtype=torch.float64)[0]
    scale = torch.logspace(0, 2, 60, dtype=torch.float64)
    row, col = A.pattern.row.long(), A.pattern.col.long()
    A = A.with_values(A.values * scale[row] * scale[col])
    b = randn(60, dtype=torch.float64)
    plain = linear_cg(A, b, tolerance=1e-8, return_info=True)[1].iterations
    diagonal = A.diagonal()
    conditioned = linear_cg(
        A, b, tolerance=1e-8, return_info=True, preconditioner=lambda r: r / diagonal
    )[1].iterations
    assert conditioned < plain / 2
    x = direct(A, b)
    assert linear_cg(A, b, initial_guess=x, tolerance=1e-8, return_info=True)[1].iterations == 0
    assert torch.equal(linear_cg(A, 0 * b), 0 * b)
    assert torch.equal(linear_cg(A, 0 * b, initial_guess=b), 0 * b)


def test_cg_says_when_it_fails():
    A, b = laplacian(60), randn(60, dtype=torch.float64)
    with pytest.raises(SolveError, match="after 3 iterations the worst relative residual"):
        linear_cg(A, b, max_iter=3)
    with pytest.raises(SolveError, match="not Hermitian positive definite"):
        linear_cg(-A, b)
    with pytest.raises(SolveError, match="did not converge"):
        linear_cg(A.to(torch.float32), b.float(), tolerance=1e-12)
    with pytest.warns(UserWarning, match="after 3 iterations"):
        info = linear_cg(A, b, max_iter=3, return_info=True)[1]
    assert not bool(info.converged.all())
    for wrong, message in (
        (lambda: linear_cg(A, b * torch.nan), "rhs holds a value that is not finite"),
        (lambda: linear_cg(A, b, tolerance=-1.0), "not negative"),
        (lambda: linear_cg(A, b, tolerance=float("inf")), "finite"),
        (lambda: linear_cg(A, b, initial_guess=b[:3]), "shape of rhs"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(TypeError, match="rhs is a tensor"):
        linear_cg(A, [1.0])  # pyright: ignore[reportArgumentType]


def test_cg_gets_a_batch_whole():
    A = laplacian(30)
    batch = A.with_values(torch.stack([A.values, 3 * A.values]))
    calls = []

    def preconditioner(R):
        calls.append(tuple(R.shape))
        return R

    B = randn(2, 30, 2, dtype=torch.float64)
    sparse_generic_solve(batch, B, solve=linear_cg, preconditioner=preconditioner)
    assert set(calls) == {(2, 30, 2)}


def test_cg_as_the_solver_of_a_batch():
    A = laplacian(30)
    batch = A.with_values(torch.stack([A.values, 3 * A.values]).requires_grad_())
    B = randn(2, 30, 2, dtype=torch.float64)
    settings = LinearCGSettings(cg_tolerance=1e-12)
    X = sparse_generic_solve(batch, B, solve=linear_cg, settings=settings)
    assert_close(batch.to_dense() @ X, B)
    X.square().sum().backward()
    expected = torch.func.grad(
        lambda v: torch.linalg.solve(A.with_values(v).to_dense(), B).square().sum()
    )(batch.values.detach())
    assert_close(batch.values.grad, expected, rtol=1e-8, atol=1e-8)
