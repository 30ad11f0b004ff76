"""Which solver, which function: a key has one meaning as long as anybody holds it."""

import copy
import functools
import gc
import pickle
import weakref

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from tests.identity import Inverse, Scaled, compiled, scaled
from tsgu_func import (
    LinearOperator,
    SparseMatrix,
    cache,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_mm,
    sparse_solve,
)
from tsgu_func.ops import handles, keys
from tsgu_func.ops.handles import handle_of, handle_of_function, handle_of_solver
from tsgu_func.solvers import (
    AMG,
    CG,
    DIC,
    GMRES,
    IC0,
    ICCG,
    ILU0,
    ILUT,
    LSMR,
    LSQR,
    MINRES,
    SSOR,
    Auto,
    BiCGStab,
    BlockJacobi,
    Cholesky,
    DenseLU,
    Jacobi,
    Pardiso,
    Substitution,
    SuperLU,
    cache_info,
    clear_cache,
)
from tsgu_func.solvers.protocol import Info, Result
from tsgu_func.utils import LinearCGSettings, bicgstab, linear_cg, minres


@pytest.fixture
def D(dtype):
    return torch.tensor([[4.0, 1, 0], [1, 3, 1], [0, 1, 5]], dtype=dtype)


@pytest.fixture
def A(D):
    return SparseMatrix.from_dense(D)


@pytest.fixture
def b(dtype):
    return torch.tensor([1.0, -2, 0.5], dtype=dtype)


# -------------------------------------------------------------------------- which solver is meant


told = functools.partial(sparse_solve, on_failure="ignore")


def test_solvers_that_print_alike_are_not_one(A, D, b):
    inverse = torch.linalg.inv(D)
    for k in (1, 2, 1):
        # Twice the solution is none, and is handed out all the same if that is asked for.
        assert_close(D @ told(A, b, solver=Inverse(k * inverse)), k * b)


def test_preconditioners_that_print_alike_are_not_one(A, b):
    class Quiet(Jacobi):
        def __init__(self, k):
            object.__setattr__(self, "k", k)

        def __repr__(self):
            return "Jacobi()"

        def apply(self, state, R, **kwargs):
            counts.append(self.k)
            return super().apply(state, R, **kwargs)

    counts = []
    for k in (1, 2):
        sparse_solve(A, b, solver=CG(Quiet(k)))
    assert set(counts) == {1, 2}


def test_a_solver_that_is_used_twice_before_backward(A, b):
    solver = CG(callback=lambda *_: None)
    B = b.clone().requires_grad_()
    x = sparse_solve(A, B, solver=solver)
    with torch.no_grad():
        sparse_solve(A, b, solver=solver)
    gc.collect()
    x.abs().sum().backward()
    assert bool(torch.isfinite(B.grad).all())


def test_a_class_that_is_defined_twice_as_in_a_notebook(A, D, b):
    cell = """
class Direct:
    def init(self, A): return None
    def compute(self, state, A, B, X0=None):
        from tsgu_func.solvers.protocol import solution
        residual = torch.zeros(B.shape[-1], dtype=B.dtype.to_real())
        return solution(self, FACTOR * torch.linalg.solve(A.to_csr().to_dense(), B), residual)
    def __repr__(self): return "Direct()"
solver = Direct()
"""
    run = compiled(lambda solver: told(A, b, solver=solver))
    for k in (1, 2):
        notebook = {"torch": torch, "FACTOR": k}
        exec(cell, notebook)
        assert_close(D @ told(A, b, solver=notebook["solver"]), k * b)
        assert_close(D @ run(notebook["solver"]), k * b)


def test_a_class_with_the_name_of_one_of_ours_is_another(A, D, b):
    class SuperLU(Inverse):
        def __repr__(self):
            return "SuperLU()"

    assert_close(D @ told(A, b, solver=SuperLU(2 * torch.linalg.inv(D))), 2 * b)
    assert_close(D @ sparse_solve(A, b, solver=globals()["SuperLU"]()), b)


