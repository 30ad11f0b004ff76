"""Arguments and settings that make no sense are refused by name, before anything is computed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tsgu_func import (
    LinearOperator,
    SparseMatrix,
    SparsityPattern,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_mm,
    sparse_solve,
    utils,
)
from tsgu_func.solvers import (
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
    Pardiso,
    SolveError,
    Stale,
    Substitution,
    SuperLU,
)

D = torch.tensor([[4.0, 1, 0], [1, 3, 1], [0, 1, 5]], dtype=torch.float64)
A, B = SparseMatrix.from_dense(D), torch.ones(3, dtype=torch.float64)
META = {"device": "meta"}

# ------------------------------------------------------------------------------------- settings

COUNTS = [
    (solver, "max_iterations") for solver in (CG, GMRES, MINRES, BiCGStab, ICCG, LSMR, LSQR)
] + [(GMRES, "restart"), (BlockJacobi, "size"), (SuperLU, "refine"), (DenseLU, "limit")]
COUNTS += [(Stale, "most"), (CG, "history"), (LSMR, "history")]
REALS = [(solver, "rtol") for solver in (CG, GMRES, MINRES, BiCGStab, ICCG, LSMR, LSQR, Auto)] + [
    (CG, "atol"),
    (CG, "componentwise"),
    (LSMR, "damp"),
    (ICCG, "atol"),
    (DIC, "shift"),
    (DIC, "relaxation"),
    (IC0, "shift"),
    (ILU0, "relaxation"),
    (SSOR, "omega"),
    (ILUT, "drop_tol"),
    (ILUT, "fill_factor"),
]
NO_NUMBERS = [True, "5", torch.tensor(1), np.ones(1), [1], 1j]


@pytest.mark.parametrize(("cls", "name"), COUNTS)
@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.5, 10.0], ids=str)
def test_a_count_is_a_whole_number(cls, name, value):
    with pytest.raises(TypeError, match=f"{name} is a whole number; got"):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), COUNTS)
@pytest.mark.parametrize("value", [-1, 10**30, 2**63])
def test_a_count_is_in_range(cls, name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), REALS)
def test_a_real_setting_is_a_finite_number(cls, name):
    for value in NO_NUMBERS:
        with pytest.raises(TypeError, match=f"{name} is a number; got"):
            cls(**{name: value})
    for value in (-1, torch.nan, torch.inf, 10**400):
        with pytest.raises(ValueError, match=f"{name} must be"):
            cls(**{name: value})


def test_every_number_among_settings_is_checked():
    """A setting that is a number, of a class that is added, belongs into the lists above."""
    import tsgu_func.solvers as all_of_them

    checked = {(cls.__name__, name) for cls, name in COUNTS + REALS}
    names = {name for _, name in checked}
    for cls in vars(all_of_them).values():
        if hasattr(cls, "init") and dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                numeric = {"int", "float", "int | None", "float | None"}
                if str(field.type) in numeric:
                    assert field.name in names, (cls, field.name)
                    with pytest.raises(TypeError, match="number; got"):
                        cls(**{field.name: torch.tensor(1)})


def test_whole_numbers_of_numpy_count():
    expected = torch.linalg.solve(D, B)
    assert_close(sparse_solve(A, B, solver=CG(max_iterations=np.int64(50))), expected)
    assert_close(sparse_solve(A, B, solver=ICCG(rtol=np.float32(1e-12))), expected)
    assert_close(sparse_solve(A, B, solver=GMRES(restart=10**12)), expected)
    assert_close(sparse_solve(A, B, solver=GMRES(BlockJacobi(10**12))), expected)
    assert_close(sparse_solve(A, B, solver=CG(max_iterations=2**63 - 1)), expected)
    assert_close(sparse_solve(A, B, solver=CG(atol=10**30)), torch.zeros_like(B))


@pytest.mark.parametrize("function", [utils.linear_cg, utils.minres, utils.bicgstab])
@pytest.mark.parametrize("settings", [3, None, CG(), {}])
def test_settings_of_another_kind(function, settings):
    with pytest.raises(TypeError, match=r"settings is a .*Settings; got"):
        function(A, B, settings=settings)


# ------------------------------------------------------------------------------- what users write


@dataclasses.dataclass(frozen=True)
class Own:
    """A preconditioner that does what it is told."""

    function: object

    def init(self, A):
        return None

    def apply(self, state, R, **_):
        return self.function(R)


WRONG = {
    "shape": lambda R: R[:2],
    "columns": lambda R: R[:, 0],
    "dtype": lambda R: R.to(torch.float32),
    "nothing": lambda R: None,
    "meta": lambda R: R.to("meta"),
}


@pytest.mark.parametrize("solver", [CG, GMRES, MINRES, BiCGStab])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_what_a_preconditioner_returns(solver, wrong, batch):
    S = A.with_values(A.values.expand(*batch, -1))
    with pytest.raises(SolveError, match=r"Own.* returns a tensor of shape"):
        sparse_solve(S, B.expand(*batch, -1), solver=solver(Own(WRONG[wrong])))


class Bare:
    """A solver that returns no Solution."""

    def __init__(self, answer):
        self.answer = answer

    def init(self, A):
        return None

    def compute(self, state, *args, **kwargs):
        return self.answer


@pytest.mark.parametrize("answer", [None, B])
def test_what_a_solver_returns(answer):
    with pytest.raises(TypeError, match=r"returns a tsgu_func\.solvers\.Solution; got"):
        sparse_solve(A, B, solver=Bare(answer))


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda M, B: B.unsqueeze(-1).to_sparse_coo(), "returns a dense tensor"),
        (lambda M, B: B.to("meta"), "returns a dense tensor on cpu; got .* meta"),
        (lambda M, B: B[:-1], "returns X with shape"),
        (lambda M, B: None, "got NoneType"),
    ],
)
def test_what_a_function_returns(batch, wrong, message):
    S, right = A.with_values(A.values.expand(*batch, -1)), B.expand(*batch, -1)
    for solve in (sparse_generic_solve, sparse_generic_lstsq):
        with pytest.raises(SolveError, match=message):
            solve(S, right, wrong)
    with pytest.raises(SolveError, match=message):
        sparse_solve(S, right, solver=wrong)


def spoils(M, B):
    X = torch.linalg.solve(M.to_dense(), B)
    for x in (M.values(), B):
        x.fill_(7)
    M.col_indices().fill_(0)
    return X


def spoils_transposed(M, B):
    X = torch.linalg.solve(M.to_dense().mT, B)
    for x in (M.values(), B):
        x.fill_(7)
    return X


@pytest.mark.parametrize("kind", ["matrix", "transpose", "batch", "csr", "coo"])
def test_a_function_may_write_to_what_it_gets(kind):
    S = {
        "matrix": A,
        "transpose": A.mH,
        "batch": A.with_values(torch.stack([A.values, 2 * A.values])),
        "csr": D.to_sparse_csr(),
        "coo": D.to_sparse_coo(),
    }[kind]
    dense = torch.stack([D, 2 * D]) if kind == "batch" else D
    right = torch.ones(*dense.shape[:-1], 2, dtype=torch.float64).requires_grad_()
    before = S.to_dense().clone()
    for solve in (
        lambda: sparse_generic_solve(S, right, spoils),
        lambda: sparse_generic_solve(S, right, spoils, spoils_transposed),
        lambda: sparse_generic_lstsq(S, right, spoils),
        lambda: sparse_solve(S, right, solver=spoils),
    ):
        X = solve()
        assert_close(X.detach(), torch.linalg.solve(dense, right.detach()))
        G = torch.ones_like(X)
        (slope,) = torch.autograd.grad(X, right, G)
        assert_close(slope, torch.linalg.solve(dense.mT, torch.ones_like(X)))
        assert_close(right.detach(), torch.ones_like(X))
        assert_close(G, torch.ones_like(X))
        assert_close(S.to_dense(), before)


SQUARE = [Auto(), SuperLU(), DenseLU(), Pardiso(), Cholesky(), Substitution()]
SQUARE += [CG(), ICCG(), MINRES(), GMRES(), BiCGStab()]


@pytest.mark.parametrize("solver", SQUARE, ids=repr)
def test_a_solver_of_square_systems_for_least_squares(solver):
    tall = SparseMatrix.from_dense(torch.eye(4, 3))
    with pytest.raises(TypeError, match=r"solves square systems, and A has shape \(4, 3\): take L"):
        sparse_lstsq(tall, torch.ones(4), solver=solver)
    with pytest.raises(TypeError, match="solves square systems"):
        sparse_generic_lstsq(tall, torch.ones(4), solver)
    if type(solver) is CG:
        operator = LinearOperator.from_matrix(tall)
        with pytest.raises(TypeError, match="solves square systems"):
            sparse_lstsq(operator, torch.ones(4), solver=solver)


def test_an_operator_that_does_not_depend_on_x():
    constant = LinearOperator(lambda p, x: p, B)
    assert_close(constant @ torch.ones(3, 2), B.unsqueeze(-1).expand(3, 2))
    with pytest.raises(SolveError):
        sparse_solve(constant, torch.eye(3, dtype=torch.float64)[0])


# ------------------------------------------------------------------------------ shapes and devices


@pytest.mark.parametrize("shape", [(torch.inf, 3), (2.7, 3.9), "33", (None, 3), 3, None, ("3", 3)])
def test_a_shape_is_of_integers(shape):
    one = torch.ones(1)
    for make in (
        lambda: SparseMatrix.from_coo([0], [0], one, shape),
        lambda: SparsityPattern.from_coo([0], [0], shape),
        lambda: utils.sparse_block_diag_split(torch.eye(3).to_sparse_coo(), shape),
    ):
        with pytest.raises(TypeError, match=r"a shape is .rows, columns., two integers"):
            make()
    if shape is not None:
        with pytest.raises(ValueError, match="shape is a pair of sizes"):
            LinearOperator(lambda p, x: x, one, shape)


@pytest.mark.parametrize("rows", [2**31, 2**40, 2**62])
def test_a_shape_that_takes_gigabytes_says_so(rows):
    with pytest.raises(ValueError, match=r"with \d+ rows keeps .* in [\d,]+ GiB"):
        SparseMatrix.from_coo([0], [0], torch.ones(1), (rows, 4))
    wide = SparseMatrix.from_coo([0], [rows - 1], torch.ones(1), (4, rows))
    assert wide.T.shape == (rows, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sparse_mm(torch.eye(3).to_sparse_coo().to("meta"), torch.ones(3, 1, **META)),
        lambda: sparse_solve(torch.eye(3).to_sparse_csr().to("meta"), torch.ones(3, **META)),
        lambda: SparseMatrix.from_dense(torch.ones(3, 3, **META)),
        lambda: SparseMatrix.from_coo(*torch.zeros(3, 1, dtype=int, **META), (1, 1)),
        lambda: utils.convert_coo_to_csr(torch.eye(3).to_sparse_coo().to("meta")),
        lambda: utils.sparse_block_diag(torch.eye(3).to_sparse_coo().to("meta")),
        lambda: utils.convert_coo_to_csr_indices_values(torch.zeros(2, 1, dtype=int, **META), 2),
    ],
)
def test_what_is_on_the_meta_device_has_no_places(make):
    with pytest.raises(ValueError, match=r"meta device.* keeps no numbers"):
        make()


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "num_rows is a whole", lambda f: f(torch.zeros(2, 1, dtype=int), "3")),
        (TypeError, "num_rows is a whole", lambda f: f(torch.zeros(2, 1, dtype=int), 2.5)),
        (TypeError, "num_rows is a whole", lambda f: f(torch.zeros(2, 1, dtype=int), None)),
        (ValueError, "equally many entries", lambda f: f(torch.tensor([[2**40], [0], [0]]), 2)),
    ],
)
def test_bad_coordinates(error, message, call):
    with pytest.raises(error, match=message):
        call(utils.convert_coo_to_csr_indices_values)


@pytest.mark.parametrize(
    ("X", "matrices", "message"),
    [
        (3, [A], "X is a dense tensor; got int"),
        (B, [3], "matrices is a list of SparseMatrix"),
        (B, 3, "matrices is a list of SparseMatrix"),
    ],
)
def test_bad_blocks(X, matrices, message):
    with pytest.raises(TypeError, match=message):
        utils.block_split(X, matrices)
    with pytest.raises(ValueError, match="X has rows"):
        utils.block_split(torch.tensor(1.0), [A])


# ----------------------------------------------------------------------- indices out of range, COO

COO = """
import torch
from tsgu_func import SparseMatrix, sparse_lstsq, sparse_mm, sparse_solve, utils

