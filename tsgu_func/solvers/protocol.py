"""What a solver is, and what it returns."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.registration.transforms import unwrapped

__all__ = [
    "ConvergenceError",
    "IllConditionedWarning",
    "Info",
    "Preconditioner",
    "Result",
    "Settings",
    "SingularError",
    "Solution",
    "SolveError",
    "Solver",
    "relative_residual",
    "same_solver",
    "solution",
    "stacked",
]


class SolveError(torch.linalg.LinAlgError):
    """A linear system could not be solved: it is singular, or the solver did not converge."""


class SingularError(SolveError):
    """A matrix is singular, and its solver noticed that before it had computed any solution."""


class ConvergenceError(SolveError):
    """An iterative solver stopped before the residual was as small as asked.

    Attributes
    ----------
    iterations : int
        How many iterations were made.
    residual : Tensor
        What the solver judges each column by.  Usually it is the true relative residual.
    """

    def __init__(self, message: str, iterations: int, residual: Tensor) -> None:
        super().__init__(message)
        self.iterations, self.residual = iterations, residual

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.iterations, self.residual)


class IllConditionedWarning(UserWarning):
    """A solution is as good as rounding allows, but inaccurate, because A is close to singular."""


class Result(enum.IntEnum):
    """How a solve ended.  `message` explains it, and says what can be done about it."""

    SOLVED = 0
    ITERATIONS = 1
    STAGNATED = 2
    BREAKDOWN = 3
    INDEFINITE = 4
    PRECONDITIONER = 5
    ILL_CONDITIONED = 6
    INACCURATE = 7
    DIVERGED = 8
    SINGULAR = 9
    LEAST_SQUARES = 10
    NOT_HERMITIAN = 11
    OVERFLOW = 12

    @property
    def message(self) -> str:
        """What the code means, and what can be done about it."""
        return _MESSAGES[self]

    @property
    def failed(self) -> bool:
        """Whether the solution is worse than what was asked for, and worse than rounding allows."""
        return self not in (Result.SOLVED, Result.ILL_CONDITIONED)


_MESSAGES = {
    Result.SOLVED: "the residual is as small as asked",
    Result.ITERATIONS: (
        "no iterations were left: allow more (max_iterations), precondition, or loosen rtol"
    ),
    Result.STAGNATED: (
        "the residual stopped falling: loosen rtol, precondition, use a wider dtype or a direct "
        "solver; or A is singular"
    ),
    Result.BREAKDOWN: (
        "the recurrence broke down, after restarts too: A may be singular, or skew-symmetric; "
        "GMRES and the direct solvers ask for less"
    ),
    Result.INDEFINITE: (
        "a direction has a curvature that is not positive: A is not Hermitian positive definite, "
        "up to rounding; MINRES asks for Hermitian only, GMRES and BiCGStab for nothing"
    ),
    Result.PRECONDITIONER: (
        "the preconditioner is not Hermitian positive definite: take another, or GMRES or BiCGStab"
    ),
    Result.ILL_CONDITIONED: (
        "as far as rounding allows, which is not far: A is close to singular; scale it, use a "
        "wider dtype or, if it is known what A maps to zero, give that as nullspace"
    ),
    Result.INACCURATE: (
        "what was returned is no solution: the solver did not converge, A is singular, or it "
        "solves another system"
    ),
    Result.DIVERGED: (
        "the residual grew instead of falling: the solver, or the preconditioner, does not suit A; "
        "GMRES and the direct solvers ask for less"
    ),
    Result.SINGULAR: (
        "A is singular, or lacks full rank, to working precision: no digit of X is certain.  If it "
        "is known what A maps to zero, give that as nullspace; sparse_lstsq with damp solves what "
        "is nearby"
    ),
    Result.LEAST_SQUARES: (
        "the residual is as small as it can be, and not small: A is singular, and B is not in its "
        "range"
    ),
    Result.NOT_HERMITIAN: (
        "A is not Hermitian, which this solver asks for: GMRES, BiCGStab and SuperLU ask for "
        "nothing"
    ),
    Result.OVERFLOW: (
        "X is beyond the range of its dtype, or A is singular: scale A or B, or use a wider dtype"
    ),
}


def _solver(self: Any) -> str:
    """Name the solver that solved it, as it prints itself.  It tells what `Auto` has chosen."""
    return ", ".join(_name_of(int(number)) for number in self.method.unique())


def _result(self: Any) -> Result:
    """Return the worst code of all columns."""
    if not bool(self.code.any()):
        return Result.SOLVED
    codes = [Result(int(code)) for code in self.code.unique()]
    return max(codes, key=lambda code: (code.failed, code), default=Result.SOLVED)


def _message(self: Any) -> str:
    """Say in a sentence how the solve ended, and what can be done."""
    steps = _largest(self.iterations)
    text = f"{self.solver}: relative residual {_largest(self.residual):.1e}"
    text += f" after {steps} iterations" if steps else ""
    return f"{text}; {self.result.message}"


def _summary(self: Any) -> str:
    """Say what the worst of the columns comes to; inside of a transform there are no numbers."""
    name = type(self).__name__
    if not all(type(x) is Tensor and unwrapped(x) is x for x in self) or self.code.is_meta:
        return f"{name}({', '.join(f'{n}={x!r}' for n, x in self._asdict().items())})"
    numbers = f"iterations={_largest(self.iterations)}, residual={_largest(self.residual):.1e}"
    if not bool(self.condition.isnan().all()):
        numbers += f", condition={_largest(self.condition):.1e}"
    if bool(self.vain.any()):
        numbers += f", vain={_largest(self.vain)}"
    if bool(self.shift.any()):
        numbers += f", shift={_largest(self.shift):.1e}"
    return f"{name}({self.solver or 'no columns'}, {self.result.name}, {numbers})"


def _largest(x: Tensor) -> Any:
    return x.max().item() if x.numel() else 0


def _reduced(self: Any) -> tuple[Any, ...]:
    # The names go along, for a process that has not met these solvers.
    methods = self.method.unique().tolist() if isinstance(self.method, Tensor) else []
    return _restored, (type(self), tuple(self), [_name_of(number) for number in methods])


class Info(NamedTuple):
    """How a solution was reached.

    It is a pytree of tensors, so a function under any transform can return it.

    Attributes
    ----------
    code : Tensor of int64, shape ``(*batch, p)``
        A `Result` for each column.
    iterations : Tensor of int64, shape ``(*batch, p)``
        How many iterations the column took to converge; 0 for a direct solver.
    residual : Tensor, shape ``(*batch, p)``
        The true residual of each column, relative to its right-hand side.
    normwise, componentwise : Tensor, shape ``(*batch, p)``
        The backward errors of each column.  They say by how much A and B would have to be changed
        for X to be exact: relative to their largest entries, and relative to each single entry.
        NaN for a matrix that is known by its products alone, and for least squares.
    condition : Tensor, shape ``(*batch, p)``
        An estimate of the condition number of A in the 1-norm.  NaN if the solver makes none.
    shift : Tensor, shape ``(*batch, p)``
        What had to be added to the diagonal, relative to it, to complete the preconditioner, or 0.
    method : Tensor of int64, shape ``(*batch, p)``
        The number of the solver that solved it, the same in every process.  `solver` is its name.
    vain : Tensor of int64, shape ``(*batch, p)``
        How many iterations were made by other solvers before, without success.
    smallest_ritz, largest_ritz : Tensor, shape ``(*batch, p)``
        Estimates of the extreme eigenvalues of ``M⁻¹ A`` (Ritz values).  Up to rounding they lie
        between these eigenvalues, and come close to them.  Only CG, ICCG and MINRES have them, if
        they are asked for a history; else they are NaN.
    stride : Tensor of int64, shape ``(*batch, p)``
        How many iterations there are between two entries of the history.  It is a power of two.
    history : Tensor, shape ``(*batch, p, length)``
        The relative residual of the column after iterations ``stride``, ``2 stride``, ``3 stride``
        and so on, as the iteration computes it, and NaN after the last one.  The length is the
        setting ``history`` of an iterative solver, which is 0 by default.  With a ``nullspace``,
        several systems are solved, and it is the history of the first.
    """

    code: Tensor
    iterations: Tensor
    residual: Tensor
    normwise: Tensor
    componentwise: Tensor
    condition: Tensor
    shift: Tensor
    method: Tensor
    vain: Tensor
    smallest_ritz: Tensor
    largest_ritz: Tensor
    stride: Tensor
    history: Tensor

    solver = property(_solver)
    result = property(_result)
    message = property(_message)
    __repr__ = _summary
    __reduce__ = _reduced


class Solution(NamedTuple):
    """A solution X ``(*batch, n, p)``, which is the `value`, and what `Info` says about it."""

    value: Tensor
    code: Tensor
    iterations: Tensor
    residual: Tensor
    normwise: Tensor
    componentwise: Tensor
    condition: Tensor
    shift: Tensor
    method: Tensor
    vain: Tensor
    smallest_ritz: Tensor
    largest_ritz: Tensor
    stride: Tensor
    history: Tensor

    solver = property(_solver)
    result = property(_result)
    message = property(_message)
    __repr__ = _summary
    __reduce__ = _reduced

    def where(self, mask: Tensor, other: Solution) -> Solution:
        """Return this in the columns of a mask ``(*batch, p)``, and another one in the others."""
        value = torch.where(mask.unsqueeze(-2), self.value, other.value)
        history = torch.where(mask.unsqueeze(-1), self.history, other.history)
        numbers = zip(self[1:-1], other[1:-1], strict=True)
        chosen = (torch.where(mask, *pair) for pair in numbers)
        return Solution(value, *chosen, history=history)

    def after(self, vain: Tensor) -> Solution:
        """Return it as what was found after iterations in vain."""
        return self._replace(vain=self.vain + vain.to(self.vain.device))


# Names of solvers by number, so that a tensor can say which it was.
_names = Store("names of solvers", most=1024)
_DIGEST = 6  # bytes: as large as a double holds exactly


def _number_of(name: str) -> int:
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest())
    if _names.get(number) is None:
        _names.keep(number, name)
    return number


def _name_of(number: int) -> str:
    return _names.get(number) or f"solver {number:x}, whose name is no longer kept"


def _restored(cls: Any, parts: tuple[Any, ...], names: Sequence[str]) -> Any:
    for name in names:
        _number_of(name)
    return cls(*parts)


def solution(
    solver: Any,
    X: Tensor,
    residual: Tensor,
    *,
    code: Tensor | Result = Result.SOLVED,
    iterations: Tensor | int = 0,
    normwise: float | Tensor = math.nan,
    componentwise: float | Tensor = math.nan,
    condition: float | Tensor = math.nan,
    shift: float | Tensor = 0.0,
    smallest_ritz: float | Tensor = math.nan,
    largest_ritz: float | Tensor = math.nan,
    stride: Tensor | int = 1,
    history: Tensor | None = None,
) -> Solution:
    """Return the `Solution` of a solver for X (..., n, p), the residual given per column."""

    def column(value: Any, dtype: torch.dtype) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(X.device, dtype).expand(residual.shape)
        return residual.new_full(residual.shape, value, dtype=dtype)

    return Solution(
        X,
        column(code, torch.int64),
        column(iterations, torch.int64),
        residual,
        column(normwise, residual.dtype),
        column(componentwise, residual.dtype),
        column(condition, residual.dtype),
        column(shift, residual.dtype),
        column(_number_of(solver if isinstance(solver, str) else repr(solver)), torch.int64),
        column(0, torch.int64),
        column(smallest_ritz, residual.dtype),
        column(largest_ritz, residual.dtype),
        column(stride, torch.int64),
        residual.new_empty(*residual.shape, 0) if history is None else history,
    )


def stacked(solutions: Sequence[Solution]) -> Solution:
    """Return the solutions of the members of a batch as one."""
    return Solution(*(torch.stack(parts) for parts in zip(*solutions, strict=True)))


class Settings:
    """A dataclass that prints what differs from the defaults: short, and enough to tell it."""

    def __repr__(self) -> str:
        own: Any = self
        given = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(own))
        changed = (f"{name}={_shown(value)}" for name, value, default in given if value != default)
        return f"{type(self).__name__}({', '.join(changed)})"


def _shown(value: Any) -> str:
    """Return how a setting prints: a function by its name, which no address makes another one."""
    if not isinstance(value, type) and dataclasses.is_dataclass(value):
        return repr(value)
    return getattr(value, "__qualname__", None) or repr(value)


@runtime_checkable
class Solver(Protocol):
    """A way to solve ``A X = B``.

    A solver is an object that is never changed, so it can be part of a compiled graph.  Its `repr`
    names it with all its settings, and is the key by which graphs refer to it.

    A class of solvers has the methods `init` and `compute`.  It may also have these attributes:

    - ``takes_batches = True``: it gets a batch of matrices in one call, not one member at a time.
    - ``stateless = True``: what `init` returns costs nothing, so it is not kept between calls.
    - ``takes_operators = True``: it needs only products with A, and may get a `MatrixFree`.
    - ``square_only = True``: it is not accepted for least squares.
    - ``history``: the length of `Solution.history`, which has to be known beforehand.

    And it may have these methods: ``condition(state)`` estimates the condition number,
    ``logabsdet(state)`` returns log|det A|, and ``ready(state)`` prepares what ``init`` has left to
    the first solve.

    If a solve does not converge, the solver raises no error but returns a `code`, so that the
    caller can decide what to do.  If there is no solution at all, because the matrix is singular,
    it raises `SolveError`.
    """

    def init(self, A: StoredMatrix) -> Any:
        """Prepare to solve with a matrix S, and return a state: a factor, or a preconditioner.

        S is neither transposed nor conjugated.  The state may have an attribute `bytes`, which says
        how much memory it takes.
        """
        ...

    def compute(self, state: Any, A: StoredMatrix, B: Tensor, X0: Tensor | None = None) -> Solution:
        """Solve for the columns of B (n, p), starting from X0.

        A is S, Sᵀ, conj(S) or Sᴴ, for the S that the state was made of.  ``A.transpose`` and
        ``A.conjugate`` say which of the four it is.
        """
        ...


@runtime_checkable
class Preconditioner(Protocol):
    """A matrix M that is close to A, and cheap to solve with.

    A preconditioner is an object that is never changed, and that prints itself with its settings.
    Its class has the methods `init` and `apply`.  It may also have these attributes:

    - ``stateless = True``: `init` does not look at the matrix, and is called once for a batch.
    - ``takes_operators = False``: it needs entries, so it never gets a `MatrixFree`, which can only
      multiply.

    The state that `init` returns may have the attributes `bytes`, its memory, and `shift`: what had
    to be added to the diagonal, relative to it, to complete a factorization.
    """

    def init(self, A: StoredMatrix) -> Any:
        """Prepare M for a matrix that is not transposed, conjugated or batched; return a state."""
        ...

    def apply(
        self, state: Any, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Return ``M⁻¹ R``, ``M⁻ᵀ R``, ``conj(M)⁻¹ R`` or ``M⁻ᴴ R`` for the columns of R (n, p)."""
        ...


def same_solver(a: Any, b: Any) -> bool:
    """Say whether two solvers or preconditioners are the same: one object, or equal in all fields.

    Of dataclasses alone it is known what makes them equal.  Fields are compared safely: a tensor,
    or whatever else has an equality of its own, is the same only if it is one object.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (bool, int, float, complex, str, type(None), torch.dtype)):
        return a == b
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same_solver, a, b))
    if not dataclasses.is_dataclass(a):
        return False
    fields = {f.name for f in dataclasses.fields(a)}
    # A subclass that is no dataclass itself may have attributes that are no fields.
    if any(vars(x).keys() - fields for x in (a, b) if hasattr(x, "__dict__")):
        return False
    return all(same_solver(getattr(a, name), getattr(b, name)) for name in fields)


def relative_residual(R: Tensor, B: Tensor) -> Tensor:
    """Return |R| / |B| per column, for a residual R; |R| where the column of B vanishes."""
    scale = torch.linalg.vector_norm(B, dim=-2)
    return torch.linalg.vector_norm(R, dim=-2) / torch.where(scale == 0, 1, scale)
