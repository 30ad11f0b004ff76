"""`factorize`: factored once, held, found under every transform, and right."""

import copy
import functools
import gc
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import optree
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from tests.systems import matrix_for, numpy_solve, randn
from tsgu_func import Factorization, LinearOperator, SparseMatrix, factorize, sparse_solve
from tsgu_func.solvers import (
    CG,
    IC0,
    ICCG,
    Auto,
    BiCGStab,
    Cholesky,
    DenseLU,
    Pardiso,
    SolveError,
    Substitution,
    SuperLU,
    cache_info,
    cache_limit,
    clear_cache,
)
from tsgu_func.solvers.direct import superlu
from tsgu_func.utils import bicgstab, linear_cg

DTYPES = [torch.float64, torch.complex128]
SOLVERS = [SuperLU(), DenseLU(), Auto(), Auto(rtol=1e-9)]
N = 8


@pytest.fixture(autouse=True)
def fresh():
    before = cache_limit()
    clear_cache()
    yield
    cache_limit(before)


def general(n=N, dtype=torch.float64, kind=bicgstab):
    return SparseMatrix.from_dense(matrix_for(kind, dtype, n))


def batch(n=N, dtype=torch.float64):
    A = general(n, dtype)
    return A.with_values(A.values * torch.tensor([1.0, 2.0, -3.0], dtype=dtype)[:, None])


@pytest.fixture
def factored(monkeypatch):
    """Count the factorizations of SuperLU."""
    calls = []
    factored = superlu._factored
    monkeypatch.setattr(superlu, "_factored", lambda *a: calls.append(1) or factored(*a))
    return calls


