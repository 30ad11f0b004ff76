"""The vectors of the bidiagonalization, and of the steps that are made with it.

U and V have norm one, up to factors that are kept beside them.  All norms and factors are on the
host: a vector of NumPy with a number for each column of each member of a batch.

A stored matrix on the CPU is iterated with in compiled loops, with one pass over memory for each
product and one for the rest; anything else by operations of PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled, processors, threads
from tsgu_func.kernels.products import batched, run_over_rows
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.columns import column_norms, quotient
from tsgu_func.solvers.lstsq.problem import Problem
from tsgu_func.solvers.system import Operator, check_finite

__all__ = ["Vectors", "host", "unit", "vectors_of"]


class Vectors(Protocol):
    """U, V, the vectors H and Hbar that a step is made of, and the change to the start."""

    def bidiagonalize(self) -> tuple[np.ndarray, np.ndarray]:
        """Let U be A V, and V be Aᴴ U, each without its part along itself; return their norms."""
        ...

    def advance(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make the step of a recurrence; return the norms of the iterate, and of H."""
        ...

    @property
    def change(self) -> Tensor:
        """What the steps come to."""
        ...


def vectors_of(problem: Problem, given: tuple[Tensor, Tensor, Tensor], change: Tensor) -> Vectors:
    """Return vectors, with U, V and the norm of ``Aᴴ U`` given, to go on from a change."""
    A, AH = (operator.matrix for operator in problem.operators)
    if A is not None and AH is not None and not problem.damped and _are_for_loops(A, given):
        return _Compiled((A, AH), problem, given, change)
    return _General(problem, given, change)


def unit(X: Tensor, operator: Operator) -> tuple[Tensor, Tensor]:
    """Return the norm of each column, and the columns divided by it; zero stays zero."""
    norm = column_norms(X)
    check_finite(operator, norm, X)
    return norm, quotient(X, norm, norm > 0)


def host(x: Tensor) -> np.ndarray:
    """Bring a number of each column, ``(*batch, 1, p)``, to the host."""
    return x.detach().double().cpu().numpy().ravel()


# --------------------------------------------------------------------- operations of PyTorch


