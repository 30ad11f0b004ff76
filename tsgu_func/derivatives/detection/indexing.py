"""Rules of ops that are told by an index where elements go.

An index that is computed of constants is known, and says so.  One that depends on the inputs may
say anything: then whatever differs along the indexed axes alone is taken together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.derivatives.detection.dense import whole
from tsgu_func.derivatives.detection.movement import is_index, move, numbered, places
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets, nothing, union
from tsgu_func.derivatives.detection.table import mixed, rule, spread

__all__: list[str] = []


def _zeros(index: Operand) -> Tensor:
    """Return an index that is as good as any other, where all that it may choose is the same."""
    return torch.zeros(index.shape, dtype=torch.int64, device="cpu")


def _known(index: Operand) -> Tensor:
    return _zeros(index) if index.value is None else index.value


def _chosen(given: dict[str, Any], x: Operand, indices: dict[int, Operand]) -> Sets:
    """Return the elements of x that are chosen by an index along each of some axes."""
    axes = [axis for axis, index in indices.items() if index.value is None]
    if x.depends and axes:
        x.sets = mixed(x, x.sets, axes)
    return move(given, {id(i): _known(i) for i in indices.values()})[0]


@rule("gather")
def _(self, dim, index, out, given):
    if index.value is None and index.choices is not None and self.depends:
        found = index.choices.gathered(self, dim, index)
        if found is not None:
            return found
    return _chosen(given, self, {dim: index})


@rule("index_select")
def _(self, dim, index, given):
    return _chosen(given, self, {dim: index})


@rule("embedding")
def _(weight, indices, given):
    return _chosen(given, weight, {0: indices})


@rule("take")
def _(self, index, given):
    if index.value is None:
        self.sets = mixed(self, self.sets, range(len(self.shape)))
    return move(given, {id(index): _known(index)})


@rule("index", "_unsafe_index")
def _(self, indices, given):
    return _chosen(given, self, _by_axis(indices))


def _by_axis(indices: Sequence[Operand | None]) -> dict[int, Operand]:
    """Return what indexes each axis; a mask indexes as many as it has."""
    found, axis = {}, 0
    for index in indices:
        if index is not None:
            found[axis] = index
        axis += len(index.shape) if index is not None and index.dtype == torch.bool else 1
    return found


# ------------------------------------------------------------------------------- and back


def _written(
    self: Operand, source: Sets, target: np.ndarray, unknown: Sequence[int], keep: bool
) -> Sets:
    """Return what self holds after something was written to it.

    Parameters
    ----------
    source : Sets
        Of what is written.
    target : ndarray
        The element of self that each is written to.
    unknown : sequence of int
        Axes along which it may also be another one.
    keep : bool
        Whether what was there stays, too, as in a sum.
    """
    new = source.collect(target, np.arange(len(target)), self.count)
    if unknown:
        new = mixed(self, new, unknown)
    if not (keep or unknown):
        stays = np.arange(self.count)
        stays[target] = -1
        return union(self.sets.take(stays), new)
    return union(self.sets, new)


def _along(self: Operand, dim: int, index: Operand, source: Operand | Any, keep: bool) -> Sets:
    """Return the sets after a scatter: element i of the source goes to index[i] along an axis."""
    if not self.shape:
        target = np.zeros(index.count, np.int64)
        self_axes: list[int] = []
    else:
        shape = index.shape or (1,)
        target = places(numbered(self.shape).gather(dim, _known(index).reshape(shape)))
        self_axes = [dim] if index.value is None else []
    if isinstance(source, Operand):
        cut = tuple(slice(size) for size in index.shape)
        sets = source.sets.take(places(numbered(source.shape)[cut]))
    else:
        sets = nothing(len(target), self.sets.inputs)
    return _written(self, sets, target, self_axes, keep)


@rule("scatter")
def _(self, dim, index, given):
    source = given["src"] if "src" in given else given["value"]
    return _along(self, dim, index, source, keep=given.get("reduce") is not None)


@rule("scatter_add", "scatter_reduce")
def _(self, dim, index, src):
    return _along(self, dim, index, src, keep=True)


@rule("index_add", "index_copy", "index_reduce")
def _(self, dim, index, source, op):
    if not self.shape:
        return union(self.sets, source.sets.take(np.zeros(1, np.int64)))
    target = places(numbered(self.shape).index_select(dim, _known(index).reshape(-1)))
    unknown = [dim] if index.value is None else []
    keep = "index_copy" not in op._schema.name
    return _written(self, source.sets, target, unknown, keep)


@rule("index_fill")
def _(self, dim, index, value, given):
    if isinstance(value, Operand):
        return union(self.sets, spread(value.sets, value.shape, self.shape))
    return self.sets if index.value is None else move(given)


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def _(self, indices, values, accumulate):
    known = [None if index is None else _known(index) for index in indices]
    at = torch.ops.aten.index.Tensor(numbered(self.shape), known)
    sets = spread(values.sets, values.shape, tuple(at.shape))
    unknown = [axis for axis, index in _by_axis(indices).items() if index.value is None]
    return _written(self, sets, places(at), unknown, accumulate)


@rule("put")
def _(self, index, source, accumulate):
    target = places(numbered(self.shape).take(_known(index)))
    unknown = range(len(self.shape)) if index.value is None else []
    return _written(self, source.sets, target, list(unknown), accumulate)


@rule("masked_scatter")
def _(self, mask, source, given, out, inputs):
    if mask.value is not None:
        return move(given)
    return union(self.sets, whole(source, out))


@rule("embedding_dense_backward")
def _(grad_output, indices, out, inputs):
    rows = places(numbered(out.shape)[_known(indices)])
    zero = Operand(out.shape, out.dtype, sets=nothing(out.count, inputs))
    return _written(zero, grad_output.sets, rows, [0] if indices.value is None else [], keep=True)


@rule("sort", "topk", "kthvalue", "mode", "median", "nanmedian", "cummax", "cummin")
def _(self, given, outs, inputs):
    dim = given.get("dim", given.get("axis"))
    if dim is None or is_index(self):
        return [whole(self, out) for out in outs]
    sets = mixed(self, self.sets, [dim])
    where = numbered(self.shape)
    if self.shape and outs[0].shape != self.shape:
        size = outs[0].shape[dim] if len(outs[0].shape) == len(self.shape) else 1
        where = where.narrow(dim, 0, size)
    return [sets.take(places(where)), nothing(outs[1].count, inputs)]
