"""Products of rows with matrices of a bank: by segment, or by an index of each row.

Derivation.  Let ``C_s = a_s b_r`` for the rows s of each segment r.  Both factors enter linearly,
so ``dC_s = da_s b_r + a_s db_r``.  With the inner product ``<X, Y> = Re tr(Xᴴ Y)`` and the
cotangent G of C,

    <G, da b> = sum_s <G_s b_rᴴ, da_s>,      <G, a db> = sum_r <sum_s a_sᴴ G_s, db_r>.

So the cotangent of a is the same product with the matrices bᴴ, and that of b a sum of outer
products over each segment, never one for each row.  That sum is bilinear again, with cotangents
that are `segment_product`: the pair is closed.

Both ops take ``offsets`` (R + 1,), where segments start and end, and ``order`` (N,), which row
stands at each place of them; (0,) says that the rows stand in place.  Rows with an index are sorted
by it once: a derivative uses the same order.  `offsets` is on the CPU, where kernels need it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels import segments
from tsgu_func.registration.dependence import positions
from tsgu_func.registration.primitive import Primitive

__all__ = ["segment_outer", "segment_product"]

# -------------------------------------------------------------------------- segment_product

segment_product = Primitive(
    "tsgu_func::segment_product(Tensor a, Tensor b, Tensor offsets, Tensor order) -> Tensor"
)


@segment_product.kernel
def _(a, b, offsets, order):
    return segments.product(a, b, offsets, order)


@segment_product.fake
def _(a, b, offsets, order):
    return a.new_empty(a.shape[0], b.shape[2])


@segment_product.vjp("a")
def _(ct, b, offsets, order):
    return segment_product(ct, b.mH, offsets, order)


@segment_product.vjp("b")
def _(ct, a, offsets, order):
    return segment_outer(a.conj(), ct, offsets, order)


@segment_product.batch
def _(size, dims, args):
    a, b, offsets, order = _in_front(args, dims)
    indexed = dims.offsets is not None or dims.order is not None
    if indexed and dims.b is None:
        n = args.a.shape[0] if dims.a is None else a.shape[1]
        offsets, order = _merged(size, offsets, order, n)
        out = segment_product(_flat(size, a, dims.a), b, offsets, order)
        return out.unflatten(0, (size, n)), 0
    if indexed or (dims.a is not None and dims.b is not None):
        return _member_by_member(segment_product, size, dims, (a, b, offsets, order))
    if dims.a is not None:
        # More rows in each segment: those of all members for the first row, for the second, ...
        n = a.shape[1]
        member = torch.arange(size, device=order.device)
        order = (order.unsqueeze(1) * size + member).flatten()
        out = segment_product(a.movedim(0, 1).flatten(0, 1), b, offsets * size, order)
        return out.unflatten(0, (n, size)), 1
    out = segment_product(a, b.movedim(0, -2).flatten(-2), offsets, order)
    return out.unflatten(-1, (size, b.shape[-1])), -2


@segment_product.dependence("a")
def _(a, out):
    return positions(out).unsqueeze(2), positions(a).unsqueeze(1)


@segment_product.dependence("b")
def _(b, out, offsets, order):
    row, segment = _members(out, offsets, order)
    return positions(out)[row].unsqueeze(1), positions(b)[segment]


segment_product.linear_in("a", "b")
segment_product.autocast("lower")

# ---------------------------------------------------------------------------- segment_outer

segment_outer = Primitive(
    "tsgu_func::segment_outer(Tensor x, Tensor y, Tensor offsets, Tensor order) -> Tensor"
)


@segment_outer.kernel
def _(x, y, offsets, order):
    return segments.outer(x, y, offsets, order)


@segment_outer.fake
def _(x, y, offsets, order):
    return x.new_empty(offsets.shape[0] - 1, x.shape[1], y.shape[1])


@segment_outer.vjp("x")
def _(ct, y, offsets, order):
    return segment_product(y.conj(), ct.mT, offsets, order)


@segment_outer.vjp("y")
def _(ct, x, offsets, order):
    return segment_product(x.conj(), ct, offsets, order)


@segment_outer.batch
def _(size, dims, args):
    x, y, offsets, order = _in_front(args, dims)
    indexed = dims.offsets is not None or dims.order is not None
    if indexed or (dims.x is not None and dims.y is not None):
        return _member_by_member(segment_outer, size, dims, (x, y, offsets, order))
    if dims.x is not None:
        out = segment_outer(x.movedim(0, -2).flatten(-2), y, offsets, order)
        return out.unflatten(1, (size, x.shape[-1])), 1
    out = segment_outer(x, y.movedim(0, -2).flatten(-2), offsets, order)
    return out.unflatten(-1, (size, y.shape[-1])), -2


@segment_outer.dependence("x")
def _(x, out, offsets, order):
    row, segment = _members(x, offsets, order)
    return positions(out)[segment], positions(x)[row].unsqueeze(2)


@segment_outer.dependence("y")
def _(y, out, offsets, order):
    row, segment = _members(y, offsets, order)
    return positions(out)[segment], positions(y)[row].unsqueeze(1)


segment_outer.linear_in("x", "y")
segment_outer.autocast("lower")

# --------------------------------------------------------------------------- who is in a segment


def _members(x: Tensor, offsets: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row at each place, and its segment."""
    segment = torch.arange(len(offsets) - 1, device="cpu").repeat_interleave(offsets.diff())
    row = order.long() if len(order) else torch.arange(x.shape[0], device="cpu")
    return row, segment


