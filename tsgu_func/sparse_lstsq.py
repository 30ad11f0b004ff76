"""Least-squares solution of sparse systems; derived in `tsgu_func.ops.least_squares`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from tsgu_func.cache import stands_for
from tsgu_func.legacy import OpFunction
from tsgu_func.linear_operator import LinearOperator, check_takes_operators, minimize_operator
from tsgu_func.matrix import arguments
from tsgu_func.matrix.batches import over_system
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.matrix.stacking import vstack
from tsgu_func.ops import keys
from tsgu_func.ops.handles import handle_of_function, handle_of_solver, handle_of_transposed
from tsgu_func.ops.least_squares import least_norm, least_squares
from tsgu_func.ops.reporting import unpacked
from tsgu_func.registration.transforms import outside_transforms, unwrapped
from tsgu_func.solvers import LSMR, AutoLeastSquares, Info, Solver

__all__ = ["SparseGenericLstsq", "sparse_generic_lstsq", "sparse_lstsq"]

Solve = Callable[[Tensor, Tensor], Tensor]
_LSMR, _AUTO = LSMR(), AutoLeastSquares()


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
        Of the dtype and on the device of `A`.  With a batch of matrices ``(*batch, m, p)``, or of
        shape ``A.shape[:-1]``: a vector for each.
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
        X, shape (n,), (n, p) or ``(*batch, n, p)``; ``(*batch, n)`` for vectors.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, or B is not dense.
    ValueError
        If A is wide; shapes, dtypes or devices differ; or a value is not finite.
    SolveError
        If the solver did not converge, or met what shows that A lacks full column rank: a column
        of zeros, a condition number beyond the precision, or an adjoint system without solution.
    RuntimeError
        If a function uses a tensor that is being differentiated or mapped over, and that is neither
        A nor B: there would be no derivative of it.

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
    arguments.check_least_squares(A, B)
    arguments.check_tall(A)
    _check_takes_tall(lstsq, A)
    vectors = arguments.are_vectors(A, B)
    key, _held = keys.key_of(_handle, lstsq, vectors)
    adjoint, _held_too = keys.key_of(_adjoint_handle, lstsq, transpose_lstsq, vectors)
    damp = _damping(A, B, getattr(lstsq, "damp", 0.0))
    return over_system(_minimized_by(key, adjoint, damp), A, B)[0]


def _handle(lstsq: Any, vector: bool) -> Any:
    _check_callable("lstsq", lstsq)
    lstsq = _LSMR if lstsq is None else lstsq
    if isinstance(lstsq, Solver) and not isinstance(lstsq, type):
        return handle_of_solver(_undamped(lstsq))
    return handle_of_function(lstsq, None, {}, vector)


def _adjoint_handle(lstsq: Any, transpose_lstsq: Any, vector: bool) -> Any:
    _check_callable("transpose_lstsq", transpose_lstsq)
    if isinstance(lstsq, Solver) and not isinstance(lstsq, type):
        if transpose_lstsq is not None:
            raise TypeError("a Solver brings its own adjoint solve; got transpose_lstsq as well")
        return handle_of_solver(_undamped(lstsq))
    if transpose_lstsq is None:
        return handle_of_solver(_LSMR)
    return handle_of_transposed(transpose_lstsq, vector)


def _check_takes_tall(solver: Any, A: SparseMatrix | LinearOperator | Tensor) -> None:
    shape = A.static.shape if isinstance(A, LinearOperator) else tuple(A.shape[-2:])
    if shape is not None and shape[0] != shape[1] and getattr(solver, "square_only", False):
        raise TypeError(
            f"{solver!r} solves square systems, and A has shape {shape}: take LSMR() or LSQR()"
        )


def _check_callable(name: str, function: Any) -> None:
    if not (function is None or callable(function) or isinstance(function, Solver)):
        raise TypeError(f"{name} is a function of A and B; got {type(function).__name__}")


def _minimized_by(key: str, adjoint: str, damp: Tensor | None) -> Any:
    def minimized(pattern: SparsityPattern, values: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        if damp is not None:
            pattern, values, B = _damped(pattern, values, B, damp)
        s, by = pattern.structure, (key, adjoint, "B")
        if pattern.shape[0] >= pattern.shape[1]:
            return least_squares(values, B, s.crow, s.col, s.cols, pattern.transposed, *by)
        # The op takes the adjoint of what is solved with.
        at = s.crow, s.col, s.cols, not pattern.transposed
        return least_norm(_conjugated(values), B, *at, *by)

    return minimized


def _conjugated(values: Tensor) -> Tensor:
    """Return conjugated values, for which what is kept is kept as long as the values live."""
    if not values.is_complex():
        return values
    conjugated = torch.conj_physical(values)
    if not torch.compiler.is_compiling():
        with outside_transforms():
            copy, original = (unwrapped(x).untyped_storage() for x in (conjugated, values))
            stands_for(copy, original, "conjugated")
    return conjugated


# --------------------------------------------------------------------------------- damping


def _undamped(solver: Any) -> Any:
    """Return a solver whose damping has become more rows of the matrix."""
    if isinstance(solver, type) or not getattr(solver, "damp", 0.0):
        return solver
    return dataclasses.replace(solver, damp=0.0)


def _damping(A: Any, B: Tensor, damp: float | Tensor) -> Tensor | None:
    """Return a damping with the batch of A, real and of its precision; None for the number 0."""
    batch = () if isinstance(A, LinearOperator) else A.shape[:-2]
    arguments.check_damping(damp, batch, B.device)
    real = B.real.dtype  # the compiler does not know `to_real`
    if isinstance(damp, Tensor):
        return (damp.expand(batch) if damp.ndim else damp).to(real)
    return torch.full((), damp, dtype=real, device=B.device) if damp else None


def _damped(
    pattern: SparsityPattern, values: Tensor, B: Tensor, damp: Tensor
) -> tuple[SparsityPattern, Tensor, Tensor]:
    """Return [A; damp I], of values (nnz,) or (b, nnz), and [B; 0].

    A number for each member of a batch finds it along the first axis of the values, or, where the
    members are blocks of one matrix, in the columns of a block.
    """
    members, n = values.shape[:-1], pattern.shape[1]
    each = damp.to(values.dtype).reshape(-1, 1)
    diagonal = each.expand(-1, members.numel() * n // len(each)).reshape(*members, n)
    A = vstack([SparseMatrix(pattern, values), SparseMatrix.diag(diagonal)])
    zeros = B.new_zeros(*B.shape[:-2], n, B.shape[-1])
    return A.pattern, A.values, torch.cat([B, zeros], -2)


# --------------------------------------------------------------------------- the front door


@overload
def sparse_lstsq(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    damp: float | Tensor = 0.0,
    return_info: Literal[False] = False,
    on_failure: Literal["raise", "warn", "ignore", "strict"] = "raise",
) -> Tensor: ...


@overload
def sparse_lstsq(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    damp: float | Tensor = 0.0,
    return_info: Literal[True],
    on_failure: Literal["raise", "warn", "ignore", "strict"] = "raise",
) -> tuple[Tensor, Info]: ...


def sparse_lstsq(
    A: SparseMatrix | LinearOperator | Tensor,
    B: Tensor,
    *,
    solver: Solver | None = None,
    damp: float | Tensor = 0.0,
    return_info: bool = False,
    on_failure: Literal["raise", "warn", "ignore", "strict"] = "raise",
) -> Tensor | tuple[Tensor, Info]:
    r"""Minimize ``|A X - B|² + damp² |X|²``, and tell how well that went.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, m, n)``, or sparse COO or CSR Tensor (m, n) or (b, m, n)
        Of full rank, if `damp` is zero; float32, float64, complex64 or complex128.  Where A is
        wide, X is the solution of ``A X = B`` of least norm.  Or a `LinearOperator`, with a shape
        if it is not square.
    B : Tensor, dense, shape (m,), ``(*batch, m, p)``, or that of ``A.shape[:-1]``
        Of the dtype and on the device of `A`.  The last is a vector for each member of a batch.
        For a `LinearOperator` (m,) or (m, p).
    solver : Solver, optional
        One for least squares, such as ``LSQR()``.  Default: `AutoLeastSquares()`, which takes a
        factorization of the augmented system, `Augmented()`, where the pattern says that it costs
        little, as for a banded A; else ``LSMR()``, to the last digits but a few, with the columns
        of A scaled to norm one, followed by a factorization if that does not converge.  ``LSMR()``
        for a `LinearOperator`, whose columns, which cannot be seen, are taken as they are.
    damp : float or real Tensor
        δ, for damping (Tikhonov regularization): a number; or a tensor without axes, which may be
        differentiated; or one for each member of a batch of matrices.  What is solved has the rows
        ``δ I`` below A, and so any shape and rank of A will do.
    return_info : bool
        Also return an `Info`: what solved, how it ended, iterations, an estimate of the condition
        number in the 2-norm of A with its columns (of a wide A, its rows) scaled to norm one (NaN
        where an iteration ended before it had seen all of A), and the residual
        ``|B - A X| / |B|``, which need not be small.  With `damp`, that of all rows.
    on_failure : {"raise", "warn", "ignore", "strict"}
        What to do if the solver has not converged, or A lacks full rank.

    Returns
    -------
    Tensor, or (Tensor, Info)
        X, shape (n,), (n, p) or ``(*batch, n, p)``; ``(*batch, n)`` for vectors.  Each number in
        the `Info` is one of each column; it has no derivative.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, B is not dense, `damp` is not real, or
        `solver` is no Solver.
    ValueError
        If shapes, dtypes or devices differ; a value is not finite; or `damp` is negative, or given
        twice.
    SolveError
        If the solver did not converge (ConvergenceError), or found that A lacks full rank.

    See Also
    --------
    sparse_generic_lstsq : The same with functions in the place of solvers, for a tall A.

    Notes
    -----
    For a cotangent :math:`G`, with :math:`R = B - A X`,

    .. math:: \bar B = (A^H)^+ G, \qquad
        \bar A = R\, (A^+ \bar B)^H - \bar B X^H \quad\text{where } A \text{ stores an entry,}

    for a tall A, and for a wide one, with :math:`Z = (A^H)^+ G`,

    .. math:: \bar B = Z, \qquad \bar A = (A A^H)^{-1} B\, (G - A^H Z)^H - Z X^H,

    to any order (Golub and Pereyra, 1973).  A derivative is as accurate as the solver is, and the
    conditioning of the problem enters it squared.  An A without full rank has none.

    Cost: one least-squares solve for the value; one more and one of least norm for each first
    derivative.  A factor is made once for given values; else each takes O(nnz p) time an iteration
    and O(nnz + m p) memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_lstsq
    >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    >>> x, info = sparse_lstsq(A, torch.tensor([1.0, 2.0, 4.0]), return_info=True)
    >>> x
    tensor([0.5556, 1.8889])
    >>> info.solver, info.result.name, float(info.residual) < 0.2
    ('Augmented()', 'SOLVED', True)
    >>> def size(damp):
    ...     return sparse_lstsq(A, torch.tensor([1.0, 2.0, 4.0]), damp=damp).norm()
    >>> torch.func.grad(size)(torch.tensor(0.5))
    tensor(-0.3386)
    """
    chosen = _AUTO if solver is None else solver
    if isinstance(A, LinearOperator):
        check_takes_operators(chosen)
    else:
        arguments.check_least_squares(A, B)
    _check_takes_tall(chosen, A)
    constant = getattr(solver, "damp", 0.0)
    if constant and (isinstance(damp, Tensor) or damp):
        raise ValueError(f"damp is given twice: as {damp!r}, and by {solver!r}")
    key, _held = keys.key_of(_handle_of_choice, chosen, on_failure)
    if isinstance(A, LinearOperator):
        outputs = minimize_operator(A, B, key, _damping(A, B, constant or damp))
        vectors = B.ndim == 1
    else:
        vectors = arguments.are_vectors(A, B)
        minimized = _minimized_by(key, key, _damping(A, B, constant or damp))
        outputs = over_system(minimized, A, B)
    return (outputs[0], unpacked(outputs, vectors)) if return_info else outputs[0]


def _handle_of_choice(solver: Any, on_failure: str) -> Any:
    return handle_of_solver(_undamped(solver), on_failure)


class SparseGenericLstsq(OpFunction):
    """`sparse_generic_lstsq` for code that calls ``SparseGenericLstsq.apply(A, B, ...)``.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.sparse_lstsq import SparseGenericLstsq
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]).to_sparse_csr()
    >>> SparseGenericLstsq.apply(A, torch.tensor([1.0, 2.0, 4.0]), None, None)
    tensor([0.5556, 1.8889])
    """

    apply = forward = staticmethod(sparse_generic_lstsq)
