"""Records of the general systems."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, sparse_generic_solve, sparse_solve
from tsgu_func.ops.determinants import logabsdet
from tsgu_func.ops.solve import linear_solve
from tsgu_func.selfcheck.records.base import (
    Nodes,
    Record,
    conjugated,
    dense,
    eliminate,
    in_dtypes,
    log_pivots,
    named,
    randn,
    solvable,
)
from tsgu_func.solvers import SuperLU
from tsgu_func.utils import BICGSTABSettings, MINRESSettings, bicgstab, linear_cg, minres

# W = A^-H G is the cotangent of B; that of the values is -sddmm(W, conj X) with the same W.  The
# solver is no part of it.
SOLVE = Nodes(
    {"linear_solve": 1},
    {"linear_solve": 1, "sddmm": 1},
    ({"linear_solve": 1, "sddmm": 1}, {"linear_solve": 1}),
)

# The entries of A^-H, for a matrix this small from one solve.
LOGABSDET = Nodes(
    {"logabsdet": 1},
    {"linear_solve": 1, "sddmm": 1},
    ({"linear_solve": 1, "sddmm": 1},),
)


def solve_records(dtype: torch.dtype) -> list[Record]:
    """Return records of the solves with any matrix."""
    S = solvable(dtype)
    s, D = S.pattern.structure, S.to_dense()
    B = randn(3, 2, dtype=dtype)
    hermitian = D @ D.mH
    H = SparseMatrix.from_dense(hermitian)

    def generic(transpose: bool, conjugate: bool) -> Record:
        flags = transpose, conjugate, "SuperLU()", False

        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(conjugated(v) if conjugate else v, S)
            return eliminate(D.mT if transpose else D, B)

        return Record(
            named("linear_solve", transpose=transpose, conjugate=conjugate),
            lambda v, B: linear_solve(v, B, s.crow, s.col, s.cols, *flags)[0],
            reference,
            (S.values, B),
            linear_solve,
            nodes=SOLVE,
        )

    def user(A: Tensor, B: Tensor) -> Tensor:
        return torch.linalg.solve(A.to_dense(), B)

    def public(name: str, M: SparseMatrix, **kwargs: Any) -> Record:
        return Record(
            f"sparse_generic_solve {name}",
            lambda v, B: sparse_generic_solve(M.with_values(v), B, **kwargs),
            lambda v, B: eliminate(dense(v, M), B),
            (M.values, B),
            nodes=SOLVE,
        )

    def front(name: str, **options: Any) -> Record:
        def solved(v: Tensor, B: Tensor) -> Tensor:
            X = sparse_solve(S.with_values(v), B, **options)
            return X[0] if options else X

        return replace(public("", S), name=name, function=solved)

    hermitian_solvers: list[tuple[Any, dict[str, Any]]] = [
        (linear_cg, {"tolerance": 1e-14}),
        (minres, {"settings": MINRESSettings(minres_tolerance=1e-14)}),
    ]
    return [
        generic(False, False),
        generic(True, False),
        generic(True, True),
        Record(
            "logabsdet",
            lambda v: logabsdet(v, s.crow, s.col, s.cols, "SuperLU()"),
            lambda v: log_pivots(dense(v, S)),
            (S.values,),
            logabsdet,
            nodes=LOGABSDET,
        ),
        front("sparse_solve"),
        front("sparse_solve info", return_info=True),
        public("SuperLU", S, solve=SuperLU()),
        public("transpose", S.T, solve=SuperLU()),
        public("user", S, solve=user),
        public("bicgstab", S, solve=bicgstab, settings=BICGSTABSettings(reltol=1e-14)),
        # These two differentiate only within Hermitian matrices, and so B alone here.
        *(
            Record(
                f"sparse_generic_solve {solver.__name__}",
                lambda B, solver=solver, kwargs=kwargs: sparse_generic_solve(
                    H.with_values(H.values.to(B.dtype)), B, solve=solver, **kwargs
                ),
                lambda B: eliminate(hermitian, B),
                (B,),
                nodes=SOLVE.of_argument(1),
            )
            for solver, kwargs in hermitian_solvers
        ),
        *(
            Record(
                f"sparse_generic_solve {layout}",
                lambda B, each=each: sparse_generic_solve(each[B.dtype], B, solve=SuperLU()),
                lambda B: eliminate(D, B),
                (B,),
                compiles=False,
                nodes=SOLVE.of_argument(1),
            )
            for layout, each in (("COO", in_dtypes(S.to_coo())), ("CSR", in_dtypes(S.to_csr())))
        ),
    ]
