"""Sums, products and views of operators, against the same of dense matrices."""

import functools

import numpy as np
import optree
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jvp, vmap
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from tests.systems import randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_solve
from tsgu_func.solvers import CG, GMRES, MINRES, BiCGStab

N, M = 4, 3
EXACT = [torch.float64, torch.complex128]
SOLVER = GMRES(rtol=1e-13)
PLACES = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]])
PATTERN = SparseMatrix.from_dense(PLACES.double()).pattern


def multiply(p, x):
    return p * x + 0.5 * x.roll(1)


def operator(p):
    return LinearOperator(multiply, p, (N, N))


def dense_operator(p):
    return torch.diag(p) + 0.5 * torch.eye(N, dtype=p.dtype).roll(1, 0)


def matrix(v):
    return SparseMatrix(PATTERN, v)


def dense_matrix(v):
    return v.new_zeros(N, N).index_put(PLACES.nonzero(as_tuple=True), v)


def arguments(dtype):
    """Return the parameters of an operator, the values of a matrix, and a factor."""
    p, v = randn(N, dtype=dtype) + 4, randn(PATTERN.nnz, dtype=dtype, seed=1)
    v = v + 5 * (PATTERN.row == PATTERN.col)
    return p, v, randn(1, dtype=dtype, seed=2)[0]


D = randn(N, N, seed=6)
EXPRESSIONS = {
    "operator": lambda L, S, s: L,
    "sum": lambda L, S, s: L + L,
    "sum with a matrix": lambda L, S, s: L + S,
    "sum of a matrix": lambda L, S, s: S + L,
    "sum with a dense one": lambda L, S, s: L + D.to(s.dtype),
    "sum of a dense one": lambda L, S, s: D.to(s.dtype) + L,
    "difference": lambda L, S, s: L - S,
    "difference from a matrix": lambda L, S, s: S - L,
    "negative": lambda L, S, s: -L,
    "composition": lambda L, S, s: L @ L.mT,
    "composition with a matrix": lambda L, S, s: L @ S,
    "composition of a matrix": lambda L, S, s: S @ L,
    "multiple": lambda L, S, s: 3 * L,
    "by a tensor": lambda L, S, s: L * s,
    "tensor times": lambda L, S, s: s * L,
    "quotient": lambda L, S, s: L / 4,
    "by a divisor": lambda L, S, s: L / s,
    "transpose": lambda L, S, s: L.T,
    "adjoint": lambda L, S, s: L.mH,
    "conjugate": lambda L, S, s: L.conj(),
    "twice": lambda L, S, s: L.T.T + L.mH.mH + L.conj().conj(),
    "all": lambda L, S, s: S @ L.mH + s * L.conj().T - (S.T - L) / 4,
}
ALL = EXPRESSIONS["all"]


def both(expression, dtype=torch.float64):
    """Return an operator, and the dense matrix that it is."""
    p, v, s = arguments(dtype)
    ours = EXPRESSIONS[expression](operator(p), matrix(v), s)
    return ours, EXPRESSIONS[expression](dense_operator(p), dense_matrix(v), s)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_products(expression, dtype):
    ours, dense = both(expression, dtype)
    x, X = randn(N, dtype=dtype, seed=3), randn(N, 2, dtype=dtype, seed=4)
    assert isinstance(ours, LinearOperator)
    assert ours.shape == (N, N)
    assert ours.dtype == dtype
    for a, d in (
        (ours, dense),
        (ours.T, dense.T),
        (ours.mH, dense.mH),
        (ours.conj(), dense.conj()),
    ):
        assert_close(a @ x, d @ x)
        assert_close(a @ X, d @ X)
        assert_close(x @ a, x @ d)
        assert_close(X.mT @ a, X.mT @ d)
    assert_close(sparse_solve(ours, x, solver=SOLVER), torch.linalg.inv(dense) @ x)


