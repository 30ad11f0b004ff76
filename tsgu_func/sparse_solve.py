"""Solution of sparse linear systems.

Derivation.  Let ``A X = B``.  Differentiating, ``dA X + A dX = dB``, so

    dX = A⁻¹ (dB - dA X).

With the cotangent G of X and ``W = A⁻ᴴ G``,

    <G, dX> = <A⁻ᴴ G, dB> - <A⁻ᴴ G, dA X> = <W, dB> - <W Xᴴ, dA>,

so the cotangent of B is W, and that of the values is ``-W Xᴴ`` where A stores an entry, an `sddmm`.
Nothing here asks for A to be symmetric.  All rules call this op again and the products, so
derivatives of every order come out; how the system is solved never enters.

The matrix is read off a stored one, S, as S, Sᵀ, conj(S) or Sᴴ, so that a factor of S serves all of
them.
"""

from __future__ import annotations

import warnings
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
from tsgu_func.solvers import Solver, registry
from tsgu_func.sparse_matmul import sddmm, spmm
from tsgu_func.sparse_triangular import SparseTriangularSolve, sparse_triangular_solve
from tsgu_func.utils.minres import minres

__all__ = [
    "SparseGenericSolve",
    "SparseTriangularSolve",
    "generic_solve",
    "sparse_generic_solve",
    "sparse_triangular_solve",
]

_MINRES = registry.register_default(minres)

# ---------------------------------------------------------------------------- generic_solve

generic_solve = Primitive(
    "tsgu_func::generic_solve(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose, bool conjugate, str solver) -> Tensor"
)


@generic_solve.kernel
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    A = StoredMatrix(structure_of(crow, col, cols), values, transpose, conjugate)
    return solve_stored(A, B, solver)


@generic_solve.fake
def _(values, B, crow, col, cols, transpose, conjugate, solver):
    return torch.empty_like(B, memory_format=torch.contiguous_format)


def cotangents(needs, ct, X, values, crow, col, cols, transpose, conjugate, solver):
    """Return the cotangents of the values and of B."""
    W = generic_solve(
        values, ct, crow, col, cols, not transpose, not conjugate, registry.adjoint_key(solver)
    )
    if not needs[0]:
        return None, W
    # The cotangent of conj(S) is the conjugate of that of S; and as in spmm, what is at (i, j) in S
    # is at (j, i) in its transpose.
    left, right = (W.conj(), X) if conjugate else (W, X.conj())
    left, right = (right, left) if transpose else (left, right)
    return sddmm(-left, right, crow, col, cols), W


@generic_solve.vjp("values", "B")
def _(needs, ct, out, values, crow, col, cols, transpose, conjugate, solver):
    return cotangents(needs, ct, out, values, crow, col, cols, transpose, conjugate, solver)


def tangent_of_solution(tangents, X, values, crow, col, cols, transpose, conjugate, solver):
    """Return the tangent of X."""
    dS, dB = tangents
    right = dB
    if dS is not None:
        dA_X = spmm(dS.conj() if conjugate else dS, X, crow, col, cols, transpose)
        right = -dA_X if dB is None else dB - dA_X
    return generic_solve(values, right, crow, col, cols, transpose, conjugate, solver)


@generic_solve.jvp("values", "B")
def _(tangents, out, values, crow, col, cols, transpose, conjugate, solver):
    return tangent_of_solution(tangents, out, values, crow, col, cols, transpose, conjugate, solver)


@generic_solve.retain
def _(solver):
    return registry.root_of(solver)


generic_solve.fold(values=1, B=2, columns="B")
generic_solve.autocast("float32")


def solve_stored(A: StoredMatrix, B: Tensor, solver: str, name: str = "B") -> Tensor:
    """Solve with what a key stands for, which is asked only where there is something to solve."""
    check.computable(A.values)
    check.finite("A", A.values)
    check.finite(name, B)
    if not (B.numel() and A.shape[1]):
        return B.new_zeros(*B.shape[:-2], A.shape[1], B.shape[-1])
    return registry.handle_of(solver).solve(A, B)


# -------------------------------------------------------------------------- public function


