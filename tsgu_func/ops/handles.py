"""What the key of a solve op stands for: a solver, or a user's function in the role of one."""

from __future__ import annotations

import ast
import functools
import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.kernels.checks import all_finite
from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.ops import keys
from tsgu_func.ops.captured import NOBODY, Watch, call_watched, watch
from tsgu_func.solvers.cache import keep_end, last_end, prepared, prepared_each, resizing
from tsgu_func.solvers.judgement import checked, report
from tsgu_func.solvers.members import named
from tsgu_func.solvers.nullspace import NullSpace, projected
from tsgu_func.solvers.protocol import (
    Result,
    SingularError,
    Solution,
    SolveError,
    Solver,
    solution,
    stacked,
)

__all__ = [
    "FunctionHandle",
    "SolverHandle",
    "adjoint_key",
    "handle_of",
    "handle_of_function",
    "handle_of_solver",
    "handle_of_transposed",
    "root_of",
]


Compute = Callable[[Any, StoredMatrix, Tensor], Solution]


@dataclass(frozen=True, eq=False)
class SolverHandle:
    """A `Solver`, and what is done if it does not converge: "raise", "warn" or "ignore".

    One state serves the matrix, its transpose and its conjugate.
    """

    key: str
    solver: Solver
    on_failure: str = "raise"

    @property
    def history(self) -> int:
        """How many residuals a column has in the history that is told."""
        length = getattr(self.solver, "history", 0)
        return length if isinstance(length, int) else 0

    @considerate
    def solve(self, A: StoredMatrix, B: Tensor, *, condition: bool) -> Solution:
        """Solve ``A X = B`` for B (n, p) or (b, n, p); the condition number takes more solves."""
        compute = self._compute_in_full if condition else self._compute
        solved = self._solved(compute, A, B)
        report(self.on_failure, solved)
        return solved

    def solve_projected(self, A: StoredMatrix, B: Tensor, null: NullSpace) -> Solution:
        """Solve in the complement of what A maps to zero."""
        solved = projected(functools.partial(self._solved, self._compute), null, A, B)
        report(self.on_failure, solved)
        return solved

    def _solved(self, compute: Compute, A: StoredMatrix, B: Tensor) -> Solution:
        """Hand a batch over whole to a solver that takes it, and else member by member."""
        with resizing():
            if B.ndim == 2:
                return self._or_singular(compute, A, B)
            try:
                if getattr(self.solver, "takes_batches", False):
                    return compute(self._state(A), A, B)
                members = enumerate(zip(self._states(A), A.members(), B, strict=True))
                return stacked([named(i, compute, *member) for i, member in members])
            except SingularError:  # one of them is, and the others are to come back right
                members = enumerate(zip(A.members(), B, strict=True))
                return stacked([named(i, self._or_singular, compute, *m) for i, m in members])

    def _or_singular(self, compute: Compute, A: StoredMatrix, B: Tensor) -> Solution:
        """Solve; where the matrix turns out to be singular, say so, as the caller wants it."""
        try:
            return compute(self._state(A), A, B)
        except SingularError:
            if self.on_failure in ("raise", "strict"):
                raise
        X = torch.full_like(B, torch.nan)
        return solution(self.solver, X, X[..., 0, :].abs(), code=Result.SINGULAR)

    def _compute_in_full(self, state: Any, A: StoredMatrix, B: Tensor) -> Solution:
        solution = self._compute(state, A, B)
        if (estimate := getattr(self.solver, "condition", None)) is None:
            return solution
        kind = {"dtype": solution.condition.dtype, "device": solution.condition.device}
        condition = torch.as_tensor(estimate(state), **kind)
        return solution._replace(condition=condition.expand_as(solution.condition))

    def _compute(self, state: Any, A: StoredMatrix, B: Tensor) -> Solution:
        solution = self.solver.compute(state, A, B, last_end(self.solver, A, B))
        if not isinstance(solution, Solution):
            raise TypeError(
                f"compute of {self.solver!r} returns a tsgu_func.solvers.Solution; got "
                f"{type(solution).__name__}"
            )
        if (length := solution.history.shape[-1]) > self.history:
            raise TypeError(
                f"compute of {self.solver!r} returns a history of {length} residuals; its "
                f"attribute history, a whole number, has to say so, and says {self.history}"
            )
        solution = checked(A, B, solution)
        keep_end(self.solver, A, solution.value)
        return solution

    def _state(self, A: StoredMatrix) -> Any:
        """Return what is prepared for S, whichever of S, Sᵀ, conj(S) and Sᴴ A is."""
        solver = self.solver
        if getattr(solver, "stateless", False) or not isinstance(A, StoredMatrix):
            return solver.init(replace(A, transpose=False, conjugate=False))
        return prepared(solver, A)

    def _states(self, A: StoredMatrix) -> list[Any]:
        """Return what the solver is handed one by one: one state, or those of a batch."""
        if A.values.ndim == 1 or getattr(self.solver, "takes_batches", False):
            return [self._state(A)]
        if getattr(self.solver, "stateless", False):
            return list(map(self._state, A.members()))
        return list(prepared_each(self.solver, A))

    @considerate
    def prepare(self, A: StoredMatrix) -> list[Any]:
        """Return the states that `solve` will find: one, or one for each member of a batch."""
        states = self._states(A)
        if (ready := getattr(self.solver, "ready", None)) is not None:
            for state in states:
                ready(state)
        return states

    def logabsdet(self, A: StoredMatrix) -> Tensor:
        """Return log|det A|, shape (b,) for a batch, by a solver whose factor tells it."""
        tell: Any = self.solver
        real, device = A.dtype.to_real(), A.values.device
        with resizing():
            told = [tell.logabsdet(state) for state in self._states(A)]
        told = [torch.as_tensor(x, dtype=real, device=device).clone() for x in told]
        return told[0] if told[0].shape == A.values.shape[:-1] else torch.stack(told)

    def adjoint(self) -> SolverHandle:
        """Return itself: the matrix is transposed, not the solver."""
        return self


