"""The cases of all ops: a primitive without one fails test_rules.py."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.case import (
    COL,
    ROW,
    SHAPE,
    Case,
    conjugated,
    dense,
    eliminate,
    matrix,
    randn,
    solvable,
)
from tests.cases_indexed import indexed_primitive_cases, indexed_public_cases
from tsgu_func import (
    SparseMatrix,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_triangular_solve,
)
from tsgu_func.solvers import SuperLU, registry
from tsgu_func.sparse_lstsq import least_norm, least_squares
from tsgu_func.sparse_matmul import sddmm, spmm
from tsgu_func.sparse_solve import generic_solve
from tsgu_func.sparse_triangular import triangle, triangular_solve
from tsgu_func.utils import (
    BICGSTABSettings,
    MINRESSettings,
    bicgstab,
    linear_cg,
    minres,
)

SUPERLU = registry.register_solver(SuperLU()).key
FLAGS = (False, True)


def named(name: str, **flags: bool) -> str:
    return ".".join([name, *(flag for flag, on in flags.items() if on)])


# ------------------------------------------------------------------------------------ products


def product_cases(dtype: torch.dtype) -> list[Case]:
    A = matrix(ROW, COL, SHAPE, dtype)
    s, D = A.pattern.structure, A.to_dense()
    row, col = A.pattern.row.long(), A.pattern.col.long()
    B, X = randn(4, 2, dtype=dtype, seed=4), randn(5, 2, dtype=dtype, seed=5)[:4]

    def spmm_case(transpose: bool) -> Case:
        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(v, A)
            return (D.mT if transpose else D) @ B

        return Case(
            named("spmm", transpose=transpose),
            lambda v, B: spmm(v, B, s.crow, s.col, s.cols, transpose),
            reference,
            (A.values, B),
            spmm,
        )

    def closed(layout: str, sparse: Tensor) -> Case:
        return Case(
            f"sparse_mm {layout}", lambda B: sparse_mm(sparse, B), lambda B: D @ B, (B,),
            compiles=False,
        )  # fmt: skip

    return [
        spmm_case(False),
        spmm_case(True),
        Case(
            "sddmm",
            lambda X, Y: sddmm(X, Y, s.crow, s.col, s.cols),
            lambda X, Y: (X[row] * Y[col]).sum(-1),
            (X, B),
            sddmm,
        ),
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
    ]


# --------------------------------------------------------------------------- triangular systems


def triangular_cases(dtype: torch.dtype) -> list[Case]:
    # Entries in both triangles; the solve shall not see those of the other one.
    A = matrix([0, 0, 1, 1, 2, 2, 2], [0, 2, 0, 1, 0, 1, 2], (3, 3), dtype)
    A = A.with_values(A.values + 2 * (A.pattern.row == A.pattern.col))
    off = matrix([0, 0, 1, 2, 2], [1, 2, 0, 0, 1], (3, 3), dtype)
    B = randn(3, 2, dtype=dtype)

    def one(v: Tensor, M: SparseMatrix, upper: bool, unit: bool) -> Tensor:
        # Put in by hand, because PyTorch's own triu and tril have no rule under every transform.
        keep = M.pattern.row <= M.pattern.col if upper else M.pattern.row >= M.pattern.col
        T = dense(v * keep, M)
        return T + torch.eye(3, dtype=T.dtype) if unit else T

    def solve(transpose: bool, upper: bool, unit: bool) -> Case:
        M = off if unit else A
        s = M.pattern.structure

        def reference(v: Tensor, B: Tensor) -> Tensor:
            T = one(v, M, upper, unit)
            return eliminate(T.mT if transpose else T, B)

        return Case(
            named("triangular_solve", transpose=transpose, upper=upper, unit=unit),
            lambda v, B: triangular_solve(v, B, s.crow, s.col, s.cols, transpose, upper, unit),
            reference,
            (M.values, B),
            triangular_solve,
            compiles=transpose == upper == unit,
        )

    def closed(layout: str, sparse: Tensor) -> Case:
        T = one(A.values, A, False, False)
        return Case(
            f"sparse_triangular_solve {layout}",
            lambda B: sparse_triangular_solve(sparse, B, upper=False),
            lambda B: eliminate(T, B),
            (B,),
            compiles=False,
        )

    s = A.pattern.structure
    return [
        Case(
            "triangle",
            lambda v: triangle(v, s.crow, s.col, s.cols, True),
            lambda v: v * (A.pattern.row <= A.pattern.col),
            (A.values,),
            triangle,
        ),
        *(solve(*flags) for flags in product(FLAGS, FLAGS, FLAGS)),
        Case(
            "sparse_triangular_solve matrix",
            lambda v, B: sparse_triangular_solve(A.with_values(v), B, False),
            lambda v, B: eliminate(one(v, A, False, False), B),
            (A.values, B),
        ),
        Case(
            "sparse_triangular_solve transposed",
            lambda v, B: sparse_triangular_solve(off.with_values(v).T, B, True, True, True),
            lambda v, B: eliminate(one(v, off, False, True), B),
            (off.values, B),
        ),
        closed("COO", A.to_coo()),
        closed("CSR", A.to_csr()),
    ]


# ------------------------------------------------------------------------------ general systems


def solve_cases(dtype: torch.dtype) -> list[Case]:
    S = solvable(dtype)
    s, D = S.pattern.structure, S.to_dense()
    B = randn(3, 2, dtype=dtype)
    hermitian = D @ D.mH
    H = SparseMatrix.from_dense(hermitian)

    def generic(transpose: bool, conjugate: bool) -> Case:
        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(conjugated(v) if conjugate else v, S)
            return eliminate(D.mT if transpose else D, B)

        return Case(
            named("generic_solve", transpose=transpose, conjugate=conjugate),
            lambda v, B: generic_solve(v, B, s.crow, s.col, s.cols, transpose, conjugate, SUPERLU),
            reference,
            (S.values, B),
            generic_solve,
        )

    def user(A: Tensor, B: Tensor) -> Tensor:
        return torch.linalg.solve(A.to_dense(), B)

    def public(name: str, M: SparseMatrix, **kwargs: Any) -> Case:
        return Case(
            f"sparse_generic_solve {name}",
            lambda v, B: sparse_generic_solve(M.with_values(v), B, **kwargs),
            lambda v, B: eliminate(dense(v, M), B),
            (M.values, B),
        )

    return [
        generic(False, False),
        generic(True, False),
        generic(True, True),
        public("SuperLU", S, solve=SuperLU()),
        public("transpose", S.T, solve=SuperLU()),
        public("user", S, solve=user),
        public("bicgstab", S, solve=bicgstab, settings=BICGSTABSettings(reltol=1e-14)),
        # These two differentiate only within Hermitian matrices, and so B alone here.
        *(
            Case(
                f"sparse_generic_solve {solver.__name__}",
                lambda B, solver=solver, kwargs=kwargs: sparse_generic_solve(
                    H, B, solve=solver, **kwargs
                ),
                lambda B: eliminate(hermitian, B),
                (B,),
            )
            for solver, kwargs in (
                (linear_cg, {"tolerance": 1e-14}),
                (minres, {"settings": MINRESSettings(minres_tolerance=1e-14)}),
            )
        ),
        *(
            Case(
                f"sparse_generic_solve {layout}",
                lambda B, sparse=sparse: sparse_generic_solve(sparse, B, solve=SuperLU()),
                lambda B: eliminate(D, B),
                (B,),
                compiles=False,
            )
            for layout, sparse in (("COO", S.to_coo()), ("CSR", S.to_csr()))
        ),
    ]


# -------------------------------------------------------------------------------- least squares


def lstsq_cases(dtype: torch.dtype) -> list[Case]:
    A = matrix([0, 1, 1, 2, 3], [0, 0, 1, 1, 0], (4, 2), dtype)
    A = A.with_values(A.values + torch.tensor([2.0, 1, 2, 1, 1]))
    flat = A.T
    flat = SparseMatrix.from_coo(flat.pattern.row, flat.pattern.col, flat.values, (2, 4))
    B, G = randn(4, 2, dtype=dtype), randn(2, 2, dtype=dtype)
    D = A.to_dense()
    keys = "least_squares_by_lsmr", "least_norm_by_lsmr"

    def gram(v: Tensor, D: Tensor, right: Tensor) -> Tensor:
        """Solve ``Dᴴ D X = right``."""
        return eliminate(conjugated(D).mT @ D, right)

    def squares(transpose: bool) -> Case:
        M = flat if transpose else A
        s = M.pattern.structure

        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(v, M).mT if transpose else dense(v, M)
            return gram(v, D, conjugated(D).mT @ B)

        return Case(
            named("least_squares", transpose=transpose),
            lambda v, B: least_squares(v, B, s.crow, s.col, s.cols, transpose, *keys),
            reference,
            (M.values, B),
            least_squares,
            compiles=not transpose,
        )

    def norm(transpose: bool) -> Case:
        M = flat if transpose else A
        s = M.pattern.structure

        def reference(v: Tensor, G: Tensor) -> Tensor:
            D = dense(v, M).mT if transpose else dense(v, M)
            return D @ gram(v, D, G)

        return Case(
            named("least_norm", transpose=transpose),
            lambda v, G: least_norm(v, G, s.crow, s.col, s.cols, transpose, *keys),
            reference,
            (M.values, G),
            least_norm,
            compiles=not transpose,
        )

    def user(A: Tensor, B: Tensor) -> Tensor:
        D = A.to_dense()
        return torch.linalg.solve(D.mH @ D, D.mH @ B)

    def user_transposed(A: Tensor, G: Tensor) -> Tensor:
        # Aᵀ Y = G: for complex A it is handed the conjugate.
        D = A.to_dense()
        return D.conj() @ torch.linalg.solve(D.mT @ D.conj(), G)

    def closed(layout: str, sparse: Tensor) -> Case:
        return Case(
            f"sparse_generic_lstsq {layout}",
            lambda B: sparse_generic_lstsq(sparse, B),
            lambda B: gram(B, D, conjugated(D).mT @ B),
            (B,),
            compiles=False,
        )

    def public(name: str, *functions: Any) -> Case:
        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(v, A)
            return gram(v, D, conjugated(D).mT @ B)

        return Case(
            f"sparse_generic_lstsq {name}",
            lambda v, B: sparse_generic_lstsq(A.with_values(v), B, *functions),
            reference,
            (A.values, B),
        )

    return [
        squares(False),
        squares(True),
        norm(False),
        norm(True),
        public("LSMR"),
        public("user", user, user_transposed),
        closed("COO", A.to_coo()),
        closed("CSR", A.to_csr()),
    ]


# ------------------------------------------------------------------------------------------ all


def all_cases(dtype: torch.dtype) -> list[Case]:
    kinds = (
        product_cases,
        triangular_cases,
        solve_cases,
        lstsq_cases,
        indexed_primitive_cases,
        indexed_public_cases,
    )
    return [case for kind in kinds for case in kind(dtype)]


def primitive_cases(dtype: torch.dtype) -> list[Case]:
    """Return the cases that are for a primitive itself."""
    return [case for case in all_cases(dtype) if case.primitive is not None]


NAMES = [case.name for case in all_cases(torch.float64)]
COMPILED = [case.name for case in all_cases(torch.float64) if case.compiles]


def case_named(name: str, dtype: torch.dtype) -> Case:
    return next(case for case in all_cases(dtype) if case.name == name)
