"""Compiled: dynamic shapes, one graph, matrices as arguments; and export."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from tsgu_func import (
    SparseMatrix,
    gather_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_triangular_solve,
)
from tsgu_func.selfcheck.records import record_named
from tsgu_func.selfcheck.records.base import COL, ROW, SHAPE, matrix, randn, solvable
from tsgu_func.solvers import SuperLU
from tsgu_func.testing import check_rules
from tsgu_func.utils import linear_cg

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
pytestmark = pytest.mark.usefixtures("device")


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager"} | options)


@pytest.mark.slow
def test_dynamic_shapes_of_every_kind_of_op():
    S = solvable(torch.float64)
    index = torch.tensor([2, 0, 1])

    def f(B, a, b):
        U = sparse_triangular_solve(S, B)
        X = sparse_generic_solve(S, B, solve=SuperLU())
        return U + X + sparse_generic_lstsq(S, B), gather_mm(a, b, index)

    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(f, fullgraph=True, dynamic=True, backend=counter)
    for p in (
        11,
        14,
        17,
    ):  # no size equals another by chance: the compiler would take it for a rule
        args = randn(3, p, dtype=torch.float64), randn(3, p + 1, dtype=torch.float64)
        args = (*args, randn(9, p + 1, p + 2, dtype=torch.float64))
        assert_close(run(*args), f(*args))
    assert counter.frame_count == 1


def test_dynamic_shapes_compile_once():
    A = matrix(ROW, COL, SHAPE, torch.float64)
    counter = CompileCounterWithBackend("aot_eager")
    f = torch.compile(sparse_mm, fullgraph=True, dynamic=True, backend=counter)
    for p in (2, 3, 5):
        B = randn(4, p, dtype=torch.float64).requires_grad_()
        out = f(A, B)
        assert_close(out, A.to_dense() @ B)
        ones = torch.ones(4, p, dtype=torch.float64)
        assert_close(torch.autograd.grad(out.sum(), B)[0], A.to_dense().mT @ ones)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="PyTorch 2.12 cannot: tests/test_canaries.py"
)
def test_dynamic_shapes_leave_no_mark_on_a_pattern():
    A, B = matrix(ROW, COL, SHAPE, torch.float64), randn(4, 3, dtype=torch.float64)
    f = torch.compile(sparse_mm, fullgraph=True, dynamic=True, backend="aot_eager")
    f(A, B.requires_grad_()).sum().backward()
    torch.compiler.reset()
    record = record_named("spmm", torch.float64)  # of the same pattern
    cell = {"transforms": ("compiled jacfwd(jacfwd)",), "order": 3}
    assert check_rules(record.function, record.args, **cell).holds


def test_other_patterns_give_their_own_result():
    f = compiled(lambda A, B: sparse_mm(A, B))
    B = randn(4, 2, dtype=torch.float64)
    for shift in range(4):
        row = [(i + shift) % 4 for i in ROW]
        A = matrix(row, COL, SHAPE, torch.float64)
        assert_close(f(A, B), A.to_dense() @ B)


def test_matrix_as_argument_result_and_gradient():
    A = matrix(ROW, COL, SHAPE, torch.float64)
    B = randn(4, 2, dtype=torch.float64)
    doubled = compiled(lambda A: A + A * 2.0)(A)
    assert isinstance(doubled, SparseMatrix)
    assert doubled.pattern == A.pattern
    assert_close(doubled.values, 3 * A.values)
    loss = lambda A: sparse_mm(A, B).square().sum()
    gradient = compiled(torch.func.grad(loss))(A)
    assert gradient.pattern == A.pattern
    assert_close(gradient.values, torch.func.grad(loss)(A).values)


def test_a_solve_is_one_node_and_a_function_survives_its_graph():
    A = matrix([0, 0, 1], [0, 1, 1], (2, 2), torch.float64)
    b = torch.ones(2, dtype=torch.float64, requires_grad=True)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    def run(b):
        return sparse_generic_solve(
            A, b, solve=lambda A, B: torch.linalg.solve(A.to_dense(), B), transpose_solve=None
        )

    out = torch.compile(run, fullgraph=True, backend=keep)(b)
    calls = [n for n in graphs[0].graph.nodes if "linear_solve" in str(n.target)]
    assert len(calls) == 1
    assert_close(A.to_dense() @ out, b)
    out.sum().backward()
    assert_close(A.to_dense().mT @ b.grad, torch.ones(2, dtype=torch.float64))


def test_linear_cg_with_settings():
    A = SparseMatrix.from_dense(torch.tensor([[4.0, 1.0], [1.0, 3.0]]))
    solve = compiled(lambda b: sparse_generic_solve(A, b, solve=linear_cg, tolerance=1e-6))
    b = torch.tensor([1.0, 2.0])
    assert_close(A @ solve(b), b)


ONE_OF_EACH = [
    "sparse_mm matrix",
    "sparse_triangular_solve matrix",
    "sparse_generic_solve SuperLU",
    "sparse_generic_lstsq LSMR",
    "gather_mm sorted",
    "segment_mm",
]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_export(name):
    record = record_named(name, torch.float64)

    class Module(torch.nn.Module):
        def forward(self, *args):
            return torch.sin(record.function(*args))

    program = torch.export.export(Module(), record.args)
    assert_close(program.module()(*record.args), torch.sin(record.reference(*record.args)), **CLOSE)
    names = [str(n.target) for n in program.graph.nodes]
    assert sum("tsgu_func" in n for n in names) == 1


def test_export_takes_a_matrix():
    class Module(torch.nn.Module):
        def forward(self, A, B):
            return sparse_mm(A, B)

    A, B = matrix(ROW, COL, SHAPE, torch.float64), randn(4, 2, dtype=torch.float64)
    program = torch.export.export(Module(), (A, B))
    assert_close(program.module()(A, B), A.to_dense() @ B)