@dataclass(frozen=True, eq=False)
class FunctionHandle:
    """A user's ``solve(A, B, **options)``, and what he gave for the transposed system.

    With `vector` the functions get a vector for one column; with `adjoints` this is the handle of
    the adjoint system.  What becomes of a solution with a large residual is said by `on_failure`,
    as for a `Solver`; without, the function is taken at its word.  Of what it is closed over there
    is no derivative, so whoever asks for one is told, while somebody looks on (`watch`).
    """

    key: str
    function: Callable[..., Tensor]
    transposed: Callable[..., Tensor] | None
    options: dict[str, Any]
    vector: bool
    on_failure: str | None = None
    adjoints: bool = False
    watch: Watch = NOBODY

    history: ClassVar[int] = 0

    def solve(self, A: StoredMatrix, B: Tensor, *, condition: bool = False) -> Solution:
        """Solve, and judge what comes back; a function has no condition number to tell."""
        return self._reported(self._judged(A, B))

    def solve_projected(self, A: StoredMatrix, B: Tensor, null: NullSpace) -> Solution:
        """Solve in the complement of what A maps to zero."""
        return self._reported(projected(self._judged, null, A, B))

    def _judged(self, A: StoredMatrix, B: Tensor) -> Solution:
        X = self._called(A, B)
        unknown = torch.full_like(X[..., 0, :].abs(), torch.nan)
        return checked(A, B, solution(keys.name_of(self.function), X, unknown))

    def _reported(self, solved: Solution) -> Solution:
        if self.on_failure is not None or not all_finite(solved.value):
            report(self.on_failure or "raise", solved)
        return solved

    def _called(self, A: StoredMatrix, B: Tensor) -> Tensor:
        """Call the function: all columns at once, the members of a batch one by one.

        A function with the attribute `takes_batches` gets the `StoredMatrix` instead of a
        ``torch.sparse_csr`` tensor, and a batch as it is: B (b, n, p).
        """
        transposed = self.transposed if self.adjoints else None
        whole = transposed is None and getattr(self.function, "takes_batches", False)
        if B.ndim == 3 and not whole:
            pairs = enumerate(zip(A.members(), B, strict=True))
            return torch.stack([named(i, self._called, *pair) for i, pair in pairs])
        if whole:
            X = self.function(A, B, **self.options)
            return _checked_solution(X, A, B)
        # Copies, which the function may write to.
        right = (B.squeeze(-1) if self.vector and B.shape[-1] == 1 else B).clone()
        if transposed is None:
            function, handed = self.function, A.to_csr()
        else:
            # Handed Aᴴ, to be solved by what takes M and solves with Mᵀ: M is conj(A).
            function, handed = transposed, A.T.to_csr()
        X = call_watched(self.watch, function, handed, right, **self.options)
        return _checked_solution(X, A, right).reshape(_solution_shape(A, B))

    def adjoint(self) -> FunctionHandle:
        """Return the same functions in the other role, under a key of its own."""
        key = self.key.removesuffix(_ADJOINT) if self.adjoints else self.key + _ADJOINT
        return replace(self, adjoints=not self.adjoints, key=key)


