"""Solves by splineax, which brings PARDISO and KLU to JAX, under jit.

By its default call every solve analyses the pattern and factors; with its state handed on from one
call to the next the analysis is kept.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tsgu_func.bench.peers.arrays import jax
from tsgu_func.bench.peers.peer import Peer

__all__ = ["SPLINEAX"]


class _Solver:
    """A solver for systems of one pattern, compiled in both directions."""

    def __init__(self, name: str, threaded: bool, arguments: tuple[Any, ...]) -> None:
        self.jax, self.splineax = jax(), importlib.import_module("splineax")
        self.solver = getattr(self.splineax, name)()
        self.run = self._from_state if threaded else self._alone
        gradients = self.jax.grad(self._sum, argnums=(0, 1), has_aux=True)
        self.directions = {
            False: self.jax.jit(lambda *arguments: (None, self.run(*arguments))),
            True: self.jax.jit(gradients),
        }
        self.state = None
        if threaded:
            A = self._operator(arguments[0], *arguments[2:])
            self.state = self.splineax.linear_solve(A, arguments[1], self.solver)[1]
        for backward in (False, True, False, True):  # the second time with the state of a first
            self(arguments, backward)

    def __call__(self, arguments: tuple[Any, ...], backward: bool) -> np.ndarray:
        """Solve, and keep the state."""
        done = self.directions[backward](*arguments, self.state)
        x, self.state = self.jax.block_until_ready(done)[1]
        return np.asarray(x)

    def _sum(self, *arguments: Any) -> tuple[Any, tuple[Any, Any]]:
        x, state = self.run(*arguments)
        return x.sum(), (x, state)

    def _operator(self, values: Any, col: Any, crow: Any) -> Any:
        BCSR: Any = importlib.import_module("jax.experimental.sparse").BCSR
        n = len(crow) - 1
        matrix = BCSR((values, col, crow), shape=(n, n), indices_sorted=True, unique_indices=True)
        return self.splineax.BCSRLinearOperator(matrix)

    def _alone(self, values: Any, b: Any, col: Any, crow: Any, state: None) -> tuple[Any, None]:
        linear_solve = importlib.import_module("lineax").linear_solve
        return linear_solve(self._operator(values, col, crow), b, self.solver).value, state

    def _from_state(self, values: Any, b: Any, col: Any, crow: Any, state: Any) -> tuple[Any, Any]:
        A = self._operator(values, col, crow)
        solution, state = self.splineax.linear_solve(A, b, self.solver, state=state)
        return solution.value, state


def _by(name: str, threaded: bool) -> Callable[[Any, np.ndarray], Callable[[bool], np.ndarray]]:
    made: dict[tuple[int, int], _Solver] = {}  # by rows and entries: a process has one pattern each

    def prepare(S: Any, b: np.ndarray) -> Callable[[bool], np.ndarray]:
        asarray = jax().numpy.asarray
        indices = (asarray(x.astype(np.int32)) for x in (S.indices, S.indptr))
        arguments = (asarray(S.data), asarray(b), *indices)
        size = S.shape[0], S.nnz
        if size not in made:
            made[size] = _Solver(name, threaded, arguments)
        return functools.partial(made[size], arguments)

    return prepare


_NEEDS = {"Pardiso": ("pardiso_mkl_jax", "splineax[pardiso]"), "KLU": ("splineax", "splineax")}
SPLINEAX = {
    f"splineax {name}{', state' if threaded else ''}": Peer(
        _by(name, threaded), *needs, group="splineax, state" if threaded else "splineax"
    )
    for name, needs in _NEEDS.items()
    for threaded in (False, True)
}
