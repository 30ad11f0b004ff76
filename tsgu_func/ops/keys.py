"""Solvers by name, so that an op can carry one in its schema.

An op of ``torch.library`` takes tensors, numbers and strings.  So a solve op names its solver by a
key.  The key of a `Solver` is its `repr`: readable in a graph, and the same in every process.
A user's function gets a number; it lives as long as something that may still call it does.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from tsgu_func.solvers import warm
from tsgu_func.solvers.factors import prepared
from tsgu_func.solvers.iteration import fail
from tsgu_func.solvers.protocol import ConvergenceError, Solution, SolveError, Solver, stacked
from tsgu_func.solvers.stored import StoredMatrix

__all__ = [
    "Handle",
    "adjoint_key",
    "handle_of",
    "pin",
    "register_default",
    "register_function",
    "register_operator",
    "register_solver",
    "register_transposed",
    "root_of",
]


class Handle(Protocol):
    """What a key stands for."""

    key: str

    def solve(self, A: StoredMatrix, B: Tensor) -> Tensor:
        """Solve ``A X = B`` for B (n, p) or (b, n, p)."""
        ...

    def adjoint(self) -> Handle:
        """Return what solves with ``Aᴴ``, when it is handed ``Aᴴ``."""
        ...


@dataclass(frozen=True)
class SolverHandle:
    """A `Solver`, and what is done if it does not converge: "raise", "warn" or "ignore".

    One state serves the matrix, its transpose and its conjugate.
    """

    solver: Solver
    on_failure: str = "raise"

    @property
    def key(self) -> str:
        """The key: the solver as it prints, and what else is not the default."""
        return repr(self.solver) + ("" if self.on_failure == "raise" else f"|{self.on_failure}")

    def solve(self, A: StoredMatrix, B: Tensor) -> Tensor:
        """Solve ``A X = B``."""
        X = self._judged(_in_members(self._compute, self.solver, A, B)).value
        return X.contiguous()  # as the shape rule of the op says

    def report(self, A: StoredMatrix, B: Tensor) -> Solution:
        """Solve, and tell all there is to tell: the condition number takes some more solves."""
        return self._judged(_in_members(self._compute_in_full, self.solver, A, B))

    def _compute(self, A: StoredMatrix, B: Tensor) -> Solution:
        return self._compute_with(self._state(A), A, B)

    def _compute_in_full(self, A: StoredMatrix, B: Tensor) -> Solution:
        state = self._state(A)
        solution = self._compute_with(state, A, B)
        if (estimate := getattr(self.solver, "condition", None)) is None:
            return solution
        condition = torch.as_tensor(estimate(state)).to(solution.condition)
        return solution._replace(condition=condition.expand_as(solution.condition))

    def _compute_with(self, state: Any, A: StoredMatrix, B: Tensor) -> Solution:
        solution = self.solver.compute(state, B, warm.last(self.solver, A, B))
        warm.keep(self.solver, A, solution.value)
        return solution

    def _state(self, A: StoredMatrix) -> Any:
        solver = self.solver
        if getattr(solver, "stateless", False) or not isinstance(A, StoredMatrix):
            state = solver.init(replace(A, transpose=False, conjugate=False))
        else:
            state = prepared(solver, A)
        state = solver.transpose(state) if A.transpose else state
        return solver.conj(state) if A.conjugate else state

    def _judged(self, solution: Solution) -> Solution:
        if solution.result.failed:
            fail(
                self.on_failure,
                ConvergenceError(
                    solution.message, int(solution.iterations.max()), solution.residual
                ),
            )
        return solution

    def adjoint(self) -> SolverHandle:
        """Return itself: the state is transposed, not the solver."""
        return self


def _in_members(
    compute: Callable[[StoredMatrix, Tensor], Solution], solver: Solver, A: StoredMatrix, B: Tensor
) -> Solution:
    """Hand a batch over whole to a solver that takes it, and else member by member."""
    if B.ndim == 2 or getattr(solver, "takes_batches", False):
        return compute(A, B)
    pairs = zip(A.members(), B, strict=True)
    return stacked([compute(member, b) for member, b in pairs])


@dataclass(frozen=True, eq=False)
class FunctionHandle:
    """A user's ``solve(A, B, **options)``, and what he gave for the transposed system."""

    function: Callable[..., Tensor]
    transposed: Callable[..., Tensor] | None
    options: dict[str, Any]
    vector: bool
    adjoints: bool = False
    key: str = field(default_factory=lambda: f"function:{next(_numbers)}")

    def solve(self, A: StoredMatrix, B: Tensor) -> Tensor:
        """Call the function: all columns at once, the members of a batch one by one.

        A function with the attribute `takes_batches` gets the `StoredMatrix` instead of a
        ``torch.sparse_csr`` tensor, and a batch as it is: B (b, n, p).
        """
        transposed = self.transposed if self.adjoints else None
        whole = transposed is None and getattr(self.function, "takes_batches", False)
        if B.ndim == 3 and not whole:
            pairs = zip(A.members(), B, strict=True)
            return torch.stack([self.solve(member, b) for member, b in pairs])
        right = B.squeeze(-1) if self.vector and B.shape[-1] == 1 and not whole else B
        if whole:
            X = self.function(A, right, **self.options)
        elif transposed is None:
            X = self.function(A.to_csr(), right, **self.options)
        else:
            # Handed Aᴴ, to be solved by what takes M and solves with Mᵀ: M is conj(A).
            X = transposed(A.T.to_csr(), right, **self.options)
        shape = _solution_shape(A, right)
        if not isinstance(X, Tensor) or X.shape != shape or X.dtype != B.dtype:
            got = f"{tuple(X.shape)}, {X.dtype}" if isinstance(X, Tensor) else type(X).__name__
            raise SolveError(
                f"for B {tuple(right.shape)} a solver returns X with shape {shape} and dtype "
                f"{B.dtype}; got {got}"
            )
        # A function may hand back its argument, or a view; an op must not.
        return X.reshape(_solution_shape(A, B)).clone(memory_format=torch.contiguous_format)

    def adjoint(self) -> FunctionHandle:
        """Return the same functions in the other role, under a key of its own."""
        key = self.key.removesuffix(_ADJOINT) if self.adjoints else self.key + _ADJOINT
        return replace(self, adjoints=not self.adjoints, key=key)


