"""What the rule tests run on: for each op, arguments to differentiate and a reference.

A case is a function of tensors, closed over what is not differentiated, with a reference made of
PyTorch's own ops.  The reference of a solve is Gaussian elimination written out, because second
derivatives of ``torch.linalg.solve`` are wrong on torch 2.13 (see test_canaries.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tsgu_func import Primitive, SparseMatrix, sparse_generic_solve, sparse_mm
from tsgu_func.solvers import SuperLU, registry
from tsgu_func.sparse_matmul import sddmm, spmm
from tsgu_func.sparse_solve import generic_solve
from tsgu_func.utils import linear_cg

SUPERLU = registry.register_solver(SuperLU()).key
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """A function, its reference, and arguments; complex ones are given as pairs of reals."""

    name: str
    function: Function
    reference: Function
    args: tuple[Tensor, ...]
    primitive: Primitive | None = None
    compiles: bool = True

    def __repr__(self) -> str:
        return self.name


def as_reals(case: Case) -> Case:
    """View a complex case as one of reals, of which derivatives have but one meaning."""
    if not case.args[0].is_complex():
        return case

    def wrap(f: Function) -> Function:
        return lambda *args: torch.view_as_real(f(*(torch.complex(*a.unbind(-1)) for a in args)))

    args = tuple(torch.view_as_real(a).clone() for a in case.args)
    return replace(case, function=wrap(case.function), reference=wrap(case.reference), args=args)


# ------------------------------------------------------------------------------------ patterns

# An empty row, a full one, an empty column; and a square one for solves.
ROW, COL, SHAPE = [0, 0, 0, 2, 3], [0, 1, 2, 1, 2], (4, 4)
SQUARE = [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 0, 2]


def matrix(row: Sequence[int], col: Sequence[int], shape: tuple[int, int], dtype: torch.dtype):
    generator = torch.Generator().manual_seed(len(row))
    values = torch.randn(len(row), dtype=dtype, generator=generator)
    return SparseMatrix.from_coo(row, col, values, shape)


def solvable(dtype: torch.dtype) -> SparseMatrix:
    A = matrix(*SQUARE, (3, 3), dtype)
    return A.with_values(A.values + 3 * (A.pattern.row == A.pattern.col))


def randn(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------- references


def dense(values: Tensor, A: SparseMatrix) -> Tensor:
    """Put values in place with PyTorch's own ops."""
    row, col = A.pattern.row.long(), A.pattern.col.long()
    return values.new_zeros(A.pattern.shape).index_put((row, col), values)


def conjugated(v: Tensor) -> Tensor:
    # Written out: the derivative of PyTorch's own conj() fails under vmap (aten::_neg_view).
    if not v.is_complex():
        return v
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return torch.view_as_complex(torch.view_as_real(v) * signs)


def eliminate(A: Tensor, B: Tensor) -> Tensor:
    """Solve by Gaussian elimination without pivoting."""
    rows = [torch.cat([a, b]) for a, b in zip(A.unbind(), B.unbind(), strict=True)]
    for i in range(len(rows)):
        rows[i] = rows[i] / rows[i][i]
        rows = [r if j == i else r - r[i] * rows[i] for j, r in enumerate(rows)]
    return torch.stack(rows)[:, len(rows) :]


# --------------------------------------------------------------------------------------- cases