def test_a_complex_factor_of_a_real_operator():
    L, d = operator(randn(N)), dense_operator(randn(N))
    x = randn(N, dtype=torch.complex128)
    A = (2 - 1j) * L
    assert A.dtype == torch.complex128
    assert_close(A @ x, (2 - 1j) * d.to(x.dtype) @ x)
    assert_close(A.mH @ x, ((2 - 1j) * d).mH @ x)
    assert_close(A.mH @ x.real, ((2 - 1j) * d).mH @ x.real.to(x.dtype))
    with pytest.raises(ValueError, match=r"fits into the dtype of B; got torch\.complex128"):
        sparse_solve(A, x.real)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("layout", ["matrix", "coo", "csr", "csc", "dense"])
def test_matrices_as_operators(layout, dtype):
    d = randn(N, M, dtype=dtype) * (randn(N, M, seed=1) > 0)
    given = {
        "matrix": SparseMatrix.from_dense,
        "coo": torch.Tensor.to_sparse_coo,
        "csr": torch.Tensor.to_sparse_csr,
        "csc": torch.Tensor.to_sparse_csc,
        "dense": torch.Tensor.clone,
    }[layout](d)
    A, x, y = LinearOperator.from_matrix(given), randn(M, dtype=dtype), randn(N, dtype=dtype)
    assert A.shape == (N, M)
    assert A.mH.shape == A.T.shape == (M, N)
    assert A.conj().shape == (N, M)
    assert_close(A @ x, d @ x)
    assert_close(A.mH @ y, d.mH @ y)
    assert_close(A.mH @ A @ x, d.mH @ d @ x)
    complex_x = randn(M, dtype=torch.complex128)
    assert_close(A @ complex_x, d.to(complex_x.dtype) @ complex_x)


# ------------------------------------------------------------------------------ derivatives


def loss_of(solve):
    def loss(p, v, s, b):
        return solve(p, v, s, b).abs().square().sum()

    return loss


def solved(p, v, s, b):
    return sparse_solve(ALL(operator(p), matrix(v), s), b, solver=SOLVER)


def solved_densely(p, v, s, b):
    return torch.linalg.inv(ALL(dense_operator(p), dense_matrix(v), s)) @ b


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("right", [(N,), (N, 2)])
def test_derivatives(dtype, right):
    args = (*arguments(dtype), randn(*right, dtype=dtype, seed=5))
    ours, theirs = loss_of(solved), loss_of(solved_densely)
    assert_close(ours(*args), theirs(*args))
    places = tuple(range(4))
    assert_close(grad(ours, places)(*args), grad(theirs, places)(*args))
    moved = tuple(torch.ones_like(x) for x in args)
    assert_close(jvp(solved, args, moved)[1], jvp(solved_densely, args, moved)[1])
    leaves = tuple(x.clone().requires_grad_() for x in args)
    ours(*leaves).backward()
    assert_close(tuple(x.grad for x in leaves), grad(theirs, places)(*args))


def test_second_derivatives():
    args = (*arguments(torch.float64), randn(N, seed=5))
    places = (0, 1, 2)
    theirs = hessian(loss_of(solved_densely), places)(*args)
    assert_close(hessian(loss_of(solved), places)(*args), theirs)
    assert_close(jacfwd(jacfwd(loss_of(solved), places), places)(*args), theirs)


@pytest.mark.slow
def test_complex_derivatives_are_finite_differences():
    args = (*arguments(torch.complex128), randn(N, dtype=torch.complex128, seed=5))
    leaves = tuple(x.clone().requires_grad_() for x in args)
    assert torch.autograd.gradcheck(solved, leaves, check_forward_ad=True, fast_mode=True)
    p, v, _, b = args
    assert torch.autograd.gradgradcheck(lambda s: solved(p, v, s, b), leaves[2])


@pytest.mark.parametrize("mapped", range(4))
def test_vmap(mapped):
    args = [*arguments(torch.float64), randn(N, seed=5)]
    dims = [0 if i == mapped else None for i in range(4)]
    args[mapped] = torch.stack([args[mapped], 1.5 * args[mapped]])
    for make in (lambda f: f, lambda f: grad(f, (0, 1, 2))):
        ours, theirs = (make(loss_of(f)) for f in (solved, solved_densely))
        assert_close(vmap(ours, tuple(dims))(*args), vmap(theirs, tuple(dims))(*args))


