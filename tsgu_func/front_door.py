"""The front door: a sparse system, solved by what suits it.

The op `reported_solve` is `generic_solve` that also tells how the solution was reached.  What it
tells has no derivative; the rules for the solution are those of `generic_solve`.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from tsgu_func import check
from tsgu_func.batching import over_matrix
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import structure_of
from tsgu_func.linear_operator import LinearOperator, solve_operator
from tsgu_func.matrix import SparseMatrix
from tsgu_func.pattern import SparsityPattern
from tsgu_func.primitive import Primitive, constant_when_traced, is_tracing
from tsgu_func.reporting import OUTPUTS, as_rows, empty_report, from_rows, report, still
from tsgu_func.solvers import Auto, Solution, Solver, registry
from tsgu_func.solvers.iteration import check_policy
from tsgu_func.sparse_solve import cotangents, generic_solve, tangent_of_solution

__all__ = ["constant_key", "handle_of_solver", "reported_solve", "sparse_solve"]

_AUTO = Auto()

# --------------------------------------------------------------------------- reported_solve

reported_solve = Primitive(
    "tsgu_func::reported_solve(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    f" bool transpose, bool conjugate, str solver) -> {OUTPUTS}"
)


@reported_solve.kernel
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    A = StoredMatrix(structure_of(crow, col, cols), values, transpose, conjugate)
    return report(A, B, solver)


@reported_solve.fake
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    return empty_report(torch.empty_like(B, memory_format=torch.contiguous_format), B)


@reported_solve.vjp("values", "B")
def _(needs, ct, outs, values, crow, col, cols, transpose, conjugate, solver):
    if ct is None:
        return None, None
    return cotangents(needs, ct, outs[0], values, crow, col, cols, transpose, conjugate, solver)


@reported_solve.jvp("values", "B")
def _(tangents, outs, values, crow, col, cols, transpose, conjugate, solver):
    X, *told = outs
    moved = tangent_of_solution(tangents, X, values, crow, col, cols, transpose, conjugate, solver)
    return moved, *still(told)


@reported_solve.retain
def _(solver):
    return registry.root_of(solver)


reported_solve.fold(values=1, B=2, columns="B")
reported_solve.autocast("float32")


# -------------------------------------------------------------------------- public function


@overload
def sparse_solve(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    return_info: Literal[False] = False,
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> Tensor: ...


@overload
def sparse_solve(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    return_info: Literal[True],
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> tuple[Tensor, Solution]: ...


def sparse_solve(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    return_info: bool = False,
    on_failure: Literal["raise", "warn", "ignore"] = "raise",
) -> Tensor | tuple[Tensor, Solution]:
    r"""Solve ``A X = B`` with a solver that suits A, or the one given.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, n)``, or sparse COO or CSR Tensor (n, n) or (b, n, n)
        Square and non-singular; float32, float64, complex64 or complex128.  Or a `LinearOperator`,
        known by its products alone.
    B : Tensor, dense, shape (n,) or ``(*batch, n, p)``
        Of the dtype and on the device of `A`; (n,) or (n, p) for a `LinearOperator`.
    solver : Solver, optional
        Default: `Auto()`, which looks at A (triangular, Hermitian, size, ...) and chooses; for a
        `LinearOperator`, which shows nothing, GMRES.
    return_info : bool
        Also return a `Solution`, which says what was chosen and how it ended.
    on_failure : {"raise", "warn", "ignore"}
        What to do if an iterative solver has not converged.

    Returns
    -------
    Tensor, or (Tensor, Solution)
        X, with the shape of `B`.  Each number in the `Solution` is one of each column; it has no
        derivative.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, B is not dense, or `solver` is no Solver.
    ValueError
        If shapes, dtypes or devices do not fit, or a value is not finite.
    SolveError
        If the matrix is singular, or (ConvergenceError) the solver did not converge.
    ImportError
        If the solver needs an optional package that is not installed.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^{-H} G, \qquad \bar A_{ij} = -\sum_k \bar B_{ik} \overline{X_{jk}}
        \quad\text{where } A \text{ stores an entry,}

    to any order, by the implicit function theorem; the same factor or preconditioner serves both
    systems.  A derivative is as accurate as the solver.

    Cost: one solve for the value, one for each first derivative.  A factor or preconditioner is
    made once for given values and kept as long as they live, see `tsgu_func.solvers.cache_info`.
    Under ``vmap`` over B there are more columns, not more solves.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, 1.0], [-2.0, 3.0]]))
    >>> b = torch.tensor([1.0, 2.0])
    >>> x, info = sparse_solve(A, b, return_info=True)
    >>> x
    tensor([0.0714, 0.7143])
    >>> info.solver, info.result.name, float(info.residual) < 1e-6
    ('DenseLU()', 'SOLVED', True)
    >>> torch.func.grad(lambda A: sparse_solve(A, b).sum())(A).to_dense()
    tensor([[-0.0255, -0.2551],
            [-0.0153, -0.1531]])
    """
    if isinstance(A, LinearOperator):
        check.operator(B)
    else:
        check.solve(A, B)
        check.dtypes(A, B)
    chosen = _AUTO if solver is None else solver
    if isinstance(A, LinearOperator) and not getattr(chosen, "takes_operators", False):
        raise TypeError(f"{chosen!r} needs the entries of A, and a LinearOperator shows none")
    if torch.compiler.is_compiling():
        return _solve_by(constant_key(chosen, on_failure), A, B, return_info)
    handle = handle_of_solver(chosen, on_failure)
    if is_tracing():  # the graph will hold the key, and nothing else of it
        registry.pin(handle)
    return _solve_by(handle.key, A, B, return_info)


def _solve_by(key: str, A: Any, B: Tensor, reported: bool) -> Any:
    if isinstance(A, LinearOperator):
        solved = solve_operator(A, B, key)
        return (solved.value, solved) if reported else solved.value
    if not reported:
        return over_matrix(_solved(key), A, B, A.shape[-1])
    return from_rows(over_matrix(_reported(key), A, B, A.shape[-1]), B)


def _solved(key: str) -> Any:
    def solve(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
        s = pattern.structure
        return generic_solve(values, B, s.crow, s.col, s.cols, pattern.transposed, False, key)

    return solve


def _reported(key: str) -> Any:
    def solve(pattern: SparsityPattern, values: Tensor, B: Tensor) -> tuple[Tensor, ...]:
        s = pattern.structure
        return as_rows(
            reported_solve(values, B, s.crow, s.col, s.cols, pattern.transposed, False, key)
        )

    return solve


def handle_of_solver(solver: Any, on_failure: str) -> registry.SolverHandle:
    """Check a solver and what to do if it fails; return the handle that ops refer to."""
    if not isinstance(solver, Solver) or isinstance(solver, type):
        hint = "call it" if isinstance(solver, type) else "a function is for sparse_generic_solve"
        raise TypeError(f"solver is a Solver, such as CG(); got {solver!r}; {hint}")
    check_policy(on_failure)
    return registry.register_solver(solver, on_failure)


@constant_when_traced
def constant_key(solver: Any, on_failure: str) -> str:
    """Return a key that stays valid: the compiled graph holds it, and nothing else."""
    return registry.pin(handle_of_solver(solver, on_failure)).key
