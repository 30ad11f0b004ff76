"""What an iterative solver keeps of its iterations: norms of residuals, and Ritz values.

Both are kept in a memory that is given beforehand, whatever the number of iterations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["Log"]

Tridiagonal = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Log:
    """Relative residuals of each column, by the count of its own iterations.

    As long as there is room, one for each iteration; of more iterations, those of every second,
    every fourth, and so on: the numbers of the iterations are multiples of a `stride`.

    Attributes
    ----------
    history : Tensor, shape ``(*batch, length, p)``
        NaN where there was no iteration.
    count, stride : Tensor of int64, shape ``(*batch, 1, p)``
    passes : int
        Begun so far.
    """

    history: Tensor
    count: Tensor
    stride: Tensor

    def __init__(self, length: int) -> None:
        self.length = length
        self.passes = 0
        self._coefficients: list[tuple[Tensor, Tensor]] = []
        self._begun = False

    @property
    def told(self) -> dict[str, Tensor]:
        """What a `Solution` tells of it."""
        if not self.length:
            return {}
        return {"history": self.history.mT, "stride": self.stride.squeeze(-2)}

    def begin(self, B: Tensor) -> None:
        """Make room for the columns of B, unless it is a solve that goes on."""
        if self._begun or not self.length:
            return
        self._begun = True
        self.count = B.new_zeros(*B.shape[:-2], 1, B.shape[-1], dtype=torch.int64)
        self.stride = torch.ones_like(self.count)
        shape = *B.shape[:-2], self.length, B.shape[-1]
        self.history = B.new_full(shape, torch.nan, dtype=B.dtype.to_real())

    def record(self, went: Tensor, residual: Tensor) -> None:
        """Take the residuals of the columns that made an iteration, both ``(*batch, 1, p)``."""
        self.count = self.count + went
        full = went & (self.count > self.length * self.stride)
        if bool(full.any()):
            self._halve(full)
        due = went & (self.count % self.stride == 0)
        place = (self.count // self.stride - 1).clamp_min(0)
        kept = self.history.gather(-2, place)
        self.history.scatter_(-2, place, torch.where(due, residual.to(kept.dtype), kept))

    def _halve(self, full: Tensor) -> None:
        """Keep every second residual, in some columns."""
        second = self.history[..., 1::2, :]
        rest = torch.full_like(self.history, torch.nan)[..., second.shape[-2] :, :]
        self.history = torch.where(full, torch.cat([second, rest], -2), self.history)
        self.stride = torch.where(full, 2 * self.stride, self.stride)

    def take(self, first: Tensor, second: Tensor) -> None:
        """Take the coefficients of an iteration, of the first pass and while there is room.

        Those of a column count as far as the first are finite.
        """
        if self.passes == 1 and len(self._coefficients) < self.length:
            self._coefficients.append((first, second))

    def ritz(self, tridiagonal: Tridiagonal) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest Ritz value of each column, ``(*batch, p)``.

        They are the extreme eigenvalues of the `tridiagonal` matrix, diagonal and off-diagonal,
        that the coefficients ``(*batch, p, k)`` make.
        """
        found = torch.full_like(self.history[..., 0, :], torch.nan, dtype=torch.float64)
        smallest, largest = found, found.clone()
        if not self._coefficients:
            return smallest, largest
        pairs = zip(*self._coefficients, strict=True)
        first, second = (torch.cat(x, -2).double().mT for x in pairs)
        sound = first.isfinite().long().cumprod(-1).sum(-1)
        diagonal, off = (x.cpu().numpy() for x in tridiagonal(first, second))
        for place in map(tuple, sound.nonzero().tolist()):
            k = int(sound[place])
            smallest[place], largest[place] = _extremes(diagonal[place][:k], off[place][: k - 1])
        return smallest, largest


def _extremes(diagonal: np.ndarray, off: np.ndarray) -> tuple[float, float]:
    """Return the extreme eigenvalues of a symmetric tridiagonal matrix, by bisection."""
    if len(diagonal) == 1:
        return float(diagonal[0]), float(diagonal[0])
    from scipy.linalg import eigh_tridiagonal

    smallest, largest = (
        eigh_tridiagonal(diagonal, off, eigvals_only=True, select="i", select_range=(i, i))
        for i in (0, len(diagonal) - 1)
    )
    return float(smallest[0]), float(largest[0])
