"""Records of the arithmetic of `SparseMatrix`, and of the product of two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsgu_func import SparseMatrix
from tsgu_func.matrix.combined import product
from tsgu_func.ops.sparse_products import spgemm
from tsgu_func.selfcheck.records.base import (
    COL,
    ROW,
    SHAPE,
    SQUARE,
    Nodes,
    Record,
    dense,
    matrix,
    randn,
    solvable,
)

# The cotangents of both factors are the same op, and share nothing.
SPARSE_PRODUCT = Nodes({"spgemm": 1}, {"spgemm": 2}, ({"spgemm": 1}, {"spgemm": 1}))
PLAIN = Nodes({}, {}, ({}, {}))


def algebra_records(dtype: torch.dtype) -> list[Record]:
    """Return records of products, sums, scales and reductions."""
    A = matrix(ROW, COL, SHAPE, dtype)
    other = matrix([0, 1, 2, 3, 3], [1, 0, 1, 2, 3], SHAPE, dtype)
    return [*_trilinear(dtype), *_of_two(A, other), *_with_dense(A), *_of_one(A)]


def _trilinear(dtype: torch.dtype) -> list[Record]:
    """Return records of the op: what each of the three matrices gets of the other two."""
    A, B = solvable(dtype), matrix([0, 1, 1, 2], [1, 0, 3, 1], (3, 4), dtype)
    pattern = product(A.pattern, B.pattern)
    C = SparseMatrix(pattern, randn(pattern.nnz, dtype=dtype, seed=7))
    matrices = {"A": A, "B": B, "C": C}
    parts: list[Any] = []
    for M in matrices.values():
        parts += M.pattern.structure.crow, M.pattern.structure.col, M.pattern.structure.cols
    products: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "A": lambda b, c: dense(c, C) @ dense(b, B).mT,
        "B": lambda a, c: dense(a, A).mT @ dense(c, C),
        "C": lambda a, b: dense(a, A) @ dense(b, B),
    }

    def case(of: str) -> Record:
        x, y = (M for name, M in matrices.items() if name != of)
        row, col = matrices[of].pattern.row.long(), matrices[of].pattern.col.long()
        return Record(
            f"spgemm of {of}",
            lambda x, y: spgemm(x, y, *parts, of),
            lambda x, y: products[of](x, y)[row, col],
            (x.values, y.values),
            spgemm,
            compiles=of == "C",
            nodes=SPARSE_PRODUCT,
        )

    return [case(of) for of in matrices]


def _of_two(A: SparseMatrix, B: SparseMatrix) -> list[Record]:
    square = matrix(*SQUARE, (3, 3), A.dtype)
    wide = matrix([0, 1, 2, 2], [1, 2, 0, 3], (3, 4), A.dtype)
    return [
        Record(
            "sparse @ sparse",
            lambda a, b: square.with_values(a).T.matmul(wide.with_values(b)).to_dense(),
            lambda a, b: dense(a, square).mT @ dense(b, wide),
            (square.values, wide.values),
            nodes=SPARSE_PRODUCT,
        ),
        Record(
            "sparse + sparse",
            lambda a, b: (A.with_values(a) + B.with_values(b)).to_dense(),
            lambda a, b: dense(a, A) + dense(b, B),
            (A.values, B.values),
            compiles=False,
            nodes=PLAIN,
        ),
        Record(
            "sparse * sparse",
            lambda a, b: (A.with_values(a) * B.with_values(b)).to_dense(),
            lambda a, b: dense(a, A) * dense(b, B),
            (A.values, B.values),
            compiles=False,
            nodes=PLAIN,
        ),
    ]


def _with_dense(A: SparseMatrix) -> list[Record]:
    def case(name: str, function: Any, reference: Any, *size: int) -> Record:
        return Record(
            name,
            lambda a, d: function(A.with_values(a), d),
            lambda a, d: reference(dense(a, A), d),
            (A.values, randn(*size, dtype=A.dtype, seed=8)),
            compiles=False,
            nodes=PLAIN,
        )

    return [
        case("sparse * dense + dense", lambda A, d: A.mul(d).add(d), lambda A, d: A * d + d, 4, 1),
        case(
            "scale_rows, scale_cols",
            lambda A, d: A.scale_rows(d).scale_cols(d).to_dense(),
            lambda A, d: d[:, None] * A * d,
            4,
        ),
    ]


def _of_one(A: SparseMatrix) -> list[Record]:
    def case(name: str, function: Any, reference: Any) -> Record:
        return Record(
            name,
            lambda a: function(A.with_values(a)),
            reference,
            (A.values,),
            compiles=False,
            nodes=Nodes({}, {}, ({},)),
        )

    def reduced(M: SparseMatrix | Tensor, norm: Tensor) -> Tensor:
        numbers = [M.mean(), norm.to(M.dtype), M.trace()]
        return torch.cat([M.sum(-1), M.sum(-2), torch.stack(numbers)])

    return [
        case(
            "sum, mean, norm, trace",
            lambda A: reduced(A, A.norm()),
            lambda a: reduced(dense(a, A), _length(a)),
        ),
        case(
            "abs, power, map",
            lambda A: (A.abs() + A**3 + A.map(_sine)).to_dense(),
            lambda a: dense(a.abs() + a * a * a + _sine(a), A),
        ),
    ]


def _length(a: Tensor) -> Tensor:
    # Of vector_norm, the third derivative fails in PyTorch (2.13), in reverse mode over forward.
    parts = torch.view_as_real(a.resolve_conj()) if a.is_complex() else a
    return parts.square().sum().sqrt()


def _sine(a: Tensor) -> Tensor:
    """Return the sine of the real and the imaginary part."""
    # PyTorch's own complex derivatives conjugate lazily, which fails under its older vmap.
    if not a.is_complex():
        return a.sin()
    return torch.view_as_complex(torch.view_as_real(a.resolve_conj()).sin())