def sparse_generic_solve(
    A: SparseMatrix | Tensor,
    B: Tensor,
    solve: Callable[..., Tensor] | Solver | None = None,
    transpose_solve: Callable[..., Tensor] | None = None,
    **kwargs: Any,
) -> Tensor:
    r"""Solve ``A X = B``; the gradient of `A` keeps its pattern, whatever the solver.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, n)``, or sparse COO or CSR Tensor (n, n) or (b, n, n)
        Square and non-singular; float32, float64, complex64 or complex128.
    B : Tensor, dense, shape (n,) or (n, p)
        Of the dtype and on the device of `A`.  With a batch of matrices, ``(*batch, n, p)``.
    solve : callable or Solver, optional
        ``solve(A, B, **kwargs) -> X``, which gets `A` as a ``torch.sparse_csr`` tensor, or a
        `Solver`.  It need not be differentiable.  Default: `minres`, for Hermitian A; ``SuperLU()``
        takes any A.
    transpose_solve : callable, optional
        ``transpose_solve(A, G, **kwargs) -> Y`` with ``Aᵀ Y = G``, for the reverse mode.  Default:
        `solve`, applied to the transpose (for complex A, the conjugate transpose).
    **kwargs
        Passed on to both functions.

    Returns
    -------
    Tensor
        X, with the shape of `B`.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, or B is not dense.
    ValueError
        If an argument is no tensor, shapes or devices differ, A is not square, or a value is not
        finite.
    SolveError
        If the matrix is singular, or (ConvergenceError) the solver did not converge.

    Warns
    -----
    UserWarning
        If dtypes differ; B is then converted to the dtype of A.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^{-H} G, \qquad \bar A_{ij} = -\sum_k \bar B_{ik} \overline{X_{jk}}
        \quad\text{where } A \text{ stores an entry,}

    to any order, by the implicit function theorem.  A derivative is as accurate as the solver.

    Cost: one solve for the value, one for each first derivative; a factor is computed once for
    given values.  Under ``vmap`` over B there are more columns, not more solves.  A user's function
    is called for the members of a batch of matrices one after the other.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_generic_solve
    >>> from tsgu_func.utils import linear_cg
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]]).to_sparse_coo().requires_grad_()
    >>> b = torch.tensor([1.0, 2.0])
    >>> x = sparse_generic_solve(A, b)
    >>> x
    tensor([0.0909, 0.6364], grad_fn=<SqueezeBackward1>)
    >>> x.sum().backward()
    >>> A.grad.to_dense()
    tensor([[-0.0165, -0.1157],
            [-0.0248, -0.1736]])
    >>> sparse_generic_solve(A.detach(), b, solve=linear_cg, tolerance=1e-6)
    tensor([0.0909, 0.6364])
    """
    check.solve(A, B)
    if A.dtype != B.dtype and not torch.is_autocast_enabled(A.device.type):
        warnings.warn(f"A and B have dtypes {A.dtype} and {B.dtype}; B is converted", stacklevel=2)
        B = B.to(A.dtype)
    if torch.compiler.is_compiling():
        return _by_key(A, B, _constant_key(solve, transpose_solve, kwargs, B.ndim == 1))
    handle = _handle(solve, transpose_solve, kwargs, B.ndim == 1)
    if is_tracing():  # the graph will hold the key, and nothing else of it
        registry.pin(handle)
    return _by_key(A, B, handle.key)


def _by_key(A: SparseMatrix | Tensor, B: Tensor, key: str) -> Tensor:
    def solve(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
        s = pattern.structure
        return generic_solve(values, B, s.crow, s.col, s.cols, pattern.transposed, False, key)

    return over_matrix(solve, A, B, A.shape[-1])


def _handle(solve: Any, transpose_solve: Any, kwargs: dict[str, Any], vector: bool) -> Any:
    for name, function in (("solve", solve), ("transpose_solve", transpose_solve)):
        if not (function is None or callable(function) or isinstance(function, Solver)):
            raise TypeError(f"{name} is a function or a Solver; got {type(function).__name__}")
    if solve is None and transpose_solve is None and not kwargs:
        return _MINRES
    solve = minres if solve is None else solve
    if not isinstance(solve, Solver):
        return registry.register_function(solve, transpose_solve, kwargs, vector)
    if transpose_solve is not None or kwargs:
        raise TypeError(
            f"a Solver brings its own transposed solve and settings; got {sorted(kwargs)}"
            + (" and transpose_solve" if transpose_solve is not None else "")
        )
    return registry.register_solver(solve)


@constant_when_traced
def _constant_key(solve: Any, transpose_solve: Any, kwargs: dict[str, Any], vector: bool) -> str:
    """Return a key that stays valid: the compiled graph holds it, and nothing else."""
    return registry.pin(_handle(solve, transpose_solve, kwargs, vector)).key


class SparseGenericSolve(OpFunction):
    """`sparse_generic_solve` for code that calls ``SparseGenericSolve.apply(A, B, ...)``.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.sparse_solve import SparseGenericSolve
    >>> A = 2 * torch.eye(2).to_sparse_csr()
    >>> SparseGenericSolve.apply(A, torch.ones(2), None, None, {})
    tensor([0.5000, 0.5000])
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        A: SparseMatrix | Tensor,
        B: Tensor,
        solve: Callable[..., Tensor] | Solver | None = None,
        transpose_solve: Callable[..., Tensor] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Solve."""
        return sparse_generic_solve(A, B, solve, transpose_solve, **(kwargs or {}))