def _checked_solution(X: Any, A: StoredMatrix, B: Tensor) -> Tensor:
    """Return what a function returned, if it can be a solution for B."""
    shape, expected = _solution_shape(A, B), (torch.strided, B.device)
    if isinstance(X, Tensor) and (X.layout, X.device) != expected:
        raise SolveError(
            f"a solver returns a dense tensor on {B.device}; got {X.layout}, {X.device}"
        )
    if not isinstance(X, Tensor) or X.shape != shape or X.dtype != B.dtype:
        got = f"{tuple(X.shape)}, {X.dtype}" if isinstance(X, Tensor) else type(X).__name__
        raise SolveError(
            f"for B {tuple(B.shape)} a solver returns X with shape {shape} and dtype {B.dtype}; "
            f"got {got}"
        )
    return X.detach()


def _solution_shape(A: StoredMatrix, B: Tensor) -> tuple[int, ...]:
    axis = 0 if B.ndim == 1 else B.ndim - 2
    return (*B.shape[:axis], A.shape[1], *B.shape[axis + 1 :])


# ---------------------------------------------------------------------------- from objects to keys

_ADJOINT = "*"  # ends the key of an adjoint
_VECTOR = "|vector"
_POLICIES = ("raise", "warn", "ignore", "strict")
# Handles of objects of this library, by description.
_described = Store("solvers", most=256)
# Handles by their objects: an object that is held by a handle keeps its address.
_by_object: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


def _check_policy(on_failure: str) -> None:
    if on_failure not in _POLICIES:
        raise ValueError(f"on_failure is 'raise', 'warn', 'ignore' or 'strict'; got {on_failure!r}")


def handle_of_solver(solver: Any, on_failure: str = "raise") -> SolverHandle:
    """Return the handle of a solver, which lives as long as it is held."""
    at = id(solver), on_failure
    if (known := _by_object.get(at)) is not None:
        return known
    if not isinstance(solver, Solver) or isinstance(solver, type):
        hint = "; sparse_solve takes a function as well" if callable(solver) else ""
        hint = "; call it" if isinstance(solver, type) else hint
        raise TypeError(f"solver is a Solver, such as CG(); got {solver!r}{hint}")
    _check_policy(on_failure)
    policy = "" if on_failure == "raise" else f"|{on_failure}"
    described = _description(solver)
    if described is None:
        handle = SolverHandle(keys.new_name(keys.name_of(solver)) + policy, solver, on_failure)
        _by_object[at] = handle
        return keys.register(handle)
    return _kept(SolverHandle(described + policy, solver, on_failure), at)


def _kept(handle: Any, at: Any) -> Any:
    if (known := _described.get(handle.key)) is not None:
        return known
    _described.keep(handle.key, handle)
    _by_object[at] = handle
    return handle


def handle_of_function(
    function: Callable[..., Tensor],
    transposed: Callable[..., Tensor] | None,
    options: dict[str, Any],
    vector: bool,
    on_failure: str | None = None,
) -> FunctionHandle:
    """Return the handle of a user's function, which lives as long as it is held."""
    if on_failure is not None:
        _check_policy(on_failure)
    described = None if transposed is not None else _description_of_call(function, options)
    looks_on = watch() if described is None else NOBODY
    at = id(function), id(transposed), vector, on_failure, described, looks_on
    if (not options or described) and (known := _by_object.get(at)) is not None:
        return known
    if described is not None:
        key = described + (_VECTOR if vector else "") + (f"|{on_failure}" if on_failure else "")
        return _kept(FunctionHandle(key, function, None, options, vector, on_failure), at)
    key = keys.new_name(keys.name_of(function))
    handle = FunctionHandle(key, function, transposed, options, vector, on_failure, watch=looks_on)
    if not options:
        _by_object[at] = handle
    return keys.register(handle)


