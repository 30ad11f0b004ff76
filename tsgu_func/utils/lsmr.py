"""LSMR for least-squares problems, and for the least-norm solution of systems that have many.

Fong and Saunders, *LSMR: An Iterative Algorithm for Sparse Least-Squares Problems*, SIAM J. Sci.
Comput. 33(5), 2011: the Golub-Kahan process turns A into a lower bidiagonal matrix, and two
sequences of rotations minimize ``|Aᴴ R|`` over its Krylov space.  Names follow the paper.

Damping appends ``damp I`` to A and zeros to B, so that it means the same whatever the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers import iteration
from tsgu_func.solvers.base import ConvergenceError, SolveError
from tsgu_func.solvers.iteration import Operator, System, column_norms, quotient

__all__ = ["lsmr"]

# Iterations by default, in multiples of the smaller side: one would do in exact arithmetic.
_ROUNDS = 10
# The true residual is judged up to this many times the rounding of one entry, times sqrt(m + n).
_ROUNDING = 10
_RESTARTS = 5


def lsmr(
    A: Any,
    b: Tensor,
    Armat: Any = None,
    n: int | None = None,
    damp: float = 0.0,
    atol: float = 1e-6,
    btol: float = 1e-6,
    conlim: float = 1e8,
    maxiter: int | None = None,
    x0: Tensor | None = None,
    check_nonzero: bool = True,
    *,
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> tuple[Tensor, int]:
    r"""Minimize :math:`|A X - B|^2 + \text{damp}^2 |X|^2` for each column of B.

    Of all minimizers, that of least norm, if `x0` is not given.

    Parameters
    ----------
    A : matrix (m, n) or callable
        A tensor (dense or sparse), a SparseMatrix, or a function ``X -> A X``.
    b : Tensor, shape (m,), (m, p) or ``(*batch, m, p)``
        B.  float32, float64, complex64 or complex128.
    Armat : matrix or callable, optional
        ``Y -> Aᴴ Y``; needed for a function, by default the adjoint of a matrix.
    n : int, optional
        Columns of A; needed for a function.
    damp : float
        Damping (Tikhonov regularization).
    atol, btol : float
        Relative errors in A and B that may explain the residual.  A column has converged when
        :math:`|R| \le \text{atol}\,|A|\,|X| + \text{btol}\,|B|` or
        :math:`|A^H R| \le \text{atol}\,|A|\,|R|`, up to rounding; 0 asks for all digits there are.
    conlim : float
        Condition number beyond which to give up; 0 sets no limit but that of the precision.
    maxiter : int, optional
        Iterations at most; default ten times the smaller side of A, and 100 at least.
    x0 : Tensor, optional
        Where to start, shape of the solution; default zero.
    check_nonzero : bool
        Of no effect, since columns that vanish cost nothing; taken for the sake of old code.
    on_failure : {"raise", "warn", "ignore"}
        What to do if a column has not converged.

    Returns
    -------
    Tensor, int
        X, shape (n,), (n, p) or ``(*batch, n, p)``, and the iterations.

    Raises
    ------
    ConvergenceError
        If a column has not converged; its `residual` is :math:`|A^H R| / (|A| |R|)`.
    SolveError
        If the adjoint is missing, or a product is of no use: not finite, of another shape or dtype.
    RuntimeError
        If A or `b` requires a gradient.
    TypeError
        If `b` is no tensor, or of no floating-point or complex dtype that systems are solved in.
    ValueError
        If `b` or a setting is of no use.

    Notes
    -----
    One product with A and one with its adjoint an iteration, all columns in one loop; O((m + n) p)
    memory.  The norm of A is estimated as in the paper, from below.  What decides is the residual
    of the solution, not that of the recurrence, which is started afresh if it drifted.
    Derivatives are those of `sparse_generic_lstsq`; autograd through the iterations is refused.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import lsmr
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> x, iterations = lsmr(A, torch.tensor([1.0, 3.0, 5.0]))
    >>> x
    tensor([1.0000, 2.0000])
    """
    iteration.check_policy(on_failure)
    cols = _columns(A, n)
    system = iteration.read_system(A, b, x0, cols=cols, names=("A", "b", "x0"))
    if maxiter is None:
        maxiter = max(_ROUNDS * min(system.B.shape[-2], cols), 100)
    rules = _rules(damp, atol, btol, conlim, maxiter)
    problem = _problem(system, _read_adjoint(A, Armat, cols, system.vector), cols, damp)
    state, condition, steps = _solve(problem, rules)
    if not bool(state.converged.all()):
        iteration.fail(on_failure, _failure(state, condition, rules, steps))
    X = state.change * system.peak
    return system.answer(X if system.start is None else system.start + X), steps


def _columns(A: Any, n: int | None) -> int:
    shape = iteration.matrix_shape(A)
    if shape is None and n is None:
        raise SolveError("n, the number of columns of A, must be given if A is a function")
    cols = n if shape is None or len(shape) < 2 else shape[-1]
    if n not in (None, cols):
        raise ValueError(f"n is the number of columns of A, {cols}; got {n}")
    return int(cols or 0)


def _read_adjoint(A: Any, Armat: Any, cols: int, vector: bool) -> Operator:
    H = iteration.adjoint_of(A) if Armat is None else Armat
    if H is None:
        raise SolveError("Armat, which multiplies with the adjoint of A, must be given for this A")
    return iteration.as_operator(H, "Armat", vector, cols)


# --------------------------------------------------------------------------------- the problem


class _Rules(NamedTuple):
    """When a column has converged, and when to give up."""

    atol: float
    btol: float
    least: float  # reciprocal condition number
    limit: int


def _rules(damp: float, atol: float, btol: float, conlim: float, maxiter: int) -> _Rules:
    for name, value in (("damp", damp), ("atol", atol), ("btol", btol), ("maxiter", maxiter)):
        iteration.check_number(name, value)
    if not conlim >= 0:
        raise ValueError(f"conlim must not be negative; got {conlim}")
    return _Rules(atol, btol, 1 / conlim if conlim else 0.0, maxiter)


class _State(NamedTuple):
    """A change to the start, its residual, the norm of Aᴴ R, and which columns have converged."""

    change: Tensor
    R: Tensor
    gradient: Tensor
    converged: Tensor
    measure: Tensor


@dataclass(frozen=True)
class _Problem:
    """``min |A X - B|``, with A and B extended by damping and B scaled."""

    multiply: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    operators: tuple[Operator, Operator]
    start: Tensor
    left: Tensor  # the residual of the start
    norm_b: Tensor

    def judge(self, change: Tensor, norm_A: Tensor, rules: _Rules) -> _State:
        """Measure what a change to the start leaves, as it is."""
        R = self.left - self.multiply(change)
        norm_r, gradient = column_norms(R), column_norms(self.adjoint(R))
        iteration.check_finite(self.operators[0], norm_r, R)
        size = norm_A * column_norms(self.start + change)
        rows = R.shape[-2] + change.shape[-2]
        rounding = _ROUNDING * torch.finfo(R.dtype).eps * rows**0.5
        solved = norm_r <= (rules.btol + rounding) * self.norm_b + (rules.atol + rounding) * size
        noise = rounding * (norm_r + size + self.norm_b)
        least = gradient <= norm_A * (rules.atol * norm_r + noise)
        relative = quotient(gradient, norm_A * norm_r, norm_A * norm_r > 0)
        return _State(change, R, gradient, solved | least, relative)


def _problem(system: System, adjoint: Operator, cols: int, damp: float) -> _Problem:
    B, m = system.B / system.peak, system.B.shape[-2]
    start, left = B.new_zeros(*B.shape[:-2], cols, B.shape[-1]), B
    if system.start is not None:
        start, left = system.start / system.peak, system.residual(system.start)
    operators = (system.multiply, adjoint)
    if not damp:
        return _Problem(*operators, operators, start, left, column_norms(B))

    def multiply(X: Tensor) -> Tensor:
        return torch.cat([system.multiply(X), damp * X], -2)

    def transposed(Y: Tensor) -> Tensor:
        return adjoint(Y[..., :m, :].contiguous()) + damp * Y[..., m:, :]

    left = torch.cat([left, -damp * start], -2)
    return _Problem(multiply, transposed, operators, start, left, column_norms(B))


def _solve(problem: _Problem, rules: _Rules) -> tuple[_State, Tensor, int]:
    """Run passes from the true residual, as long as a column that should have converged gains."""
    norm_A = torch.zeros_like(problem.norm_b)
    condition, wanted = torch.zeros_like(norm_A), column_norms(problem.left) > 0
    infinite = torch.full_like(norm_A, torch.inf)
    state = _State(torch.zeros_like(problem.start), problem.left, infinite, ~wanted, norm_A)
    steps = 0
    for _ in range(_RESTARTS):
        if not bool(wanted.any()):
            break
        process = _Process(problem, rules, state.change, state.R, wanted)
        steps += process.run(rules.limit - steps)
        norm_A = torch.maximum(norm_A, process.norm_A)
        condition = torch.where(wanted, process.condition, condition)
        after = problem.judge(process.change, norm_A, rules)
        # Where the recurrence gave up, rounding is no excuse for what is left.
        after = after._replace(converged=after.converged & process.claimed)
        gained = wanted & (after.gradient < state.gradient)
        state = _State(*(torch.where(gained, x, y) for x, y in zip(after, state, strict=True)))
        wanted = gained & ~state.converged & process.claimed
    return state, condition, steps


def _failure(state: _State, condition: Tensor, rules: _Rules, steps: int) -> ConvergenceError:
    worst = float(torch.where(state.converged, 0, condition).max())
    text = f"LSMR did not converge: after {steps} iterations "
    if steps < rules.limit:
        text += (
            f"the condition number of A is estimated as {worst:.1e}, beyond conlim or what the "
            f"precision allows; raise conlim, set damp, or scale the columns of A"
        )
    else:
        text += (
            f"|A^H R| / (|A| |R|) is {float(state.measure.max()):.1e}, above atol = "
            f"{rules.atol:.1e} (condition number about {worst:.1e}); raise maxiter, or scale the "
            f"columns of A"
        )
    return ConvergenceError(text, steps, state.measure.squeeze(-2))


# ------------------------------------------------------------------------------- the recurrence


class _Process:
    """One run of the recurrence from a residual R: it adds to `change`.

    `claimed` masks the columns that it takes for converged, whatever their true residual.
    """

    def __init__(
        self, problem: _Problem, rules: _Rules, change: Tensor, R: Tensor, wanted: Tensor
    ) -> None:
        self.problem, self.rules, self.change = problem, rules, change
        self.beta, self.U = _unit(R, problem.operators[0])
        self.alpha, self.V = _unit(problem.adjoint(self.U), problem.operators[1])
        zero, one = torch.zeros_like(self.alpha), torch.ones_like(self.alpha)
        self.norm_A, self.norm_r, self.condition = self.alpha, self.beta, one
        self.alphabar, self.zetabar = self.alpha, self.alpha * self.beta
        self.rho, self.rhobar, self.cbar, self.sbar = one, one, one, zero
        self.H, self.Hbar = self.V, torch.zeros_like(self.V)
        self.smallest, self.largest = torch.full_like(one, torch.inf), zero  # of the rhobar
        self.betadd, self.betad, self.rhodold = self.beta, zero, one
        self.tautilde, self.thetatilde, self.zeta = zero, zero, zero
        self.claimed = wanted & (self.alpha == 0)
        self.active = wanted & ~self.claimed

    def run(self, limit: int) -> int:
        """Iterate until no column is active; return how often."""
        self._stop()  # a start may be good enough
        for step in range(limit):
            if not bool(self.active.any()):
                return step
            self._bidiagonalize()
            self._rotate()
            self._stop()
        return limit

    def _bidiagonalize(self) -> None:
        problem, (forward, backward) = self.problem, self.problem.operators
        U = problem.multiply(self.V) - self.alpha * self.U
        self.beta, self.U = _unit(U, forward)
        V = problem.adjoint(self.U) - self.beta * self.V
        self.alpha, self.V = _unit(V, backward)
        # Not above the Frobenius norm of A, whatever the number of columns of V.
        self.norm_A = torch.hypot(self.norm_A, torch.hypot(self.alpha, self.beta))

    def _rotate(self) -> None:
        rho_old, rhobar_old, zeta_old = self.rho, self.rhobar, self.zeta
        c, s, self.rho = _rotation(self.alphabar, self.beta)
        theta, self.alphabar = s * self.alpha, c * self.alpha
        thetabar, self.passing = self.sbar * self.rho, self.cbar * self.rho
        self.cbar, self.sbar, self.rhobar = _rotation(self.passing, theta)
        self.zeta, self.zetabar = self.cbar * self.zetabar, -self.sbar * self.zetabar
        self.Hbar = self.H - _over(thetabar * self.rho, rho_old * rhobar_old) * self.Hbar
        step = torch.where(self.active, _over(self.zeta, self.rho * self.rhobar), 0)
        self.change = self.change + step * self.Hbar
        self.H = self.V - _over(theta, self.rho) * self.H
        self._estimate_residual(c, s, thetabar, zeta_old)
        self._estimate_condition()

    def _estimate_residual(self, c: Tensor, s: Tensor, thetabar: Tensor, zeta_old: Tensor) -> None:
        betahat, self.betadd = c * self.betadd, -s * self.betadd
        theta_old = self.thetatilde
        ctilde, stilde, rhotilde = _rotation(self.rhodold, thetabar)
        self.thetatilde, self.rhodold = stilde * self.rhobar, ctilde * self.rhobar
        self.betad = ctilde * betahat - stilde * self.betad
        self.tautilde = _over(zeta_old - theta_old * self.tautilde, rhotilde)
        tau = _over(self.zeta - self.thetatilde * self.tautilde, self.rhodold)
        self.norm_r = torch.hypot(self.betad - tau, self.betadd)

    def _estimate_condition(self) -> None:
        largest = torch.maximum(self.largest, self.passing.abs())
        smallest = torch.minimum(self.smallest, self.passing.abs())
        estimate = torch.where(smallest > 0, _over(largest, smallest), torch.inf)
        self.condition = torch.where(self.active, estimate, self.condition)
        self.largest = torch.maximum(self.largest, self.rhobar)
        self.smallest = torch.minimum(self.smallest, self.rhobar)

    def _stop(self) -> None:
        """Apply the paper's stopping rules; `1 + test <= 1` says that no digit is left to gain."""
        rules, norm_b = self.rules, self.problem.norm_b
        size = self.norm_A * column_norms(self.problem.start + self.change)
        consistent = _over(self.norm_r, norm_b + size)
        least = torch.where(
            self.norm_r > 0, _over(self.zetabar.abs(), self.norm_A * self.norm_r), 0
        )
        done = (self.norm_r <= rules.btol * norm_b + rules.atol * size) | (least <= rules.atol)
        done = done | (1 + consistent <= 1) | (1 + least <= 1)
        reciprocal = 1 / self.condition
        lost = (reciprocal <= rules.least) | (1 + reciprocal <= 1)
        self.claimed = self.claimed | (self.active & done)
        self.active = self.active & ~(done | lost)


def _unit(X: Tensor, operator: Operator) -> tuple[Tensor, Tensor]:
    """Return the norm of each column, and the columns divided by it; zero stays zero."""
    norm = column_norms(X)
    iteration.check_finite(operator, norm, X)
    return norm, quotient(X, norm, norm > 0)


def _over(a: Tensor, b: Tensor) -> Tensor:
    """Divide; zero where the divisor vanishes, in columns that have ended."""
    return quotient(a, b, b != 0)


def _rotation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return c, s, r with c a + s b = r and c b = s a."""
    r = torch.hypot(a, b)
    return _over(a, r), _over(b, r), r
