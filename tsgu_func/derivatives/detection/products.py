"""Rules of products of matrices; all entries of a factor count, whatever they are."""

from __future__ import annotations

from tsgu_func.derivatives.detection.elementwise import broadcast
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.reductions import reduced
from tsgu_func.derivatives.detection.sets import Sets
from tsgu_func.derivatives.detection.table import rule, spread, unite

__all__: list[str] = []


def _product(a: Operand, b: Operand, out: Operand) -> Sets:
    """Return the sets of ``a @ b`` for two matrices, two batches of these, or with a vector."""
    parts = []
    if a.depends:  # all of a row
        axis = len(a.shape) - 1
        shape = (*a.shape[:-1], 1) if len(b.shape) > 1 else a.shape[:-1]
        parts.append(spread(reduced(a, [axis]), shape, out.shape))
    if b.depends:  # all of a column
        axis = max(len(b.shape) - 2, 0)
        shape = (*b.shape[:-2], 1, b.shape[-1]) if len(b.shape) > 1 else ()
        shape = shape if len(a.shape) > 1 else shape[:-2] + shape[-1:]
        parts.append(spread(reduced(b, [axis]), shape, out.shape))
    return unite(parts, out.count, a.sets.inputs)


@rule("mm", "bmm", "mv", "dot", "vdot")
def _(operands, out):
    a, b = operands
    return _product(a, b, out)


@rule("addmm", "addmv", "baddbmm", "sspaddmm")
def _(self, operands, out):
    _, a, b = operands
    found = _product(a, b, out)
    return unite([broadcast(self, out), found], out.count, found.inputs)


@rule("addbmm")
def _(self, batch1, batch2, out):
    members = (batch1.shape[0], *out.shape)
    each = Operand(members, out.dtype)
    each.sets = _product(batch1, batch2, each)
    found = reduced(each, [0])
    return unite([broadcast(self, out), found], out.count, found.inputs)


@rule("addr")
def _(self, vec1, vec2, out):
    parts = [broadcast(self, out), broadcast(vec2, out)]
    if vec1.depends:
        parts.append(spread(vec1.sets, (*vec1.shape, 1), out.shape))
    return unite(parts, out.count, vec1.sets.inputs)


@rule("_trilinear")
def _(i1, i2, i3, expand1, expand2, expand3, sumdim, out, inputs):
    parts = []
    for x, axes in ((i1, expand1), (i2, expand2), (i3, expand3)):
        if x.depends:
            shape = list(x.shape)
            for axis in sorted(axes):
                shape.insert(axis, 1)
            whole = Operand(tuple(shape), x.dtype, sets=x.sets)
            summed = [axis for axis in sumdim if shape[axis] > 1]
            kept = [1 if axis in sumdim else size for axis, size in enumerate(shape)]
            rest = [size for axis, size in enumerate(kept) if axis not in sumdim]
            parts.append(spread(reduced(whole, summed), rest, out.shape))
    return unite(parts, out.count, inputs)
