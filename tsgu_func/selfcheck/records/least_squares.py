"""Records of the least squares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, sparse_generic_lstsq, sparse_lstsq
from tsgu_func.ops.least_squares import least_norm, least_squares
from tsgu_func.selfcheck.records.base import (
    Nodes,
    Record,
    conjugated,
    dense,
    eliminate,
    in_dtypes,
    matrix,
    named,
    randn,
)
from tsgu_func.solvers import LSQR

# The cotangent of B is Y = least_norm(G).  That of the values is R H^H - Y X^H where an entry is
# stored: R = B - spmm(A, X), H = least_squares(Y), and both outer products in one sddmm.
SQUARES = Nodes(
    {"least_squares": 1},
    {"least_norm": 1, "spmm": 1, "least_squares": 1, "sddmm": 1},
    ({"least_norm": 1, "spmm": 1, "least_squares": 1, "sddmm": 1}, {"least_norm": 1}),
)
# The cotangent of G is Z = least_squares(C).  That of the values is (C - A Z) H^H - Y Z^H where an
# entry is stored: spmm(A, Z), H = least_squares(Y), and both outer products in one sddmm.
NORM = Nodes(
    {"least_norm": 1},
    {"least_squares": 2, "spmm": 1, "sddmm": 1},
    ({"least_squares": 2, "spmm": 1, "sddmm": 1}, {"least_squares": 1}),
)


def lstsq_records(dtype: torch.dtype) -> list[Record]:
    """Return records of the least-squares solves."""
    A = matrix([0, 1, 1, 2, 3], [0, 0, 1, 1, 0], (4, 2), dtype)
    A = A.with_values(A.values + torch.tensor([2.0, 1, 2, 1, 1]))
    flat = A.T
    flat = SparseMatrix.from_coo(flat.pattern.row, flat.pattern.col, flat.values, (2, 4))
    B, G = randn(4, 2, dtype=dtype), randn(2, 2, dtype=dtype)
    D = A.to_dense()
    keys = "LSMR()", "LSMR()"

    def gram(v: Tensor, D: Tensor, right: Tensor) -> Tensor:
        """Solve ``Dᴴ D X = right``."""
        return eliminate(conjugated(D).mT @ D, right)

    def squares(transpose: bool) -> Record:
        M = flat if transpose else A
        s = M.pattern.structure

        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(v, M).mT if transpose else dense(v, M)
            return gram(v, D, conjugated(D).mT @ B)

        return Record(
            named("least_squares", transpose=transpose),
            lambda v, B: least_squares(v, B, s.crow, s.col, s.cols, transpose, *keys)[0],
            reference,
            (M.values, B),
            least_squares,
            compiles=not transpose,
            nodes=SQUARES,
        )

    def norm(transpose: bool) -> Record:
        M = flat if transpose else A
        s = M.pattern.structure

        def reference(v: Tensor, G: Tensor) -> Tensor:
            D = dense(v, M).mT if transpose else dense(v, M)
            return D @ gram(v, D, G)

        return Record(
            named("least_norm", transpose=transpose),
            lambda v, G: least_norm(v, G, s.crow, s.col, s.cols, transpose, *keys)[0],
            reference,
            (M.values, G),
            least_norm,
            compiles=not transpose,
            nodes=NORM,
        )

    def user(A: Tensor, B: Tensor) -> Tensor:
        D = A.to_dense()
        return torch.linalg.solve(D.mH @ D, D.mH @ B)

    def user_transposed(A: Tensor, G: Tensor) -> Tensor:
        # Aᵀ Y = G: for complex A it is handed the conjugate.
        D = A.to_dense()
        return D.conj() @ torch.linalg.solve(D.mT @ D.conj(), G)

    def closed(layout: str, sparse: Tensor) -> Record:
        per_dtype = in_dtypes(sparse)
        return Record(
            f"sparse_generic_lstsq {layout}",
            lambda B: sparse_generic_lstsq(per_dtype[B.dtype], B),
            lambda B: gram(B, D, conjugated(D).mT @ B),
            (B,),
            compiles=False,
            nodes=SQUARES.of_argument(1),
        )

    def public(name: str, *functions: Any) -> Record:
        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(v, A)
            return gram(v, D, conjugated(D).mT @ B)

        return Record(
            f"sparse_generic_lstsq {name}",
            lambda v, B: sparse_generic_lstsq(A.with_values(v), B, *functions),
            reference,
            (A.values, B),
            nodes=SQUARES,
        )

    def named_solver(name: str, **options: Any) -> Record:
        reports = options.get("return_info", False)

        def solved(v: Tensor, B: Tensor) -> Tensor:
            X = sparse_lstsq(A.with_values(v), B, **options)
            return X[0] if reports else X

        return replace(public(""), name=name, function=solved, compiles=reports)

    return [
        squares(False),
        squares(True),
        norm(False),
        norm(True),
        public("LSMR"),
        public("user", user, user_transposed),
        named_solver("sparse_lstsq", solver=LSQR()),
        named_solver("sparse_lstsq info", return_info=True),
        closed("COO", A.to_coo()),
        closed("CSR", A.to_csr()),
    ]
