"""Columns of norm one.

That changes no solution, and is, among diagonal scalings, within a factor of sqrt(n) of the best
condition number: van der Sluis, *Condition Numbers and Equilibration of Matrices*, Numer. Math. 14,
1969.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from tsgu_func.kernels.scaling import scale_columns
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.protocol import SolveError

__all__ = ["scaled"]


def scaled(A: StoredMatrix, name: str = "column") -> tuple[StoredMatrix, Tensor]:
    """Return A with columns of norm one, and what they were multiplied with, ``(..., n, 1)``.

    Parameters
    ----------
    A : StoredMatrix
    name : str
        What errors call a column: those of an adjoint are rows.

    Raises
    ------
    SolveError
        If a column holds nothing but zeros.
    """
    values, scale = scale_columns(A.structure, A.values, transpose=A.transpose)
    if bool((empty := scale == 0).any()):
        *member, j = (int(i) for i in empty.nonzero()[0])
        where = f" of member {member[0]}" if member and len(scale) > 1 else ""
        raise SolveError(
            f"A does not have full {name} rank: its {name} {j}{where} holds but zeros; damp= gives "
            f"it a solution all the same"
        )
    return replace(A, values=values), scale.unsqueeze(-1)
