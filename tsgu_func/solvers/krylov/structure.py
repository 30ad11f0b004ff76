"""What an iterative solver asks of a matrix before it begins: its scale, and its symmetry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tsgu_func.cache import stands_for
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.columns import dot
from tsgu_func.solvers.members import named
from tsgu_func.solvers.protocol import Result, SolveError
from tsgu_func.solvers.traits import asymmetry

__all__ = ["check_hermitian", "is_not_hermitian", "moderate", "moderating", "shifted"]

# Largest entries for which no square in a recurrence over- or underflows, whatever the residual.
_MODERATE = {32: 2.0**30, 64: 2.0**200}
# Relative to the largest entry: beyond the first no recurrence for Hermitian matrices will do, and
# up to the second A - Aᴴ is no reason to fail.
_REFUSED, _NOTICED = 1e-3, 1e-10


def moderating(A: Any) -> Tensor | None:
    """Return the exponents of the powers of two that make entries moderate if they are not.

    These are of shape (1,) or (b, 1).  A power of two rounds nothing, so what is solved is the same
    system.
    """
    if not isinstance(A, StoredMatrix) or not A.values.numel():
        return None
    largest = _largest(A.values)
    bound = _MODERATE[torch.finfo(A.dtype).bits]
    if bool(((largest < bound) & (largest > 1 / bound) | (largest == 0)).all()):
        return None
    return -torch.frexp(torch.where(largest == 0, 1, largest)).exponent.unsqueeze(-1)


def moderate(A: Any, exponent: Tensor | None) -> Any:
    """Return A times powers of two, if there are any.

    What is prepared for it is kept as long as the values of A live.
    """
    if exponent is None:
        return A
    values = shifted(A.values, exponent)
    stands_for(values.untyped_storage(), A.values.untyped_storage(), "shifted")
    return replace(A, values=values)


def _largest(values: Tensor) -> Tensor:
    if values.is_complex():
        return values.abs().amax(-1)
    low, high = values.aminmax(dim=-1) if values.ndim > 1 else values.aminmax()
    return torch.maximum(-low, high)  # without a tensor of magnitudes


def shifted(X: Tensor, exponent: Tensor) -> Tensor:
    """Return X times two to an exponent, which may itself be out of range."""
    half = exponent // 2
    return torch.ldexp(torch.ldexp(X, half), exponent - half)


def check_hermitian(solver: Any, A: Any) -> None:
    """Refuse a stored matrix, or a batch, that is far from its adjoint.  O(nnz) time."""
    if not isinstance(A, StoredMatrix) or not A.values.numel() or A.hermitian:
        return
    if A.values.ndim == 1:
        _check_hermitian(solver, A)
        return
    for i, member in enumerate(A.members()):
        named(i, _check_hermitian, solver, member)


def _check_hermitian(solver: Any, A: StoredMatrix) -> None:
    if (far := asymmetry(A)) > _REFUSED:
        raise SolveError(
            f"{solver!r}: {Result.NOT_HERMITIAN.message}; the largest entry of A - A^H is "
            f"{far:.1e} of the largest of A"
        )


def is_not_hermitian(A: Any, B: Tensor) -> bool:
    """Say whether a matrix is not its adjoint, up to rounding.

    One that is known by its products is tried on two vectors: u and A u, for the columns u of B.
    """
    if isinstance(A, StoredMatrix):
        if A.hermitian:
            return False
        members = A.members() if A.values.ndim == 2 else [A]
        return any(asymmetry(member) > _NOTICED for member in members)
    peak = B.abs().amax(-2, keepdim=True)
    u = B / torch.where(peak == 0, 1, peak)
    Au = A @ u
    # <A u, A u> = <u, A A u> if A is its adjoint, and <A u, u> is real.
    one, other = dot(Au, Au), dot(u, A @ Au)
    slack = torch.finfo(B.dtype).eps ** 0.5
    return bool(((one - other).abs() > slack * one.abs()).any())
