"""`sparse_lstsq(damp=)`: Tikhonov regularization, with derivatives of every order in it."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from tests.systems import close, randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_generic_lstsq, sparse_lstsq, sparse_solve
from tsgu_func.solvers import LSMR, LSQR, Augmented

WIDE = [torch.float64, torch.complex128]
SHAPES = [(9, 5), (5, 9), (6, 6)]


def some(shape, dtype, seed=0):
    D = randn(*shape, dtype=dtype, seed=seed) * (randn(*shape, seed=seed + 1).abs() > 0.7)
    return D + 2 * torch.eye(*shape, dtype=dtype)


def dense(D, B, damp):
    """Solve by the normal equations, in ops whose derivatives are right."""
    H = D.mH.resolve_conj()
    eye = torch.eye(D.shape[-1], dtype=D.dtype)
    return torch.linalg.inv(H @ D + damp**2 * eye) @ (H @ B)


@pytest.mark.parametrize("dtype", [torch.float32, *WIDE], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("solver", [None, LSMR(), LSQR(), Augmented()], ids=repr)
def test_values(dtype, shape, solver):
    D, B = some(shape, dtype), randn(shape[0], 2, dtype=dtype)
    A = SparseMatrix.from_dense(D)
    expected = dense(D, B, 0.5)
    for given in (A, D.to_sparse_csr(), D.to_sparse_coo()):
        for damp in (0.5, torch.tensor(0.5, dtype=dtype.to_real())):
            X = sparse_lstsq(given, B, damp=damp, solver=solver)
            torch.testing.assert_close(X, expected, **close(dtype))
    x = sparse_lstsq(A, B[:, 0], damp=0.5, solver=solver)
    torch.testing.assert_close(x, expected[:, 0], **close(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3)])
def test_derivatives_are_finite_differences(dtype, shape):
    A, B = SparseMatrix.from_dense(some(shape, dtype)), randn(shape[0], dtype=dtype)

    def f(values, B, damp):
        return sparse_lstsq(A.with_values(values), B, damp=damp)

    damp = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    args = (A.values.clone().requires_grad_(), B.requires_grad_(), damp)
    assert gradcheck(f, args, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(f, args, fast_mode=True)


@pytest.mark.slow
def test_any_nesting_of_transforms():
    D, B = some((9, 5), torch.float64), randn(9, 2)
    A, damp = SparseMatrix.from_dense(D), torch.tensor(0.7).double()

    def ours(d):
        return sparse_lstsq(A, B, damp=d).sin().sum()

    def theirs(d):
        return dense(D, B, d).sin().sum()

    nested = [
        grad,
        lambda f: grad(grad(f)),
        lambda f: jacfwd(jacrev(jacfwd(f))),
        lambda f: lambda d: jvp(grad(f), (d,), (torch.ones_like(d),))[1],
    ]
    for transform in nested:
        torch.testing.assert_close(transform(ours)(damp), transform(theirs)(damp))
    several = torch.tensor([0.1, 1.0, 10.0]).double()
    for transform in (lambda f: f, grad, lambda f: grad(grad(f))):
        torch.testing.assert_close(vmap(transform(ours))(several), vmap(transform(theirs))(several))


@pytest.mark.parametrize("kind", ["matrix", "coo", "csr"])
def test_a_number_for_each_member_of_a_batch(kind):
    D, B = torch.stack([some((9, 5), torch.float64, seed=0)] * 3), randn(3, 9, 2)
    D = D * torch.tensor([1.0, 2.0, 3.0]).double()[:, None, None]
    kinds = {
        "matrix": SparseMatrix.from_dense,
        "coo": torch.Tensor.to_sparse_coo,
        "csr": torch.Tensor.to_sparse_csr,
    }
    damp = torch.tensor([0.1, 1.0, 3.0]).double()
    X = sparse_lstsq(kinds[kind](D), B, damp=damp)
    torch.testing.assert_close(X, dense(D, B, damp[:, None, None]))
    X = sparse_lstsq(kinds[kind](D), B, damp=damp[1])
    torch.testing.assert_close(X, dense(D, B, damp[1]))


def test_more_axes_of_a_batch():
    A, B = SparseMatrix.from_dense(some((9, 5), torch.float64)), randn(4, 1, 9, 2)
    A = A.with_values(A.values * torch.tensor([[1.0], [2.0]]).double().unsqueeze(-1))
    damp = torch.tensor([[0.5], [1.5]]).double()
    with pytest.raises(ValueError, match="broadcast"):
        sparse_lstsq(A, randn(3, 1, 9, 2), damp=damp)
    B = randn(2, 3, 9, 2)
    X = sparse_lstsq(A, B, damp=damp)
    torch.testing.assert_close(X, dense(A.to_dense(), B, damp[..., None, None]))


@pytest.mark.parametrize("shape", [*SHAPES, None])
def test_an_operator(shape):
    D, b = some(shape or (6, 6), torch.float64), randn((shape or (6, 6))[0])

    def f(D, b, damp):
        A = LinearOperator(lambda D, x: D @ x, D, shape)
        return sparse_lstsq(A, b, damp=damp)

    damp = torch.tensor(0.5).double()
    torch.testing.assert_close(f(D, b, damp), dense(D, b, damp))
    ours = grad(lambda *args: f(*args).square().sum(), argnums=(0, 1, 2))(D, b, damp)
    theirs = grad(lambda *args: dense(*args).square().sum(), argnums=(0, 1, 2))(D, b, damp)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("cls", [LSMR, LSQR])
def test_a_constant_of_the_solver(cls):
    D, B = some((9, 5), torch.float64), randn(9, 2)
    A = SparseMatrix.from_dense(D)

    def through(f, D):
        return grad(lambda v: f(A.with_values(v)).square().sum())(A.values)

    expected = grad(lambda D: dense(D, B, 0.5).square().sum())(D)[D != 0]
    for f in (
        lambda A: sparse_lstsq(A, B, solver=cls(damp=0.5)),
        lambda A: sparse_generic_lstsq(A, B, lstsq=cls(damp=0.5)),
    ):
        torch.testing.assert_close(f(A), dense(D, B, 0.5))
        torch.testing.assert_close(through(f, D), expected)
    with pytest.raises(ValueError, match="given twice"):
        sparse_lstsq(A, B, solver=cls(damp=0.5), damp=0.1)
    with pytest.raises(ValueError, match="leave damp=0"):
        sparse_solve(SparseMatrix.from_dense(D[:5]), B[:5], solver=cls(damp=0.5))


def test_compiled_once_for_all_numbers():
    A, B = SparseMatrix.from_dense(some((9, 5), torch.float64)), randn(9, 2)
    counter = CompileCounter()
    f = torch.compile(lambda d: sparse_lstsq(A, B, damp=d), backend=counter, fullgraph=True)
    for d in (0.5, 0.7, 0.9):
        damp = torch.tensor(d).double()
        torch.testing.assert_close(f(damp), dense(A.to_dense(), B, damp))
    assert counter.frame_count == 1


def test_zero_is_no_damping_and_gives_rank():
    D = some((9, 5), torch.float64)
    D[:, 2] = D[:, 0]
    D[:, 3] = 0
    D[0, 3] = 0
    A, B = SparseMatrix.from_coo(*D.nonzero().unbind(-1), D[D != 0], (9, 5)), randn(9, 2)
    torch.testing.assert_close(sparse_lstsq(A, B, damp=0.1), dense(D, B, 0.1))
    wide = SparseMatrix.from_dense(some((5, 9), torch.float64))
    torch.testing.assert_close(
        sparse_lstsq(wide, B[:5], damp=0), torch.linalg.pinv(wide.to_dense()) @ B[:5]
    )


@pytest.mark.parametrize(
    ("damp", "error", "message"),
    [
        (-1.0, ValueError, "damp is a number, finite and not negative"),
        (float("nan"), ValueError, "damp is a number"),
        ("much", ValueError, "damp is a number"),
        (torch.tensor(1), TypeError, "real and floating-point; got torch.int64"),
        (torch.tensor(1j), TypeError, "real and floating-point"),
        (torch.ones(2), ValueError, "for each member of the batch"),
        (torch.ones((), device="meta"), ValueError, "on the device of A"),
    ],
)
def test_bad_damping(damp, error, message):
    A = SparseMatrix.from_dense(some((9, 5), torch.float64))
    with pytest.raises(error, match=message):
        sparse_lstsq(A, randn(9), damp=damp)
