"""Singular systems whose null space is known, against dense pseudo-inverses."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from tests.systems import randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_solve
from tsgu_func.solvers import (
    AMG,
    CG,
    GMRES,
    ICCG,
    MINRES,
    Cholesky,
    DenseLU,
    Pardiso,
    SolveError,
    SuperLU,
)

SOLVERS = [None, SuperLU(), DenseLU(), Pardiso(), Cholesky(), CG(), ICCG(), MINRES(), GMRES()]
EXTRAS = {AMG: "pyamg", Cholesky: "sksparse.cholmod", Pardiso: "pypardiso"}


def line(m):
    d = np.full(m, 2.0)
    d[0] = d[-1] = 1
    return sp.diags_array([-np.ones(m - 1), d, -np.ones(m - 1)], offsets=[-1, 0, 1])


def neumann(m=6):
    return SparseMatrix.from_scipy(sp.kronsum(line(m), line(m)).tocsr())


def pinv(A):
    return torch.from_numpy(np.linalg.pinv(A.to_dense().detach().numpy(), rcond=1e-10))


def needs(solver):
    if (package := EXTRAS.get(type(solver))) is not None:
        pytest.importorskip(package)
    return solver


def general(dtype=torch.float64, k=2, n=9):
    """Return a matrix that is not Hermitian, full and of rank n - k, and its null spaces."""
    U, V = (torch.linalg.qr(x).Q for x in randn(2, n, n, dtype=dtype))
    s = torch.linspace(1, 3, n - k).to(dtype)
    D = U[:, k:] @ torch.diag(s) @ V[:, k:].mH
    return SparseMatrix.from_dense(D), V[:, :k].contiguous(), U[:, :k].contiguous()


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_pure_neumann_problem(solver):
    """B need not be in the range; X is that of the pseudo-inverse."""
    A, B = neumann(), randn(36, 2)
    X, info = sparse_solve(A, B, solver=needs(solver), nullspace="constant", return_info=True)
    torch.testing.assert_close(X, pinv(A) @ B, rtol=1e-7, atol=1e-7)
    assert info.result.name == "SOLVED"
    assert float(info.residual.max()) < 1e-8
    assert float(X.mean(0).abs().max()) < 1e-14


def test_one_that_is_not_small():
    A = neumann(60)
    b = randn(3600)
    x, info = sparse_solve(A, b, nullspace="constant", return_info=True)
    assert float(torch.linalg.vector_norm(A @ x - (b - b.mean())) / b.norm()) < 1e-9
    assert float(x.mean()) == pytest.approx(0, abs=1e-13)
    assert info.iterations > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("solver", [None, SuperLU(), GMRES()], ids=repr)
def test_what_the_adjoint_maps_to_zero_is_another_space(dtype, solver):
    A, Z, Y = general(dtype)
    B = randn(9, 2, dtype=dtype)
    X = sparse_solve(A, B, solver=solver, nullspace=(Z, Y))
    torch.testing.assert_close(X, pinv(A) @ B, rtol=1e-8, atol=1e-8)
    with pytest.raises(SolveError, match="give a pair"):
        sparse_solve(A, B, solver=solver, nullspace=Z)


def test_vectors_need_not_be_orthonormal():
    blocks = sp.block_diag([neumann(3).to_scipy(), neumann(4).to_scipy()]).tocsr()
    A, b = SparseMatrix.from_scipy(blocks), randn(25)
    Z = torch.ones(25, 2).double()
    Z[:9, 1] = 3
    torch.testing.assert_close(sparse_solve(A, b, nullspace=Z), pinv(A) @ b, atol=1e-9, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_are_those_of_the_projected_system(dtype):
    """Finite differences move A off the matrices that map Z to zero."""
    A, Z, Y = general(dtype, n=5)
    b = randn(5, dtype=dtype).requires_grad_()
    values = A.values.clone().requires_grad_()

    def solve(v, b):
        return sparse_solve(A.with_values(v), b, solver=SuperLU(), nullspace=(Z, Y))

    assert gradcheck(
        solve, (values, b), check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )
    assert gradcheck(
        lambda v: grad(lambda u: solve(u, b.detach()).abs().square().sum())(v), (values,)
    )


def test_every_transform():
    A, b = neumann(3), randn(9)
    one = torch.ones(9, 9).double() / 9

    def dense(v, b):
        D = torch.zeros(9, 9).double().index_put((A.pattern.row.long(), A.pattern.col.long()), v)
        P = torch.eye(9).double() - one
        return torch.linalg.solve(P @ D @ P + one, P @ b)

    def sparse(v, b):
        return sparse_solve(A.with_values(v), b, nullspace="constant")

    for transform in (grad, jacrev, jacfwd, hessian):
        for argnums in (0, 1):
            of = [
                transform(lambda *x, f=f: f(*x).square().sum(), argnums=argnums)(A.values, b)
                for f in (dense, sparse)
            ]
            torch.testing.assert_close(*of, rtol=1e-7, atol=1e-7)
    B = randn(4, 9)
    V = A.values * torch.tensor([[1.0], [2.0], [3.0], [0.5]]).double()
    torch.testing.assert_close(vmap(sparse)(V, B), vmap(dense)(V, B), rtol=1e-7, atol=1e-7)
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(A.values, b), dense(A.values, b))


def test_a_batch():
    A = neumann(5)
    V = A.values * torch.tensor([[1.0], [2.0]]).double()
    B = randn(2, 25, 3)
    X = sparse_solve(A.with_values(V), B, nullspace="constant")
    for v, b, x in zip(V, B, X, strict=True):
        torch.testing.assert_close(x, pinv(A.with_values(v)) @ b, rtol=1e-8, atol=1e-8)


def test_a_function_is_handed_what_is_not_singular():
    A, b = neumann(4), randn(16)

    def dense(A, b):
        return torch.linalg.solve(A.to_dense(), b)

    x = sparse_solve(A, b, solver=dense, nullspace="constant")
    torch.testing.assert_close(x, pinv(A) @ b)


def test_single_precision_and_torch_tensors():
    A, b = neumann(4), randn(16, dtype=torch.float32)
    C = A.to(torch.float32).to_csr()
    x = sparse_solve(C, b, nullspace="constant")
    torch.testing.assert_close(x.double(), pinv(A) @ b.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("nullspace", "message"),
    [
        ("constants", "'constant' or vectors"),
        (3, "'constant' or a Tensor"),
        (torch.ones(5).double(), r"a vector \(16,\)"),
        (torch.ones(16), "one dtype"),
        ((torch.ones(16).double(),), "a pair"),
        (torch.ones(16).double().requires_grad_(), "no derivative"),
        (torch.arange(16).double(), "does not map nullspace to zero"),
    ],
)
def test_what_is_no_null_space_is_refused(nullspace, message):
    A, b = neumann(4), randn(16)
    with pytest.raises((TypeError, ValueError, SolveError), match=message):
        sparse_solve(A, b, nullspace=nullspace)


def test_it_is_no_place_for_a_derivative_nor_for_an_operator():
    A, b = neumann(4), randn(16)
    with pytest.raises(ValueError, match="no derivative"):
        grad(lambda Z: sparse_solve(A, b, nullspace=Z).sum())(torch.ones(16).double())
    with pytest.raises(TypeError, match="stored matrix"):
        sparse_solve(LinearOperator(lambda p, x: p * x, b), b, nullspace="constant")