class _General:
    """Vectors for products of any kind, on any device."""

    def __init__(
        self, problem: Problem, given: tuple[Tensor, Tensor, Tensor], change: Tensor
    ) -> None:
        self._problem, self.change = problem, change
        self._U, self._V, self._alpha = given
        self._H, self._Hbar = self._V, torch.zeros_like(self._V)

    def bidiagonalize(self) -> tuple[np.ndarray, np.ndarray]:
        problem, (forward, backward) = self._problem, self._problem.operators
        beta, self._U = unit(problem.multiply(self._V) - self._alpha * self._U, forward)
        self._alpha, self._V = unit(problem.adjoint(self._U) - beta * self._V, backward)
        return host(beta), host(self._alpha)

    def advance(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        factors = np.stack([numbers[name] for name in ("first", "second", "third")])
        first, second, third = torch.from_numpy(factors).to(self._alpha).unbind()
        first, second, third = (x.reshape_as(self._alpha) for x in (first, second, third))
        self._Hbar = self._H - first * self._Hbar
        self.change = self.change + second * self._Hbar
        self._H = self._V - third * self._H
        return host(column_norms(self._problem.start + self.change)), host(column_norms(self._H))


# ------------------------------------------------------------------------------ compiled loops


def _are_for_loops(A: StoredMatrix, given: tuple[Tensor, ...]) -> bool:
    U, V, _ = given
    fits = U.device.type == "cpu" and U.numel() and V.numel()
    return bool(fits) and U.ndim <= 3 and A.values.shape[:-1] == U.shape[:-2]


class _Compiled:
    """Vectors for a stored matrix, and its adjoint, both with their rows compressed.

    U and V are not divided by their norms, beta and alpha.
    """

    def __init__(
        self,
        matrices: tuple[StoredMatrix, StoredMatrix],
        problem: Problem,
        given: tuple[Tensor, Tensor, Tensor],
        change: Tensor,
    ) -> None:
        self._operators, self._shape = problem.operators, change.shape
        self._structures = tuple(A.structure for A in matrices)
        self._matrices = tuple(_arrays(A) for A in matrices)
        U, V, alpha = given
        self._U, self._V, self._H = _owned(U), _owned(V * alpha), _owned(V)
        self._Hbar = np.zeros_like(self._V)
        self._start, self._change = batched(problem.start, 2), _owned(change)
        self._alpha = host(alpha).reshape(self._V.shape[0], self._V.shape[2])
        self._beta = np.ones_like(self._alpha)
        self._least = float(np.finfo(self._V.dtype).tiny)
        # For one column of a tall matrix there are loops that do with one pass over it.
        self._slender = self._V.shape[2] == 1 and self._U.shape[1] >= self._V.shape[1]
        self._room = np.empty_like(self._V[0]) if self._slender else self._V[0]

    @property
    def change(self) -> Tensor:
        return torch.from_numpy(self._change).reshape(self._shape)

    def bidiagonalize(self) -> tuple[np.ndarray, np.ndarray]:
        processors.look()
        if self._slender and threads.workers() == 1:
            self._beta, self._alpha = self._times_both()
        else:
            self._beta = self._times(0, self._V, self._U, (self._alpha, self._beta))
            self._alpha = self._times(1, self._U, self._V, (self._beta, self._alpha))
        return self._beta.ravel(), self._alpha.ravel()

    def advance(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors = self._V, self._H, self._Hbar, self._change, self._start
        given, step = numbers.reshape(self._alpha.shape), compiled.bidiagonal.advance
        shape = (2, *self._alpha.shape)
        loop = functools.partial(step, *vectors, given)
        size, size_H = np.sqrt(_summed(self._structures[1], shape, loop))
        return size.ravel(), size_H.ravel()

    def _times(
        self, which: int, X: np.ndarray, Y: np.ndarray, norms: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """Let Y be A X without its part along Y, where X and Y have norms; return the new ones."""
        loop = functools.partial(compiled.bidiagonal.multiply, *self._matrices[which], X, Y, norms)
        found = _summed(self._structures[which], self._alpha.shape, loop)
        return self._rooted(found, which, Y)

    def _times_both(self) -> list[np.ndarray]:
        """Do both products in one pass over A."""
        squares, norms = np.zeros((2, len(self._alpha))), (self._alpha, self._beta)
        given = *self._matrices[0], self._V, self._U, self._room, norms, self._least
        compiled.bidiagonal.multiply_both(*given, squares)
        pairs = enumerate(zip(squares.reshape(2, -1, 1), (self._U, self._V), strict=True))
        return [self._rooted(found, which, Y) for which, (found, Y) in pairs]

    def _rooted(self, squares: np.ndarray, which: int, Y: np.ndarray) -> np.ndarray:
        """Return the norms of a product Y."""
        if not compiled.bidiagonal.roots(squares, self._least):
            raise self._operators[which].refuse(torch.from_numpy(Y))
        return squares


def _arrays(A: StoredMatrix) -> tuple[np.ndarray, ...]:
    s = A.structure
    return *s.arrays, batched(A.entries, 1)


def _owned(X: Tensor) -> np.ndarray:
    """Return columns (b, n, p) that may be written to."""
    copy = X.clone(memory_format=torch.contiguous_format)
    return (copy if copy.ndim == 3 else copy.unsqueeze(0)).numpy()


def _summed(
    s: Structure, shape: tuple[int, ...], loop: Callable[[np.ndarray, int, int], Any]
) -> np.ndarray:
    """Run a loop over all rows, and return the sums that it adds to, in one order."""
    parts: dict[int, np.ndarray] = {}

    def part(first: int, last: int) -> None:
        sums = np.zeros(shape)
        loop(sums, first, last)
        parts[first] = sums

    run_over_rows(s, shape[-2], shape[-1], part)
    return functools.reduce(np.add, (parts[first] for first in sorted(parts)))
