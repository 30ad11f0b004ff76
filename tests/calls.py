"""Calls of every primitive and every public op, drawn: a function, and arguments to vary.

Any of the arguments may have an axis in front, over which ``vmap`` is then to map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from tsgu_func import (
    gather_mm,
    segment_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_root,
    sparse_solve,
    sparse_triangular_solve,
)
from tsgu_func.ops.callback import callback
from tsgu_func.ops.determinants import logabsdet
from tsgu_func.ops.least_squares import least_norm, least_squares
from tsgu_func.ops.operator_least_squares import operator_least_norm, operator_least_squares
from tsgu_func.ops.operators import operator_solve
from tsgu_func.ops.products import sddmm, spmm
from tsgu_func.ops.roots import root
from tsgu_func.ops.segments import segment_outer, segment_product
from tsgu_func.ops.solve import linear_solve
from tsgu_func.ops.sparse_products import spgemm
from tsgu_func.ops.triangular import triangle, triangular_solve
from tsgu_func.selfcheck.records.operators import (
    FORM,
    FORM_COMPLEX,
    NEIGHBOURS,
    SOLVER,
    TALL,
    TALL_COMPLEX,
)
from tsgu_func.selfcheck.records.roots import balance
from tsgu_func.solvers import SuperLU
from tsgu_func.testing.strategies import (
    DTYPES,
    entries,
    index_vectors,
    patterns,
    restrided,
    right_hand_sides,
    segments,
)

MEMBERS = 3
SIZES = {"rows": (0, 5), "nnz": (0, 8)}
COLUMNS = (1, 3)
FLAG = st.booleans()
# PyTorch's forward mode fails by itself where an argument is lazily conjugated or expanded.
PLAIN = st.sampled_from(["contiguous", "transposed", "sliced", "offset"])
SUPERLU = SuperLU()
LSMR = "LSMR()", "LSMR()"

Batch = tuple[int, ...]


class Call(NamedTuple):
    """A function of one member of each argument, the arguments, and which have an axis to map."""

    function: Callable[..., Tensor]
    args: tuple[Tensor, ...]
    mapped: tuple[bool, ...]
    linear: tuple[int, ...]

    @property
    def dims(self) -> tuple[int | None, ...]:
        return tuple(0 if m else None for m in self.mapped)

    @property
    def whole(self) -> Callable[..., Tensor]:
        """The function of the arguments as they are."""
        return torch.func.vmap(self.function, self.dims) if any(self.mapped) else self.function

    def members(self) -> list[tuple[Tensor, ...]]:
        """Return the arguments of each member."""
        each = range(MEMBERS) if any(self.mapped) else [0]
        pairs = list(zip(self.args, self.mapped, strict=True))
        return [tuple(x[k] if m else x for x, m in pairs) for k in each]


def indices(A):
    s = A.pattern.structure
    return s.crow, s.col, s.cols


def without_diagonal(e):
    off = e.row != e.col
    return e._replace(row=e.row[off], col=e.col[off], values=e.values[..., off])


def flipped(e):
    """Return the entries of the transpose."""
    return e._replace(row=e.col, col=e.row, shape=e.shape[::-1])


def dense(draw, rows, batch, dtype=DTYPES, columns=COLUMNS):
    return draw(right_hand_sides(rows, columns, batch=batch, dtype=dtype, strides="contiguous"))


# ----------------------------------------------------------------------------------- primitives
# Each returns a function, its arguments, and in which of them it is linear.


def spmm_call(draw, of_values: Batch, of_B: Batch):
    e, transpose = draw(entries(batch=of_values, **SIZES)), draw(FLAG)
    A, B = e.matrix(), dense(draw, e.shape[0 if transpose else 1], of_B, e.values.dtype)
    return (lambda v, B: spmm(v, B, *indices(A), transpose)), (A.values, B), (0, 1)


def sddmm_call(draw, of_X: Batch, of_Y: Batch):
    e, p = draw(entries(**SIZES)), draw(st.integers(*COLUMNS))
    A, dtype = e.matrix(), e.values.dtype
    X = dense(draw, e.shape[0], of_X, dtype, p)
    Y = dense(draw, e.shape[1], of_Y, dtype, p)
    return (lambda X, Y: sddmm(X, Y, *indices(A))), (X, Y), (0, 1)


def spgemm_call(draw, of_x: Batch, of_y: Batch):
    n, k, m = (draw(st.integers(0, 4)) for _ in range(3))
    shapes = {"A": (n, k), "B": (k, m), "C": (n, m)}
    of, dtype = draw(st.sampled_from("ABC")), draw(DTYPES)
    drawn = {name: draw(patterns(rows=s[0], cols=s[1])).pattern() for name, s in shapes.items()}
    parts = [x for p in drawn.values() for x in (p.structure.crow, p.structure.col, p.shape[1])]
    sizes = [p.nnz for name, p in drawn.items() if name != of]
    x, y = (
        dense(draw, size, batch, dtype, 1).squeeze(-1)
        for size, batch in zip(sizes, (of_x, of_y), strict=True)
    )
    return (lambda x, y: spgemm(x, y, *parts, of)), (x, y), (0, 1)


def triangle_call(draw, of_values: Batch, _: Batch):
    e, upper = draw(entries(batch=of_values, form="square", **SIZES)), draw(FLAG)
    A = e.matrix()
    return (lambda v: triangle(v, *indices(A), upper)), (A.values,), (0,)


def triangular_solve_call(draw, of_values: Batch, of_B: Batch):
    e = draw(entries("dominant", batch=of_values, **SIZES))
    transpose, upper, unit = draw(FLAG), draw(FLAG), draw(FLAG)
    A = (without_diagonal(e) if unit else e).matrix()
    B = dense(draw, e.shape[0], of_B, e.values.dtype)
    flags = transpose, upper, unit
    return (lambda v, B: triangular_solve(v, B, *indices(A), *flags)), (A.values, B), (1,)


def linear_solve_call(draw, of_values: Batch, of_B: Batch):
    e = draw(entries("dominant", batch=of_values, **SIZES))
    A, B = e.matrix(), dense(draw, e.shape[0], of_B, e.values.dtype)
    flags = draw(FLAG), draw(FLAG), repr(SUPERLU), False
    return (lambda v, B: linear_solve(v, B, *indices(A), *flags)[0]), (A.values, B), (1,)


def logabsdet_call(draw, of_values: Batch, _: Batch):
    A = draw(entries("dominant", batch=of_values, **SIZES)).matrix()
    return (lambda v: logabsdet(v, *indices(A), repr(SUPERLU))), (A.values,), ()


def least_squares_call(draw, of_values: Batch, of_B: Batch):
    e, transpose = draw(entries("tall", batch=of_values, **SIZES)), draw(FLAG)
    S, B = (flipped(e) if transpose else e).matrix(), dense(draw, e.shape[0], of_B, e.values.dtype)
    flags = transpose, *LSMR
    return (lambda v, B: least_squares(v, B, *indices(S), *flags)[0]), (S.values, B), (1,)


def least_norm_call(draw, of_values: Batch, of_G: Batch):
    e, transpose = draw(entries("tall", batch=of_values, **SIZES)), draw(FLAG)
    S, G = (flipped(e) if transpose else e).matrix(), dense(draw, e.shape[1], of_G, e.values.dtype)
    flags = transpose, *LSMR
    return (lambda v, G: least_norm(v, G, *indices(S), *flags)[0]), (S.values, G), (1,)


def operator_solve_call(draw, of_p: Batch, of_B: Batch):
    p, adjoint = dense(draw, 3, of_p, columns=1), draw(FLAG)
    form = FORM_COMPLEX if p.is_complex() else FORM
    B = dense(draw, 3, of_B, p.dtype)
    flags = form.key, repr(SOLVER), adjoint
    return (lambda p, B: operator_solve(p, B, *flags)[0]), (p.squeeze(-1), B), (1,)


def operator_least_squares_call(draw, of_p: Batch, of_B: Batch):
    p = dense(draw, 3, of_p, columns=1)
    form = TALL_COMPLEX if p.is_complex() else TALL
    B = dense(draw, 4, of_B, p.dtype)
    flags = form.key, LSMR[0]
    return (lambda p, B: operator_least_squares(p, B, *flags)[0]), (p.squeeze(-1), B), (1,)


def operator_least_norm_call(draw, of_p: Batch, of_G: Batch):
    p = dense(draw, 3, of_p, columns=1)
    form = TALL_COMPLEX if p.is_complex() else TALL
    G = dense(draw, 2, of_G, p.dtype)
    flags = form.key, LSMR[0]
    return (lambda p, G: operator_least_norm(p, G, *flags)[0]), (p.squeeze(-1), G), (1,)


def callback_call(draw, of_x: Batch, _: Batch):
    x = dense(draw, 4, of_x, columns=1).squeeze(-1)
    return (lambda x: callback(x, NEIGHBOURS.key)), (x,), ()


def root_call(draw, of_p: Batch, of_x0: Batch):
    p = dense(draw, 4, of_p, columns=1)
    x0 = dense(draw, 4, of_x0, p.dtype, 1)
    # From nearby: of complex numbers there are three roots.
    return (lambda p, x0: sparse_root(balance, x0 / 16, p)), (p.squeeze(-1), x0.squeeze(-1)), ()


def rows_in_segments(draw):
    """Draw where segments start and end, and which row stands at each place of them."""
    number = draw(st.integers(0, 4))
    idx = draw(index_vectors((0, 8), number)).long()
    order = idx.argsort(stable=True) if draw(FLAG) else idx[:0]
    offsets = torch.searchsorted(idx.sort().values, torch.arange(number + 1))
    return len(idx), offsets, order


def segment_product_call(draw, of_a: Batch, of_b: Batch):
    n, offsets, order = rows_in_segments(draw)
    a = dense(draw, n, of_a)
    b = dense(draw, a.shape[-1], (*of_b, len(offsets) - 1), a.dtype)
    return (lambda a, b: segment_product(a, b, offsets, order)), (a, b), (0, 1)


def segment_outer_call(draw, of_x: Batch, of_y: Batch):
    n, offsets, order = rows_in_segments(draw)
    x = dense(draw, n, of_x)
    y = dense(draw, n, of_y, x.dtype)
    return (lambda x, y: segment_outer(x, y, offsets, order)), (x, y), (0, 1)


PRIMITIVES = {
    spmm: spmm_call,
    sddmm: sddmm_call,
    spgemm: spgemm_call,
    triangle: triangle_call,
    triangular_solve: triangular_solve_call,
    linear_solve: linear_solve_call,
    logabsdet: logabsdet_call,
    operator_solve: operator_solve_call,
    operator_least_squares: operator_least_squares_call,
    operator_least_norm: operator_least_norm_call,
    callback: callback_call,
    root: root_call,
    least_squares: least_squares_call,
    least_norm: least_norm_call,
    segment_product: segment_product_call,
    segment_outer: segment_outer_call,
}

# ----------------------------------------------------------------------------------- public ops


def over_matrix(op: Callable[..., Tensor], kind: str, rows: Callable[..., int]):
    """Draw calls of an op of a matrix and of a dense tensor with as many rows as `rows` says."""

    def call(draw, of_values: Batch, of_B: Batch):
        e, by_columns = draw(entries(kind, batch=of_values, **SIZES)), draw(FLAG)
        A = e.transposed() if by_columns else e.matrix()
        B = dense(draw, rows(e), of_B, e.values.dtype)
        return (lambda v, B: op(A.with_values(v), B)), (A.values, B), (1,)

    return call


def gather_mm_call(draw, of_a: Batch, of_b: Batch):
    number = draw(st.integers(0, 4))
    idx = draw(index_vectors((0, 6), number))
    a = dense(draw, len(idx), of_a)
    b = dense(draw, a.shape[-1], (*of_b, number), a.dtype)
    return (lambda a, b: gather_mm(a, b, idx)), (a, b), (0, 1)


def segment_mm_call(draw, of_a: Batch, of_b: Batch):
    lengths = draw(segments((0, 4), longest=3))
    a = dense(draw, int(lengths.sum()), of_a)
    b = dense(draw, a.shape[-1], (*of_b, len(lengths)), a.dtype)
    return (lambda a, b: segment_mm(a, b, lengths)), (a, b), (0, 1)


def solve(A, B):
    return sparse_generic_solve(A, B, solve=SUPERLU)


MATRIX_OPS = {
    "sparse_mm": (sparse_mm, "general", lambda e: e.shape[1]),
    "sparse_triangular_solve": (sparse_triangular_solve, "dominant", lambda e: e.shape[0]),
    "sparse_generic_solve": (solve, "dominant", lambda e: e.shape[0]),
    "sparse_solve": (sparse_solve, "dominant", lambda e: e.shape[0]),
    "sparse_generic_lstsq": (sparse_generic_lstsq, "tall", lambda e: e.shape[0]),
}
PUBLIC = {
    **{name: over_matrix(*of) for name, of in MATRIX_OPS.items()},
    "gather_mm": gather_mm_call,
    "segment_mm": segment_mm_call,
}


@st.composite
def calls(draw, build, *, mapped=FLAG, strides=PLAIN) -> Call:
    """Draw a call, any of its arguments with an axis to map over, and anyhow in memory.

    `mapped` draws whether at least one of them has the axis.
    """
    which = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    which = which if draw(mapped) else (False, False)
    function, args, linear = build(draw, *((MEMBERS,) if m else () for m in which))
    args = tuple(restrided(x, draw(strides)) for x in args)
    return Call(function, args, which[: len(args)], linear)