def tensor(places, size=(2, 2), **options):
    return torch.sparse_coo_tensor(places, torch.ones(len(places[0])), size, **options)

wrong = [
    tensor([[0, 0, 0, 1], [0, 1, -1, 0]]),
    tensor([[1, 0, 1], [0, 2, 1]]),
    tensor([[1, 10**6, 1], [0, 0, 1]]),
    tensor([[0, 0, 1], [0, 10**9, 1]], is_coalesced=True),
    tensor([[0, 5], [0, 1]], is_coalesced=True),
]
batches = [
    tensor([[0, 0, 1, 9], [0, 1, 0, 1], [0, 1, 1, 0]], (2, 2, 2)),
    tensor([[0, 0, 1, 1], [0, 10**6, 0, 1], [0, 1, 1, 0]], (2, 2, 2)),
    tensor([[0, 0, 1, 1], [0, -3, 0, 1], [0, 1, 1, 0]], (2, 2, 2), is_coalesced=True),
]
one = torch.ones(2, 1)
calls = {
    "mm": lambda A: sparse_mm(A, one if A.ndim == 2 else one.expand(2, 2, 1)),
    "solve": lambda A: sparse_solve(A, one if A.ndim == 2 else one.expand(2, 2, 1)),
    "lstsq": lambda A: sparse_lstsq(A, one if A.ndim == 2 else one.expand(2, 2, 1)),
    "to_csr": utils.convert_coo_to_csr,
}
single = {
    "from_torch": SparseMatrix.from_torch,
    "pack": lambda A: utils.sparse_block_diag(A, A),
    "split": lambda A: utils.sparse_block_diag_split(A, (1, 1), (1, 1)),
}
for A, functions in [(A, calls | single) for A in wrong] + [(A, calls) for A in batches]:
    for name, call in functions.items():
        try:
            call(A)
        except ValueError as error:
            assert "is out of range" in str(error), (name, error)
        else:
            raise AssertionError(name)
