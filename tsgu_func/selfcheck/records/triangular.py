"""Records of the triangular systems."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from tsgu_func import SparseMatrix, sparse_triangular_solve
from tsgu_func.ops.triangular import triangle, triangular_solve
from tsgu_func.selfcheck.records.base import (
    Nodes,
    Record,
    dense,
    eliminate,
    in_dtypes,
    matrix,
    named,
    randn,
)

FLAGS = (False, True)

# W = T^-H G is the cotangent of B; that of the values is -triangle(sddmm(W, conj X)) with the same
# W, so that alone it costs all three, and B alone only the solve.
SUBSTITUTION = Nodes(
    {"triangular_solve": 1},
    {"triangular_solve": 1, "sddmm": 1, "triangle": 1},
    ({"triangular_solve": 1, "sddmm": 1, "triangle": 1}, {"triangular_solve": 1}),
)
# The projection is its own adjoint.
PROJECTION = Nodes({"triangle": 1}, {"triangle": 1}, ({"triangle": 1},))


def triangular_records(dtype: torch.dtype) -> list[Record]:
    """Return records of the solves by substitution."""
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

    def solve(transpose: bool, upper: bool, unit: bool) -> Record:
        M = off if unit else A
        s = M.pattern.structure

        def reference(v: Tensor, B: Tensor) -> Tensor:
            T = one(v, M, upper, unit)
            return eliminate(T.mT if transpose else T, B)

        return Record(
            named("triangular_solve", transpose=transpose, upper=upper, unit=unit),
            lambda v, B: triangular_solve(v, B, s.crow, s.col, s.cols, transpose, upper, unit),
            reference,
            (M.values, B),
            triangular_solve,
            compiles=transpose == upper == unit,
            nodes=SUBSTITUTION,
        )

    def closed(layout: str, sparse: Tensor) -> Record:
        T, per_dtype = one(A.values, A, False, False), in_dtypes(sparse)
        return Record(
            f"sparse_triangular_solve {layout}",
            lambda B: sparse_triangular_solve(per_dtype[B.dtype], B, upper=False),
            lambda B: eliminate(T, B),
            (B,),
            compiles=False,
            nodes=SUBSTITUTION.of_argument(1),
        )

    s = A.pattern.structure
    return [
        Record(
            "triangle",
            lambda v: triangle(v, s.crow, s.col, s.cols, True),
            lambda v: v * (A.pattern.row <= A.pattern.col),
            (A.values,),
            triangle,
            nodes=PROJECTION,
        ),
        *(solve(*flags) for flags in product(FLAGS, FLAGS, FLAGS)),
        Record(
            "sparse_triangular_solve matrix",
            lambda v, B: sparse_triangular_solve(A.with_values(v), B, False),
            lambda v, B: eliminate(one(v, A, False, False), B),
            (A.values, B),
            nodes=SUBSTITUTION,
        ),
        Record(
            "sparse_triangular_solve transposed",
            lambda v, B: sparse_triangular_solve(off.with_values(v).T, B, True, True, True),
            lambda v, B: eliminate(one(v, off, False, True), B),
            (off.values, B),
            nodes=SUBSTITUTION,
        ),
        closed("COO", A.to_coo()),
        closed("CSR", A.to_csr()),
    ]
