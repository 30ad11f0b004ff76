"""What an iterative solver asks of a matrix before it begins: its scale, and its symmetry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tsgu_func.solvers.iteration import dot
from tsgu_func.solvers.members import named
from tsgu_func.solvers.protocol import Result, SolveError
from tsgu_func.solvers.stored import StoredMatrix
from tsgu_func.solvers.traits import asymmetry

__all__ = ["check_hermitian", "is_not_hermitian", "moderate", "shifted"]

# Largest entries for which no square in a recurrence over- or underflows, whatever the residual.
_MODERATE = {32: 2.0**30, 64: 2.0**200}
# Relative to the largest entry: beyond the first no recurrence for Hermitian matrices will do, and
# up to the second A - Aᴴ is no reason to fail.
_REFUSED, _NOTICED = 1e-3, 1e-10


def moderate(A: Any) -> tuple[Any, Tensor | None]:
    """Return A, or A times a power of two if its entries are tiny or huge, and the exponent.

    That is of shape () or (b, 1, 1), and None where A is as it was.  A power of two rounds
    nothing, so what is solved is the same system.
    """
    if not isinstance(A, StoredMatrix) or not A.values.numel():
        return A, None
    largest = A.values.abs().amax(-1)
    bound = _MODERATE[torch.finfo(A.dtype).bits]
    if bool(((largest < bound) & (largest > 1 / bound) | (largest == 0)).all()):
        return A, None
    exponent = -torch.frexp(torch.where(largest == 0, 1, largest)).exponent
    values = shifted(A.values, exponent.unsqueeze(-1))
    return replace(A, values=values), exponent[..., None, None] if exponent.ndim else exponent


def shifted(X: Tensor, exponent: Tensor) -> Tensor:
    """Return X times two to an exponent, which may itself be out of range."""
    half = exponent // 2
    return torch.ldexp(torch.ldexp(X, half), exponent - half)


def check_hermitian(solver: Any, A: Any) -> None:
    """Refuse a stored matrix, or a batch, that is far from its adjoint.  O(nnz) time."""
    if not isinstance(A, StoredMatrix) or not A.values.numel():
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
        members = A.members() if A.values.ndim == 2 else [A]
        return any(asymmetry(member) > _NOTICED for member in members)
    peak = B.abs().amax(-2, keepdim=True)
    u = B / torch.where(peak == 0, 1, peak)
    Au = A @ u
    # <A u, A u> = <u, A A u> if A is its adjoint, and <A u, u> is real.
    one, other = dot(Au, Au), dot(u, A @ Au)
    slack = torch.finfo(B.dtype).eps ** 0.5
    return bool(((one - other).abs() > slack * one.abs()).any())