def handle_of_transposed(function: Callable[..., Tensor], vector: bool) -> FunctionHandle:
    """Return the handle of what takes M and solves with Mᵀ, in its role: it is handed Aᴴ."""
    key = keys.new_name(keys.name_of(function))
    handle = FunctionHandle(key, function, function, {}, vector, adjoints=True, watch=watch())
    return keys.register(handle)


def handle_of(key: str) -> Any:
    """Return what a key stands for."""
    if key.endswith(_ADJOINT):
        return handle_of(key.removesuffix(_ADJOINT)).adjoint()
    if keys.is_name(key):
        return keys.named(key)
    if (known := _described.get(key)) is not None:
        return known
    return _from_description(key)


def root_of(key: str) -> Any:
    """Return what must be kept alive for a key, and that of its adjoint, to stay valid."""
    return handle_of(key.removesuffix(_ADJOINT))


def adjoint_key(key: str) -> str:
    """Return the key of the adjoint."""
    return handle_of(key).adjoint().key


# ------------------------------------------------------------------------------------ descriptions
#
# A description is a call in Python, of what `tsgu_func.solvers` or `tsgu_func.utils` have, with
# numbers, strings and the like, or such calls again, for arguments.  It is not evaluated by Python,
# so that a graph from elsewhere can call nothing else.


def _description(x: Any) -> str | None:
    """Return what describes a solver of this library in full; None for any other."""
    if not _is_ours(type(x)):
        return None
    try:
        text = repr(x)
        return text if _evaluated(ast.parse(text, mode="eval").body) == x else None
    except (SyntaxError, ValueError):  # it holds what a description cannot tell, as a function
        return None


def _description_of_call(function: Any, options: dict[str, Any]) -> str | None:
    module = str(getattr(function, "__module__", ""))
    if not module.startswith("tsgu_func.utils."):
        return None
    name = function.__name__
    text = f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})"
    try:
        call = ast.parse(text, mode="eval").body
        same = _public(name) is function and _options(call) == options
    except (SyntaxError, ValueError):
        return None
    return text if same else None


def _from_description(key: str) -> Any:
    policy = next((name for name in _POLICIES if key.endswith(f"|{name}")), None)
    text = key if policy is None else key.removesuffix(f"|{policy}")
    vector = text.endswith(_VECTOR)
    text = text.removesuffix(_VECTOR)
    try:
        call = ast.parse(text, mode="eval").body
        target = _public(ast.unparse(call.func)) if isinstance(call, ast.Call) else None
        if target is None:
            raise ValueError(text)
        if isinstance(target, type):
            handle: Any = SolverHandle(key, _evaluated(call), policy or "raise")
        else:
            handle = FunctionHandle(key, target, None, _options(call), vector, policy)
    except (SyntaxError, ValueError, TypeError) as error:
        raise LookupError(
            f"this graph names the solver {text!r}, which this version of tsgu_func does not have"
        ) from error
    _described.keep(key, handle)
    return handle


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("tsgu_func.") and _find(cls.__name__) is cls


def _find(name: str) -> Any:
    """Return the solver, or the function of `utils` or its settings, that has a name."""
    for package in ("solvers", "utils"):
        module = importlib.import_module(f"tsgu_func.{package}")
        if name in module.__all__:
            return getattr(module, name)
    return None


def _public(name: str) -> Any:
    if (found := _find(name)) is None:
        raise ValueError(f"{name} is nothing that a description may call")
    return found


def _evaluated(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        target = _public(ast.unparse(node.func))
        if not isinstance(target, type):
            raise ValueError(f"{target} is no solver, preconditioner or settings")
        return target(*map(_evaluated, node.args), **_options(node))
    return ast.literal_eval(node)


def _options(node: ast.expr) -> dict[str, Any]:
    assert isinstance(node, ast.Call)
    return {str(option.arg): _evaluated(option.value) for option in node.keywords}
