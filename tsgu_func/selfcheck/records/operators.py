"""Records of systems with a matrix that is known by its products, and of user's functions."""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func import LinearOperator, sparse_solve
from tsgu_func.ops.callback import Callback, callback
from tsgu_func.ops.forms import Form, Products, form_of
from tsgu_func.ops.operator_least_squares import operator_least_norm, operator_least_squares
from tsgu_func.ops.operators import operator_solve
from tsgu_func.selfcheck.records.base import (
    Nodes,
    Record,
    conjugated,
    eliminate,
    named,
    randn,
)
from tsgu_func.solvers import GMRES, LSMR

SOLVER = GMRES(rtol=1e-14)

# The cotangent of the parameters is the function's own vjp, of the W that is that of B.
OPERATOR = Nodes(
    {"operator_solve": 1},
    {"operator_solve": 1, "callback": 1},
    ({"operator_solve": 1, "callback": 1}, {"operator_solve": 1}),
)
# The cotangent of B is Y = least_norm(G).  That of the parameters is one vjp of the function, of
# R = B - A X, for which A is applied, and Y, at H = least_squares(Y) and X.
SQUARES = Nodes(
    {"operator_least_squares": 1},
    {"operator_least_norm": 1, "operator_least_squares": 1, "callback": 2},
    (
        {"operator_least_norm": 1, "operator_least_squares": 1, "callback": 2},
        {"operator_least_norm": 1},
    ),
)
# The cotangent of G is Z = least_squares(C).  That of the parameters is one vjp, of C - A Z and Y,
# at H = least_squares(Y) and Z.
NORM = Nodes(
    {"operator_least_norm": 1},
    {"operator_least_squares": 2, "callback": 2},
    ({"operator_least_squares": 2, "callback": 2}, {"operator_least_squares": 1}),
)
CALLBACK = Nodes({"callback": 1}, {"callback": 1}, ({"callback": 1},))


def multiply(p: Tensor, x: Tensor) -> Tensor:
    """Multiply with a matrix of two cyclic diagonals, the first by the parameters' square."""
    return (4 + p * p) * x + x.roll(1)


def _as_dense(p: Tensor) -> Tensor:
    shift = torch.eye(len(p), dtype=p.dtype, device=p.device).roll(1, 0)
    return torch.diag(4 + p * p) + shift


def multiply_tall(p: Tensor, x: Tensor) -> Tensor:
    """Multiply with a matrix of two columns and one row more than parameters."""
    return torch.cat([(2 + p * p) * x[0] - p * x[1], 3 * x[1:] + x[:1]])


def _as_dense_tall(p: Tensor) -> Tensor:
    last = torch.tensor([[1.0, 3.0]], dtype=p.dtype, device=p.device)
    return torch.cat([torch.stack([2 + p * p, -p], -1), last])


def product_of_neighbours(x: Tensor) -> Tensor:
    """Return a vector that is shorter, and not linear in x."""
    return x[1:] * x[:-1] * x[0]


# Held here, because a graph names them by keys.
FORM = Form(Products(multiply), True, *form_of(torch.zeros(3, dtype=torch.float64)))
FORM_COMPLEX = Form(Products(multiply), True, *form_of(torch.zeros(3, dtype=torch.complex128)))
TALL, TALL_COMPLEX = (
    Form(Products(multiply_tall, None, (4, 2)), True, *form_of(torch.zeros(3, dtype=dtype)))
    for dtype in (torch.float64, torch.complex128)
)
NEIGHBOURS = Callback(product_of_neighbours, 4, 3)


def operator_records(dtype: torch.dtype) -> list[Record]:
    """Return the records of operators, and of the functions that their derivatives call."""
    p, B = randn(3, dtype=dtype, seed=5), randn(3, 2, dtype=dtype)
    form = FORM_COMPLEX if dtype.is_complex else FORM

    def operator(adjoint: bool) -> Record:
        def reference(p: Tensor, B: Tensor) -> Tensor:
            D = _as_dense(conjugated(p) if adjoint else p)
            return eliminate(D.mT if adjoint else D, B)

        return Record(
            named("operator_solve", adjoint=adjoint),
            lambda p, B: operator_solve(p, B, form.key, repr(SOLVER), adjoint)[0],
            reference,
            (p, B),
            operator_solve,
            compiles=not adjoint,
            nodes=OPERATOR,
        )

    tall = (TALL_COMPLEX if dtype.is_complex else TALL).key, repr(LSMR())
    B4, G = randn(4, 2, dtype=dtype), randn(2, 2, dtype=dtype)

    def gram(D: Tensor, right: Tensor) -> Tensor:
        """Solve ``Dᴴ D X = right``."""
        return eliminate(conjugated(D).mT @ D, right)

    def squares(p: Tensor, B: Tensor) -> Tensor:
        D = _as_dense_tall(p)
        return gram(D, conjugated(D).mT @ B)

    def norm(p: Tensor, G: Tensor) -> Tensor:
        D = _as_dense_tall(p)
        return D @ gram(D, G)

    return [
        Record(
            "operator_least_squares",
            lambda p, B: operator_least_squares(p, B, *tall)[0],
            squares,
            (p, B4),
            operator_least_squares,
            nodes=SQUARES,
        ),
        Record(
            "operator_least_norm",
            lambda p, G: operator_least_norm(p, G, *tall)[0],
            norm,
            (p, G),
            operator_least_norm,
            compiles=False,
            nodes=NORM,
        ),
        operator(False),
        operator(True),
        Record(
            "callback",
            lambda x: callback(x, NEIGHBOURS.key),
            product_of_neighbours,
            (randn(4, dtype=dtype),),
            callback,
            nodes=CALLBACK,
        ),
        Record(
            "sparse_solve operator",
            lambda p, B: sparse_solve(LinearOperator(multiply, p), B, solver=SOLVER),
            lambda p, B: eliminate(_as_dense(p), B),
            (p, B),
            nodes=OPERATOR,
        ),
    ]