# ------------------------------------------------------------------------------ their batches


def _in_front(args, dims):
    """Move the mapped axis of each argument to the front."""
    return (x if d is None else x.movedim(d, 0) for x, d in zip(args, dims, strict=True))


def _flat(size: int, x: Tensor, dim: int | None) -> Tensor:
    """(size, n, ...) -> (size * n, ...); what is not mapped over is repeated."""
    return (x.expand(size, *x.shape) if dim is None else x).flatten(0, 1)


def _member_by_member(op, size, dims, args):
    """Give each member rows and segments of its own, one after the other."""
    first, second, offsets, order = args
    rows = first.shape[0 if dims[0] is None else 1]
    first, second = _flat(size, first, dims[0]), _flat(size, second, dims[1])
    offsets, order = _spread(size, offsets, order)
    shift = torch.arange(size, device="cpu").unsqueeze(1) * rows
    starts = (offsets[:, :-1] + shift).flatten()
    joined = torch.cat([starts, starts.new_full((1,), size * rows)]) + _spoiled(offsets, rows)
    order = (order + shift.to(order.device)).flatten()
    out = op(first, second, joined, order)
    return out.unflatten(0, (size, out.shape[0] // size)), 0


def _merged(size: int, offsets: Tensor, order: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Let segment r have the rows of segment r of all members, so that they share its matrix."""
    offsets, order = _spread(size, offsets, order)
    if not order.shape[1]:
        order = torch.arange(rows, device=order.device).expand(size, rows)
    place = torch.arange(rows, device="cpu").expand(size, rows).contiguous()
    segment = torch.searchsorted(offsets.contiguous(), place, right=True).flatten()
    shift = torch.arange(size, device=order.device).unsqueeze(1) * rows
    by_segment = torch.argsort(segment, stable=True).to(order.device)
    order = (order + shift).flatten().index_select(0, by_segment)
    return offsets.sum(0) + _spoiled(offsets, rows), order


def _spread(size: int, offsets: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Give each member its own row of offsets and order."""
    offsets = offsets if offsets.ndim == 2 else offsets.expand(size, -1)
    return offsets, order if order.ndim == 2 else order.expand(size, -1)


def _spoiled(offsets: Tensor, rows: int) -> Tensor:
    """Return 1 if the segments of some member do not cover its rows, else 0.

    Added to the offsets of all, it lets the kernel refuse them: joined, the excess of one member
    and the lack of another would cancel.
    """
    falls = (offsets.diff(dim=1) < 0).any()
    return (falls | (offsets[:, 0] != 0).any() | (offsets[:, -1] != rows).any()).to(offsets.dtype)
