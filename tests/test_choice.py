"""What the default chooses and why: what it sees, costs, columns, attempts in vain."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.func import vmap

from tests.systems import matrix_for, numpy_solve, randn, stored
from tsgu_func import SparseMatrix, sparse_solve
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.solvers import (
    CG,
    ICCG,
    Auto,
    BiCGStab,
    Cholesky,
    Info,
    Pardiso,
    SolveError,
    SuperLU,
    cache_info,
    choice,
    machine,
    plan,
)
from tsgu_func.solvers.choice import Cost, Plan, choose, inspect
from tsgu_func.solvers.direct import cholesky
from tsgu_func.solvers.traits import dense_rows, traits_of, width
from tsgu_func.utils import bicgstab

pytestmark = pytest.mark.usefixtures("limit")
DIRECT = (SuperLU, Pardiso)


@pytest.fixture
def only(monkeypatch):
    """Give what says which optional packages are installed."""

    def pretend(*packages):
        monkeypatch.setattr(choice, "installed", lambda package: package in packages)

    return pretend


def plane(n, dtype=torch.float64):
    return SparseMatrix.from_scipy(PROBLEMS["plane"].build(n)).to(dtype)


def first(A, columns=1):
    return plan(A, columns).solvers[0]


# ---------------------------------------------------------------------------------- explanations


def test_a_plan_prints_what_was_looked_at_and_weighed(only):
    only("pypardiso", "pyamg")
    made = plan(plane(60), 3)
    text = str(made)
    for words in (
        "ICCG(max_iterations=1000, componentwise=1e-05), because it is expected to cost least\n"
        "then Pardiso()",
        "3600 rows, 17760 entries, float64, cpu",
        "symmetry       Hermitian",
        "diagonal       positive",
        "M-matrix",
        "width          60 rows at one distance",
        "along the graph, no jumps; 119 levels",
        "for 3 columns",
        "CG(preconditioner=AMG(), max_iterations=1000, componentwise=1e-05)",
        "SuperLU()",
    ):
        assert words in text
    for solver, cost in made.costs:
        assert f"{cost.of(3):.1e} = {cost.prepare:.1e} + 3 * {cost.solve:.1e}" in text
        assert repr(solver) in text
    assert [cost.of(3) for _, cost in made.costs] == sorted(c.of(3) for _, c in made.costs)


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (lambda: SparseMatrix.eye(3), "at most 64 rows"),
        (lambda: SparseMatrix.eye(100), "triangular"),
        (lambda: plane(20), "at most 2000 rows"),
    ],
)
def test_a_rule_is_the_reason_where_one_decides(matrix, reason):
    made = plan(matrix(), 5)
    assert made.costs == ()
    assert reason in str(made)
    assert made.seen.traits is None  # nothing depends on it


def test_what_is_expensive_to_factor_says_so(only, monkeypatch):
    only()
    monkeypatch.setattr(choice, "_LONG", 1.0)
    made = plan(SparseMatrix.from_scipy(PROBLEMS["convection"].build(50)))
    assert [type(solver) for solver in made.solvers] == [BiCGStab, SuperLU]
    assert "a factorization is expected to cost 1e+00 or more" in str(made)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("columns", [1, 8, 64])
def test_the_plan_is_what_is_done(name, columns):
    A = SparseMatrix.from_scipy(PROBLEMS[name].build(PROBLEMS[name].sizes[0]))
    expected = plan(A, columns)
    before = cache_info().kinds["factors"].entries
    X, info = sparse_solve(A, randn(A.shape[0], columns), return_info=True)
    assert before == 0  # to explain keeps nothing
    assert info.solver == repr(expected.solvers[0])
    assert X.isfinite().all()


@pytest.mark.parametrize(
    ("A", "columns", "error", "message"),
    [
        (torch.eye(3), 1, TypeError, "SparseMatrix; got Tensor"),
        (SparseMatrix.eye(3)[None], 1, ValueError, r"got a batch \(1,\)"),
        (SparseMatrix.eye(3, 4), 1, ValueError, r"A is square; got shape \(3, 4\)"),
        (SparseMatrix.eye(3), 0, ValueError, "columns is the number"),
        (SparseMatrix.eye(3), 1.5, ValueError, "columns is the number"),
    ],
)
def test_what_no_plan_is_made_for(A, columns, error, message):
    with pytest.raises(error, match=message):
        plan(A, columns)


# --------------------------------------------------------------------------------------- columns


def test_many_columns_are_worth_a_factorization():
    A = plane(100)
    assert isinstance(first(A), ICCG)
    for columns in (32, 256):
        assert isinstance(first(A, columns), DIRECT)
    made = plan(A, 256)
    costs = {repr(solver): cost for solver, cost in made.costs}
    iterated = costs["ICCG(max_iterations=1000, componentwise=1e-05)"].of(256)
    assert min(cost.of(256) for cost in costs.values()) < iterated / 3


def test_a_jacobian_is_many_columns():
    A = plane(50)
    _, one = sparse_solve(A, randn(2500), return_info=True)
    _, many = vmap(lambda b: sparse_solve(A, b, return_info=True))(randn(100, 2500))
    assert one.solver.startswith("ICCG")
    assert many.solver in ("SuperLU()", "Pardiso()")
    _, few = sparse_solve(A, randn(2500, 2), return_info=True)
    assert few.solver == many.solver  # whose factor is at hand


def test_a_few_more_columns_are_no_reason_to_choose_anew(monkeypatch):
    A, asked = plane(50), []
    from tsgu_func.solvers import auto

    monkeypatch.setattr(auto, "choose", lambda *args: asked.append(args[1]) or choose(*args))
    for columns in (2, 1, 8, 9, 36, 30, 37):
        sparse_solve(A, randn(2500, columns))
    assert asked == [2, 9, 37]


# ------------------------------------------------------------------------------------- dense rows


def bordered(n=100):
    """Return a Neumann problem with a multiplier for the mean."""
    d = np.full(n, 2.0)
    d[[0, -1]] = 1
    off = -np.ones(n - 1)
    line = sp.diags_array([off, d, off], offsets=[-1, 0, 1])
    ones = np.ones((n * n, 1))
    return sp.block_array([[sp.kronsum(line, line), ones], [ones.T, None]]).tocsr()


def arrow(n, both=True):
    rng = np.random.default_rng(0)
    A = sp.diags_array(np.full(n, 5.0)).tolil()
    A[0] = rng.random(n) + 1
    if both:
        A[:, [0]] = rng.random((n, 1)) + 1
    return A.tocsr()


def test_dense_rows_are_set_aside():
    s = SparseMatrix.from_scipy(bordered(60)).pattern.structure
    assert (width(s), dense_rows(s)) == (60, 1)
    for both in (True, False):  # a dense row with or without its column
        s = SparseMatrix.from_scipy(arrow(3000, both)).pattern.structure
        assert (width(s), dense_rows(s)) == (1, 1)
    s = SparseMatrix.from_scipy(arrow(15)).pattern.structure
    assert dense_rows(s) == 0


@pytest.mark.parametrize("packages", [(), ("pypardiso", "pyamg")])
@pytest.mark.parametrize("matrix", [bordered(100), arrow(4500)], ids=["border", "arrow"])
def test_a_dense_row_is_no_reason_to_iterate(only, packages, matrix):
    only(*packages)
    made = plan(SparseMatrix.from_scipy(matrix))
    assert isinstance(made.solvers[0], DIRECT)
    assert made.costs[0][1].of(1) < 1e8
    assert "1 dense rows set aside" in str(made)


def test_many_dense_rows_cost_what_they_do():
    seen = inspect(stored(SparseMatrix.from_scipy(bordered(50))))
    costs = [
        choose(dataclasses.replace(seen, dense_rows=k)).costs[-1][1].prepare for k in (0, 1, 1000)
    ]
    assert costs[0] < costs[1] < 1.01 * costs[0]
    assert costs[2] > 10 * costs[0]


# ----------------------------------------------------------------------------- what is recognized


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
def test_products_are_hermitian_up_to_rounding(dtype):
    J, w = randn(200, 40, dtype=dtype), torch.rand(200, 1).to(dtype)
    D = J.mH @ (w * J)
    D = D + torch.triu(D, 1) * torch.finfo(dtype).eps * torch.sign(randn(40, 40)).to(dtype)
    assert not torch.equal(D, D.mH)
    assert traits_of(stored(SparseMatrix.from_dense(D))).hermitian
    off = D.clone()
    off[3, 5] += 1e3 * torch.finfo(dtype).eps * (D[3, 3] * D[5, 5]).abs().sqrt()
    assert not traits_of(stored(SparseMatrix.from_dense(off))).hermitian


def test_cholesky_takes_them(monkeypatch):
    D = matrix_for(bicgstab, torch.float64, 40)
    D = D.mT @ D
    D[2, 7] += 2e-15 * D.diagonal().abs().min()
    assert not torch.equal(D, D.mT)

    def analyze(columns):
        raise NotImplementedError("it got past the look")

    monkeypatch.setattr(cholesky, "_cholmod", lambda: SimpleNamespace(analyze=analyze))
    with pytest.raises(NotImplementedError, match="past the look"):
        Cholesky().factor(stored(SparseMatrix.from_dense(D)))
    D[2, 7] += 1e-8
    with pytest.raises(SolveError, match="Hermitian"):
        Cholesky().factor(stored(SparseMatrix.from_dense(D)))


@pytest.mark.parametrize("n", [60, 100])
def test_single_precision_shows_what_double_does(n):
    rng = np.random.default_rng(0)
    i = np.arange(n * n).reshape(n, n)
    a = np.concatenate([i[:, :-1].ravel(), i[:-1].ravel()])
    b = np.concatenate([i[:, 1:].ravel(), i[1:].ravel()])
    w = rng.random(len(a)) + 0.1
    off = sp.coo_array((-w, (a, b)), shape=(n * n, n * n))
    off = (off + off.T).tocsr()
    edge = np.zeros((n, n))
    edge[0] = rng.random(n)
    L = (off + sp.diags_array(edge.ravel() - off.sum(1))).tocsr()
    seen = [
        inspect(stored(SparseMatrix.from_scipy(L).to(d))) for d in (torch.float32, torch.float64)
    ]
    assert dataclasses.replace(seen[0], dtype="float64") == seen[1]
    assert seen[0].regular
    assert seen[0].traits.dominant


# ----------------------------------------------------------------------------------- in vain


def test_iterations_in_vain_are_told(monkeypatch):
    monkeypatch.setattr(choice, "_LONG", 0.0)
    monkeypatch.setattr(choice, "_PATIENCE", 3)
    monkeypatch.setattr(choice, "_SMALL", 10)
    D = matrix_for(bicgstab, torch.float64, 70)
    A, B = SparseMatrix.from_dense(D), randn(70, 2)
    X, info = sparse_solve(A, B, return_info=True)
    torch.testing.assert_close(X, numpy_solve(D, B))
    assert info.solver in ("SuperLU()", "Pardiso()")
    assert info.vain.tolist() == [3, 3]
    assert info.iterations.tolist() == [0, 0]
    assert "vain=3" in repr(info)
    _, again = sparse_solve(A, 2 * B, return_info=True)
    assert again.vain.tolist() == [0, 0]  # it was not asked again
    both = A.with_values(torch.stack([A.values, 2 * A.values]))
    _, info = sparse_solve(both, B, return_info=True)
    assert info.vain.tolist() == [[3, 3], [3, 3]]


def test_a_solver_by_name_has_none():
    A = plane(10)
    for solver in (SuperLU(), CG(max_iterations=2), None):
        info = sparse_solve(A, randn(100), solver=solver, on_failure="ignore", return_info=True)[1]
        assert isinstance(info, Info)
        assert not info.vain.any()
        assert "vain" not in repr(info)


# ---------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("measured", "taken"),
    [(0.55, 1), (1, 1), (1.9, 1), (2.1, 4), (7.9, 4), (8.1, 16), (0.45, 0.25)],
)
def test_the_speed_of_the_machine_is_rounded(measured, taken):
    assert machine.rounded(measured) == taken


@pytest.fixture
def speed(monkeypatch):
    machine.dense_speed.cache_clear()
    yield lambda value: monkeypatch.setenv("TSGU_FUNC_DENSE_SPEED", value)
    machine.dense_speed.cache_clear()


def test_the_speed_of_the_machine_may_be_given(speed):
    seen = inspect(stored(SparseMatrix.from_scipy(PROBLEMS["space"].build(20))))
    speed("1000")
    assert machine.dense_speed() == 1000
    quick = choose(seen).costs
    machine.dense_speed.cache_clear()
    speed("0.001")
    slow = choose(seen).costs
    prepare = [{repr(s): c.prepare for s, c in costs}["SuperLU()"] for costs in (quick, slow)]
    assert prepare[0] < prepare[1] / 100
    assert isinstance(slow[0][0], ICCG)


@pytest.mark.parametrize("wrong", ["fast", "0", "-1", "nan", "inf", ""])
def test_what_is_no_speed(speed, wrong):
    speed(wrong)
    with pytest.raises(ValueError, match="TSGU_FUNC_DENSE_SPEED is a positive number"):
        machine.dense_speed()


def test_it_is_measured_once(speed, monkeypatch):
    monkeypatch.delenv("TSGU_FUNC_DENSE_SPEED", raising=False)
    asked = []
    monkeypatch.setattr(machine, "_measured", lambda: asked.append(1) or 3 * machine._USUAL)
    assert [machine.dense_speed() for _ in range(3)] == [4, 4, 4]
    assert len(asked) == 1


def test_a_cost_and_a_plan_by_hand():
    assert Cost(10, 2).of(5) == 20
    assert str(Plan((SuperLU(),), reason="it was named")) == "SuperLU(), because it was named"
    assert Auto() == Auto()


# ------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CG(max_iterations=10.0), r"max_iterations is a whole number; got 10\.0"),
        (lambda: CG(max_iterations=True), "max_iterations is a whole number; got True"),
        (lambda: CG(rtol=True), "rtol is a number; got True"),
        (lambda: CG(rtol="1e-3"), "rtol is a number; got '1e-3'"),
    ],
)
def test_settings_that_are_no_numbers(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_callback_has_no_address_in_messages():
    def watch(k, residual):
        pass

    assert "callback=test_a_callback_has_no_address" in repr(CG(callback=watch))
