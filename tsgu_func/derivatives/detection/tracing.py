"""The program of a derivative is recorded, and its pattern computed.

The pattern is that of the derivative's own program, and not of the function's: what a function
makes of its inputs is not what its rules say where these are a user's, as in a straight-through
estimator.  In forward mode the program is a product ``J v``, which is linear in v, and v is seeded
with the identity.  Where there is no rule for forward mode, it is a product ``u J``.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsgu_func.derivatives.compression import directional
from tsgu_func.derivatives.detection.memory import Memory
from tsgu_func.derivatives.detection.nodes import Read, evaluate
from tsgu_func.derivatives.detection.recorder import Recorder
from tsgu_func.derivatives.detection.sets import Sets, joined, nothing
from tsgu_func.derivatives.detection.table import over_groups
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.registration.transforms import (
    all_members,
    is_batched,
    outside_transforms,
    untraced,
    unwrapped,
)

__all__ = ["Function", "Places", "Problem", "gradient", "jacobian", "places"]

# From tensors to several tensors.
Function = Callable[..., Sequence[Tensor]]


class Problem(NamedTuple):
    """What to differentiate, and how.

    Attributes
    ----------
    f : callable
        From tensors, `inputs` and then `others`, to a sequence of tensors.
    inputs, others : sequence of Tensor
        What is differentiated with respect to, and what else is given.
    local : bool
        Whether the numbers in these may be looked at.
    unknown : {"error", "dense"}
        What becomes of an op without a rule.
    """

    f: Function
    inputs: Sequence[Tensor]
    others: Sequence[Tensor]
    local: bool
    unknown: str


class Places(NamedTuple):
    """Rows and columns of the entries of a matrix, sorted, its shape, and how they were found."""

    row: np.ndarray
    col: np.ndarray
    shape: tuple[int, int]
    reverse: bool = False  # in reverse mode, for want of a derivative in forward mode

    def symmetric(self) -> Places:
        """Return the places together with those that mirror them."""
        n, _ = self.shape
        key = np.concatenate([self.row * n + self.col, self.col * n + self.row])
        row, col = np.divmod(np.unique(key), n) if n else (self.row, self.col)
        return self._replace(row=row, col=col)

    def pattern(self) -> SparsityPattern:
        """Return the pattern that stores these entries."""
        n, _ = self.shape
        crow = np.concatenate([[0], np.cumsum(np.bincount(self.row, minlength=n))])
        return SparsityPattern(torch.from_numpy(crow), torch.from_numpy(self.col), self.shape)


class _Recorded(NamedTuple):
    """A program: where the sets of its outputs come from, and how many elements these have."""

    reads: list[Read | None]
    sizes: list[int]
    memory: Memory


def _recorded(out: Sequence[Tensor | None], like: Sequence[Tensor], memory: Memory) -> _Recorded:
    # What f is closed over may be mapped over: then its members are, in front of all other axes.
    reads = [None if t is None else memory.read(all_members(t)) for t in out]
    return _Recorded(reads, [t.numel() for t in like], memory)


def places(problem: Problem, of: Callable[[Function, int, bool], Function]) -> Places:
    """Return where a Jacobian may have entries.

    Parameters
    ----------
    problem : Problem
    of : callable
        Returns, from f, the number of inputs and whether reverse mode is used alone, the function
        whose Jacobian is meant: `jacobian` or `gradient`.
    """
    count = len(problem.inputs)
    with untraced():
        try:
            program, reverse = _forward(problem._replace(f=of(problem.f, count, False))), False
        except (RuntimeError, NotImplementedError) as error:
            try:
                program, reverse = _reverse(problem._replace(f=of(problem.f, count, True))), True
            except (RuntimeError, NotImplementedError) as second:
                raise second from error
    with outside_transforms():
        first, second = _sets(program).pairs()
    found, seeded = sum(program.sizes), program.memory.inputs
    if not reverse:
        return Places(first, second, (found, seeded))
    order = np.lexsort((first, second))
    return Places(second[order], first[order], (seeded, found), reverse)


# ------------------------------------------------------------------------ whose Jacobian


def jacobian(f: Function, count: int, reverse: bool) -> Function:
    """Return f itself."""
    return f


def gradient(f: Function, count: int, reverse: bool) -> Function:
    """Return the gradient of a scalar function with respect to the first so many arguments."""

    def scalar(*x: Tensor) -> Tensor:
        (y,) = f(*x)
        return y

    def recorded(*x: Tensor) -> list[Tensor]:
        inputs = x[:count]
        y = scalar(*x)
        if not y.requires_grad:
            return [torch.zeros_like(t) for t in inputs]
        found = torch.autograd.grad(y, inputs, create_graph=True, allow_unused=True)
        pairs = zip(found, inputs, strict=True)
        return [torch.zeros_like(t) if g is None else g for g, t in pairs]

    return recorded if reverse else torch.func.grad(scalar, tuple(range(count)))


# ------------------------------------------------------------------------ its programs


def _forward(problem: Problem) -> _Recorded:
    """Record ``J v`` with a seeded v."""
    f, inputs, others, local, unknown = problem
    firsts = [0, *itertools.accumulate(x.numel() for x in inputs)]
    memory = Memory(firsts[-1])
    with Recorder(memory, unknown), _taken_apart():
        v = tuple(memory.seeded(x, first) for x, first in zip(inputs, firsts, strict=False))
        x, y = ([_point(memory, t, local) for t in given] for given in (inputs, others))
        _, out, _ = directional(lambda x: (tuple(f(*x, *y)), []), tuple(x), v)
        return _recorded(out, out, memory)


def _reverse(problem: Problem) -> _Recorded:
    """Record ``u J`` with a seeded u; autograd's own graph serves functions of all kinds."""
    f, inputs, others, local, unknown = problem
    memory = Memory(0)
    with (
        outside_transforms(),
        Recorder(memory, unknown),
        _taken_apart(),
        torch.enable_grad(),
    ):
        x, y = ([_point(memory, t, local) for t in given] for given in (inputs, others))
        x = [t.requires_grad_() for t in x]
        out = f(*x, *y)
        firsts = [0, *itertools.accumulate(t.numel() for t in out)]
        memory.inputs = firsts[-1]
        pairs = [(t, n) for t, n in zip(out, firsts, strict=False) if t.requires_grad]
        u = [memory.seeded(t, first) for t, first in pairs]
        found = _pulled([t for t, _ in pairs], x, u)
        return _recorded(found, x, memory)