print("all refused")
"""


@pytest.mark.slow
def test_coo_indices_out_of_range_are_refused_before_pytorch_meets_them():
    """In a process of its own, because PyTorch writes out of bounds."""
    done = subprocess.run([sys.executable, "-c", COO], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all refused\n"), done.stderr


# -------------------------------------------------------------------------------- an empty pattern

EMPTY = [None, *SQUARE, CG(DIC()), GMRES(ILU0()), GMRES(ILUT())]


@pytest.mark.parametrize("solver", EMPTY, ids=repr)
@pytest.mark.parametrize("n", [3, 100])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_a_matrix_without_entries_is_not_solved(solver, n, batch):
    if isinstance(solver, Cholesky):
        pytest.importorskip("sksparse")
    S = SparseMatrix.from_coo([], [], torch.zeros(*batch, 0, dtype=torch.float64), (n, n))
    with pytest.raises(SolveError):
        sparse_solve(S, torch.ones(*batch, n, 1, dtype=torch.float64), solver=solver)


@pytest.mark.parametrize("solver", [LSMR(), LSQR()], ids=repr)
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_a_tall_matrix_without_entries_is_not_solved(solver, batch):
    S = SparseMatrix.from_coo([], [], torch.zeros(*batch, 0), (4, 3))
    with pytest.raises(SolveError, match="rank"):
        sparse_lstsq(S, torch.ones(*batch, 4, 1), solver=solver)
