"""Records of the front door, and of what it solves without entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsgu_func import LinearOperator, sparse_solve
from tsgu_func.ops import keys
from tsgu_func.ops.callback import OpaqueFunction, opaque_call
from tsgu_func.ops.operators import Form, operator_solve
from tsgu_func.ops.solve import reported_solve
from tsgu_func.selfcheck.records.base import (
    Nodes,
    Record,
    conjugated,
    dense,
    eliminate,
    named,
    randn,
    solvable,
)
from tsgu_func.solvers import GMRES, SuperLU

SUPERLU = keys.register_solver(SuperLU()).key
GMRES_KEY = keys.register_solver(GMRES(rtol=1e-14)).key

REPORTED = Nodes(
    {"reported_solve": 1},
    {"generic_solve": 1, "sddmm": 1},
    ({"generic_solve": 1, "sddmm": 1}, {"generic_solve": 1}),
)
# The cotangent of the parameters is the function's own vjp, of the W that is that of B.
OPERATOR = Nodes(
    {"operator_solve": 1},
    {"operator_solve": 1, "opaque_call": 1},
    ({"operator_solve": 1, "opaque_call": 1}, {"operator_solve": 1}),
)
OPAQUE = Nodes({"opaque_call": 1}, {"opaque_call": 1}, ({"opaque_call": 1},))


def multiply(p: Tensor, x: Tensor) -> Tensor:
    """Multiply with a matrix of two cyclic diagonals, the first by the parameters' square."""
    return (4 + p * p) * x + x.roll(1)


def _as_dense(p: Tensor) -> Tensor:
    shift = torch.eye(len(p), dtype=p.dtype, device=p.device).roll(1, 0)
    return torch.diag(4 + p * p) + shift


def product_of_neighbours(x: Tensor) -> Tensor:
    """Return a vector that is shorter, and not linear in x."""
    return x[1:] * x[:-1] * x[0]


# Kept: a graph refers to them by key.
FORM = keys.pin(keys.register_operator(Form.of(multiply, torch.zeros(3).double())))
FORM_COMPLEX = keys.pin(
    keys.register_operator(Form.of(multiply, torch.zeros(3, dtype=torch.complex128)))
)
NEIGHBOURS = keys.pin(OpaqueFunction(product_of_neighbours, 4, 3))


def front_door_records(dtype: torch.dtype) -> list[Record]:
    """Return the records of solves by what suits the matrix, and of operators."""
    S, B = solvable(dtype), randn(3, 2, dtype=dtype)
    s, p = S.pattern.structure, randn(3, dtype=dtype, seed=5)
    form = FORM_COMPLEX if dtype.is_complex else FORM

    def reported(transpose: bool, conjugate: bool) -> Record:
        flags = transpose, conjugate, SUPERLU

        def reference(v: Tensor, B: Tensor) -> Tensor:
            D = dense(conjugated(v) if conjugate else v, S)
            return eliminate(D.mT if transpose else D, B)

        return Record(
            named("reported_solve", transpose=transpose, conjugate=conjugate),
            lambda v, B: reported_solve(v, B, s.crow, s.col, s.cols, *flags)[0],
            reference,
            (S.values, B),
            reported_solve,
            compiles=not transpose,
            nodes=REPORTED,
        )

    def operator(adjoint: bool) -> Record:
        def reference(p: Tensor, B: Tensor) -> Tensor:
            D = _as_dense(conjugated(p) if adjoint else p)
            return eliminate(D.mT if adjoint else D, B)

        return Record(
            named("operator_solve", adjoint=adjoint),
            lambda p, B: operator_solve(p, B, form.key, GMRES_KEY, adjoint)[0],
            reference,
            (p, B),
            operator_solve,
            compiles=not adjoint,
            nodes=OPERATOR,
        )

    def public(name: str, **options: Any) -> Record:
        reports = options.get("return_info", False)

        def solved(v: Tensor, B: Tensor) -> Tensor:
            X = sparse_solve(S.with_values(v), B, **options)
            return X[0] if reports else X

        return Record(
            name,
            solved,
            lambda v, B: eliminate(dense(v, S), B),
            (S.values, B),
            nodes=REPORTED if reports else REPORTED._replace(forward={"generic_solve": 1}),
        )

    return [
        reported(False, False),
        reported(True, True),
        operator(False),
        operator(True),
        Record(
            "opaque_call",
            lambda x: opaque_call(x, NEIGHBOURS.key),
            product_of_neighbours,
            (randn(4, dtype=dtype),),
            opaque_call,
            nodes=OPAQUE,
        ),
        public("sparse_solve"),
        public("sparse_solve info", return_info=True),
        Record(
            "sparse_solve operator",
            lambda p, B: sparse_solve(LinearOperator(multiply, p), B, solver=GMRES(rtol=1e-14)),
            lambda p, B: eliminate(_as_dense(p), B),
            (p, B),
            nodes=OPERATOR,
        ),
    ]
