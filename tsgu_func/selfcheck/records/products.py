"""Records of the products with a sparse matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func import sparse_mm
from tsgu_func.ops.products import sddmm, spmm
from tsgu_func.selfcheck.records.base import (
    COL,
    ROW,
    SHAPE,
    Nodes,
    Record,
    dense,
    in_dtypes,
    matrix,
    named,
    randn,
)

# C = A B with the cotangent G: that of the values is sddmm(G, conj B), that of B is spmm(A^H, G).
# They share nothing.
PRODUCT = Nodes({"spmm": 1}, {"sddmm": 1, "spmm": 1}, ({"sddmm": 1}, {"spmm": 1}))
# The cotangent of sddmm is a matrix; that of X is its product with Y, that of Y with X.
SAMPLED = Nodes({"sddmm": 1}, {"spmm": 2}, ({"spmm": 1}, {"spmm": 1}))
# Nothing but ops of PyTorch.
PLAIN = Nodes({}, {}, ({},))


def product_records(dtype: torch.dtype) -> list[Record]:
    """Return records of the products."""
    A = matrix(ROW, COL, SHAPE, dtype)
    s, D = A.pattern.structure, A.to_dense()
    row, col = A.pattern.row.long(), A.pattern.col.long()
    B, X = randn(4, 2, dtype=dtype, seed=4), randn(5, 2, dtype=dtype, seed=5)[:4]

    def spmm_case(transpose: bool) -> Record:
        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(v, A)
            return (D.mT if transpose else D) @ B

        return Record(
            named("spmm", transpose=transpose),
            lambda v, B: spmm(v, B, s.crow, s.col, s.cols, transpose),
            reference,
            (A.values, B),
            spmm,
            nodes=PRODUCT,
        )

    def closed(layout: str, sparse: Tensor) -> Record:
        per_dtype = in_dtypes(sparse)
        return Record(
            f"sparse_mm {layout}",
            lambda B: sparse_mm(per_dtype[B.dtype], B),
            lambda B: D @ B,
            (B,),
            compiles=False,
            nodes=PRODUCT.of_argument(1),
        )

    return [
        spmm_case(False),
        spmm_case(True),
        Record(
            "sddmm",
            lambda X, Y: sddmm(X, Y, s.crow, s.col, s.cols),
            lambda X, Y: (X[row] * Y[col]).sum(-1),
            (X, B),
            sddmm,
            nodes=SAMPLED,
        ),
        Record(
            "sparse_mm matrix",
            lambda v, B: sparse_mm(A.with_values(v), B),
            lambda v, B: dense(v, A) @ B,
            (A.values, B),
            nodes=PRODUCT,
        ),
        Record(
            "sparse_mm transpose",
            lambda v, B: sparse_mm(A.with_values(v).T, B),
            lambda v, B: dense(v, A).mT @ B,
            (A.values, B),
            nodes=PRODUCT,
        ),
        Record(
            "to_dense",
            lambda v: A.with_values(v).to_dense(),
            lambda v: dense(v, A),
            (A.values,),
            nodes=PLAIN,
        ),
        Record(
            "diagonal",
            lambda v: A.with_values(v).diagonal(),
            lambda v: dense(v, A).diagonal(),
            (A.values,),
            nodes=PLAIN,
        ),
        closed("COO", A.to_coo()),
        closed("CSR", A.to_csr()),
    ]