def primitive_cases(dtype: torch.dtype) -> list[Case]:
    """Return cases of every primitive: each record names the one that it is for."""
    A = matrix(ROW, COL, SHAPE, dtype)
    S = solvable(dtype)
    s, t = A.pattern.structure, S.pattern.structure
    B, X, R = (randn(n, 2, dtype=dtype, seed=n) for n in (4, 5, 3))
    X = X[:4]
    row, col = A.pattern.row.long(), A.pattern.col.long()

    def products(transpose: bool) -> Case:
        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(v, A)
            return (D.mT if transpose else D) @ B

        return Case(
            f"spmm{'.T' * transpose}",
            lambda v, B: spmm(v, B, s.crow, s.col, s.cols, transpose),
            reference,
            (A.values, B),
            spmm,
        )

    def solves(transpose: bool, conjugate: bool) -> Case:
        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(conjugated(v) if conjugate else v, S)
            return eliminate(D.mT if transpose else D, B)

        return Case(
            f"solve{'.T' * transpose}{'.conj' * conjugate}",
            lambda v, B: generic_solve(v, B, t.crow, t.col, t.cols, transpose, conjugate, SUPERLU),
            reference,
            (S.values, R),
            generic_solve,
        )

    return [
        products(False),
        products(True),
        Case(
            "sddmm",
            lambda X, Y: sddmm(X, Y, s.crow, s.col, s.cols),
            lambda X, Y: (X[row] * Y[col]).sum(-1),
            (X, B),
            sddmm,
        ),
        solves(False, False),
        solves(True, False),
        solves(True, True),
    ]


def public_cases(dtype: torch.dtype) -> list[Case]:
    """Return cases of the public functions, on every kind of matrix that they take."""
    A, S = matrix(ROW, COL, SHAPE, dtype), solvable(dtype)
    B, R = randn(4, 2, dtype=dtype), randn(3, 2, dtype=dtype)
    D = A.to_dense()
    hermitian = S.to_dense() @ S.to_dense().mH
    H = SparseMatrix.from_dense(hermitian)
    csr = S.to_csr()

    def user(A: Tensor, B: Tensor) -> Tensor:
        return torch.linalg.solve(A.to_dense(), B)

    def closed(layout: str, sparse: Tensor) -> Case:
        return Case(
            f"sparse_mm {layout}", lambda B: sparse_mm(sparse, B), lambda B: D @ B, (B,),
            compiles=False,
        )  # fmt: skip

    def solve(name: str, M: SparseMatrix, **kwargs: Any) -> Case:
        return Case(
            f"sparse_generic_solve {name}",
            lambda v, B: sparse_generic_solve(M.with_values(v), B, **kwargs),
            lambda v, B: eliminate(dense(v, M), B),
            (M.values, R),
        )

    tight = {"tolerance": 1e-14}
    return [
        Case(
            "sparse_mm matrix",
            lambda v, B: sparse_mm(A.with_values(v), B),
            lambda v, B: dense(v, A) @ B,
            (A.values, B),
        ),
        Case(
            "sparse_mm transpose",
            lambda v, B: sparse_mm(A.with_values(v).T, B),
            lambda v, B: dense(v, A).mT @ B,
            (A.values, B),
        ),
        Case("to_dense", lambda v: A.with_values(v).to_dense(), lambda v: dense(v, A), (A.values,)),
        Case(
            "diagonal",
            lambda v: A.with_values(v).diagonal(),
            lambda v: dense(v, A).diagonal(),
            (A.values,),
        ),
        closed("COO", A.to_coo()),
        closed("CSR", A.to_csr()),
        solve("SuperLU", S),
        solve("transpose", S.T),
        solve("user", S, solve=user),
        # Conjugate gradients differentiate only within Hermitian matrices, and so B alone here.
        Case(
            "sparse_generic_solve linear_cg",
            lambda B: sparse_generic_solve(H, B, solve=linear_cg, **tight),
            lambda B: eliminate(hermitian, B),
            (R,),
        ),
        Case(
            "sparse_generic_solve CSR",
            lambda B: sparse_generic_solve(csr, B),
            lambda B: eliminate(S.to_dense(), B),
            (R,),
            compiles=False,
        ),
    ]


def all_cases(dtype: torch.dtype) -> list[Case]:
    return primitive_cases(dtype) + public_cases(dtype)


NAMES = [case.name for case in all_cases(torch.float64)]
COMPILED = [case.name for case in all_cases(torch.float64) if case.compiles]


def case_named(name: str, dtype: torch.dtype) -> Case:
    return next(case for case in all_cases(dtype) if case.name == name)
