"""Numbers that are not finite: an error in an argument, NaN in its columns of a derivative."""

import pytest
import torch
from torch.func import grad, jvp, vjp, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import (
    LinearOperator,
    SparseMatrix,
    factorize,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_solve,
    sparse_triangular_solve,
)
from tsgu_func.solvers import CG, GMRES, ICCG, SuperLU
from tsgu_func.utils import linear_cg

N = 6
TALL = 9
NAN, INF = torch.nan, torch.inf
REFUSED = r"^B holds a value that is not finite"


def multiply(D, x):
    return D @ x


def operator(D):
    return LinearOperator(multiply, D, tuple(D.shape))


def dense_solve(A, B):
    return torch.linalg.solve(A.to_dense(), B)


def transposed(A, B):
    return torch.linalg.solve(A.to_dense().mT, B)


def dense_lstsq(A, B):
    D = A.to_dense()
    return torch.linalg.solve(D.mH @ D, D.mH @ B)


SOLVERS = [None, SuperLU(), ICCG(), GMRES()]
SQUARE = {repr(s): lambda D, B, s=s: sparse_solve(matrix(D), B, solver=s) for s in SOLVERS} | {
    "function": lambda D, B: sparse_solve(matrix(D), B, solver=dense_solve),
    "generic": lambda D, B: sparse_generic_solve(matrix(D), B),
    "generic function": lambda D, B: sparse_generic_solve(matrix(D), B, solve=dense_solve),
    "generic pair": lambda D, B: sparse_generic_solve(matrix(D), B, dense_solve, transposed),
    "linear_cg": lambda D, B: sparse_generic_solve(matrix(D), B, solve=linear_cg, tolerance=1e-12),
    "factorized": lambda D, B: factorize(matrix(D), SuperLU()).solve(B),
    "operator": lambda D, B: sparse_solve(operator(D), B),
    "operator CG": lambda D, B: sparse_solve(operator(D), B, solver=CG()),
    "triangular": lambda D, B: sparse_triangular_solve(matrix(D), B),
}
LEAST = {
    "least squares": lambda D, B: sparse_lstsq(matrix(D), B),
    "generic least squares": lambda D, B: sparse_generic_lstsq(matrix(D), B),
    "least squares function": lambda D, B: sparse_generic_lstsq(matrix(D), B, dense_lstsq),
    "operator least squares": lambda D, B: sparse_lstsq(operator(D), B),
}
CASES = SQUARE | LEAST
# Substitution passes on what it meets, as in PyTorch.
CHECKED = [name for name in CASES if name != "triangular"]


def matrix(D):
    """Store all entries, also of what is mapped over."""
    pattern = SparseMatrix.from_dense(torch.ones(D.shape[-2:])).pattern
    return SparseMatrix(pattern, D.flatten(-2))


def problem(name, dtype=torch.float64):
    """Return a matrix that suits the solver, dense and with all its entries, and B of 3 columns."""
    if name in LEAST:
        return randn(TALL, N, dtype=dtype), randn(TALL, 3, dtype=dtype, seed=1)
    D = randn(N, N, dtype=dtype)
    D = D @ D.mH + N * torch.eye(N, dtype=dtype)
    return torch.triu(D) if name == "triangular" else D, randn(N, 3, dtype=dtype, seed=1)


def spoiled(x, value=INF):
    """Put what is not finite into the second column."""
    x = x.clone()
    x[1, 1] = value
    return x


def in_dense(name, D, B):
    return torch.linalg.lstsq(D, B).solution if name in LEAST else torch.linalg.solve(D, B)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_columns_of_a_cotangent(name, dtype):
    D, B = problem(name, dtype)
    solve, G = CASES[name], randn(N, 3, dtype=dtype, seed=2)
    (of_D, of_B), expected = (
        vjp(f, D, B)[1](g) for f, g in ((solve, spoiled(G)), (lambda D, B: in_dense(name, D, B), G))
    )
    assert_close(of_B[:, ::2], expected[1][:, ::2], rtol=1e-6, atol=1e-6)
    assert not of_B[:, 1].isfinite().all()
    assert not of_D.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_columns_of_a_tangent(name):
    D, B = problem(name)
    solve, dB = CASES[name], randn(*B.shape, seed=2)
    moved = jvp(lambda B: solve(D, B), (B,), (spoiled(dB, NAN),))[1]
    assert_close(moved[:, ::2], in_dense(name, D, dB)[:, ::2], rtol=1e-6, atol=1e-6)
    assert moved[1, 1].isnan()


