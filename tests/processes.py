"""What test_processes.py runs, each command in a process of its own.

Functions of values and a right-hand side, one for each public function here, are saved by
one process and used by another.
"""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsgu_func import (
    LinearOperator,
    SparseMatrix,
    gather_mm,
    segment_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_mm,
    sparse_solve,
    sparse_triangular_solve,
)
from tsgu_func.solvers import CG, IC0, LSQR, SuperLU
from tsgu_func.utils import LinearCGSettings, linear_cg

DENSE = torch.tensor([[4.0, 1, 0], [1, 3, 1], [0, 1, 5]], dtype=torch.float64)
A = SparseMatrix.from_dense(DENSE)
B = torch.tensor([[1.0, 2], [-1, 0.5], [3, 1]], dtype=torch.float64)
BANK = torch.stack([DENSE, 2 * DENSE])
INDEX, LENGTHS = torch.tensor([1, 0, 1]), torch.tensor([1, 2])
SETTINGS = LinearCGSettings(cg_tolerance=1e-13)


def dense_solve(M: Tensor, B: Tensor) -> Tensor:
    return torch.linalg.solve(M.to_dense(), B)


def multiply(p: Tensor, x: Tensor) -> Tensor:
    return DENSE @ x + p * x


def at(function: Callable[..., Any], values: Tensor, B: Tensor) -> Any:
    return function(A.with_values(values), B)


def by_operator(values: Tensor, B: Tensor) -> Tensor:
    return sparse_solve(LinearOperator(multiply, values[:3]), B)


def of_rows(function: Callable[..., Tensor], places: Tensor, values: Tensor, B: Tensor) -> Tensor:
    return function(B.mT @ values[:3].diag(), BANK, places)


def of_two(values: Tensor, B: Tensor) -> Tensor:
    return sparse_solve(A.with_values(values), B, return_info=True)[0]


FUNCTIONS = {
    "sparse_mm": functools.partial(at, sparse_mm),
    "sparse_triangular_solve": functools.partial(at, sparse_triangular_solve),
    "sparse_generic_solve": functools.partial(at, sparse_generic_solve),
    "sparse_generic_solve SuperLU": functools.partial(
        at, functools.partial(sparse_generic_solve, solve=SuperLU())
    ),
    "sparse_generic_solve linear_cg": functools.partial(
        at, functools.partial(sparse_generic_solve, solve=linear_cg, settings=SETTINGS)
    ),
    "sparse_solve": functools.partial(at, sparse_solve),
    "sparse_solve CG": functools.partial(
        at, functools.partial(sparse_solve, solver=CG(IC0(), rtol=1e-13), on_failure="warn")
    ),
    "sparse_solve info": of_two,
    "sparse_generic_lstsq": functools.partial(at, sparse_generic_lstsq),
    "sparse_lstsq": functools.partial(at, sparse_lstsq),
    "sparse_lstsq LSQR": functools.partial(at, functools.partial(sparse_lstsq, solver=LSQR())),
    "gather_mm": functools.partial(of_rows, gather_mm, INDEX[:2]),
    "segment_mm": functools.partial(of_rows, segment_mm, torch.tensor([0, 2])),
}
# What calls a function of the process that saves it, which cannot be saved.
OF_USERS = {
    "sparse_generic_solve user": functools.partial(
        at, functools.partial(sparse_generic_solve, solve=dense_solve)
    ),
    "sparse_generic_lstsq user": functools.partial(
        at, functools.partial(sparse_generic_lstsq, lstsq=dense_solve)
    ),
    "sparse_solve callback": functools.partial(
        at, functools.partial(sparse_solve, solver=CG(callback=print))
    ),
    "sparse_solve operator": by_operator,
}


def expected(name: str) -> Tensor:
    if name == "sparse_mm":
        return DENSE @ B
    if name == "sparse_triangular_solve":
        return torch.linalg.solve_triangular(DENSE.triu(), B, upper=True)
    if name in ("gather_mm", "segment_mm"):
        rows, which = B.mT @ A.values[:3].diag(), [1, 0] if name == "gather_mm" else [1, 1]
        return torch.stack([row @ BANK[i] for row, i in zip(rows, which, strict=True)])
    D = DENSE + A.values[:3].diag() if name == "sparse_solve operator" else DENSE
    return torch.linalg.solve(D, B)


class Module(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor, B: Tensor) -> Any:
        return self.function(values, B)


def check(name: str, result: Tensor) -> None:
    torch.testing.assert_close(result, expected(name), rtol=1e-8, atol=1e-8)


def double_in_place(M: SparseMatrix, reports: Any) -> None:
    """Change a matrix in shared memory, in a process that was spawned."""
    before = M @ torch.ones(3, dtype=M.dtype)
    M.values.mul_(2)
    ratio = M @ torch.ones(3, dtype=M.dtype) / before
    reports.put((repr(M.pattern), M.is_shared(), ratio.tolist()))


def export(folder: Path) -> None:
    for name, function in (FUNCTIONS | OF_USERS).items():
        program = torch.export.export(Module(function), (A.values, B))
        check(name, program.module()(A.values, B))
        torch.export.save(program, folder / f"{name}.pt2")


def load(folder: Path) -> None:
    """Run what was saved before anything else of this library is called."""
    for name in FUNCTIONS:
        check(name, torch.export.load(folder / f"{name}.pt2").module()(A.values, B))
        print("right:", name)
    # Names that the other process gave as well, had they been numbers alone.
    held = [sparse_generic_solve(A, B.requires_grad_(), lambda M, B: 100 * B) for _ in range(20)]
    for name in OF_USERS:
        program = torch.export.load(folder / f"{name}.pt2").module()
        try:
            print("wrong:", name, program(A.values, B))
        except LookupError as error:
            print("error:", name, error)
    del held


def save_pickles(folder: Path) -> None:
    for name, function in (FUNCTIONS | OF_USERS).items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps((function, A, B)))


def load_pickles(folder: Path) -> None:
    for name in FUNCTIONS | OF_USERS:
        function, M, right = pickle.loads((folder / f"{name}.pickle").read_bytes())
        assert M.pattern == A.pattern
        check(name, function(M.values, right))
        print("right:", name)


def run_compiled(folder: Path) -> None:
    for name, function in (FUNCTIONS | OF_USERS).items():

        def value_and_slope(values: Tensor, B: Tensor, function: Any = function) -> Any:
            slope = torch.func.grad(lambda v: function(v, B).square().sum())(values)
            return function(values, B), slope

        torch.compiler.reset()  # to the compiler they are one function, for it goes by the code
        run = torch.compile(value_and_slope, fullgraph=True, backend="aot_eager")
        value, slope = run(A.values, B)
        check(name, value)
        torch.testing.assert_close(slope, value_and_slope(A.values, B)[1])
        print("right:", name)


if __name__ == "__main__":
    commands = {
        "export": export,
        "load": load,
        "save-pickles": save_pickles,
        "load-pickles": load_pickles,
        "compile": run_compiled,
    }
    commands[sys.argv[1]](Path(sys.argv[2]))