def _solution_shape(A: StoredMatrix, B: Tensor) -> tuple[int, ...]:
    axis = 0 if B.ndim == 1 else B.ndim - 2
    return (*B.shape[:axis], A.shape[1], *B.shape[axis + 1 :])


_ADJOINT = "*"  # ends the key of an adjoint
_numbers = itertools.count()
_living: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_pinned: dict[str, Any] = {}


def _register(handle: Any) -> Any:
    _living[handle.key] = handle
    return handle


def register_solver(solver: Solver, on_failure: str = "raise") -> SolverHandle:
    """Return the handle of a solver, which is kept for good: solvers are few and small.

    One that calls back a user's function lives as long as it is held.
    """
    handle = _register(SolverHandle(solver, on_failure))
    return handle if getattr(solver, "callback", None) is not None else pin(handle)


def register_function(
    function: Callable[..., Tensor],
    transposed: Callable[..., Tensor] | None,
    options: dict[str, Any],
    vector: bool,
) -> FunctionHandle:
    """Return the handle of a function, which lives as long as it is held."""
    return _register(FunctionHandle(function, transposed, options, vector))


def register_transposed(function: Callable[..., Tensor], vector: bool) -> FunctionHandle:
    """Return the handle of what takes M and solves with Mᵀ, in its role: it is handed Aᴴ."""
    return _register(FunctionHandle(function, function, {}, vector, adjoints=True))


def register_operator(form: Any) -> Any:
    """Return what multiplies with a matrix, which lives as long as it is held."""
    return _register(form)


def register_default(function: Callable[..., Tensor]) -> FunctionHandle:
    """Return the handle of a function of this library: kept for good, under its own name."""
    return pin(_register(FunctionHandle(function, None, {}, False, key=function.__name__)))


def pin(handle: Any) -> Any:
    """Keep a handle for good, because a compiled graph refers to its key."""
    return _pinned.setdefault(handle.key, handle)


def handle_of(key: str) -> Any:
    """Return what a key stands for."""
    if key.endswith(_ADJOINT):
        return handle_of(key.removesuffix(_ADJOINT)).adjoint()
    try:
        return _pinned[key] if key in _pinned else _living[key]
    except KeyError:
        raise KeyError(
            f"no solver is registered as {key!r} in this process: a graph that was saved elsewhere "
            f"needs the same solver here, and a user's function cannot be saved in a graph"
        ) from None


def root_of(key: str) -> Any:
    """Return what must be kept alive for a key, and that of its adjoint, to stay valid."""
    return handle_of(key.removesuffix(_ADJOINT))


def adjoint_key(key: str) -> str:
    """Return the key of the adjoint."""
    return handle_of(key).adjoint().key
