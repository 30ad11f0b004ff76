"""Conjugate gradients for Hermitian positive definite systems.

Hestenes and Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, J. Res. NBS 49,
1952.  All columns and batch members run in one loop, each with its own step; the residual that
decides is computed from the solution at the end, not taken from the recurrence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.solvers.base import SolveError

__all__ = ["CGInfo", "LinearCGSettings", "linear_cg"]

# A recurrence drifts from the true residual; it is started afresh from there this often.
_RESTARTS = 5


class LinearCGSettings(NamedTuple):
    """Settings of `linear_cg`.

    Attributes
    ----------
    max_cg_iterations : int
        Matrix products at most.
    cg_tolerance : float
        Residual at which a column has converged, relative to its right-hand side.
    """

    max_cg_iterations: int = 1000
    cg_tolerance: float = 1e-5


_SETTINGS = LinearCGSettings()


class CGInfo(NamedTuple):
    """How `linear_cg` ended.

    Attributes
    ----------
    iterations : int
    residual : Tensor
        True relative residual of each column.
    converged : Tensor of bool
        Which columns reached the tolerance.
    """

    iterations: int
    residual: Tensor
    converged: Tensor


def linear_cg(
    matmul_closure: Any,
    rhs: Tensor,
    *,
    tolerance: float | None = None,
    max_iter: int | None = None,
    initial_guess: Tensor | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    settings: LinearCGSettings = _SETTINGS,
    return_info: bool = False,
) -> Any:
    r"""Solve :math:`A X = B` for a Hermitian positive definite A by conjugate gradients.

    Parameters
    ----------
    matmul_closure : matrix or callable
        A: a tensor (dense or sparse), a SparseMatrix, or a function ``X -> A X``.
    rhs : Tensor, shape (n,), (n, p) or ``(*batch, n, p)``
        B.  float32, float64, complex64 or complex128.
    tolerance : float, optional
        Relative residual at which a column has converged; default ``settings.cg_tolerance``.
    max_iter : int, optional
        Default ``settings.max_cg_iterations``.
    initial_guess : Tensor, optional
        Where to start, shape of `rhs`; default zero.
    preconditioner : callable, optional
        ``R -> M⁻¹ R`` for a Hermitian positive definite M close to A.
    settings : LinearCGSettings
    return_info : bool
        Also return a `CGInfo`, and leave it to the caller to look whether it converged.

    Returns
    -------
    Tensor, or (Tensor, CGInfo)
        X, with the shape of `rhs`.

    Raises
    ------
    SolveError
        If a column has not converged (unless `return_info` is set), or A is not positive definite.
    ValueError
        If `rhs` or a setting is of no use: no floating dtype, not finite, a negative tolerance.

    Notes
    -----
    One product with A an iteration; O(n p) memory.  Reference: Hestenes and Stiefel, 1952.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import linear_cg
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> linear_cg(A, torch.tensor([1.0, 2.0]))
    tensor([0.0909, 0.6364])
    """
    tol = settings.cg_tolerance if tolerance is None else tolerance
    limit = settings.max_cg_iterations if max_iter is None else max_iter
    _check(rhs, initial_guess, tol, limit)
    multiply = matmul_closure if _is_function(matmul_closure) else matmul_closure.__matmul__
    if rhs.ndim == 1:
        start = None if initial_guess is None else initial_guess.unsqueeze(-1)
        X, info = _iterate(
            _on_columns(multiply), rhs.unsqueeze(-1), start, _on_columns(preconditioner), tol, limit
        )
        X = X.squeeze(-1)
    else:
        X, info = _iterate(multiply, rhs, initial_guess, preconditioner, tol, limit)
    if return_info:
        return X, info
    if not bool(info.converged.all()):
        raise SolveError(
            f"conjugate gradients did not converge: after {info.iterations} iterations the worst "
            f"relative residual is {float(info.residual.max()):.1e}, above the tolerance "
            f"{tol:.1e}; allow more iterations, precondition, or loosen the tolerance"
        )
    return X


# As the `solve` of an op it gets a batch of matrices whole, and runs one loop for all members.
linear_cg.takes_batches = True  # pyright: ignore[reportFunctionMemberAccess]


def _iterate(
    multiply: Any, B: Tensor, X: Tensor | None, precondition: Any, tol: float, limit: int
) -> tuple[Tensor, CGInfo]:
    scale = torch.linalg.vector_norm(B, dim=-2, keepdim=True)
    empty = scale == 0
    scale = torch.where(empty, torch.ones_like(scale), scale)

    def residual(X: Tensor) -> tuple[Tensor, Tensor]:
        R = B - multiply(X)
        return R, torch.linalg.vector_norm(R, dim=-2, keepdim=True) / scale

    if X is None:
        X, R = torch.zeros_like(B), B
        error = torch.linalg.vector_norm(R, dim=-2, keepdim=True) / scale
    else:
        X = torch.where(empty, torch.zeros_like(X), X)  # the solution for nothing is known
        R, error = residual(X)
    steps = 0
    for _ in range(_RESTARTS):
        if steps >= limit or not bool((error > tol).any()):
            break
        X, used = _recur(multiply, X, R, error, scale, precondition, tol, limit - steps)
        steps += used
        before = error
        R, error = residual(X)
        if not bool(((error > tol) & (error < before)).any()):
            break
    return X, CGInfo(steps, error.squeeze(-2), (error <= tol).squeeze(-2))


def _recur(
    multiply: Any,
    X: Tensor,
    R: Tensor,
    error: Tensor,
    scale: Tensor,
    precondition: Any,
    tol: float,
    limit: int,
) -> tuple[Tensor, int]:
    """Run the recurrence from X with residual R until no column is active."""
    active = error > tol
    Z = R if precondition is None else precondition(R)
    P, gamma = Z, _dot(R, Z)
    for step in range(1, limit + 1):
        Q = multiply(P)
        curvature = _dot(P, Q)
        if bool((active & ~(curvature > 0)).any()):
            raise SolveError(
                "conjugate gradients broke down: A, or the preconditioner, is not Hermitian "
                "positive definite (a direction P has Re(Pᴴ A P) <= 0, or is not finite)"
            )
        alpha = torch.where(active, gamma / curvature, torch.zeros_like(gamma))
        X, R = X + alpha * P, R - alpha * Q
        active = active & (torch.linalg.vector_norm(R, dim=-2, keepdim=True) / scale > tol)
        if not bool(active.any()):
            return X, step
        Z = R if precondition is None else precondition(R)
        before, gamma = gamma, _dot(R, Z)
        P = Z + torch.where(active, gamma / before, torch.zeros_like(gamma)) * P
    return X, limit


def _dot(X: Tensor, Y: Tensor) -> Tensor:
    """Return Re(Xᴴ Y) per column."""
    product = (X.conj() * Y).sum(-2, keepdim=True)
    return product.real if product.is_complex() else product


def _is_function(A: Any) -> bool:
    return callable(A) and not hasattr(A, "__matmul__")


def _on_columns(function: Any) -> Any:
    if function is None:
        return None
    return lambda X: function(X.squeeze(-1)).unsqueeze(-1)


def _check(rhs: Any, start: Any, tol: float, limit: int) -> None:
    if not isinstance(rhs, Tensor):
        raise TypeError(f"rhs is a tensor; got {type(rhs).__name__}")
    if rhs.ndim == 0 or rhs.dtype not in _DTYPES:
        raise ValueError(
            f"rhs has shape (n,) or (*batch, n, p) and a float32, float64 or complex dtype; "
            f"got {tuple(rhs.shape)}, {rhs.dtype}"
        )
    for name, x in (("rhs", rhs), ("initial_guess", start)):
        if x is not None and not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} holds a value that is not finite")
    if start is not None and start.shape != rhs.shape:
        raise ValueError(
            f"initial_guess has the shape of rhs, {tuple(rhs.shape)}; got {tuple(start.shape)}"
        )
    if not 0 <= tol < float("inf") or limit < 0:
        raise ValueError(
            f"tolerance and iterations are finite and not negative; got {tol} and {limit}"
        )


_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
