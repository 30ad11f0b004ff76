"""What a traced program consists of: ops whose results depend on the seeded tensors.

A node is an op that was called.  What it computes lies in a storage, as PyTorch has it: a *region*
says where.  A view is another window on the same storage, so no op that returns views needs a rule:
reading through the window finds the elements.  Writing in place makes a new region.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func.derivatives.detection.progress import shown
from tsgu_func.derivatives.detection.sets import Sets, nothing, union

__all__ = ["Node", "Operand", "Read", "Region", "Window", "evaluate", "window_of"]


class Window(NamedTuple):
    """Where the elements of a tensor lie in its storage, counted in elements."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    itemsize: int

    def places(self, length: int) -> np.ndarray:
        """Return the place of each element in a storage of so many."""
        place = torch.arange(length, dtype=torch.int64, device="cpu")
        return place.as_strided(self.size, self.stride, self.offset).numpy().ravel()

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other, in raveled order."""
        expected = 1
        for size, stride in zip(reversed(self.size), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return 0 in self.size
            expected *= size
        return True

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.size)


def window_of(x: Tensor) -> Window:
    """Return where the elements of x lie in its storage."""
    return Window(tuple(x.shape), tuple(x.stride()), int(x.storage_offset()), x.itemsize)


@dataclass(eq=False)
class Node:
    """An op that was called.

    Attributes
    ----------
    compute : callable
        Returns the sets of each output.
    reads : list of Read
        What it depends on.
    """

    compute: Callable[[], list[Sets]]
    reads: list[Read]
    results: list[Sets] = field(default_factory=list)
    uses: int = 0  # by nodes that are still to be computed


class Region(NamedTuple):
    """What a storage holds: output `output` of `node`, whose elements lie in `window`."""

    node: Node
    output: int
    window: Window
    length: int  # of the storage


class Read(NamedTuple):
    """A tensor that depends on the seeded ones: a window on what a storage held at that time."""

    region: Region
    window: Window

    def sets(self, inputs: int) -> Sets:
        """Return the set of each element."""
        held, own = self.region.window, self.window
        found = self.region.node.results[self.region.output]
        if own == held or (
            (own.elements, own.offset, own.itemsize) == (held.elements, held.offset, held.itemsize)
            and own.is_contiguous
            and held.is_contiguous
        ):
            return found
        if not own.elements or not held.elements:
            return nothing(own.elements, inputs)
        unit = min(own.itemsize, held.itemsize)
        length = self.region.length * held.itemsize // unit
        row = np.full(length, -1)
        element = np.arange(held.elements)
        for place in _units(held, unit, length):
            row[place] = element
        return functools.reduce(union, (found.take(row[at]) for at in _units(own, unit, length)))


def _units(window: Window, unit: int, length: int) -> list[np.ndarray]:
    """Return where each part of the elements lies: of a complex one there may be two."""
    parts = window.itemsize // unit
    place = window.places(length // parts) * parts
    return [place + part for part in range(parts)]


@dataclass(eq=False)
class Operand:
    """A tensor that an op was called with, as its rule sees it.

    Attributes
    ----------
    shape : tuple of int
    dtype : torch.dtype
    value : Tensor or None
        Its numbers, of integers and truth values that are the same whatever the inputs.  Other
        constants are weights, as a rule: their zeros may be gone tomorrow, and are not looked at.
    choices : callable or None
        For positions that are computed: returns pairs of an element and a position that it may be.
    read : Read or None
        Where its sets come from, if it depends on the seeded tensors.
    sets : Sets
        The inputs that each element depends on.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    value: Tensor | None = None
    choices: Any = None
    read: Read | None = None
    sets: Any = None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def depends(self) -> bool:
        """Whether it depends on the seeded tensors."""
        return self.read is not None


def evaluate(reads: Sequence[Read | None], nodes: Sequence[Node]) -> None:
    """Compute the results of all nodes that some reads depend on; others are not looked at.

    What nobody needs any more is let go on the way.
    """
    asked = [read.region.node for read in reads if read is not None]
    needed = set(map(id, asked))
    for node in asked:
        node.uses += 1
    for node in reversed(nodes):
        if id(node) in needed:
            for read in node.reads:
                read.region.node.uses += 1
                needed.add(id(read.region.node))
    for node in shown([node for node in nodes if id(node) in needed]):
        node.results = node.compute()
        for read in node.reads:
            read.region.node.uses -= 1
            if not read.region.node.uses:
                read.region.node.results = []
