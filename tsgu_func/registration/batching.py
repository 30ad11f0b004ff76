"""Batching rules that follow from what an op does with one leading axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

__all__ = ["Fold"]


class Fold:
    """The batching rule that `Primitive.fold` derives."""

    def __init__(
        self,
        name: str,
        op: Callable[..., Any],
        arguments: Sequence[str],
        ranks: dict[str, int],
        columns: str | None,
    ) -> None:
        for argument in (*ranks, *([columns] if columns else [])):
            if argument not in arguments or argument not in ranks:
                raise ValueError(f"{name}: fold names {argument!r}, which has no rank here")
        self.name, self.op, self.ranks, self.columns = name, op, ranks, columns

    def __call__(self, size: int, dims: Any, args: Any) -> Any:
        """Apply the op to arguments that are mapped over where `dims` names an axis."""
        given, dims = args._asdict(), dims._asdict()
        moved = {n: d for n, d in dims.items() if d is not None and not _is_still(d)}
        if wrong := [name for name in moved if name not in self.ranks]:
            raise NotImplementedError(
                f"{self.name} cannot be mapped over its argument {wrong[0]!r}, only over "
                f"{tuple(self.ranks)}"
            )
        mapped = {n: given[n].movedim(d, 0) for n, d in moved.items()}
        if all(rank == 0 for rank in self.ranks.values()):
            return self._elementwise(given, mapped)
        if list(mapped) == [self.columns]:
            return self._as_columns(size, given, mapped[self.columns])
        return self._as_leading_axis(size, given, mapped)

    def _there(self, given: dict[str, Any]) -> dict[str, int]:
        """Return the ranks of those that are given: an optional tensor may be None."""
        return {n: rank for n, rank in self.ranks.items() if given[n] is not None}

    def _call(self, given: dict[str, Any], split: Callable[[Tensor], Tensor], dim: int) -> Any:
        out = self.op(*given.values())
        if isinstance(out, Tensor):
            return split(out), dim
        return tuple(split(o) for o in out), (dim,) * len(out)

    def _elementwise(self, given: dict[str, Any], mapped: dict[str, Tensor]) -> Any:
        """Align the mapped axes in front of the longest argument: broadcasting does the rest."""
        rank = max(given[n].ndim - (n in mapped) for n in self._there(given))
        for name, x in mapped.items():
            given[name] = x.reshape(x.shape[0], *(1,) * (rank + 1 - x.ndim), *x.shape[1:])
        return self._call(given, lambda out: out, 0)

    def _as_columns(self, size: int, given: dict[str, Any], x: Tensor) -> Any:
        """(size, ..., m, p) -> (..., m, size * p), and back in the output."""
        given[str(self.columns)] = x.movedim(0, -2).flatten(-2)
        return self._call(given, lambda out: out.unflatten(-1, (size, x.shape[-1])), -2)

    def _as_leading_axis(self, size: int, given: dict[str, Any], mapped: dict[str, Tensor]) -> Any:
        """(size, batch, ...) -> (size * batch, ...); what lacks one of the two is expanded."""
        ranks = self._there(given)
        inner = [x.shape[-1 - ranks[n]] for n, x in mapped.items() if x.ndim == ranks[n] + 2]
        inner += [
            given[n].shape[0] for n in ranks if n not in mapped and given[n].ndim == ranks[n] + 1
        ]
        for name, rank in ranks.items():
            x = mapped[name] if name in mapped else given[name].expand(size, *given[name].shape)
            if inner and x.ndim == rank + 1:
                x = x.unsqueeze(1).expand(size, inner[0], *x.shape[1:])
            given[name] = x.flatten(0, 1) if inner else x
        if inner:
            return self._call(given, lambda out: out.unflatten(0, (size, inner[0])), 0)
        return self._call(given, lambda out: out, 0)


def _is_still(dim: Any) -> bool:
    """Whether a list of tensors is mapped over in none of them."""
    return isinstance(dim, (list, tuple)) and all(d is None for d in dim)