@pytest.mark.parametrize("solver", [GMRES, BiCGStab, CG, MINRES])
def test_every_iterative_solver_takes_a_composite(solver):
    L, d = operator(randn(N) + 4), dense_operator(randn(N) + 4)
    A, b = L.T @ L, randn(N, 2)
    expected = torch.linalg.inv(d.T @ d) @ b
    assert_close(sparse_solve(A, b, solver=solver(rtol=1e-12)), expected, rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------------------------- as a pytree


def test_composites_of_the_same_parts_are_of_one_tree():
    p, v, s = arguments(torch.float64)
    A, B = (ALL(operator(p), matrix(v), s) for _ in range(2))
    (leaves, tree), (_, same) = pytree.tree_flatten(A), pytree.tree_flatten(B)
    assert tree == same
    assert hash(A.static) == hash(B.static)
    assert tree != pytree.tree_structure(ALL(operator(p), matrix(v), s).T)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    x = randn(N)
    total = pytree.tree_map(torch.add, operator(p), operator(p))
    assert_close(total @ x, dense_operator(2 * p) @ x)
    names = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(2 * operator(p))[0]]
    assert names == [".parameters.operator.parameters"]
    paths, ours, _ = optree.tree_flatten_with_path(matrix(v) + operator(p), namespace="tsgu_func")
    assert ours == [v, p]
    assert paths[0] == ("parameters", 0, "parameters", "values")


def test_the_gradient_of_a_composite_is_one():
    p, v, s = arguments(torch.float64)
    b = randn(N, seed=5)
    ours = grad(lambda A: sparse_solve(A, b, solver=SOLVER).sum())(matrix(v) @ operator(p) * s)
    theirs = grad(
        lambda p, v, s: (torch.linalg.inv(s * dense_matrix(v) @ dense_operator(p)) @ b).sum(),
        (0, 1, 2),
    )(p, v, s)
    factor, composition = ours.parameters
    of_matrix, of_operator = composition.parameters
    assert isinstance(of_operator, LinearOperator)
    assert isinstance(of_matrix.parameters, SparseMatrix)
    found = of_operator.parameters, of_matrix.parameters.values, factor
    assert_close(found, theirs)


def test_an_operator_is_pickled_and_copied():
    import copy
    import pickle

    A, d = both("all")
    x = randn(N)
    for B in (copy.deepcopy(A), pickle.loads(pickle.dumps(operator(arguments(x.dtype)[0])))):
        assert isinstance(B, LinearOperator)
    assert_close(copy.deepcopy(A) @ x, d @ x)


# ------------------------------------------------------------------------------------- compiled


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["value", "grad", "jvp"])
def test_compiled(transform):
    args = (*arguments(torch.float64), randn(N, seed=5))

    def ours(p, v, s, b):
        L, S = operator(p), LinearOperator.from_matrix(matrix(v))
        A = S.matmul(L.mH) + L.conj().T.mul(s) - (S.T - L) / 4
        return sparse_solve(A, b, solver=SOLVER).square().sum()

    function = {
        "value": ours,
        "grad": grad(ours, (0, 1, 2)),
        "jvp": lambda p, v, s, b: jvp(lambda p: ours(p, v, s, b), (p,), (p,))[1],
    }[transform]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*args), function(*args))
    if transform == "value":
        assert_close(compiled(*args), loss_of(solved)(*args))


