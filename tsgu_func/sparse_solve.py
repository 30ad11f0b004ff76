"""Solution of sparse linear systems; derived in `tsgu_func.ops.solve` and `.triangular`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from tsgu_func.legacy import OpFunction
from tsgu_func.linear_operator import LinearOperator, check_takes_operators, solve_operator
from tsgu_func.matrix import arguments
from tsgu_func.matrix.batches import over_system
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.ops import keys
from tsgu_func.ops.handles import handle_of_function, handle_of_solver
from tsgu_func.ops.reporting import unpacked
from tsgu_func.ops.solve import linear_solve
from tsgu_func.ops.triangular import triangular_solve
from tsgu_func.solvers import Auto, Info, Solver
from tsgu_func.utils.minres import minres

__all__ = [
    "SparseGenericSolve",
    "SparseTriangularSolve",
    "judged_handle",
    "sparse_generic_solve",
    "sparse_solve",
    "sparse_triangular_solve",
]

Policy = Literal["raise", "warn", "ignore", "strict"]
Null = Literal["constant"] | Tensor | tuple[Tensor, Tensor]
_AUTO = Auto()


def sparse_triangular_solve(
    A: SparseMatrix | Tensor,
    B: Tensor,
    upper: bool = True,
    unitriangular: bool = False,
    transpose: bool = False,
) -> Tensor:
    r"""Solve ``A X = B`` for a triangular A; the gradient of `A` keeps its pattern.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, n)``, or sparse COO or CSR Tensor (n, n) or (b, n, n)
        float32, float64, complex64 or complex128.  Entries in the other triangle are ignored.
    B : Tensor, dense, shape (n, p) or (b, n, p)
        Of the dtype and on the device of `A`.  For a SparseMatrix also a vector (n,); one for each
        member, of shape ``A.shape[:-1]``; or ``(*batch, n, p)`` with batches that broadcast.
    upper : bool
        Whether the upper triangle of A is meant, or the lower one.
    unitriangular : bool
        Whether the diagonal is one without being stored.
    transpose : bool
        Whether to solve ``Aᵀ X = B`` instead; `upper` still speaks of A.

    Returns
    -------
    Tensor
        X, with the shape of `B` (for a SparseMatrix, of the batches broadcast; for a vector and a
        batch of matrices, ``(*batch, n)``).

    Raises
    ------
    ValueError
        If an argument is no tensor of the layout above; shapes, dtypes or devices differ; A is not
        square; or `unitriangular` is set and a diagonal entry is stored.
    TypeError
        If a flag is neither True nor False.
    SolveError
        If a diagonal entry is missing or zero: the message names its row.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^{-H} G, \qquad \bar A_{ij} = -\sum_k \bar B_{ik} \overline{X_{jk}}
        \quad\text{where the triangle of } A \text{ stores an entry,}

    and zero where A stores one in the other triangle; to any order, in forward and reverse mode and
    under ``vmap``.

    Time is O(nnz p) for the solve and each derivative, memory O(nnz + n p).  The transpose is never
    formed.  The method is substitution, by rows for A and by columns for its transpose: Golub and
    Van Loan, *Matrix Computations*, section 3.1.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_triangular_solve
    >>> L = torch.tensor([[2.0, 0.0], [1.0, 4.0]]).to_sparse_csr().requires_grad_()
    >>> X = sparse_triangular_solve(L, torch.tensor([[2.0], [9.0]]), upper=False)
    >>> X.detach()
    tensor([[1.],
            [2.]])
    >>> X.sum().backward()
    >>> L.grad.to_dense()
    tensor([[-0.3750,  0.0000],
            [-0.2500, -0.5000]])
    """
    arguments.check_triangular(A, B)
    arguments.check_flags(upper=upper, unitriangular=unitriangular, transpose=transpose)

    def solve(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
        s, swapped = pattern.structure, pattern.transposed
        return triangular_solve(
            values, B, s.crow, s.col, s.cols, transpose != swapped, upper != swapped, unitriangular
        )

    return over_system(solve, A, B)


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
        Of the dtype and on the device of `A`.  With a batch of matrices ``(*batch, n, p)``, or of
        shape ``A.shape[:-1]``: a vector for each, as in ``torch.linalg.solve``.
    solve : callable or Solver, optional
        ``solve(A, B, **kwargs) -> X``, which gets `A` as a ``torch.sparse_csr`` tensor, or a
        `Solver`.  It need not be differentiable, and may write to what it gets.  Default: `minres`,
        for Hermitian A; ``SuperLU()`` takes any A.
    transpose_solve : callable, optional
        ``transpose_solve(A, G, **kwargs) -> Y`` with ``Aᵀ Y = G``, for the reverse mode.  Default:
        `solve`, applied to the transpose (for complex A, the conjugate transpose).
    **kwargs
        Passed on to both functions.

    Returns
    -------
    Tensor
        X, with the shape of `B`; for a batch of matrices and a vector, ``(*batch, n)``.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, or B is not dense.
    ValueError
        If an argument is no tensor, shapes or devices differ, A is not square, or a value is not
        finite.
    SolveError
        If the matrix is singular, or (ConvergenceError) the solver did not converge.
    RuntimeError
        If a function uses a tensor that is being differentiated or mapped over, and that is neither
        A nor B: there would be no derivative of it.

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
    arguments.check_generic_solve(A, B)
    if A.dtype != B.dtype and not torch.is_autocast_enabled(A.device.type):
        warnings.warn(f"A and B have dtypes {A.dtype} and {B.dtype}; B is converted", stacklevel=2)
        B = B.to(A.dtype)
    vectors = arguments.are_vectors(A, B)
    key, _held = keys.key_of(_handle, solve, transpose_solve, kwargs, vectors)
    return over_system(_solved_by(key), A, B)[0]


def _handle(solve: Any, transpose_solve: Any, kwargs: dict[str, Any], vector: bool) -> Any:
    for name, function in (("solve", solve), ("transpose_solve", transpose_solve)):
        if not (function is None or callable(function) or isinstance(function, Solver)):
            raise TypeError(f"{name} is a function or a Solver; got {type(function).__name__}")
    solve = minres if solve is None else solve
    if not isinstance(solve, Solver):
        return handle_of_function(solve, transpose_solve, kwargs, vector)
    if transpose_solve is not None or kwargs:
        raise TypeError(
            f"a Solver brings its own transposed solve and settings; got {sorted(kwargs)}"
            + (" and transpose_solve" if transpose_solve is not None else "")
        )
    return handle_of_solver(solve)


@overload
def sparse_solve(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | Callable[[Tensor, Tensor], Tensor] | None = None,
    nullspace: Null | None = None,
    return_info: Literal[False] = False,
    on_failure: Policy = "raise",
) -> Tensor: ...


@overload
def sparse_solve(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | Callable[[Tensor, Tensor], Tensor] | None = None,
    nullspace: Null | None = None,
    return_info: Literal[True],
    on_failure: Policy = "raise",
) -> tuple[Tensor, Info]: ...


def sparse_solve(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | Callable[[Tensor, Tensor], Tensor] | None = None,
    nullspace: Null | None = None,
    return_info: bool = False,
    on_failure: Policy = "raise",
) -> Tensor | tuple[Tensor, Info]:
    r"""Solve ``A X = B`` with a solver that suits A, or the one given.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, n)``, or sparse COO or CSR Tensor (n, n) or (b, n, n)
        Square and non-singular; float32, float64, complex64 or complex128.  Or a `LinearOperator`,
        known by its products alone.
    B : Tensor, dense, shape (n,), ``(*batch, n, p)``, or that of ``A.shape[:-1]``
        Of the dtype and on the device of `A`; (n,) or (n, p) for a `LinearOperator`.  The last is
        a vector for each member of a batch, as in ``torch.linalg.solve``; where it could be a
        matrix for all of them as well, it is refused.
    solver : Solver or callable, optional
        Default: `Auto()`, which looks at A (triangular, Hermitian, size, ...) and chooses; for a
        `LinearOperator`, which shows nothing, GMRES.  A function is called as ``solver(A, B)``,
        with `A` as a ``torch.sparse_csr`` tensor, for derivatives with the (conjugate) transpose;
        it has failed if it leaves a relative residual above 1e-3.
    nullspace : "constant", Tensor (n,) or (n, k), or a pair of such, optional
        What a singular A maps to zero; with a second, what its adjoint does, which for a Hermitian
        A is the same.  Then `B` is projected on the range of A, and X is the solution that is
        orthogonal to the first: with the least norm.  It has no derivative.
    return_info : bool
        Also return an `Info`, which says what was chosen and how it ended.
    on_failure : {"raise", "warn", "ignore", "strict"}
        What to do if X is no solution: the solver has not converged, or A is singular.  With the
        latter two columns and members without a solution are NaN, and the others come back.  Where
        X is as good as rounding allows, and that is not good, there is an `IllConditionedWarning`;
        "ignore" leaves it out, "strict" makes it an error.

    Returns
    -------
    Tensor, or (Tensor, Info)
        X, with the shape of `B`; for a batch of matrices and a vector, ``(*batch, n)``.  Each
        number in the `Info` is one of each column; it has no derivative.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, B is not dense, or `solver` is neither a
        Solver nor a function.
    ValueError
        If shapes, dtypes or devices do not fit, or a value is not finite.
    SolveError
        If the matrix is singular, or (ConvergenceError) the solver did not converge.
    ImportError
        If the solver needs an optional package that is not installed.
    RuntimeError
        If a function uses a tensor that is being differentiated or mapped over, and that is neither
        A nor B: there would be no derivative of it.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^{-H} G, \qquad \bar A_{ij} = -\sum_k \bar B_{ik} \overline{X_{jk}}
        \quad\text{where } A \text{ stores an entry,}

    to any order, by the implicit function theorem; the same factor or preconditioner serves both
    systems.  A derivative is as accurate as the solver.  A column of a cotangent or tangent that is
    not finite gives NaN, as in PyTorch, and the others are right.

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
    chosen = _AUTO if solver is None else solver
    if isinstance(A, LinearOperator):
        check_takes_operators(chosen)
        arguments.check_operator(A.static.shape, B)
        vectors = B.ndim == 1
    else:
        arguments.check_solve(A, B)
        arguments.check_dtypes(A, B)
        vectors = arguments.are_vectors(A, B)
    key, _held = keys.key_of(judged_handle, chosen, on_failure, vectors)
    if isinstance(A, LinearOperator):
        if nullspace is not None:
            raise TypeError("nullspace goes with a stored matrix; got a LinearOperator")
        outputs = solve_operator(A, B, key)
    else:
        null = arguments.null_vectors(A, nullspace)
        outputs = over_system(_solved_by(key, return_info, null), A, B)
    return (outputs[0], unpacked(outputs, vectors)) if return_info else outputs[0]


