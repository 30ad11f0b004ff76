"""Ops that are registered as a `Primitive`: they say themselves what depends on what."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.derivatives.detection.dense import whole, within
from tsgu_func.derivatives.detection.movement import is_index
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.reductions import reduced
from tsgu_func.derivatives.detection.sets import Sets
from tsgu_func.derivatives.detection.table import Found, spread, unite
from tsgu_func.registration.batching import Fold
from tsgu_func.registration.primitive import Primitive
from tsgu_func.registration.rules import ByName

__all__ = ["computation"]


def computation(primitive: Primitive) -> Found:
    """Return what computes the sets of the outputs of a primitive."""

    def found(given: dict[str, Any]) -> list[Sets]:
        outs = given["outs"]
        parts = [
            _through(primitive, name, x, given)
            for name in primitive.arguments
            for x in (given[name] if isinstance(given[name], (list, tuple)) else [given[name]])
            if isinstance(x, Operand) and x.depends
        ]
        each = zip(*parts, strict=True)
        return [unite(sets, o.count, given["inputs"]) for sets, o in zip(each, outs, strict=True)]

    return found


def _through(primitive: Primitive, name: str, x: Operand, given: dict[str, Any]) -> list[Sets]:
    """Return what each output takes from one argument."""
    outs = given["outs"]
    rule = primitive._dependences.get(name)
    if rule is not None and (told := _told(rule, given)) is not None:
        pairs = (told,) if len(outs) == 1 else told
        return [_paired(pair, x, out) for pair, out in zip(pairs, outs, strict=True)]
    fold = primitive._batch
    if isinstance(fold, Fold) and name in fold.ranks:
        return [_folded(fold, name, x, out, first=k == 0) for k, out in enumerate(outs)]
    return [whole(x, out) for out in outs]


def _told(rule: ByName, given: dict[str, Any]) -> Any:
    """Return what a rule says; None if it asks for an index that is not known."""
    operands = {name: given[name] for name in rule.uses}
    if any(isinstance(x, Operand) and is_index(x) and x.value is None for x in operands.values()):
        return None
    return rule({name: _tensor(x) for name, x in operands.items()})


def _tensor(x: Any) -> Any:
    if isinstance(x, Operand):
        return torch.empty(x.shape, dtype=x.dtype, device="meta") if x.value is None else x.value
    return [*map(_tensor, x)] if isinstance(x, (list, tuple)) else x


def _paired(pair: tuple[Tensor, Tensor] | None, x: Operand, out: Operand) -> Sets:
    if pair is None:
        return whole(x, out)
    to, of = (part.reshape(-1).numpy() for part in torch.broadcast_tensors(*pair))
    return x.sets.collect(to, of, out.count)


def _folded(fold: Fold, name: str, x: Operand, out: Operand, first: bool) -> Sets:
    """Return what follows from how an op takes batches: one leading axis, or none."""
    rank = fold.ranks[name]
    if all(r == 0 for r in fold.ranks.values()):
        return spread(x.sets, x.shape, out.shape)
    batch = x.shape[: len(x.shape) - rank]
    if len(batch) > 1 or tuple(out.shape[: len(batch)]) != tuple(batch):
        return whole(x, out)
    if name == fold.columns and first:
        columns = reduced(x, range(len(batch), len(x.shape) - 1))
        between = (1 for _ in out.shape[len(batch) : -1])
        return spread(columns, (*batch, *between, x.shape[-1]), out.shape)
    members = within(x, len(batch))
    return members.take(np.repeat(np.arange(len(members)), out.count // max(len(members), 1)))
