"""Rules of linear algebra: all of a matrix counts, but members of a batch are told apart.

So are right-hand sides of a system, which a solution depends on column by column.
"""

from __future__ import annotations

from tsgu_func.derivatives.detection.dense import by_member
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets, nothing
from tsgu_func.derivatives.detection.table import mixed, rule, spread, unite

__all__: list[str] = []


@rule(
    *("linalg_inv_ex", "cholesky_inverse", "linalg_cholesky_ex", "cholesky", "linalg_pinv"),
    *("linalg_lu_factor_ex", "linalg_lu", "lu_unpack", "linalg_ldl_factor_ex", "linalg_qr"),
    *("geqrf", "orgqr", "linalg_householder_product", "ormqr", "_linalg_svd", "_linalg_eigh"),
    *("linalg_eig", "_linalg_eigvals", "linalg_eigvals", "linalg_matrix_exp", "_linalg_det"),
    *("_linalg_slogdet", "linalg_lstsq", "linalg_cross", "linalg_ldl_solve"),
)
def _(operands, outs, inputs):
    batch = operands[0].shape[:-2]
    return [by_member(operands, out, batch, inputs) for out in outs]


def _solved(matrices: list[Operand], b: Operand, out: Operand, left: bool, inputs: int) -> Sets:
    """Return the sets of the solution of a system, of which b is the right-hand side."""
    vector = len(b.shape) < 2 or len(b.shape) < len(out.shape)
    axis = -1 if vector or not left else -2
    parts = [by_member(matrices, out, out.shape[: -1 if vector else -2], inputs)]
    if b.depends:
        parts.append(spread(mixed(b, b.sets, [axis]), b.shape, out.shape))
    return unite(parts, out.count, inputs)


@rule("linalg_solve_triangular", "_linalg_solve_ex")
def _(operands, left, outs, inputs):
    (A, B), (first, *rest) = operands, outs
    factors = [by_member([A], out, A.shape[:-2], inputs) for out in rest]
    return [_solved([A], B, first, left, inputs), *factors]


@rule("linalg_lu_solve")
def _(LU, B, left, out, inputs):
    return _solved([LU], B, out, left, inputs)


@rule("cholesky_solve", "_cholesky_solve_helper")
def _(self, given, out, inputs):
    factor = given["input2"] if "input2" in given else given["A"]
    return _solved([factor], self, out, True, inputs)


@rule("triangular_solve")
def _(self, A, outs, inputs):
    return [_solved([A], self, outs[0], True, inputs), nothing(outs[1].count, inputs)]