def judged_handle(solver: Any, on_failure: str, vectors: bool) -> Any:
    """Return the handle of a solver, or of a function whose residual is judged."""
    if isinstance(solver, (type, Solver)) or not callable(solver):
        return handle_of_solver(solver, on_failure)
    function: Any = solver
    return handle_of_function(function, None, {}, vectors, on_failure)


def _solved_by(key: str, condition: bool = False, null: tuple[Tensor, Tensor] | None = None) -> Any:
    def solved(pattern: SparsityPattern, values: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        s = pattern.structure
        stored = values, B, s.crow, s.col, s.cols
        further = ("B",) if null is None else ("B", *null)
        return linear_solve(*stored, pattern.transposed, False, key, condition, *further)

    return solved


class SparseTriangularSolve(OpFunction):
    """`sparse_triangular_solve` for code that calls ``SparseTriangularSolve.apply(A, B, ...)``.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.sparse_solve import SparseTriangularSolve
    >>> A, B = 2 * torch.eye(2).to_sparse_csr(), torch.ones(2, 1)
    >>> SparseTriangularSolve.apply(A, B, True, False, False)
    tensor([[0.5000],
            [0.5000]])
    """

    apply = forward = staticmethod(sparse_triangular_solve)


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
    def forward(
        A: SparseMatrix | Tensor,
        B: Tensor,
        solve: Callable[..., Tensor] | Solver | None = None,
        transpose_solve: Callable[..., Tensor] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Solve."""
        return sparse_generic_solve(A, B, solve, transpose_solve, **(kwargs or {}))

    apply = forward