@pytest.mark.parametrize("name", CHECKED)
def test_a_tangent_of_the_matrix_and_second_derivatives(name):
    D, B = problem(name)
    solve = CASES[name]
    dD = torch.zeros_like(D)
    dD[0, 0] = INF
    assert jvp(lambda D: solve(D, B), (D,), (dD,))[1].isnan().all()
    with_respect_to_B = grad(lambda B: solve(D, B).square().sum())
    moved = jvp(with_respect_to_B, (B,), (spoiled(torch.ones_like(B)),))[1]
    assert moved[:, 1].isnan().all()
    assert moved[:, ::2].isfinite().all()


@pytest.mark.parametrize("name", CHECKED)
def test_members_of_mapped_cotangents(name):
    D, B = problem(name)
    pull = vjp(lambda B: CASES[name](D, B), B)[1]
    G = randn(2, N, 3, seed=2)
    (result,) = vmap(pull)(torch.stack([spoiled(G[0]), G[1]]))
    (expected,) = vmap(vjp(lambda B: in_dense(name, D, B), B)[1])(G)
    wrong = torch.zeros(2, 3, dtype=torch.bool)
    wrong[0, 1] = True
    assert_close(result.mT[~wrong], expected.mT[~wrong], rtol=1e-6, atol=1e-6)
    assert result.mT[wrong].isnan().all()


@pytest.mark.parametrize("name", CHECKED)
def test_mapped_matrices_with_mapped_cotangents(name):
    D, B = problem(name)
    D, G = torch.stack([D, 2 * D]), randn(2, N, 3, seed=2)

    def gradients(solve, G):
        return vmap(lambda D, G: vjp(lambda B: solve(D, B), B)[1](G)[0])(D, G)

    result = gradients(CASES[name], torch.stack([G[0], spoiled(G[1])]))
    expected = gradients(lambda D, B: in_dense(name, D, B), G)
    assert_close(result[0], expected[0], rtol=1e-6, atol=1e-6)
    assert_close(result[1][:, ::2], expected[1][:, ::2], rtol=1e-6, atol=1e-6)
    assert result[1][:, 1].isnan().all()


@pytest.mark.parametrize("name", CHECKED)
def test_arguments_are_refused_by_their_names(name):
    D, B = problem(name)
    solve = CASES[name]
    with pytest.raises(ValueError, match=REFUSED + r": nan at \(1, 1\)"):
        solve(D, spoiled(B, NAN))
    with pytest.raises(ValueError, match=REFUSED):
        grad(lambda B: solve(D, B).sum())(spoiled(B))
    with pytest.raises(ValueError, match=REFUSED):
        vmap(lambda B: solve(D, B))(torch.stack([B, spoiled(B)]))
    called = "a parameter of A" if "operator" in name else "A"
    with pytest.raises(ValueError, match=f"^{called} holds a value that is not finite"):
        solve(spoiled(D), B)


@pytest.mark.slow
def test_a_compiled_function():
    D, B = problem("generic")
    loss = torch.compile(
        lambda B, G: (sparse_solve(A, B) * G).sum(), backend="aot_eager", fullgraph=True
    )
    A, B = matrix(D), B.requires_grad_()
    G = randn(N, 3, seed=2)
    loss(B, spoiled(G)).backward()
    assert_close(B.grad[:, ::2], torch.linalg.solve(D.mH, G)[:, ::2])
    assert B.grad[:, 1].isnan().all()
    with pytest.raises(ValueError, match=REFUSED):
        loss(spoiled(B.detach()).requires_grad_(), G)


@pytest.mark.parametrize("solve", [sparse_solve, sparse_lstsq, sparse_generic_solve])
def test_a_scaler_lowers_its_scale_and_goes_on(solve):
    A = matrix(2 * torch.eye(3))
    b = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([b], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(8 * solve(A, b).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**27
    assert_close(b.detach(), torch.full((3,), 0.6))