# -------------------------------------------------------------------------------------------- keys

SOLVERS = [
    Auto(),
    Auto(rtol=1e-6),
    BiCGStab(ILU0(), max_iterations=7),
    CG(),
    CG(IC0(), rtol=1e-08),
    CG(SSOR(omega=1.25), atol=1e-300),
    Cholesky(),
    DenseLU(),
    GMRES(BlockJacobi(4)),
    GMRES(ILUT(), restart=12),
    ICCG(DIC()),
    LSMR(),
    LSQR(rtol=0.1 + 0.2),
    MINRES(AMG()),
    Pardiso(kind="definite"),
    Substitution(),
    SuperLU(refine=2, precision="single"),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("on_failure", ["raise", "warn", "ignore"])
def test_a_solver_of_this_library_is_described_in_full(solver, on_failure):
    key = handle_of_solver(solver, on_failure).key
    assert not keys.is_name(key)
    handles._described.clear()
    assert key.startswith(type(solver).__name__ + "(")
    again = handle_of(key)
    assert type(again.solver) is type(solver)
    assert again.solver == solver
    assert again.on_failure == on_failure
    assert handle_of_solver(copy.deepcopy(solver), on_failure).key == key


@pytest.mark.parametrize("function", [bicgstab, linear_cg, minres])
@pytest.mark.parametrize("options", [{}, {"settings": LinearCGSettings(cg_tolerance=1e-7)}])
@pytest.mark.parametrize("vector", [False, True])
def test_a_function_of_this_library_is_described_in_full(function, options, vector):
    handle = handle_of_function(function, None, options, vector)
    handles._described.clear()
    again = handle_of(handle.key)
    assert again is not handle
    assert again.function is function
    assert (again.options, again.vector) == (options, vector)
    assert handle_of(handle.adjoint().key).adjoints


@pytest.mark.slow
def test_what_is_not_of_this_library_has_a_name_that_nothing_else_gets():
    solvers = [CG(callback=print), Inverse(torch.eye(2)), CG(callback=print)]
    held = [handle_of_solver(s) for s in solvers]
    assert len({h.key for h in held}) == 3
    assert all(keys.is_name(h.key) for h in held)
    assert [handle_of(h.key) for h in held] == held
    assert [handle_of_solver(s) for s in solvers] == held
    key = held[0].key
    del held
    gc.collect()
    assert handle_of_solver(solvers[0]).key != key
    with pytest.raises(LookupError, match=r"CG, which is gone: nobody holds it"):
        handle_of(key)


@pytest.mark.parametrize(
    "key", ["open('x')", "__import__('os')", "CG(open('x'))", "Nothing()", "CG(colour=1)", "CG", ""]
)
def test_a_description_calls_nothing_but_what_it_may(key):
    with pytest.raises(LookupError, match="does not have"):
        handle_of(key)


def test_a_name_of_another_process_is_no_name_here():
    with pytest.raises(LookupError, match=r"calls m\.solve of the process that made it"):
        handle_of("m.solve@00000000:0")


def test_what_a_graph_names_is_held_by_whoever_holds_it(A, D, b):
    solve = scaled(2)
    graph = make_fx(lambda B: sparse_generic_solve(A, B, solve=solve))(b)
    assert_close(D @ graph(b), 2 * b)
    other = make_fx(lambda B: sparse_generic_solve(A, B, solve=scaled(3)))(b)
    assert_close(D @ other(b), 3 * b)  # nobody but the store holds the function
    clear_cache()
    with pytest.raises(LookupError, match=r"scaled.* which is gone"):
        other(b)


# -------------------------------------------------------------------------- what is kept, and ends


@pytest.mark.slow
def test_endless_use_levels_off(A, b, monkeypatch):
    """Objects are counted, not megabytes: values, tolerances, closures, operators, graphs."""
    clear_cache()
    for store in cache._stores:  # what they would hold is too much for a test
        monkeypatch.setattr(store, "most", min(store.most or 20, 20))

    def once(step):
        M = A.with_values((A.values * (1 + 0.01 * step)).requires_grad_())
        sparse_solve(M, b, solver=SuperLU()).abs().sum().backward()
        with torch.no_grad():
            M.values.mul_(2)
        sparse_solve(M, b, solver=CG(IC0(), rtol=1e-6 * (1 + step))).abs().sum().backward()
        held = torch.ones(10, dtype=b.dtype)
        function = lambda M, B: scaled(1)(M, B) * held[0]
        make_fx(lambda B: sparse_generic_solve(A, B, solve=function))(b)
        sparse_solve(LinearOperator(lambda p, x: (p + held[0]) * x, b + 4), b)
        sparse_lstsq(A, b, solver=LSQR(rtol=1e-9 * (1 + step)))
        other = SparseMatrix.from_coo([0, step], [0, 1], b[:2], (step + 1, 2))
        other.T @ (other @ b[:2])
        sparse_mm(A.to_csr(), b.unsqueeze(-1))

    def count():
        gc.collect()
        return len(gc.get_objects())

    for step in range(30):
        once(step)
    first, kept = count(), cache_info()
    for step in range(30, 90):
        once(step)
    assert abs(count() - first) < 300  # five for each step
    assert cache_info().entries <= kept.entries + 2
    assert cache_info().kinds["functions in graphs"].entries == 20
    clear_cache()
    assert cache_info().entries == 0
    assert cache_info().bytes == 0


def test_values_that_are_changed_in_place_leave_no_finalizer(A, b):
    values = A.values.clone()
    M = A.with_values(values)
    before = len(weakref.finalize._registry)
    for _ in range(50):
        values.mul_(1.01)
        sparse_solve(M, b, solver=SuperLU())
    assert len(weakref.finalize._registry) <= before + 2


def test_a_function_ends_with_what_is_kept_for_graphs(A, b):
    held = Scaled(1)
    alive = weakref.ref(held)
    torch.func.linearize(functools.partial(sparse_generic_solve, A, solve=held), b)
    del held
    clear_cache()
    gc.collect()
    assert alive() is None


def test_a_compiled_function_lets_go_with_reset_and_clear_cache(A, b):
    held = Scaled(1)
    alive = weakref.ref(held)
    compiled(lambda f: sparse_generic_solve(A, b, solve=f))(held)
    del held
    torch.compiler.reset()
    clear_cache()
    gc.collect()
    assert alive() is None


def test_operators_leave_no_cycles_behind(b):
    p = torch.tensor([2.0, 3, 4], dtype=b.dtype)
    gc.collect()
    gc.disable()
    try:
        living = len(keys._living)
        for _ in range(5):
            q = p.clone().requires_grad_()
            sparse_solve(LinearOperator(lambda p, x: p * x, q), b).abs().sum().backward()
        del q
        assert len(keys._living) <= living
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------- a Solution


@pytest.mark.slow
def test_a_pickled_solution_names_its_solver_anywhere(A, b):
    import subprocess
    import sys

    info = sparse_solve(A, b, solver=CG(rtol=1e-3), return_info=True)[1]
    assert info.solver == "CG(rtol=0.001)"
    assert pickle.loads(pickle.dumps(info)).solver == info.solver
    program = (
        "import pickle, sys; info = pickle.load(sys.stdin.buffer); print(info.solver); "
        "print(type(info).__name__, info.result.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(info), capture_output=True, check=True
    )
    assert done.stdout.decode().split("\n")[:2] == ["CG(rtol=0.001)", "Info SOLVED"]


def test_a_solution_is_a_tree_of_tensors(A, b):
    info = sparse_solve(A, b, return_info=True)[1]
    moved = torch.utils._pytree.tree_map(lambda x: x + 0, info)
    assert isinstance(moved, Info)
    assert moved.solver == info.solver
    assert copy.deepcopy(info).result is Result.SOLVED
