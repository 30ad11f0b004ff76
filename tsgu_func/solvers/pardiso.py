"""Direct solution by PARDISO of Intel's MKL, through pypardiso.

Schenk and Gärtner, *Solving Unsymmetric Sparse Systems of Linear Equations with PARDISO*, Future
Generation Computer Systems 20(3), 2004.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.base import SolveError
from tsgu_func.solvers.direct import Direct
from tsgu_func.solvers.traits import traits_of

__all__ = ["Pardiso"]

# PARDISO's types of real matrices.
_DEFINITE, _SYMMETRIC, _GENERAL = 2, -2, 11
_KINDS = {"definite": _DEFINITE, "symmetric": _SYMMETRIC, "general": _GENERAL}


@dataclass(frozen=True)
class _Factor:
    """A factor of S in MKL's memory; of its upper triangle, if S is symmetric."""

    solver: Any
    matrix: Any
    _lock: Any = field(default_factory=threading.Lock)

    @property
    def bytes(self) -> int:
        # iparm(17) and (18): kilobytes of the factor, and its entries.
        return max(1024 * int(self.solver.get_iparm(17)), 12 * int(self.solver.get_iparm(18)))

    def solve(self, B: Tensor, transpose: bool, conjugate: bool) -> Tensor:
        # Rows read as columns are the transpose; pypardiso looks at the format, not the memory.
        A = self.matrix.T if transpose and self.solver.mtype == _GENERAL else self.matrix
        with self._lock:  # a solve writes into the solver's state
            solved = self.solver.solve(A, B.cpu().double().numpy())
        return torch.from_numpy(np.ascontiguousarray(solved)).to(B.device, B.dtype)


@dataclass(frozen=True, repr=False)
class Pardiso(Direct):
    """Sparse direct factorization by MKL's PARDISO, for real matrices on x86.

    Nested dissection and threads make it the fastest factorization here for large systems.  One
    factor serves A and its transpose.  float32 is solved in float64.
    `refine` and `precision` are those of `Direct`.

    Parameters
    ----------
    kind : {"auto", "definite", "symmetric", "general"}
        What is factored: a Cholesky factor of the upper triangle, a factor with pivots of one or
        two rows of it, or an LU factor of the whole.  By default a symmetric matrix with a positive
        diagonal is tried as definite, any other symmetric one as symmetric.

    Raises
    ------
    ImportError
        If pypardiso is not installed: ``pip install "tsgu_func[pardiso]"``.
    TypeError
        If the matrix is complex, which pypardiso does not support.
    SolveError
        If the matrix is singular to working precision, or not of the kind that is claimed.

    Examples
    --------
    >>> from tsgu_func.solvers import Pardiso
    >>> Pardiso(kind="definite")
    Pardiso(kind='definite')
    """

    kind: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("auto", *_KINDS):
            raise ValueError(f"kind is 'auto' or one of {sorted(_KINDS)}; got {self.kind!r}")
        if self.precision is not None:
            raise ValueError("pypardiso factors in double precision: leave precision=None")

    def factor(self, A: StoredMatrix) -> _Factor:
        """Factor as the kind that is asked for, or as what the matrix looks like."""
        if A.dtype.is_complex:
            raise TypeError(f"Pardiso() is for real matrices; got {A.dtype}: take SuperLU()")
        if self.kind != "auto":
            return _factored(A, _KINDS[self.kind])
        traits = traits_of(A)
        if not traits.hermitian:
            return _factored(A, _GENERAL)
        if traits.positive:
            try:
                return _factored(A, _DEFINITE)
            except SolveError:  # a positive diagonal does not make it definite
                pass
        return _factored(A, _SYMMETRIC)

    def again(self, A: StoredMatrix) -> _Factor:
        """Factor as a general matrix, with pivoting that symmetric kinds lack."""
        return _factored(A, _GENERAL)


def _factored(A: StoredMatrix, kind: int) -> _Factor:
    pypardiso = _pypardiso()
    _name_library()
    matrix = _csr(A) if kind == _GENERAL else _upper(A)
    solver = pypardiso.PyPardisoSolver(mtype=kind)
    try:
        solver.factorize(matrix)
    except pypardiso.pardiso_wrapper.PyPardisoError as error:
        solver.free_memory(everything=True)
        raise SolveError(
            f"PARDISO could not factor the matrix as {_name(kind)} ({error}): it is singular, or "
            f"of another kind"
        ) from None
    factor = _Factor(solver, matrix)
    weakref.finalize(factor, solver.free_memory, everything=True).atexit = False
    return factor


def _pypardiso() -> Any:
    try:
        return importlib.import_module("pypardiso")
    except ImportError as error:
        raise ImportError('Pardiso() needs pypardiso: pip install "tsgu_func[pardiso]"') from error


@cache
def _name_library() -> None:
    """Say where MKL is, once: pypardiso searches the disk for it, a third of a second each time."""
    variable = "PYPARDISO_MKL_RT"
    if variable not in os.environ:
        os.environ[variable] = _pypardiso().PyPardisoSolver().libmkl._name


def _name(kind: int) -> str:
    return next(name for name, number in _KINDS.items() if number == kind)


def _csr(A: StoredMatrix) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix(A.to_scipy().astype(np.float64))


def _upper(A: StoredMatrix) -> Any:
    """Return the upper triangle, with all of the diagonal stored, as PARDISO asks."""
    from scipy.sparse import csr_matrix

    crow, col, order = A.structure.derive("upper triangle", _upper_of)
    stored = torch.cat([A.values, A.values.new_zeros(1)])  # the last for what is not stored
    values = stored.index_select(-1, order.to(A.values.device)).double().cpu().numpy()
    return csr_matrix((values, col.numpy(), crow.numpy()), shape=A.shape)


def _upper_of(s: Structure) -> tuple[Tensor, Tensor, Tensor]:
    """Return compressed rows of the upper triangle, and which entries of S these are."""
    row, col = s.row.cpu().long(), s.col.cpu().long()
    order = (row <= col).nonzero().squeeze(-1)
    row, col = row[order], col[order]
    absent = torch.ones(s.rows, dtype=torch.bool)
    absent[row[row == col]] = False
    if bool(absent.any()):
        more = absent.nonzero().squeeze(-1)
        row, col = torch.cat([row, more]), torch.cat([col, more])
        order = torch.cat([order, torch.full_like(more, s.nnz)])
        by_place = torch.argsort(row * s.cols + col)
        row, col, order = row[by_place], col[by_place], order[by_place]
    crow = torch.zeros(s.rows + 1, dtype=torch.int64)
    crow[1:] = torch.bincount(row, minlength=s.rows).cumsum(0)
    return crow.int(), col.int(), order
