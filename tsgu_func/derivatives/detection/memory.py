"""What storages hold while a program is recorded: numbers, or none, and which results of nodes.

Tensors that share a storage are views of each other, and writing to one changes them all; so what
is known is known of storages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.derivatives.detection.nodes import (
    Node,
    Operand,
    Read,
    Region,
    Window,
    window_of,
)
from tsgu_func.derivatives.detection.sets import Sets, joined, singles
from tsgu_func.registration import transforms

__all__ = ["Memory"]


class Memory:
    """What is known of each storage.

    Parameters
    ----------
    inputs : int
        How many elements are seeded, altogether.
    """

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.placeholders = transforms.placeholders()
        self.nodes: list[Node] = []
        self._regions: dict[int, Region] = {}
        self._choices: dict[int, Any] = {}
        self._replaced: dict[int, Tensor] = {}  # known ones that were written to
        self._kept: list[Tensor] = []  # no storage may be taken for one that was there before

    # ------------------------------------------------------------------------ tensors

    def placeholder(self, like: Tensor) -> Tensor:
        """Return a tensor without numbers, as a given one in all else."""
        with transforms.outside_transforms(), self.placeholders:
            x = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        self._kept.append(x)
        return x

    def seeded(self, like: Tensor, first: int) -> Tensor:
        """Return a tensor each element of which is an input of its own, from the first on."""
        x = self.placeholder(like)
        count = x.numel()
        self.write(x, self.node(lambda: [singles(count, first, self.inputs)], []), 0)
        return x

    def is_numberless(self, x: Tensor) -> bool:
        """Whether the numbers in a tensor are unknown."""
        return transforms.is_placeholder(x) or _storage(x) in self._replaced

    def forget_numbers(self, x: Tensor) -> None:
        """Let what is known be unknown from now on: something unknown will be written to it."""
        key = _storage(x)
        self._choices.pop(key, None)
        if transforms.is_placeholder(x) or key in self._replaced:
            return
        with self.placeholders:
            self._replaced[key] = torch.empty(_length(x), dtype=x.dtype, device=x.device)
        self._kept.append(x)

    def current(self, x: Any) -> Any:
        """Return a tensor, or what stands for it since its numbers were forgotten."""
        if not isinstance(x, Tensor) or (whole := self._replaced.get(_storage(x))) is None:
            return x
        whole = whole if whole.dtype == x.dtype else whole.view(x.dtype)
        return whole.as_strided(x.shape, x.stride(), x.storage_offset())

    def share(self, out: Iterable[Tensor], given: Iterable[Tensor]) -> bool:
        """Whether each of some tensors lies in the memory of one of others."""
        return {_storage(x) for x in out} <= {_storage(x) for x in given}

    def apart(self, out: Any, given: Iterable[Tensor]) -> Any:
        """Return what an op returns, in memory of its own: a shape rule may return an argument."""
        taken = {_storage(x) for x in given}

        def own(x: Any) -> Any:
            shared = isinstance(x, Tensor) and _storage(x) in taken
            return self.placeholder(x) if shared else x

        return transforms.pytree.tree_map(own, out)

    def note_choices(self, choices: Any, out: Any) -> None:
        """Remember which positions an op may have computed, as its second output."""
        if choices is not None and out[1].is_contiguous():
            self._choices[_storage(out[1])] = choices
            self._kept.append(out[1])

    # ------------------------------------------------------------------------ what depends on seeds

    def operand(self, x: Tensor) -> Operand:
        """Return what rules see of a tensor."""
        index = not (x.is_floating_point() or x.is_complex())
        value = x.detach().cpu().clone() if index and not self.is_numberless(x) else None
        whole = window_of(x).is_contiguous and x.numel() == _length(x)
        choices = self._choices.get(_storage(x)) if whole else None
        return Operand(tuple(x.shape), x.dtype, value, choices, self.read(x))

    def read(self, x: Tensor) -> Read | None:
        """Return where the sets of a tensor come from; None if they are empty."""
        x = self.current(x)
        region = self._regions.get(_storage(x))
        return None if region is None else Read(region, window_of(x))

    def node(self, compute: Callable[[], list[Sets]], reads: list[Read]) -> Node:
        """Return a new node."""
        self.nodes.append(Node(compute, reads))
        return self.nodes[-1]

    def write(self, x: Tensor, node: Node, output: int) -> None:
        """Say that an output of a node lies where x lies; what lies elsewhere stays."""
        region = Region(node, output, window_of(x), _length(x))
        before = self._regions.get(_storage(x))
        if before is not None and before.window != region.window:
            region = self._merged(before, region)
        self._regions[_storage(x)] = region
        self._kept.append(x)

    def _merged(self, before: Region, after: Region) -> Region:
        """Return all that a storage holds, after a part of it was written to."""
        length = after.length
        whole = Window((length,), (1,), 0, after.window.itemsize)
        reads = [Read(before, whole), Read(after, after.window)]

        def compute() -> list[Sets]:
            element = np.arange(length)
            element[after.window.places(length)] = length + np.arange(after.window.elements)
            return [joined([read.sets(self.inputs) for read in reads]).take(element)]

        return Region(self.node(compute, reads), 0, whole, length)


def _storage(x: Tensor) -> int:
    """Return what tells the storage of a tensor from others; a sparse one has none."""
    return transforms.storage_number(x) if x.layout is torch.strided else 0


def _length(x: Tensor) -> int:
    return x.untyped_storage().nbytes() // x.itemsize