# ------------------------------------------------------------------------------------- solutions


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [*SOLVERS, BiCGStab(rtol=1e-13)], ids=repr)
@pytest.mark.parametrize("transposed", [False, True])
def test_solutions_with_the_matrix_and_its_adjoint(solver, dtype, transposed):
    A = general(dtype=dtype).T if transposed else general(dtype=dtype)
    D, F = A.to_dense(), factorize(A, solver)
    for B in (randn(N, dtype=dtype), randn(N, 3, dtype=dtype), randn(2, N, 3, dtype=dtype)):
        assert_close(F.solve(B), torch.linalg.solve(D, B), rtol=1e-7, atol=1e-7)
        adjoint = torch.linalg.solve(D.mH, B)
        assert_close(F.solve(B, adjoint=True), adjoint, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", [*SOLVERS, BiCGStab(rtol=1e-13)], ids=repr)
def test_a_batch(solver):
    A, b = batch(), randn(3, N)
    F = factorize(A, solver)
    expected = torch.linalg.solve(A.to_dense(), b.unsqueeze(-1)).squeeze(-1)
    misses = cache_info().misses
    assert_close(F.solve(b), expected, rtol=1e-7, atol=1e-7)
    assert_close(F.solve(b.unsqueeze(-1)).squeeze(-1), expected, rtol=1e-7, atol=1e-7)
    assert F.solve(randn(N)).shape == (3, N)
    assert cache_info().misses == misses
    assert_close(F.solve(b), vmap(lambda F, b: F.solve(b))(F, b), rtol=1e-7, atol=1e-7)


def test_a_batch_with_an_axis_of_one_is_found_too():
    A = general()
    F = factorize(A.with_values(A.values.expand(1, 1, -1)), SuperLU())
    assert_close(F.solve(randn(N)), numpy_solve(A.to_dense(), randn(N)).expand(1, 1, -1))
    assert cache_info().misses == 1


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_torch_tensors(layout):
    D = general().to_dense()
    A = (D.to_sparse_coo() if layout == "coo" else D.to_sparse_csr()).requires_grad_()
    F = factorize(A, SuperLU())
    F.solve(randn(N)).sum().backward()
    values = general().values.requires_grad_()
    sparse_solve(general().with_values(values), randn(N)).sum().backward()
    assert_close(A.grad.to_dense(), general().with_values(values.grad).to_dense())


def test_nothing_to_solve():
    A = SparseMatrix.from_coo([], [], torch.zeros(0), (0, 0))
    F = factorize(A)
    assert F.solve(torch.zeros(0, 2)).shape == (0, 2)
    assert float(F.logabsdet) == 0


# -------------------------------------------------------------------------- made once, and held


def test_the_factor_is_made_at_once_and_never_again(factored):
    A, b = general(), randn(N)
    F = factorize(A, SuperLU())
    assert len(factored) == 1
    for adjoint in (False, True):
        F.solve(b, adjoint=adjoint)
        jacrev(lambda b, adjoint=adjoint: F.solve(b, adjoint=adjoint))(b)
    grad(lambda F: F.solve(b).sum())(F)
    hessian(lambda v: factorize(A.with_values(v), SuperLU()).solve(b).sum())(A.values)
    vmap(F.solve)(randn(3, N))
    torch.compile(F.solve, backend="aot_eager", fullgraph=True)(b)
    assert len(factored) == 1


def test_it_shares_the_factor_with_sparse_solve(factored):
    A, b = general(), randn(N)
    F = factorize(A, SuperLU())
    sparse_solve(A, b, solver=SuperLU())
    assert cache_info().misses == 1
    other = general() * 2
    sparse_solve(other, b, solver=SuperLU())
    factorize(other, SuperLU())
    assert len(factored) == 2
    assert F.info.made


def test_it_holds_the_factor_whatever_the_limit(factored):
    A, b = general(), randn(N)
    cache_limit(0)
    F = factorize(A, SuperLU())
    assert cache_info().kinds["factors"].entries == 0
    values = A.values.clone().requires_grad_()  # found by what they are, not by where
    F.solve(b)
    sparse_solve(A.with_values(values), b, solver=SuperLU()).sum().backward()
    clear_cache()
    F.solve(b, adjoint=True)
    assert len(factored) == 1
    del F
    gc.collect()
    sparse_solve(A, b, solver=SuperLU())
    assert len(factored) == 2


def test_a_preconditioner_is_held_too(monkeypatch):
    made = []
    init = IC0.init
    monkeypatch.setattr(IC0, "init", lambda self, A: made.append(1) or init(self, A))
    A, b = general(kind=linear_cg), randn(N)
    cache_limit(0)
    F = factorize(A, CG(IC0(), rtol=1e-12))
    assert made == [1]
    assert_close(F.solve(b), numpy_solve(A.to_dense(), b))
    F.solve(b, adjoint=True)
    assert made == [1]
    assert F.info.bytes > 0


def test_a_factor_of_changed_values_is_another(factored):
    A, b = general(), randn(N)
    F = factorize(A, SuperLU())
    A.values.mul_(2)
    assert_close(F.solve(b), numpy_solve(A.to_dense(), b))
    cache_limit(0)
    F.solve(b)
    assert len(factored) == 2


def test_of_values_under_a_transform_it_is_made_at_once_if_they_have_data(factored):
    A, b = general(), randn(N)
    seen = []

    def f(v):
        F = factorize(A.with_values(v), SuperLU())
        seen.append((len(factored), F.info.made))
        return F.solve(b).sum()

    grad(f)(A.values)
    assert seen == [(1, True)]
    jvp(grad(f), (A.values * 2,), (A.values,))
    assert seen[-1] == (2, True)
    vmap(f)(torch.stack([A.values * 3, A.values * 4]))
    assert seen[-1] == (2, False)


def test_threads():
    A = general(60)
    F = factorize(A, SuperLU())
    right = [randn(60, seed=i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(F.solve, right))
    assert cache_info().misses == 1
    for b, x in zip(right, found, strict=True):
        assert_close(x, numpy_solve(A.to_dense(), b))


# ------------------------------------------------------------------------------------ derivatives


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("solver", [SuperLU(), Auto()], ids=repr)
def test_derivatives_are_finite_differences(solver, adjoint, dtype):
    A, B = general(5, dtype), randn(5, 2, dtype=dtype)

    def f(values, B):
        return factorize(A.with_values(values), solver).solve(B, adjoint=adjoint)

    args = (A.values.clone().requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, args, check_fwd_over_rev=True, fast_mode=True)


def test_tangents_of_eager_forward_mode():
    A, b = general(), randn(N)
    with torch.autograd.forward_ad.dual_level():
        values = torch.autograd.forward_ad.make_dual(A.values, A.values.sin())
        F = factorize(A.with_values(values), SuperLU())
        found = [torch.autograd.forward_ad.unpack_dual(x) for x in (F.solve(b), F.logabsdet)]
    functions = (sparse_solve, lambda A, b: factorize(A).logabsdet)
    for x, function in zip(found, functions, strict=True):
        primal, tangent = jvp(lambda A, f=function: f(A, b), (A,), (A.with_values(A.values.sin()),))
        assert_close(x.primal, primal)
        assert_close(x.tangent, tangent)


def test_it_is_a_tree_and_its_gradient_holds_the_gradient_of_the_matrix(factored):
    A, b = general(), randn(N)
    F = factorize(A, SuperLU())
    gradient = grad(lambda F: F.solve(b).sum())(F)
    assert isinstance(gradient, Factorization)
    assert gradient.solver == SuperLU()
    expected = grad(lambda A: sparse_solve(A, b).sum())(A)
    assert_close(gradient.matrix.values, expected.values)
    assert len(factored) == 1
    moved = jvp(lambda F: F.solve(b), (F,), (gradient,))[1]
    assert_close(moved, jvp(lambda A: sparse_solve(A, b), (A,), (expected,))[1])
    for flatten in (
        torch.utils._pytree.tree_leaves,
        functools.partial(optree.tree_leaves, namespace="tsgu_func"),
    ):
        assert flatten(F) == [A.values]
    paths = torch.utils._pytree.tree_flatten_with_path(F)[0]
    assert "".join(map(str, paths[0][0])) == ".matrix.values"
    assert len(factored) == 1


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_every_transform_of_it_is_that_of_a_solve(transform):
    A, b = general(5), randn(5)
    F = factorize(A)

    def ours(v):
        return factorize(A.with_values(v)).solve(b).square().sum()

    def theirs(v):
        return sparse_solve(A.with_values(v), b).square().sum()

    assert_close(transform(ours)(A.values), transform(theirs)(A.values))
    assert_close(transform(F.solve)(b), transform(lambda b: sparse_solve(A, b))(b))


def test_it_is_mapped_over_right_hand_sides_and_values():
    A = general()
    F, B = factorize(A, SuperLU()), randn(4, N)
    expected = numpy_solve(A.to_dense(), B.mT).mT
    assert_close(vmap(F.solve)(B), expected)
    several = factorize(batch(), SuperLU())
    D = batch().to_dense()
    assert_close(
        vmap(lambda F, b: F.solve(b, adjoint=True))(several, B[:3]),
        torch.linalg.solve(D.mT, B[:3].unsqueeze(-1)).squeeze(-1),
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled_as_an_argument_as_a_closure_and_made_inside(backend):
    torch.compiler.reset()
    A, b = general(), randn(N)
    F = factorize(A, SuperLU())
    compiled = functools.partial(torch.compile, fullgraph=True, backend=backend)
    expected = numpy_solve(A.to_dense(), b)
    assert_close(compiled(lambda F, b: F.solve(b))(F, b), expected)
    assert_close(compiled(lambda b: F.solve(b))(b), expected)
    assert_close(compiled(lambda A, b: factorize(A, SuperLU()).solve(b))(A, b), expected)
    assert_close(compiled(lambda A: factorize(A).logabsdet)(A), F.logabsdet)

    def loss(F):
        return F.solve(b).square().sum() + F.logabsdet

    found = compiled(grad(loss))(F)
    assert_close(found.matrix.values, grad(loss)(F).matrix.values)
    values = A.values.clone().requires_grad_()
    compiled(lambda v: loss(factorize(A.with_values(v), SuperLU())))(values).backward()
    assert_close(values.grad, found.matrix.values)


def test_another_factorization_is_another_graph():
    torch.compiler.reset()
    compiled = torch.compile(lambda F, b: F.solve(b), fullgraph=True, backend="aot_eager")
    b = randn(N)
    for A, solver in itertools.product((general(), general() * 2), (SuperLU(), DenseLU())):
        assert_close(compiled(factorize(A, solver), b), numpy_solve(A.to_dense(), b))


def test_exported():
    A, b = general(), randn(N)

    class Module(torch.nn.Module):
        def forward(self, values, b):
            F = factorize(A.with_values(values), SuperLU())
            return F.solve(b, adjoint=True), F.logabsdet

    program = torch.export.export(Module(), (A.values, b))
    x, logabsdet = program.module()(A.values * 2, b)
    assert_close(x, numpy_solve(2 * A.to_dense().mT, b))
    assert_close(logabsdet, torch.linalg.slogdet(2 * A.to_dense())[1])


# ----------------------------------------------------------------------------------- determinants


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("solver", [SuperLU(), DenseLU(), Auto()], ids=repr)
@pytest.mark.parametrize("n", [1, N, 90])
def test_the_determinant(solver, dtype, n):
    A = general(n, dtype)
    found = factorize(A, solver).logabsdet
    assert found.dtype == dtype.to_real()
    expected = np.linalg.slogdet(A.to_dense().numpy()).logabsdet
    assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_determinant_of_cholesky(dtype):
    pytest.importorskip("sksparse.cholmod")
    A = general(90, dtype, linear_cg)
    expected = torch.linalg.slogdet(A.to_dense())[1]
    assert_close(factorize(A, Cholesky()).logabsdet, expected)


def test_the_determinant_of_a_triangle_and_of_what_is_iterated_with():
    D = torch.tril(randn(90, 90)) + 3 * torch.eye(90)
    expected = torch.linalg.slogdet(D)[1]
    for solver in (Substitution(), Auto()):
        F = factorize(SparseMatrix.from_dense(D), solver)
        assert F.info.solver == "Substitution()"
        assert_close(F.logabsdet, expected)


def test_the_determinant_where_an_iteration_is_chosen(monkeypatch):
    from tsgu_func.solvers import auto

    monkeypatch.setattr(auto, "choose", lambda *_: auto.Plan((ICCG(), Pardiso())))
    A = general(kind=linear_cg)
    F = factorize(A)
    assert F.info.solver == "ICCG()"
    assert_close(F.logabsdet, torch.linalg.slogdet(A.to_dense())[1])


@pytest.mark.parametrize("solver", [SuperLU(), DenseLU(), Auto()], ids=repr)
def test_determinants_of_a_batch(solver):
    A = batch()
    expected = torch.linalg.slogdet(A.to_dense())[1]
    assert_close(factorize(A, solver).logabsdet, expected)
    assert_close(vmap(lambda F: F.logabsdet)(factorize(A, solver)), expected)
    one = A[:1]
    assert_close(factorize(one, solver).logabsdet, expected[:1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_derivatives_of_the_determinant_are_finite_differences(dtype):
    A = general(5, dtype).T

    def f(values):
        return factorize(A.with_values(values), SuperLU()).logabsdet

    args = (A.values.clone().requires_grad_(),)
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, args, check_fwd_over_rev=True, fast_mode=True)


def test_the_gradient_of_the_determinant_is_the_inverse_at_the_pattern():
    A = general(150)  # more than are solved for at once
    A = A.with_values(A.values + 20 * (A.pattern.row == A.pattern.col))
    gradient = grad(lambda A: factorize(A, SuperLU()).logabsdet)(A)
    inverse = torch.linalg.inv(A.to_dense()).mT
    assert_close(gradient.values, inverse[A.pattern.row.long(), A.pattern.col.long()])
    assert cache_info().misses == 1


def test_who_does_not_tell_a_determinant():
    for solver in (CG(), Pardiso()):
        F = Factorization._of(general(), solver)
        with pytest.raises(TypeError, match=r"does not tell .* SuperLU\(\), DenseLU\(\)"):
            F.logabsdet  # noqa: B018 - a property
    with pytest.raises(ValueError, match="digits of single precision"):
        factorize(general(), SuperLU(precision="single")).logabsdet  # noqa: B018


def test_an_unstable_factor_is_made_again_for_the_determinant(monkeypatch):
    monkeypatch.setitem(superlu.SYMMETRIC, "diag_pivot_thresh", 0.0)
    D = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1e-16]], dtype=torch.float64)
    found = factorize(SparseMatrix.from_dense(D), SuperLU()).logabsdet
    assert_close(found, torch.linalg.slogdet(D)[1])


# ------------------------------------------------------------------------------- as an object


def test_what_it_says_of_itself():
    F = factorize(general(), SuperLU(refine=1))
    assert repr(F) == f"Factorization(SuperLU(refine=1), shape=(8, 8), nnz={F.matrix.nnz})"
    assert F.info.solver == "SuperLU(refine=1)"
    assert F.info.bytes > F.matrix.values.nbytes
    exact = np.linalg.cond(F.matrix.to_dense().numpy(), 1)
    assert 0.2 * exact <= F.info.condition <= 1.01 * exact
    assert factorize(general()).info.solver == "DenseLU()"
    assert factorize(batch(), Auto()).info.solver == "DenseLU()"
    assert np.isnan(factorize(general(), BiCGStab()).info.condition)
    repr(torch.utils._pytree.tree_map(lambda _: None, F))


def test_copies_and_pickles():
    A, b = general(), randn(N)
    F = factorize(A, SuperLU())
    for other in (copy.copy(F), copy.deepcopy(F), pickle.loads(pickle.dumps(F))):
        assert other.solver == F.solver
        assert torch.equal(other.solve(b), F.solve(b))
    assert cache_info().misses == 1


@pytest.mark.parametrize(
    ("A", "solver", "error", "message"),
    [
        (torch.eye(3), None, TypeError, "from_dense"),
        (3, None, TypeError, "got int"),
        (LinearOperator(lambda p, x: p * x, torch.ones(3)), None, TypeError, "LinearOperator"),
        (torch.ones(2, 3).to_sparse_coo(), None, ValueError, "square"),
        (torch.eye(3).expand(2, 3, 3).to_sparse_coo(), None, ValueError, "one matrix"),
        (torch.eye(3).half().to_sparse_coo(), None, ValueError, "float32, float64 or complex"),
        (torch.eye(3).to_sparse_coo() * torch.nan, None, ValueError, "A holds a value"),
        (torch.eye(3).to_sparse_coo(), SuperLU, TypeError, "call it"),
        (torch.eye(3).to_sparse_coo(), bicgstab, TypeError, "sparse_solve takes a function"),
        (SparseMatrix.from_dense(torch.ones(3, 3)), DenseLU(), SolveError, "singular"),
        (SparseMatrix.from_dense(torch.ones(3, 3)), SuperLU(), SolveError, "singular"),
        (SparseMatrix.from_dense(torch.ones(3, 3)), None, SolveError, "singular"),
    ],
)
def test_bad_arguments(A, solver, error, message):
    with pytest.raises(error, match=message):
        factorize(A, solver)


@pytest.mark.parametrize(
    ("B", "options", "error", "message"),
    [
        (np.ones(N), {}, TypeError, "B is a dense tensor"),
        (torch.ones(3).double(), {}, ValueError, "as many rows"),
        (torch.ones(N), {}, ValueError, "one dtype"),
        (torch.ones(N).double(), {"adjoint": 1}, TypeError, "adjoint is True or False"),
    ],
)
def test_bad_right_hand_sides(B, options, error, message):
    with pytest.raises(error, match=message):
        factorize(general()).solve(B, **options)
