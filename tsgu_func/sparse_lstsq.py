"""Least-squares solution of sparse, tall systems.

Derivation (Golub and Pereyra, *The Differentiation of Pseudo-Inverses and Nonlinear Least Squares
Problems Whose Variables Separate*, SIAM J. Numer. Anal. 10(2), 1973).  Let A be m x n with full
column rank, and X = A⁺ B the minimizer of |A X - B|, with the residual R = B - A X.  From the
normal equations ``Aᴴ A X = Aᴴ B``,

    dX = A⁺ (dB - dA X) + (Aᴴ A)⁻¹ dAᴴ R,      (Aᴴ A)⁻¹ = A⁺ (Aᴴ)⁺.

With the cotangent G of X, ``Y = (Aᴴ)⁺ G`` and ``H = (Aᴴ A)⁻¹ G = A⁺ Y``,

    <G, dX> = <Y, dB> + <R Hᴴ - Y Xᴴ, dA>.

Y is the solution of ``Aᴴ Y = G`` of least norm, ``Y = A H``.  It is an op of its own, because its
derivative is not that of a least-squares solution.  From ``Aᴴ Y = G``, and from
``dY = dA H + A dH`` for the part of dY outside of the range of A, onto which ``P = A A⁺`` projects,

    dY = (Aᴴ)⁺ (dG - dAᴴ Y) + (I - P) dA H,

and with the cotangent C of Y and ``Z = A⁺ C``,

    <C, dY> = <Z, dG> + <(C - A Z) Hᴴ - Y Zᴴ, dA>.

The two ops and the products are closed under differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsgu_func import check
from tsgu_func.batching import over_matrix
from tsgu_func.functions import OpFunction
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import structure_of
from tsgu_func.matrix import SparseMatrix
from tsgu_func.pattern import SparsityPattern
from tsgu_func.primitive import Primitive, constant_when_traced, is_tracing
from tsgu_func.solvers import LSMR, Solver, registry
from tsgu_func.sparse_matmul import sddmm, spmm
from tsgu_func.sparse_solve import solve_stored

__all__ = [
    "SparseGenericLstsq",
    "cotangents_of_minimizer",
    "least_norm",
    "least_squares",
    "sparse_generic_lstsq",
    "tangent_of_minimizer",
]

Solve = Callable[[Tensor, Tensor], Tensor]
_LSMR = registry.register_solver(LSMR())

# ---------------------------------------------------------------------------- least_squares

least_squares = Primitive(
    "tsgu_func::least_squares(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose, str solver, str adjoint) -> Tensor"
)


@least_squares.kernel
def _(values, B, crow, col, cols, transpose, solver, adjoint):
    return solve_stored(StoredMatrix(structure_of(crow, col, cols), values, transpose), B, solver)


@least_squares.fake
def _(values, B, crow, col, cols, transpose, solver, adjoint):
    unknowns = crow.shape[0] - 1 if transpose else cols
    return B.new_empty(*B.shape[:-2], unknowns, B.shape[-1])


def cotangents_of_minimizer(needs, ct, X, values, B, crow, col, cols, transpose, solver, adjoint):
    """Return the cotangents of the values and of B."""
    Y = least_norm(values, ct, crow, col, cols, transpose, solver, adjoint)
    if not needs[0]:
        return None, Y
    R = B - spmm(values, X, crow, col, cols, transpose)
    H = least_squares(values, Y, crow, col, cols, transpose, solver, adjoint)
    return _outer(R, H, Y, X, crow, col, cols, transpose), Y


@least_squares.vjp("values", "B")
def _(needs, ct, out, values, B, crow, col, cols, transpose, solver, adjoint):
    return cotangents_of_minimizer(
        needs, ct, out, values, B, crow, col, cols, transpose, solver, adjoint
    )


def tangent_of_minimizer(tangents, X, values, B, crow, col, cols, transpose, solver, adjoint):
    """Return the tangent of X."""
    dS, dB = tangents
    right = dB
    if dS is not None:
        R = B - spmm(values, X, crow, col, cols, transpose)
        dAh_R = spmm(dS.conj(), R, crow, col, cols, not transpose)
        moved = least_norm(values, dAh_R, crow, col, cols, transpose, solver, adjoint)
        moved = moved - spmm(dS, X, crow, col, cols, transpose)
        right = moved if dB is None else dB + moved
    return least_squares(values, right, crow, col, cols, transpose, solver, adjoint)


@least_squares.jvp("values", "B")
def _(tangents, out, values, B, crow, col, cols, transpose, solver, adjoint):
    return tangent_of_minimizer(
        tangents, out, values, B, crow, col, cols, transpose, solver, adjoint
    )


@least_squares.retain
def _(solver, adjoint):
    return registry.root_of(solver), registry.root_of(adjoint)


least_squares.fold(values=1, B=2, columns="B")
least_squares.autocast("float32")

# ------------------------------------------------------------------------------- least_norm

least_norm = Primitive(
    "tsgu_func::least_norm(Tensor values, Tensor G, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose, str solver, str adjoint) -> Tensor"
)


@least_norm.kernel
def _(values, G, crow, col, cols, transpose, solver, adjoint):
    A = StoredMatrix(structure_of(crow, col, cols), values, transpose)
    return solve_stored(A.mH, G, adjoint, "G")


@least_norm.fake
def _(values, G, crow, col, cols, transpose, solver, adjoint):
    equations = cols if transpose else crow.shape[0] - 1
    return G.new_empty(*G.shape[:-2], equations, G.shape[-1])


@least_norm.vjp("values", "G")
def _(needs, ct, out, values, crow, col, cols, transpose, solver, adjoint):
    Z = least_squares(values, ct, crow, col, cols, transpose, solver, adjoint)
    if not needs[0]:
        return None, Z
    E = ct - spmm(values, Z, crow, col, cols, transpose)
    H = least_squares(values, out, crow, col, cols, transpose, solver, adjoint)
    return _outer(E, H, out, Z, crow, col, cols, transpose), Z


@least_norm.jvp("values", "G")
def _(tangents, out, values, crow, col, cols, transpose, solver, adjoint):
    dS, dG = tangents
    if dS is None:
        return least_norm(values, dG, crow, col, cols, transpose, solver, adjoint)
    dAh_Y = spmm(dS.conj(), out, crow, col, cols, not transpose)
    right = -dAh_Y if dG is None else dG - dAh_Y
    H = least_squares(values, out, crow, col, cols, transpose, solver, adjoint)
    dA_H = spmm(dS, H, crow, col, cols, transpose)
    along = least_squares(values, dA_H, crow, col, cols, transpose, solver, adjoint)
    outside = dA_H - spmm(values, along, crow, col, cols, transpose)
    return least_norm(values, right, crow, col, cols, transpose, solver, adjoint) + outside


@least_norm.retain
def _(solver, adjoint):
    return registry.root_of(solver), registry.root_of(adjoint)


least_norm.fold(values=1, G=2, columns="G")
least_norm.autocast("float32")


def _outer(R, H, Y, X, crow, col, cols, transpose):
    """Return ``R Hᴴ - Y Xᴴ`` where S stores an entry, in one pass."""
    tall, flat = torch.cat([R, -Y], -1), torch.cat([H, X], -1).conj()
    # What is at (i, j) in S is at (j, i) in its transpose.
    left, right = (flat, tall) if transpose else (tall, flat)
    return sddmm(left, right, crow, col, cols)


# -------------------------------------------------------------------------- public function


def sparse_generic_lstsq(
    A: SparseMatrix | Tensor,
    B: Tensor,
    lstsq: Solve | Solver | None = None,
    transpose_lstsq: Solve | None = None,
) -> Tensor:
    r"""Minimize ``|A X - B|`` for a tall A; the gradient of `A` keeps its pattern.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, m, n)``, or sparse COO or CSR Tensor (m, n) or (b, m, n)
        Of full column rank, m >= n; float32, float64, complex64 or complex128.
    B : Tensor, dense, shape (m,) or (m, p)
        Of the dtype and on the device of `A`.  With a batch of matrices, ``(*batch, m, p)``.
    lstsq : callable or Solver, optional
        ``lstsq(A, B) -> X``, which gets `A` as a ``torch.sparse_csr`` tensor, or a `Solver` for
        least squares, which serves the adjoint problem too.  It need not be differentiable.
        Default: ``LSMR()``, for all columns at once, to the last digits but a few, with the columns
        of A scaled to norm one.
    transpose_lstsq : callable, optional
        ``transpose_lstsq(A, G) -> Y``, the solution of ``Aᵀ Y = G`` of least norm, which
        derivatives are made of.  Default: ``LSMR()``, on the (conjugate) transpose.

    Returns
    -------
    Tensor
        X, shape (n,), (n, p) or ``(*batch, n, p)``.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, or B is not dense.
    ValueError
        If A is wide; shapes, dtypes or devices differ; or a value is not finite.
    SolveError
        If the solver did not converge, or met what shows that A lacks full column rank: a column
        of zeros, a condition number beyond the precision, or an adjoint system without solution.

    Notes
    -----
    For a cotangent :math:`G`, with :math:`R = B - A X`,

    .. math:: \bar B = (A^H)^+ G, \qquad
        \bar A = R\, (A^+ \bar B)^H - \bar B X^H \quad\text{where } A \text{ stores an entry,}

    to any order (Golub and Pereyra, 1973).  A derivative is as accurate as the solvers are, and
    the conditioning of the problem enters it squared.

    Cost: one least-squares solve for the value; one more and one of least norm for each first
    derivative.  Each takes O(nnz p) time an iteration and O(nnz + m p) memory.  Under ``vmap`` over
    B there are more columns, not more solves.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_generic_lstsq
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]).to_sparse_coo().requires_grad_()
    >>> x = sparse_generic_lstsq(A, torch.tensor([1.0, 2.0, 4.0]))
    >>> x.detach()
    tensor([0.5556, 1.8889])
    >>> x.sum().backward()
    >>> A.grad.is_sparse
    True
    """
    check.least_squares(A, B)
    vector = B.ndim == 1
    if torch.compiler.is_compiling():
        keys = _constant_keys(lstsq, transpose_lstsq, vector)
    else:
        handles = _handles(lstsq, transpose_lstsq, vector)
        if is_tracing():  # the graph will hold the keys, and nothing else of them
            handles = tuple(registry.pin(h) for h in handles)
        keys = tuple(h.key for h in handles)

    def solve(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
        s = pattern.structure
        return least_squares(values, B, s.crow, s.col, s.cols, pattern.transposed, *keys)

    return over_matrix(solve, A, B, A.shape[-1])


def _handles(lstsq: Any, transpose_lstsq: Any, vector: bool) -> tuple[Any, Any]:
    for name, function in (("lstsq", lstsq), ("transpose_lstsq", transpose_lstsq)):
        if not (function is None or callable(function) or isinstance(function, Solver)):
            raise TypeError(f"{name} is a function of A and B; got {type(function).__name__}")
    if isinstance(lstsq, Solver) and not isinstance(lstsq, type):
        if transpose_lstsq is not None:
            raise TypeError("a Solver brings its own adjoint solve; got transpose_lstsq as well")
        handle = registry.register_solver(lstsq)
        return handle, handle
    forward, adjoint = _LSMR, _LSMR
    if lstsq is not None:
        forward = registry.register_function(lstsq, None, {}, vector)
    if transpose_lstsq is not None:
        adjoint = registry.register_transposed(transpose_lstsq, vector)
    return forward, adjoint


@constant_when_traced
def _constant_keys(lstsq, transpose_lstsq, vector):
    """Return keys that stay valid: the compiled graph holds them, and nothing else."""
    return tuple(registry.pin(h).key for h in _handles(lstsq, transpose_lstsq, vector))


class SparseGenericLstsq(OpFunction):
    """`sparse_generic_lstsq` for code that calls ``SparseGenericLstsq.apply(A, B, ...)``.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.sparse_lstsq import SparseGenericLstsq
    >>> SparseGenericLstsq.apply(torch.eye(2).to_sparse_csr(), torch.ones(2), None, None)
    tensor([1., 1.])
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        A: SparseMatrix | Tensor,
        B: Tensor,
        lstsq: Solve | Solver | None = None,
        transpose_lstsq: Solve | None = None,
    ) -> Tensor:
        """Solve."""
        return sparse_generic_lstsq(A, B, lstsq, transpose_lstsq)
