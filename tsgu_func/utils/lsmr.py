"""LSMR as a function, with damping.  The recurrence is that of the solver `LSMR`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tsgu_func.solvers.history import Log
from tsgu_func.solvers.lstsq.bidiagonal import solve
from tsgu_func.solvers.lstsq.problem import Rules, State, problem_of, rules_of
from tsgu_func.solvers.protocol import ConvergenceError, SolveError
from tsgu_func.solvers.settings import check_real
from tsgu_func.solvers.system import Operator, as_operator, matrix_shape, read_system
from tsgu_func.utils.failure import check_policy, fail
from tsgu_func.utils.reading import adjoint_of, readable, stored

__all__ = ["lsmr"]

# Iterations by default, in multiples of the smaller side: one would do in exact arithmetic.
_ROUNDS = 10


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

    If there are several minimizers, and `x0` is not given, the one of least norm is returned.

    Parameters
    ----------
    A : matrix (m, n) or callable
        A dense or sparse tensor, a SparseMatrix, or a function ``X -> A X``.
    b : Tensor, shape (m,), (m, p) or ``(*batch, m, p)``
        The right-hand sides B.  float32, float64, complex64 or complex128.
    Armat : matrix or callable, optional
        ``Y -> Aᴴ Y``.  It has to be given if A is a function.
    n : int, optional
        The number of columns of A.  It has to be given if A is a function.
    damp : float
        The damping (Tikhonov regularization).
    atol, btol : float
        Which relative errors in A and B may explain the residual.  A column has converged when
        :math:`|R| \le \text{atol}\,|A|\,|X| + \text{btol}\,|B|` or
        :math:`|A^H R| \le \text{atol}\,|A|\,|R|`, up to rounding.  0 asks for the full precision.
    conlim : float
        Give up if the condition number exceeds this.  With 0, only the precision is a limit.
    maxiter : int, optional
        The largest number of iterations.  Default: ten times the smaller side of A, but at least
        100.
    x0 : Tensor, optional
        Where to start, in the shape of the solution.  Default: zero.
    check_nonzero : bool
        Accepted for the sake of old code, but not used: columns that are zero cost nothing.
    on_failure : {"raise", "warn", "ignore"}
        What to do if a column has not converged.

    Returns
    -------
    Tensor, int
        X, of shape (n,), (n, p) or ``(*batch, n, p)``, and the number of iterations.

    Raises
    ------
    ConvergenceError
        If a column has not converged; its `residual` is :math:`|A^H R| / (|A| |R|)`.
    SolveError
        If the adjoint is missing, or if a product is not finite or has another shape or dtype.
    RuntimeError
        If A or `b` requires a gradient.
    TypeError
        If `b` is not a tensor, or has a dtype in which systems cannot be solved.
    ValueError
        If `b` is not finite or has another shape, or if a setting makes no sense.

    Notes
    -----
    An iteration takes one product with A and one with its adjoint, for all columns at once.  Memory
    is O((m + n) p).  The norm of A is estimated as in the paper, from below.  The true residual of
    the solution decides, and if the recurrence has drifted away from it, it is started again.  To
    differentiate, pass this function to `sparse_generic_lstsq`; autograd through the iterations is
    refused.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import lsmr
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> x, iterations = lsmr(A, torch.tensor([1.0, 3.0, 5.0]))
    >>> x
    tensor([1.0000, 2.0000])
    """
    check_policy(on_failure)
    A = stored(A, b, x0)
    cols = _columns(A, n)
    system = read_system(readable(A), b, x0, cols=cols, names=("A", "b", "x0"))
    if maxiter is None:
        maxiter = max(_ROUNDS * min(system.B.shape[-2], cols), 100)
    check_real("damp", damp)
    rules = rules_of(atol, btol, conlim, maxiter)
    adjoint = _read_adjoint(A, Armat, cols, system.vector)
    problem = problem_of(system, adjoint, cols, damp)
    state, condition, _, steps, *_ = solve(problem, rules, "lsmr", Log(0))
    if not bool(state.converged.all()):
        fail(on_failure, _failure(state, condition, rules, steps))
    X = state.change * system.peak
    return system.answer(X if system.start is None else system.start + X), steps


def _columns(A: Any, n: int | None) -> int:
    shape = matrix_shape(A)
    if shape is None and n is None:
        raise SolveError("n, the number of columns of A, must be given if A is a function")
    cols = n if shape is None or len(shape) < 2 else shape[-1]
    if n not in (None, cols):
        raise ValueError(f"n is the number of columns of A, {cols}; got {n}")
    return int(cols or 0)


def _read_adjoint(A: Any, Armat: Any, cols: int, vector: bool) -> Operator:
    H = adjoint_of(A) if Armat is None else Armat
    if H is None:
        raise SolveError("Armat, which multiplies with the adjoint of A, must be given for this A")
    return as_operator(readable(H), "Armat", vector, cols)


def _failure(state: State, condition: Tensor, rules: Rules, steps: int) -> ConvergenceError:
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