def _pulled(out: list[Tensor], x: list[Tensor], u: list[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(out, x, u, allow_unused=True) if out else [None] * len(x)


def _point(memory: Memory, x: Tensor, local: bool) -> Tensor:
    """Return what a function is traced at."""
    if not local:
        return memory.placeholder(x)
    if is_batched(x):
        raise ValueError(
            'detect="local" traces at one input, and vmap maps over this: detect outside of it'
        )
    return unwrapped(x).detach()


def _sets(program: _Recorded) -> Sets:
    reads, sizes, memory = program
    evaluate(reads, memory.nodes)
    parts = [
        nothing(size, memory.inputs) if read is None else _whole(read.sets(memory.inputs), size)
        for size, read in zip(sizes, reads, strict=True)
    ]
    return joined(parts) if parts else nothing(0, memory.inputs)


def _whole(sets: Sets, size: int) -> Sets:
    """Return the union over all members of a batch, of so many elements each."""
    if len(sets) == size:
        return sets
    return over_groups(sets, np.arange(len(sets)) % size, size)


@contextlib.contextmanager
def _taken_apart() -> Iterator[None]:
    """Let functions run as they are, of ops that are differentiable in both modes."""
    with contextlib.ExitStack() as stack:
        if "torch._dynamo.eval_frame" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
