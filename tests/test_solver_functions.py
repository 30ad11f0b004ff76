"""A function in the place of a solver: `sparse_solve(A, b, solver=f)`."""

import functools

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.testing import assert_close

from tests.systems import matrix_for, numpy_solve, randn
from tsgu_func import LinearOperator, SparseMatrix, sparse_lstsq, sparse_solve
from tsgu_func.solvers import CG, ConvergenceError, Info, Result, SuperLU
from tsgu_func.utils import BICGSTABSettings, bicgstab, linear_cg

FEW = functools.partial(bicgstab, settings=BICGSTABSettings(reltol=1e-12))
DTYPES = [torch.float64, torch.complex128]


def dense(A, B):
    return torch.linalg.solve(A.to_dense(), B)


def halved(A, B):
    """Return what solves another system."""
    return dense(A, B) / 2


def lost(A, B):
    return dense(A, B) * torch.nan


def system(dtype=torch.float64, n=8):
    return SparseMatrix.from_dense(matrix_for(bicgstab, dtype, n)), randn(n, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [dense, bicgstab, FEW])
def test_it_solves_and_is_reported(solver, dtype):
    A, b = system(dtype)
    x, info = sparse_solve(A, b, solver=solver, return_info=True)
    assert_close(x, numpy_solve(A.to_dense(), b))
    assert isinstance(info, Info)
    assert info.result is Result.SOLVED
    assert getattr(solver, "__name__", "partial") in info.solver
    true = torch.linalg.vector_norm(b - A @ x) / torch.linalg.vector_norm(b)
    assert_close(info.residual, true, rtol=0.5, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_derivatives_are_finite_differences(dtype):
    A, b = system(dtype, 4)

    def f(values, b):
        return sparse_solve(A.with_values(values), b, solver=dense)

    args = (A.values.clone().requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, args, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("transform", [grad, jacrev, jacfwd, hessian])
def test_every_transform(transform):
    A, b = system()

    def through(solver):
        return transform(lambda v: sparse_solve(A.with_values(v), b, solver=solver).sum())

    assert_close(through(dense)(A.values), through(SuperLU())(A.values))


def test_it_is_mapped_and_compiled():
    A, _ = system()
    B = randn(3, 8)
    solve = functools.partial(sparse_solve, A, solver=dense)
    expected = numpy_solve(A.to_dense(), B.mT).mT
    assert_close(vmap(solve)(B), expected)
    compiled = torch.compile(
        lambda A, b: sparse_solve(A, b, solver=dense), fullgraph=True, backend="aot_eager"
    )
    assert_close(compiled(A, B[0]), expected[0])


@pytest.mark.parametrize("wrong", [halved, lost])
def test_what_is_no_solution_is_told_as_is_asked(wrong):
    A, b = system()
    with pytest.raises(ConvergenceError, match=rf"{wrong.__name__}.* no solution"):
        sparse_solve(A, b, solver=wrong)
    with pytest.warns(UserWarning, match="no solution"):
        warned = sparse_solve(A, b, solver=wrong, on_failure="warn")
    x, info = sparse_solve(A, b, solver=wrong, on_failure="ignore", return_info=True)
    assert torch.equal(x.nan_to_num(), warned.nan_to_num())
    assert info.result is Result.INACCURATE


def test_only_the_column_that_failed_is_said_to_have():
    A, _ = system()

    def first(A, B):
        return dense(A, B) * torch.tensor([1.0, 0.0])

    info = sparse_solve(A, randn(8, 2), solver=first, on_failure="ignore", return_info=True)[1]
    assert info.code.tolist() == [Result.SOLVED, Result.INACCURATE]


def test_a_graph_of_a_function_of_this_library_can_be_made_anywhere():
    """The key says the policy, so another process judges as this one does."""
    from tsgu_func.ops.handles import _described, handle_of, handle_of_function

    for policy in (None, "raise", "ignore"):
        for vector in (True, False):
            key = handle_of_function(linear_cg, None, {"tolerance": 0.1}, vector, policy).key
            _described.clear()
            made = handle_of(key)
            assert (made.function, made.vector, made.on_failure) == (linear_cg, vector, policy)
            assert made.options == {"tolerance": 0.1}


@pytest.mark.parametrize(("solver", "message"), [(CG, "call it"), ("CG", "such as CG"), (3, "3")])
def test_what_is_neither_a_solver_nor_a_function(solver, message):
    A, b = system()
    with pytest.raises(TypeError, match=message):
        sparse_solve(A, b, solver=solver)


def test_where_no_function_is_taken():
    A, b = system()
    with pytest.raises(TypeError, match="sparse_solve takes a function as well"):
        sparse_lstsq(A, b, solver=dense)
    with pytest.raises(TypeError, match="shows none"):
        sparse_solve(LinearOperator(lambda p, x: p * x, b), b, solver=dense)


# ---------------------------------------------------------------------------------- how it prints


def test_it_prints_in_a_line():
    A, b = system()
    info = sparse_solve(A, randn(8, 3), solver=SuperLU(), return_info=True)[1]
    assert repr(info).startswith("Info(SuperLU(), SOLVED, iterations=0, residual=")
    assert "condition=" in repr(info)
    assert "\n" not in repr(info)
    assert "condition" not in repr(sparse_solve(A, b, solver=dense, return_info=True)[1])
    empty = sparse_solve(A, randn(8, 0), return_info=True)[1]
    assert repr(empty) == "Info(no columns, SOLVED, iterations=0, residual=0.0e+00)"


def test_it_prints_inside_of_a_transform_and_without_tensors():
    A, _ = system()
    seen = []

    def solve(b):
        x, info = sparse_solve(A, b, return_info=True)
        seen.append(repr(info))
        return x

    vmap(solve)(randn(2, 8))
    assert seen[0].startswith("Info(code=")
    info = sparse_solve(A, randn(8), return_info=True)[1]
    assert repr(torch.utils._pytree.tree_map(lambda x: 0, info)).startswith("Info(code=0, ")
