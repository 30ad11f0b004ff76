"""What a rule test runs on: arguments to differentiate, a function of them and a reference.

A record is a function of tensors, closed over what is not differentiated, with a reference made of
PyTorch's own ops.  The reference of a solve is Gaussian elimination written out, because second
derivatives of ``torch.linalg.solve`` are wrong on torch 2.13 (see test_canaries.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func import Primitive, SparseMatrix

Function = Callable[..., Tensor]


class Nodes(NamedTuple):
    """How many nodes of which primitive the rules put into the graphs of a function.

    Derived from the rules by hand, to be compared with what is counted in a graph.

    Examples
    --------
    >>> from tsgu_func.selfcheck.records.base import Nodes
    >>> product = Nodes({"mm": 1}, {"mm": 2}, ({"mm": 1}, {"mm": 1}))
    >>> product.of_argument(0)
    Nodes(forward={'mm': 1}, backward={'mm': 1}, each=({'mm': 1},))
    """

    forward: Mapping[str, int]
    backward: Mapping[str, int]  # with respect to all arguments
    each: tuple[Mapping[str, int], ...]  # the backward graph of one argument, for each of them

    def of_argument(self, i: int) -> Nodes:
        """Return the nodes of the same function of one argument alone."""
        return Nodes(self.forward, self.each[i], (self.each[i],))


@dataclass(frozen=True)
class Record:
    """A function, its reference, and arguments; complex ones are given as pairs of reals."""

    name: str
    function: Function
    reference: Function
    args: tuple[Tensor, ...]
    primitive: Primitive | None = None
    compiles: bool = True  # whether it is in the table of the compiler
    nodes: Nodes | None = None
    refused: frozenset[str] = frozenset()  # cells in which PyTorch itself raises

    def __repr__(self) -> str:
        return self.name


def as_reals(case: Record) -> Record:
    """View a complex record as one of reals, of which derivatives have but one meaning."""
    if not case.args[0].is_complex():
        return case

    def wrap(f: Function) -> Function:
        def of_pairs(*pairs: Tensor) -> Tensor:
            out = f(*(torch.complex(*pair.unbind(-1)) for pair in pairs))
            return torch.view_as_real(out) if out.is_complex() else out

        return of_pairs

    args = tuple(torch.view_as_real(a).clone() for a in case.args)
    return replace(case, function=wrap(case.function), reference=wrap(case.reference), args=args)


def named(name: str, **flags: bool) -> str:
    """Add to a name the flags that are on."""
    return ".".join([name, *(flag for flag, on in flags.items() if on)])


# ------------------------------------------------------------------------------------ patterns

# An empty row, a full one, an empty column; and a square one for solves.
ROW, COL, SHAPE = [0, 0, 0, 2, 3], [0, 1, 2, 1, 2], (4, 4)
SQUARE = [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 0, 2]


def matrix(
    row: Sequence[int], col: Sequence[int], shape: tuple[int, int], dtype: torch.dtype
) -> SparseMatrix:
    """Put normal numbers at places."""
    return SparseMatrix.from_coo(row, col, randn(len(row), dtype=dtype, seed=len(row)), shape)


def solvable(dtype: torch.dtype) -> SparseMatrix:
    """Return a matrix that is not symmetric, and far from singular."""
    A = matrix(*SQUARE, (3, 3), dtype)
    return A.with_values(A.values + 3 * (A.pattern.row == A.pattern.col))


def randn(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    """Return normal numbers, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(*shape, dtype=dtype, generator=generator, device="cpu")
    return x.to(torch.get_default_device())


def in_dtypes(sparse: Tensor) -> dict[torch.dtype, Tensor]:
    """Return a sparse tensor in every dtype that it may be multiplied in."""
    if sparse.is_complex():
        return {sparse.dtype: sparse}
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return {dtype: sparse.to(dtype) for dtype in dtypes}


# ---------------------------------------------------------------------------------- references


def dense(values: Tensor, A: SparseMatrix) -> Tensor:
    """Put values in place with PyTorch's own ops."""
    row, col = A.pattern.row.long(), A.pattern.col.long()
    return values.new_zeros(A.pattern.shape).index_put((row, col), values)


def conjugated(v: Tensor) -> Tensor:
    """Return the conjugate."""
    # Written out: the derivative of PyTorch's own conj() fails under vmap (aten::_neg_view).
    if not v.is_complex():
        return v
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return torch.view_as_complex(torch.view_as_real(v) * signs)


def log_pivots(A: Tensor) -> Tensor:
    """Return log|det A| by Gaussian elimination without pivoting."""
    rows, total = list(A.unbind()), torch.zeros((), dtype=torch.float64)
    while rows:
        first, *rows = rows
        pivot = first[0]
        size = torch.view_as_real(pivot).square().sum() if pivot.is_complex() else pivot.square()
        total = total + size.log() / 2
        rows = [r[1:] - r[0] / pivot * first[1:] for r in rows]
    return total


def eliminate(A: Tensor, B: Tensor) -> Tensor:
    """Solve by Gaussian elimination without pivoting."""
    rows = [torch.cat([a, b]) for a, b in zip(A.unbind(), B.unbind(), strict=True)]
    for i in range(len(rows)):
        rows[i] = rows[i] / rows[i][i]
        rows = [r if j == i else r - r[i] * rows[i] for j, r in enumerate(rows)]
    return torch.stack(rows)[:, len(rows) :]
