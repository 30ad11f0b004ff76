"""What the iterative solvers are: a recurrence, run over all columns and all matrices of a batch.

A recurrence is three functions of one column's numbers, written for all columns at once: `start`
makes a state from a residual, `step` advances the columns of a mask, `finish` reads the correction
off a state.  The loop around it belongs to no method:

*Passes.*  A recurrence drifts from the true residual, or breaks down.  So it runs in passes, each
from the true residual of what has been reached, as long as a column that has not converged gains.
What is reported is the true residual; the recurrence's own is only what ends a pass.

*What is kept* of a pass is what has a smaller true residual; and of the first, what is nearer to
the solution in the norm that the method minimizes, for which the residual may rise.

*Divergence.*  A residual that has grown by more than one over the root of the rounding was not that
of a method that suits A: while the error falls in the norm of A, the residual grows by the root of
the condition number at most.  The column ends, with the best that the pass has seen.

*Compaction.*  A column that has ended takes no more part in a step: its step length is zero.  Where
half of what a step works on has ended, the state is narrowed to the rest, so that it costs nothing
more either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.matrix_free import MatrixFree
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.cache import prepared_each
from tsgu_func.solvers.columns import column_norms
from tsgu_func.solvers.history import Log
from tsgu_func.solvers.judgement import judged
from tsgu_func.solvers.krylov.block import Block, Equations, Place, Problem
from tsgu_func.solvers.krylov.reached import Best, Reached, Run
from tsgu_func.solvers.krylov.structure import (
    check_hermitian,
    is_not_hermitian,
    moderate,
    moderating,
    shifted,
)
from tsgu_func.solvers.krylov.watch import Callback, Step, Watch
from tsgu_func.solvers.preconditioners.custom import Custom
from tsgu_func.solvers.protocol import Preconditioner, Result, Settings, Solution
from tsgu_func.solvers.settings import (
    check_count,
    check_preconditioner,
    check_real,
    default_tolerance,
)
from tsgu_func.solvers.system import read_system

__all__ = ["Krylov"]

# Iterations at most, by default: in exact arithmetic n suffice, and rounding takes its share.
_ROUNDS, _FEWEST, _MOST = 10, 100, 20_000
# A pass that does not take this share off the residual of a column was its last.
_GAIN = 1e-3


@dataclass(frozen=True, repr=False)
class Krylov(Settings):
    """The settings that iterative solvers have in common, and the loop around their recurrences.

    Parameters
    ----------
    preconditioner : Preconditioner or callable, optional
        A matrix M that is close to A, and cheap to solve with.  A function ``R -> M⁻¹ R`` is also
        accepted, and made a `Custom`.
    rtol : float, optional
        A column has converged if its residual, relative to its right-hand side, is at most this.
        Default: 1e-5 in single precision, 1e-10 in double.
    atol : float
        A column has also converged if its residual is at most this, whatever its right-hand side.
    max_iterations : int, optional
        Default: 10 n, but at least 100 and at most 20000.
    warm_start : bool
        Whether to start where the last solve of this solver with the same pattern and shape ended.
        The adjoint solve of a backward pass starts where the last adjoint solve ended.
    componentwise : float, optional
        A column has then converged only if its componentwise backward error is at most this, too.
        Use it for a right-hand side that is large in a few rows, if the equations of the other rows
        are to be solved as accurately.
    callback : callable, optional
        ``callback(iteration, residual)`` is called after each iteration, with the largest relative
        residual of the columns that have not converged, as the iteration computes it.  A callback
        with a third argument also gets the iterate X, ``(n, p)`` or ``(b, n, p)``, which is
        computed for it.
    progress : bool
        Whether to show a progress bar with the residual (it needs rich).
    history : int
        How many residuals of each column to keep for `Info.history`.  CG, ICCG and MINRES then
        return Ritz values too, from at most as many iterations.
    """

    preconditioner: Preconditioner | Callable[[Tensor], Tensor] | None = None
    rtol: float | None = None
    atol: float = 0.0
    max_iterations: int | None = None
    warm_start: bool = False
    componentwise: float | None = None
    callback: Callback | None = None
    progress: bool = False
    history: int = 0

    takes_batches: ClassVar[bool] = True
    square_only: ClassVar[bool] = True
    stateless: ClassVar[bool] = True
    hermitian: ClassVar[bool] = False  # whether it is for Hermitian A alone
    passes: ClassVar[int] = 5
    retries: ClassVar[tuple[Result, ...]] = ()  # what another pass may mend
    falls: ClassVar[bool] = False  # whether the residual falls in each step: the last is the best
    wanders: ClassVar[bool] = False  # whether no norm falls in each step: the best may be any

    def __post_init__(self) -> None:
        checks = {"max_iterations": check_count, "history": check_count}
        for name in ("rtol", "atol", "max_iterations", "componentwise", "history"):
            if (value := getattr(self, name)) is not None:
                checks.get(name, check_real)(name, value)
        M: Any = self.preconditioner
        if callable(M) and not isinstance(M, (Preconditioner, type)):
            function: Any = M
            M = Custom(function)
            object.__setattr__(self, "preconditioner", M)
        check_preconditioner(M, "Jacobi(), or a function")
        if not (self.callback is None or callable(self.callback)):
            raise TypeError(f"callback is a function; got {type(self.callback).__name__}")

    # ------------------------------------------------------------------------- the protocol

    @property
    def takes_operators(self) -> bool:
        """Whether a matrix that is known by its products alone will do."""
        M = self.preconditioner
        return M is None or _takes_operators(M)

    def init(self, A: StoredMatrix | MatrixFree) -> Prepared:
        """Look at the entries, and precondition each member of a batch."""
        exponent = moderating(A)
        A = moderate(A, exponent)
        if self.hermitian:
            check_hermitian(self, A)
        return Prepared(exponent, self._preconditioned(A))

    def _preconditioned(self, A: StoredMatrix | MatrixFree) -> tuple[Any, ...]:
        M: Any = self.preconditioner
        if M is None:
            return ()
        if getattr(M, "stateless", False):
            count = len(A.values) if A.values.ndim == 2 else 1
            return (M.init(A),) * count
        if not isinstance(A, StoredMatrix):
            if not _takes_operators(M):
                raise TypeError(f"{M!r} is made from entries, and a LinearOperator shows none")
            return (M.init(A),)
        if getattr(M, "by_pattern", False):
            return tuple(map(M.init, A.members() if A.values.ndim == 2 else [A]))
        return prepared_each(M, A)

    def compute(
        self,
        state: Prepared,
        A: StoredMatrix | MatrixFree,
        B: Tensor,
        X0: Tensor | None = None,
    ) -> Solution:
        """Solve for the columns of B (n, p) or, for a batch, (b, n, p), starting at X0."""
        log = Log(self.history)
        solved = self._judged(state, A, B, X0, log)
        if self._learned(state, A, solved):
            state, log = self.init(replace(A, transpose=False, conjugate=False)), Log(self.history)
            solved = self._judged(state, A, B, X0, log)
        if self.componentwise is None:
            return solved
        return self._in_each_row(state, A, B, solved, log)

    def _learned(self, state: Prepared, A: Any, solved: Solution) -> bool:
        """Tell the preconditioner how it went; return whether it would do better now."""
        learn = getattr(self.preconditioner, "learn", None)
        if learn is None:
            return False
        A = moderate(A, state.exponent)
        members = A.members() if A.values.ndim == 2 else [A]
        told = solved.iterations, solved.result.failed
        pairs = zip(state.parts, members, strict=True)
        better = [learn(part, member, *told) for part, member in pairs]
        return any(better)

    def _in_each_row(
        self, state: Prepared, A: Any, B: Tensor, solved: Solution, log: Log
    ) -> Solution:
        """Go on for a smaller residual, while a row is not solved as well as wanted."""
        rtol, wanted = self._rtol(B.dtype), self.componentwise or 0.0
        enough = solved.result.failed
        while not enough and bool((above := solved.componentwise > wanted).any()):
            rtol = rtol / 100
            stricter: Krylov = replace(self, rtol=rtol, componentwise=None)
            again = stricter._judged(state, A, B, solved.value, log)
            gained = above & (again.componentwise < solved.componentwise)
            code = torch.where(gained | ~above, solved.code, int(Result.STAGNATED))
            # The log has gone on, in all columns.
            solved = again.where(gained, solved)._replace(
                code=code,
                iterations=solved.iterations + again.iterations,
                method=solved.method,
                history=again.history,
                stride=again.stride,
            )
            enough = rtol < torch.finfo(B.dtype).eps
        above = solved.componentwise > wanted
        code = torch.where(above & (solved.code == 0), int(Result.STAGNATED), solved.code)
        return solved._replace(code=code)

    def _judged(
        self,
        state: Prepared,
        A: StoredMatrix | MatrixFree,
        B: Tensor,
        X0: Tensor | None,
        log: Log,
    ) -> Solution:
        exponent = None if state.exponent is None else state.exponent.unsqueeze(-1)
        if exponent is not None and X0 is not None:
            X0 = shifted(X0, -exponent)
        with Watch(repr(self), self.callback, self.progress, log, exponent) as watch:
            moderated = moderate(A, state.exponent)
            X, code, told = self._computed(state, moderated, B, X0, watch)
        X = X if exponent is None else shifted(X, exponent)
        if self.hermitian and bool(code.any()) and is_not_hermitian(A, B):
            code = torch.where(code == Result.SOLVED, code, int(Result.NOT_HERMITIAN))
        told |= log.told | self._ritz(log, state.exponent)
        return judged(self, A, X, B, code=code, **told)

    def _computed(
        self,
        state: Prepared,
        A: StoredMatrix | MatrixFree,
        B: Tensor,
        X0: Tensor | None,
        watch: Watch,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return X, a code for each column, and what else is to be told."""
        system = read_system(A, B, X0, names=("A", "B", "X0"))
        M: Any = self.preconditioner
        equations = Equations.of(A, M, state.parts)
        goal = torch.maximum(self._rtol(B.dtype) * system.unit, float(self.atol) / system.peak)
        block = Block(equations, system.multiply, system.B, system.peak, system.unit, goal)
        watch.log.begin(system.B)
        reached = self.reach(block, system.start, watch)
        exhausted = watch.steps >= self._limit(B.shape[-2])
        code = _final(reached.code, reached.norm <= goal, exhausted).squeeze(-2)
        told: dict[str, Any] = {"iterations": reached.steps.squeeze(-2), "shift": equations.shift}
        if state.exponent is None and equations.judge is not None:
            told["told"] = equations.judge(reached.X, system.B)
        return system.answer(reached.X), code, told

    # ------------------------------------------------------------------------ the recurrence

    def start(self, problem: Problem, R: Tensor, attempt: int) -> Any:
        """Return the state at a residual R; `attempt` counts the passes.

        A state has, beside what is its own, the `norm` of the residual as the recurrence knows it,
        and a `code`: a `Result` where a column cannot go on, zero elsewhere.
        """
        raise NotImplementedError

    def step(self, problem: Problem, state: Any, active: Tensor) -> Any:
        """Advance the active columns; the others keep what `finish` would return for them."""
        raise NotImplementedError

    def finish(self, problem: Problem, state: Any) -> Tensor:
        """Return the correction that a state stands for."""
        return state.change

    def alternative(self, problem: Problem, R: Tensor, run: Run) -> Tensor:
        """Return another correction of R, for columns where that of a pass was not better."""
        return run.alternative

    def coefficients(self, state: Any) -> tuple[Tensor, Tensor] | None:
        """Return the two numbers of a step that `tridiagonal` makes a matrix of, if there is one.

        Its eigenvalues are the Ritz values; it ends where the first number is NaN.
        """
        return None

    def tridiagonal(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the diagonal and the off-diagonal of the matrix of Lanczos, of k steps each."""
        return first, second[..., :-1]

    def narrow(self, state: Any, place: Place) -> Any:
        """Return the state of some members and columns."""
        return type(state)(*(place.take(x) for x in state))

    def nearer(self, problem: Problem, before: Tensor, after: Tensor, change: Tensor) -> Tensor:
        """Mask the columns that a change took nearer to the solution, in the norm of the method.

        It is asked where the residual rose, with the residuals `before` and `after`.
        """
        return torch.zeros_like(before[..., :1, :].real, dtype=torch.bool)

    def wanted(self, block: Block, norm: Tensor, attempt: int, steps: int) -> Tensor:
        """Mask the columns that need another step, after so many passes and steps."""
        return norm > block.goal

    # ------------------------------------------------------------------------------ the loop

    def _rtol(self, dtype: torch.dtype) -> float:
        return default_tolerance(dtype) if self.rtol is None else self.rtol

    def _limit(self, n: int) -> int:
        if self.max_iterations is not None:
            return self.max_iterations
        return min(max(_ROUNDS * n, _FEWEST), _MOST)

    def _length(self, left: int, n: int) -> int:
        """Return how many iterations a pass may have, of those that are left for n unknowns."""
        return left

    def reach(self, block: Block, start: Tensor | None, watch: Watch) -> Reached:
        """Make passes from a start, until no column needs another or none would gain by it."""
        reached = Reached.start(block, start)
        n, attempt = reached.X.shape[-2], 0
        wanted, limit = self.wanted(block, reached.norm, attempt, 0), self._limit(n)
        while attempt < self.passes and bool(wanted.any()):
            length = self._length(limit - watch.steps, n)
            if length < 1:
                break
            place = Place.of(wanted) if block.narrows else Place(None, None)
            before = reached.at(place)
            watch.begin(reached.X, block.peak, place)
            after = self._improved(block.at(place), before, (length, attempt), watch)
            gained = torch.zeros_like(wanted)
            place.put(gained, after.norm < (1 - _GAIN) * before.norm)
            reached = after if place.whole else reached.put(place, after)
            mended, attempt = _among(reached.code, self.retries), attempt + 1
            wanted = wanted & (mended | (gained & (reached.code == 0)))
            wanted = wanted & self.wanted(block, reached.norm, attempt, watch.steps)
        return reached

    def _improved(
        self, block: Block, reached: Reached, plan: tuple[int, int], watch: Watch
    ) -> Reached:
        """Make a pass from what has been reached, and keep of it what is better."""
        _, attempt = plan
        wanted = self.wanted(block, reached.norm, attempt, watch.steps)
        run = Run.empty(reached.R)
        self._pass(run, block, reached.R, wanted, plan, watch)
        code = torch.where(wanted, run.code, reached.code)
        after = reached._replace(code=code, steps=reached.steps + run.steps)
        first = torch.full_like(wanted, not attempt)
        after, better = self._moved(block, after, run.change, first & (code == 0))
        if bool((wanted & ~better).any()):
            alternative = self.alternative(block.problem, reached.R, run)
            after, _ = self._moved(block, after, torch.where(better, 0, alternative), first)
        return after

    def _moved(
        self, block: Block, reached: Reached, change: Tensor, trusted: Tensor
    ) -> tuple[Reached, Tensor]:
        """Add a correction where what it reaches is better, and mask where it is.

        Where it is trusted, to be nearer to the solution is better, even if the residual rose.
        """
        # A correction that ran off to infinity is none.
        sound = torch.isfinite(column_norms(change))
        if not bool(sound.all()):
            change = torch.where(sound, change, 0)
        X = torch.addcmul(reached.X, change, block.peak.to(change.dtype))
        R = block.residual(X)
        norm = column_norms(R)
        better = norm < reached.norm
        if bool((trusted & ~better).any()):
            better = better | trusted & self.nearer(block.problem, reached.R, R, change)
        if not bool(better.all()):
            parts = zip((X, R, norm), reached, strict=False)
            X, R, norm = (torch.where(better, new, old) for new, old in parts)
        return reached._replace(X=X, R=R, norm=norm), better

    def _pass(
        self, run: Run, block: Block, R: Tensor, active: Tensor, plan: tuple[int, int], watch: Watch
    ) -> None:
        """Run the recurrence from the scaled residual R for the active columns, into `run`."""
        length, attempt = plan
        place, count = Place(None, None), run.steps
        state = self.start(block.problem, R, attempt)
        best = None if self.falls else Best(state.change, state.norm)
        most = state.norm / torch.finfo(state.norm.dtype).eps ** 0.5
        for _ in range(length):
            going = int(active.sum())
            if not going:
                break
            if 2 * going <= active.numel() and block.narrows:
                run.put(place, *self._kept(block.problem, state, best), state.code, count)
                inner = Place.of(active)
                state, block = self.narrow(state, inner), block.at(inner)
                best = None if best is None else best.at(inner)
                active, count, most = (inner.take(x) for x in (active, count, most))
                place = place.within(inner)
            state = self.step(block.problem, state, active)
            count = count + active
            lost = active & (state.code == 0) & ~(state.norm <= most)
            code = torch.where(lost, int(Result.DIVERGED), state.code)
            state = state._replace(code=code)
            best = None if best is None else best.after(state)
            watch.steps += 1
            if watch.watched:
                watch.tell(self._step(run, block, state, place, active))
            active = active & self.wanted(block, state.norm, attempt, watch.steps) & (code == 0)
        run.put(place, *self._kept(block.problem, state, best), state.code, count)

    def _step(self, run: Run, block: Block, state: Any, place: Place, active: Tensor) -> Step:
        """Return what is to be told of a step."""

        def change() -> Tensor:
            whole = run.change.clone()
            place.put(whole, self.finish(block.problem, state))
            return whole

        residual, goal = state.norm / block.unit, block.goal / block.unit
        return Step(place, active, residual, goal, change, self.coefficients(state))

    def _ritz(self, log: Log, exponent: Tensor | None) -> dict[str, Tensor]:
        """Return the extreme Ritz values of the matrix as it was given."""
        if not log.length:
            return {}
        found = log.ritz(self.tridiagonal)
        M = self.preconditioner
        if exponent is not None and (M is None or getattr(M, "stateless", False)):
            # Any other M was made of the matrix that was solved with.
            found = (shifted(x, -exponent) for x in found)
        return dict(zip(("smallest_ritz", "largest_ritz"), found, strict=True))

    def _kept(self, problem: Problem, state: Any, best: Best | None) -> tuple[Tensor, Tensor]:
        """Return what a pass arrived at, and what is to be tried where that is not better.

        It is the last iterate, or the best where the recurrence could not go on: what came before
        that may be large, along what A maps to nearly zero.
        """
        last = self.finish(problem, state)
        if best is None:
            return last, torch.zeros_like(last)
        if self.wanders:
            return best.change, torch.zeros_like(last)
        stopped, lost = state.code != 0, state.code == Result.DIVERGED
        change = torch.where(stopped, best.change, last)
        return change, torch.where(stopped & ~lost, last, best.change)


class Prepared(NamedTuple):
    """What is prepared for a matrix, or for each member of a batch.

    Attributes
    ----------
    exponent : Tensor or None
        The matrix is solved with times two to this.
    parts : tuple
        States of the preconditioner; none without it.
    """

    exponent: Tensor | None
    parts: tuple[Any, ...]


def _takes_operators(M: Any) -> bool:
    """Say whether a preconditioner asks for no entries; those of this library do, as a rule."""
    return getattr(M, "takes_operators", not isinstance(M, Settings))


def _among(code: Tensor, results: tuple[Result, ...]) -> Tensor:
    return torch.isin(code, torch.tensor(results, dtype=code.dtype, device=code.device))


def _final(code: Tensor, converged: Tensor, exhausted: bool) -> Tensor:
    reason = Result.ITERATIONS if exhausted else Result.STAGNATED
    code = torch.where(code == 0, int(reason), code)
    return torch.where(converged, int(Result.SOLVED), code)
