"""The front door of least squares: a solution, and how it was reached.

The op `reported_least_squares` is `least_squares` that also tells how the solution was reached.
What it tells has no derivative; the rules for the solution are those of `least_squares`.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from tsgu_func import check
from tsgu_func.batching import over_matrix
from tsgu_func.front_door import constant_key, handle_of_solver
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import structure_of
from tsgu_func.matrix import SparseMatrix
from tsgu_func.pattern import SparsityPattern
from tsgu_func.primitive import Primitive, is_tracing
from tsgu_func.reporting import OUTPUTS, as_rows, empty_report, from_rows, report, still
from tsgu_func.solvers import LSMR, Solution, Solver, registry
from tsgu_func.sparse_lstsq import cotangents_of_minimizer, least_squares, tangent_of_minimizer

__all__ = ["reported_least_squares", "sparse_lstsq"]

_LSMR = LSMR()

# ------------------------------------------------------------------- reported_least_squares

reported_least_squares = Primitive(
    "tsgu_func::reported_least_squares(Tensor values, Tensor B, Tensor crow, Tensor col,"
    f" SymInt cols, bool transpose, str solver) -> {OUTPUTS}"
)


@reported_least_squares.kernel
def _(values, B, crow, col, cols, transpose, solver):
    return report(StoredMatrix(structure_of(crow, col, cols), values, transpose), B, solver)


@reported_least_squares.fake
def _(values, B, crow, col, cols, transpose, solver):
    unknowns = crow.shape[0] - 1 if transpose else cols
    return empty_report(B.new_empty(*B.shape[:-2], unknowns, B.shape[-1]), B)


@reported_least_squares.vjp("values", "B")
def _(needs, ct, outs, values, B, crow, col, cols, transpose, solver):
    if ct is None:
        return None, None
    return cotangents_of_minimizer(
        needs, ct, outs[0], values, B, crow, col, cols, transpose, solver, solver
    )


@reported_least_squares.jvp("values", "B")
def _(tangents, outs, values, B, crow, col, cols, transpose, solver):
    X, *told = outs
    moved = tangent_of_minimizer(tangents, X, values, B, crow, col, cols, transpose, solver, solver)
    return moved, *still(told)


@reported_least_squares.retain
def _(solver):
    return registry.root_of(solver)


reported_least_squares.fold(values=1, B=2, columns="B")
reported_least_squares.autocast("float32")

# -------------------------------------------------------------------------- public function


@overload
def sparse_lstsq(
    A: SparseMatrix | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    return_info: Literal[False] = False,
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> Tensor: ...


@overload
def sparse_lstsq(
    A: SparseMatrix | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    return_info: Literal[True],
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> tuple[Tensor, Solution]: ...


def sparse_lstsq(
    A: SparseMatrix | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    return_info: bool = False,
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> Tensor | tuple[Tensor, Solution]:
    r"""Minimize ``|A X - B|`` for a tall A, and tell how well that went.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, m, n)``, or sparse COO or CSR Tensor (m, n) or (b, m, n)
        Of full column rank, m >= n; float32, float64, complex64 or complex128.
    B : Tensor, dense, shape (m,) or ``(*batch, m, p)``
        Of the dtype and on the device of `A`.
    solver : Solver, optional
        One for least squares, such as ``LSQR()``.  Default: ``LSMR()``, to the last digits but a
        few, with the columns of A scaled to norm one.
    return_info : bool
        Also return a `Solution`: how it ended, iterations, an estimate of the condition number of
        the scaled A, and the residual ``|B - A X| / |B|``, which need not be small.
    on_failure : {"raise", "warn", "ignore"}
        What to do if the solver has not converged.

    Returns
    -------
    Tensor, or (Tensor, Solution)
        X, shape (n,), (n, p) or ``(*batch, n, p)``.  Each number in the `Solution` is one of each
        column; it has no derivative.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, B is not dense, or `solver` is no Solver.
    ValueError
        If A is wide; shapes, dtypes or devices differ; or a value is not finite.
    SolveError
        If the solver did not converge (ConvergenceError), or met what shows that A lacks full
        column rank.

    See Also
    --------
    sparse_generic_lstsq : The same with functions in the place of solvers.

    Notes
    -----
    For a cotangent :math:`G`, with :math:`R = B - A X`,

    .. math:: \bar B = (A^H)^+ G, \qquad
        \bar A = R\, (A^+ \bar B)^H - \bar B X^H \quad\text{where } A \text{ stores an entry,}

    to any order (Golub and Pereyra, 1973).  A derivative is as accurate as the solver is, and the
    conditioning of the problem enters it squared.

    Cost: one least-squares solve for the value; one more and one of least norm for each first
    derivative.  Each takes O(nnz p) time an iteration and O(nnz + m p) memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_lstsq
    >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    >>> x, info = sparse_lstsq(A, torch.tensor([1.0, 2.0, 4.0]), return_info=True)
    >>> x
    tensor([0.5556, 1.8889])
    >>> info.solver, info.result.name, float(info.residual) < 0.2
    ('LSMR()', 'SOLVED', True)
    """
    check.least_squares(A, B)
    chosen = _LSMR if solver is None else solver
    if torch.compiler.is_compiling():
        return _solve_by(constant_key(chosen, on_failure), A, B, return_info)
    handle = handle_of_solver(chosen, on_failure)
    if is_tracing():  # the graph will hold the key, and nothing else of it
        registry.pin(handle)
    return _solve_by(handle.key, A, B, return_info)


def _solve_by(key: str, A: Any, B: Tensor, reported: bool) -> Any:
    def solve(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Any:
        s = pattern.structure
        arguments = values, B, s.crow, s.col, s.cols, pattern.transposed, key
        if reported:
            return as_rows(reported_least_squares(*arguments))
        return least_squares(*arguments, key)

    solved = over_matrix(solve, A, B, A.shape[-1])
    return from_rows(solved, B) if reported else solved
