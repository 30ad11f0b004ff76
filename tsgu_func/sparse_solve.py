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
        float32, float64, complex64 or complex128.  If A stores entries in the other triangle, they
        are ignored.
    B : Tensor, dense, shape (n, p) or (b, n, p)
        It has the dtype of `A` and is on the same device.  If A is a SparseMatrix, B may also be a
        vector (n,), or of shape ``A.shape[:-1]``, which is a vector for each member of a batch, or
        ``(*batch, n, p)`` with a batch that broadcasts with that of A.
    upper : bool
        True to solve with the upper triangle of A, False for the lower one.
    unitriangular : bool
        Whether all entries of the diagonal are one.  A must not store them then.
    transpose : bool
        Whether to solve ``Aᵀ X = B`` instead.  Also then, `upper` says which triangle of A, not of
        its transpose.

    Returns
    -------
    Tensor
        X, with the shape of `B`.  If A is a SparseMatrix, batches are broadcast, and for a vector
        and a batch of matrices the shape is ``(*batch, n)``.

    Raises
    ------
    ValueError
        If an argument is of another kind or layout than above; if shapes, dtypes or devices do not
        fit; if A is not square; or if `unitriangular` is set and a diagonal entry is stored.
    TypeError
        If a flag is neither True nor False.
    SolveError
        If a diagonal entry is missing or zero: the message names its row.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^{-H} G, \qquad \bar A_{ij} = -\sum_k \bar B_{ik} \overline{X_{jk}}
        \quad\text{where the triangle of } A \text{ stores an entry,}

    and zero where A stores an entry in the other triangle; to any order, in forward and reverse
    mode and under ``vmap``.

    The solve and each derivative take O(nnz p) time, and O(nnz + n p) memory.  The transpose is
    never formed.  The method is substitution, by rows for A and by columns for its transpose: Golub
    and Van Loan, *Matrix Computations*, section 3.1.

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
    r"""Solve ``A X = B`` with a solver that is passed as a function.

    The arguments are those of torchsparsegradutils.  With any solver, the gradient of `A` has the
    pattern of A.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, n)``, or sparse COO or CSR Tensor (n, n) or (b, n, n)
        Square and non-singular; float32, float64, complex64 or complex128.
    B : Tensor, dense, shape (n,) or (n, p)
        It is on the device of `A`.  With a batch of matrices it is ``(*batch, n, p)``, or has the
        shape ``A.shape[:-1]``, which is a vector for each member, as in ``torch.linalg.solve``.
    solve : callable or Solver, optional
        ``solve(A, B, **kwargs) -> X``, which gets `A` as a ``torch.sparse_csr`` tensor.  The
        function need not be differentiable, and may write to its arguments.  Or a `Solver`.  The
        default, `minres`, is for a Hermitian A; for any other A pass, for example, ``SuperLU()``.
    transpose_solve : callable, optional
        ``transpose_solve(A, G, **kwargs) -> Y`` with ``Aᵀ Y = G``, which reverse mode needs.  By
        default, `solve` is called with the transpose (of a complex A, the conjugate transpose).
    **kwargs
        Keyword arguments that both functions are called with.

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
        If the matrix is singular.  If the solver did not converge, it is a `ConvergenceError`,
        which is a kind of SolveError.
    RuntimeError
        If a function of yours uses a tensor that is being differentiated or mapped over and that
        is neither A nor B.  Its derivative would be lost.

    Warns
    -----
    UserWarning
        If the dtypes of A and B differ.  B is then converted to the dtype of A.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^{-H} G, \qquad \bar A_{ij} = -\sum_k \bar B_{ik} \overline{X_{jk}}
        \quad\text{where } A \text{ stores an entry,}

    to any order, by the implicit function theorem.  A derivative is as accurate as the solver.

    The value takes one solve, and so does each first derivative.  A factor is computed once for the
    given values.  Under ``vmap`` over B there is one solve with more columns.  A function of yours
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
    r"""Solve ``A X = B`` with a solver that suits A, or with one that you choose.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, n)``, or sparse COO or CSR Tensor (n, n) or (b, n, n)
        Square and non-singular; float32, float64, complex64 or complex128.  It may also be a
        `LinearOperator`, a matrix that is known by its products alone.
    B : Tensor, dense, shape (n,), ``(*batch, n, p)``, or that of ``A.shape[:-1]``
        It has the dtype of `A` and is on the same device.  With a shape of ``A.shape[:-1]`` it is a
        vector for each member of a batch, as in ``torch.linalg.solve``.  If such a B could also be
        a matrix for all members, it is refused.  For a `LinearOperator`, B is (n,) or (n, p).
    solver : Solver or callable, optional
        Default: `Auto()`, which looks at A (is it triangular, is it Hermitian, how large is it,
        ...) and chooses; for a `LinearOperator`, of which nothing can be seen, GMRES.

        A function of your own is called as ``solver(A, B)``, where A is a ``torch.sparse_csr``
        tensor.  For derivatives it is called with the transpose, or the conjugate transpose of a
        complex matrix.  If its result has a relative residual above 1e-3, it counts as failed.
    nullspace : "constant", Tensor (n,) or (n, k), or a pair of such, optional
        For a singular A: the vectors that A maps to zero, or "constant" for the vector of ones.  If
        the adjoint of A maps other vectors to zero, pass them as the second of a pair; for a
        Hermitian A they are the same.  `B` is then projected on the range of A, and X is the
        solution of least norm, which is orthogonal to the vectors given.  There is no derivative
        with respect to them.
    return_info : bool
        Whether to return an `Info` as well, which says which solver was chosen and how it ended.
    on_failure : {"raise", "warn", "ignore", "strict"}
        What to do if there is no solution, because the solver did not converge or A is singular.
        With "raise" and "strict" it is an error.  With "warn" and "ignore", the columns and members
        that have a solution are right, and in the others stands the best that was found, or NaN.

        A solution that is as good as rounding allows may still be inaccurate, if A is badly
        conditioned.  Then you get an `IllConditionedWarning`.  With "ignore" you get none, and with
        "strict" it is an error.

    Returns
    -------
    Tensor, or (Tensor, Info)
        X, with the shape of `B`; for a batch of matrices and a vector, ``(*batch, n)``.  The `Info`
        has a number of each kind for each column, and has no derivative.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, B is not dense, or `solver` is neither a
        Solver nor a function.
    ValueError
        If shapes, dtypes or devices do not fit, or a value is not finite.
    SolveError
        If the matrix is singular.  If the solver did not converge, it is a `ConvergenceError`,
        which is a kind of SolveError.
    ImportError
        If the solver needs an optional package that is not installed.
    RuntimeError
        If a function of yours uses a tensor that is being differentiated or mapped over and that
        is neither A nor B.  Its derivative would be lost.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^{-H} G, \qquad \bar A_{ij} = -\sum_k \bar B_{ik} \overline{X_{jk}}
        \quad\text{where } A \text{ stores an entry,}

    to any order, by the implicit function theorem.  Both systems are solved with the same factor
    or preconditioner.  A derivative is as accurate as the solver.  If a column of a cotangent or
    tangent is not finite, its result is NaN, as in PyTorch, and the other columns are right.

    The value takes one solve, and so does each first derivative.  A factor or preconditioner is
    computed once for the given values, and kept as long as the values exist (see
    `tsgu_func.solvers.cache_info`).  Under ``vmap`` over B there is one solve with more columns.

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