@pytest.mark.slow
def test_equal_composites_compile_once():
    p, v, s = arguments(torch.float64)
    b, make = randn(N, seed=5), functools.partial(sparse_solve, solver=SOLVER)
    torch.compiler.reset()
    compiled = torch.compile(make, fullgraph=True, backend="aot_eager")

    def expression(L, S, s):
        return S @ L.mH + s * L.conj().T - (S - L) / 4

    first = compiled(expression(operator(p), matrix(v), s), b)
    with torch.compiler.set_stance("fail_on_recompile"):
        second = compiled(expression(operator(p), matrix(v), s), b)
        third = compiled(expression(operator(p), matrix(v), 2 * s), b)
    assert_close(second, first)
    dense = expression(dense_operator(p), dense_matrix(v), 2 * s)
    assert_close(third, torch.linalg.inv(dense) @ b)


class Solve(torch.nn.Module):
    def forward(self, A, b):
        return sparse_solve(A, b, solver=SOLVER)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    p, v, s = arguments(torch.float64)
    A, b = ALL(operator(p), matrix(v), s), randn(N, seed=5)
    program = torch.export.export(Solve(), (A, b), strict=strict)
    B = ALL(operator(2 * p), matrix(v + 1), s)
    assert_close(program.module()(B, b), Solve()(B, b))


# -------------------------------------------------------------------------------------- errors


def test_shapes_that_do_not_fit():
    A, B = (LinearOperator(multiply, randn(N), shape) for shape in ((N, M), (M, N)))
    with pytest.raises(ValueError, match=r"one shape can be added; got \(4, 3\) and \(3, 4\)"):
        A + B
    with pytest.raises(ValueError, match=r"as many columns as B has rows.*\(4, 3\) and \(4, 3\)"):
        A @ A
    with pytest.raises(ValueError, match=r"without a shape, which is square: give it shape=\(4"):
        A + LinearOperator(multiply, randn(N))
    with pytest.raises(ValueError, match=r"A has as many columns as x has rows; got A \(4, 3\)"):
        A @ randn(N)
    assert (A @ B).shape == (N, N)
    assert (LinearOperator(multiply, randn(N)) @ A).shape == (N, M)


@pytest.mark.parametrize("shape", [3, (3,), (1, 2, 3), (-1, 2), ("n", 2)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match=r"shape is a pair of sizes \(n, m\)"):
        LinearOperator(multiply, randn(N), shape)


def test_what_is_not_known_is_said():
    A = LinearOperator(lambda p, x: x.roll(1), ())
    with pytest.raises(AttributeError, match="give shape="):
        A.shape  # noqa: B018
    with pytest.raises(AttributeError, match="give dtype="):
        A.dtype  # noqa: B018
    with pytest.raises(AttributeError, match="give device="):
        A.device  # noqa: B018
    assert_close(A.mH @ torch.arange(3.0), torch.tensor([1.0, 2.0, 0.0]))
    known = LinearOperator(multiply, randn(N), dtype=torch.complex64, device="cpu")
    assert (known.dtype, known.device) == (torch.complex64, torch.device("cpu"))
    assert operator(randn(N)).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        (lambda A: A + 3, TypeError, "unsupported operand"),
        (lambda A: A - "x", TypeError, "unsupported operand"),
        (lambda A: A @ 3, TypeError, "unsupported operand"),
        (lambda A: A * "x", TypeError, "multiply|unsupported operand"),
        (lambda A: A / None, TypeError, "unsupported operand"),
        (lambda A: A * torch.ones(2), ValueError, "tensors without axes"),
        (lambda A: A @ torch.ones(2, N, 1), ValueError, r"x is a vector \(m,\)"),
        (lambda A: A(np.ones(N)), TypeError, "x is a dense tensor"),
        (lambda A: LinearOperator.from_matrix(3), TypeError, "SparseMatrix or a tensor"),
        (lambda A: A.from_matrix(torch.ones(2, N, N)), ValueError, r"one matrix \(n, m\)"),
        (lambda A: A + matrix(torch.ones(2, PATTERN.nnz)), ValueError, r"one matrix \(n, m\)"),
        (lambda A: LinearOperator(multiply, 1, adjoint=3), TypeError, "adjoint is callable"),
    ],
)
def test_operands_that_make_no_sense(expression, error, message):
    with pytest.raises(error, match=message):
        expression(operator(randn(N)))
