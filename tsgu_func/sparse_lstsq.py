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
    r"""Find the X that minimizes ``|A X - B|``, for a tall A, with a solver passed as a function.

    The arguments are those of torchsparsegradutils.  The gradient of `A` has the pattern of A.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, m, n)``, or sparse COO or CSR Tensor (m, n) or (b, m, n)
        float32, float64, complex64 or complex128.  It needs full column rank, so m >= n.
    B : Tensor, dense, shape (m,) or (m, p)
        It has the dtype of `A` and is on the same device.  With a batch of matrices it is
        ``(*batch, m, p)``, or has the shape ``A.shape[:-1]``, which is a vector for each member.
    lstsq : callable or Solver, optional
        ``lstsq(A, B) -> X``, which gets `A` as a ``torch.sparse_csr`` tensor and need not be
        differentiable.  Or a `Solver` for least squares, which then solves the adjoint problem too.
        Default: ``LSMR()``, for all columns at once, to nearly the precision of the dtype, with the
        columns of A scaled to norm one.
    transpose_lstsq : callable, optional
        ``transpose_lstsq(A, G) -> Y``, which returns the solution of ``Aᵀ Y = G`` of least norm.
        Derivatives need it.  Default: ``LSMR()``, on the (conjugate) transpose.

    Returns
    -------
    Tensor
        X, of shape (n,), (n, p) or ``(*batch, n, p)``; for vectors ``(*batch, n)``.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, or B is not dense.
    ValueError
        If A is wide, if shapes, dtypes or devices do not fit, or if a value is not finite.
    SolveError
        If the solver did not converge, or found out that A lacks full column rank: by a column of
        zeros, a condition number beyond the precision, or an adjoint system without a solution.
    RuntimeError
        If a function of yours uses a tensor that is being differentiated or mapped over and that
        is neither A nor B.  Its derivative would be lost.

    Notes
    -----
    For a cotangent :math:`G`, with :math:`R = B - A X`,

    .. math:: \bar B = (A^H)^+ G, \qquad
        \bar A = R\, (A^+ \bar B)^H - \bar B X^H \quad\text{where } A \text{ stores an entry,}

    to any order (Golub and Pereyra, 1973).  A derivative is as accurate as the solvers are, and
    the conditioning of the problem enters it squared.

    The value takes one least-squares solve.  Each first derivative takes another one, and a solve
    for a solution of least norm.  An iteration takes O(nnz p) time, and a solve O(nnz + m p)
    memory.  Under ``vmap`` over B there is one solve with more columns.

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
    r"""Find the X that minimizes ``|A X - B|² + damp² |X|²``.

    Without `damp`, this is the least-squares solution if A is tall, and the solution of
    ``A X = B`` of least norm if A is wide.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, m, n)``, or sparse COO or CSR Tensor (m, n) or (b, m, n)
        float32, float64, complex64 or complex128.  It needs full rank, unless `damp` is given.  It
        may also be a `LinearOperator`, which needs a shape if it is not square.
    B : Tensor, dense, shape (m,), ``(*batch, m, p)``, or that of ``A.shape[:-1]``
        It has the dtype of `A` and is on the same device.  With a shape of ``A.shape[:-1]`` it is a
        vector for each member of a batch.  For a `LinearOperator`, B is (m,) or (m, p).
    solver : Solver, optional
        A solver for least squares, such as ``LSQR()``.  The default is `AutoLeastSquares()`.  If
        the pattern of A shows that it costs little, as for a banded A, this factors the augmented
        system, with `Augmented()`.  Otherwise it iterates with ``LSMR()`` to nearly the precision
        of the dtype, with the columns of A scaled to norm one, and factors if that does not
        converge.
        For a `LinearOperator` the default is ``LSMR()``, without scaling, because its columns
        cannot be seen.
    damp : float or real Tensor
        The damping δ (Tikhonov regularization): a number, or a tensor without axes, which may be
        differentiated, or a tensor with a number for each member of a batch of matrices.  What is
        solved has the additional rows ``δ I`` below A.  So with damping, A may have any shape and
        rank.
    return_info : bool
        Whether to return an `Info` as well.  It says which solver was used, how it ended, and how
        many iterations it took.  It has the residual ``|B - A X| / |B|`` (with `damp`, that of all
        rows), which need not be small for least squares.  And it has an estimate of the condition
        number of A in the 2-norm, after its columns (of a wide A, its rows) were scaled to norm
        one.  This is NaN if an iteration ended before it had seen all of A.
    on_failure : {"raise", "warn", "ignore", "strict"}
        What to do if the solver does not converge, or A lacks full rank; see `sparse_solve`.

    Returns
    -------
    Tensor, or (Tensor, Info)
        X, of shape (n,), (n, p) or ``(*batch, n, p)``; for vectors ``(*batch, n)``.  The `Info` has
        a number of each kind for each column, and has no derivative.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, B is not dense, `damp` is not real, or
        `solver` is no Solver.
    ValueError
        If shapes, dtypes or devices do not fit; if a value is not finite; or if `damp` is negative,
        or is given to the solver as well.
    SolveError
        If A lacks full rank.  If the solver did not converge, it is a `ConvergenceError`, which is
        a kind of SolveError.

    See Also
    --------
    sparse_generic_lstsq : The same for a tall A, with solvers that are passed as functions.

    Notes
    -----
    For a cotangent :math:`G`, with :math:`R = B - A X`,

    .. math:: \bar B = (A^H)^+ G, \qquad
        \bar A = R\, (A^+ \bar B)^H - \bar B X^H \quad\text{where } A \text{ stores an entry,}

    for a tall A, and for a wide one, with :math:`Z = (A^H)^+ G`,

    .. math:: \bar B = Z, \qquad \bar A = (A A^H)^{-1} B\, (G - A^H Z)^H - Z X^H,

    to any order (Golub and Pereyra, 1973).  A derivative is as accurate as the solver is, and the
    conditioning of the problem enters it squared.  If A lacks full rank, there is no derivative.

    The value takes one least-squares solve.  Each first derivative takes another one, and a solve
    for a solution of least norm.  A factor is computed once for the given values.  Without a
    factor, a solve takes O(nnz p) time for each iteration, and O(nnz + m p) memory.

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
