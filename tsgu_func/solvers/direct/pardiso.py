"""Direct solution by PARDISO of Intel's MKL, through pypardiso.

Schenk and Gärtner, *Solving Unsymmetric Sparse Systems of Linear Equations with PARDISO*, Future
Generation Computer Systems 20(3), 2004.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.processors import most_workers
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure, compress
from tsgu_func.solvers.cache import keep_analysis, take_analysis
from tsgu_func.solvers.direct.base import Direct, Factor
from tsgu_func.solvers.direct.memory import no_memory
from tsgu_func.solvers.direct.superlu import SuperLU
from tsgu_func.solvers.protocol import SolveError
from tsgu_func.solvers.traits import traits_of

__all__ = ["Pardiso"]

# PARDISO's types of real matrices.
_DEFINITE, _SYMMETRIC, _GENERAL = 2, -2, 11
# Phases of PARDISO: to factor, with the analysis before and without.
_FIRST, _LATER = 12, 22
_NO_MEMORY = -2  # its error
# So many columns are solved for one by one: for two at once MKL takes ten times as long as for one,
# in two threads with 90 000 unknowns; for 16 it takes longer than 16 times one, for 32 as long.
_ONE_BY_ONE = 8
# So often an analysis serves in more threads than are good on a machine that has become busy: there
# each of them costs what another would, which takes as long as two or three factorizations.
_AWKWARD = 2
_KINDS = {"definite": _DEFINITE, "symmetric": _SYMMETRIC, "general": _GENERAL}


class _Analysis:
    """A solver of MKL that knows a pattern, and has room for one factor of a matrix with it."""

    def __init__(self, kind: int, matrix: Any) -> None:
        self.kind, self.threads, self.awkward = kind, _threads(), 0
        self.solver = _solver_type(_pypardiso().PyPardisoSolver)(mtype=kind)
        weakref.finalize(self, _free, self.solver, self.threads, everything=True).atexit = False
        self.factorize(matrix)
        self.solver.analyzed = True

    def suits(self) -> bool:
        """Say whether to factor by it once more, in the threads it was made in.

        For more threads it is made anew, and for fewer: for those of a machine that has become busy
        not at once, as that may pass.
        """
        threads = _threads()
        self.awkward = self.awkward + 1 if threads < self.threads else 0
        return threads <= self.threads <= max(threads, most_workers()) and self.awkward <= _AWKWARD

    @property
    def key(self) -> tuple[Any, ...]:
        """Its name in the store."""
        return _key(self.kind)

    def factorize(self, matrix: Any) -> None:
        """Factor, in the place of the factor before."""
        try:
            with _in_threads(self.threads):
                self.solver.factorize(matrix)
        except _pypardiso().pardiso_wrapper.PyPardisoError as error:
            if error.value == _NO_MEMORY:
                raise no_memory("PARDISO", matrix.shape[0], matrix.nnz) from None
            raise SolveError(
                f"PARDISO could not factor the matrix as {_name(self.kind)} ({error}): it is "
                f"singular, or of another kind"
            ) from None

    def solve(self, A: Any, B: Any) -> Any:
        """Solve with the factor; for columns of A, with its transpose."""
        with _in_threads(self.threads):
            return self.solver.solve(A, B)

    def leave_factor(self) -> None:
        """Give back the memory of the factor."""
        _free(self.solver, self.threads, everything=False)

    @property
    def bytes(self) -> int:
        return 1024 * int(self.solver.get_iparm(16))  # kilobytes


@dataclass(frozen=True)
class _Factor:
    """A factor of S in MKL's memory; of its upper triangle, if S is symmetric.

    `perturbed` counts the pivots that were too small, and that PARDISO put others for.
    """

    analysis: _Analysis
    matrix: Any
    perturbed: int
    _lock: Any = field(default_factory=threading.Lock)

    @property
    def bytes(self) -> int:
        # iparm(17) and (18): kilobytes of the factor, and its entries.
        kilobytes, entries = (int(self.analysis.solver.get_iparm(i)) for i in (17, 18))
        # pypardiso holds a copy of a matrix that is not large.
        matrices = (self.matrix, self.analysis.solver.factorized_A)
        arrays = [(x.data, x.indices, x.indptr) for x in matrices if not isinstance(x, str)]
        held = sum(array.nbytes for of_one in arrays for array in of_one)
        return self.analysis.bytes + max(1024 * kilobytes, 12 * entries) + held

    def solve(self, B: Tensor, transpose: bool, conjugate: bool) -> Tensor:
        # Rows read as columns are the transpose; pypardiso looks at the format, not the memory.
        swap = transpose and self.analysis.kind == _GENERAL
        A = self.matrix.T if swap else self.matrix
        columns = B.cpu().double().numpy()
        with self._lock:  # a solve writes into the solver's state
            if columns.shape[1] > _ONE_BY_ONE:
                solved = self.analysis.solve(A, columns)
            else:
                solved = np.stack([self.analysis.solve(A, b) for b in columns.T], -1)
        return torch.from_numpy(np.ascontiguousarray(solved)).to(B.device, B.dtype)


@dataclass(frozen=True, repr=False)
class Pardiso(Direct):
    """Sparse direct factorization by MKL's PARDISO, for real matrices on x86.

    It is the fastest factorization here for large systems, thanks to nested dissection and threads.
    The same factor solves with A and with its transpose.  A pattern is analysed once, and the
    analysis is kept as long as `cache_limit` leaves room for it; if it does not suit later values,
    the matrix is analysed again.  A float32 system is solved in float64.  `refine` and `precision`
    are those of `Direct`.

    Parameters
    ----------
    kind : {"auto", "definite", "symmetric", "general"}
        How the matrix is factored.  "definite" is a Cholesky factorization of the upper triangle,
        "symmetric" a factorization of it with pivots of one or two rows, and "general" an LU
        factorization of the whole matrix.  With "auto", a symmetric matrix with a positive diagonal
        is first tried as definite, and any other symmetric matrix as symmetric.

    Raises
    ------
    ImportError
        If pypardiso is not installed: ``pip install "tsgu_func[pardiso]"``.
    TypeError
        If the matrix is complex, which pypardiso does not support.
    SolveError
        If the matrix is singular to working precision, or is not of the given kind.

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

    def again(self, A: StoredMatrix, factor: Any) -> Factor:
        """Factor as a general matrix, which has more pivoting, led by these values alone.

        Where pivots were too small, by `SuperLU`, which puts no others in their places.
        """
        if factor.perturbed:
            return SuperLU().again(A, factor)
        matrix = _matrix(A, _GENERAL)
        return _kept(A, _Analysis(_GENERAL, matrix), matrix)


def _factored(A: StoredMatrix, kind: int) -> _Factor:
    matrix = _matrix(A, kind)
    return _kept(A, _known(A.structure, kind, matrix) or _Analysis(kind, matrix), matrix)


def _known(structure: Structure, kind: int, matrix: Any) -> _Analysis | None:
    """Factor by an analysis that was made for other values, if there is one and it will do.

    That of a general matrix is led by values, which it scales and moves large ones of to the
    diagonal.  It need not suit others; what comes of it is judged like any solution.
    """
    analysis = take_analysis(structure, _key(kind))
    if analysis is None or not analysis.suits():
        return None
    try:
        analysis.factorize(matrix)
    except SolveError:  # these values ask for another
        return None
    return analysis


def _kept(A: StoredMatrix, analysis: _Analysis, matrix: Any) -> _Factor:
    """Return a factor that leaves its analysis to others."""
    factor = _Factor(analysis, matrix, int(analysis.solver.get_iparm(14)))
    weakref.finalize(factor, _leave, weakref.ref(A.structure), analysis).atexit = False
    return factor


def _leave(structure: weakref.ref[Structure], analysis: _Analysis) -> None:
    analysis.leave_factor()
    keep_analysis(structure, analysis.key, analysis)


def _key(kind: int) -> tuple[Any, ...]:
    return "PARDISO", kind


# ----------------------------------------------------------------------------------------- threads
# All that PARDISO does with an analysis it does in as many threads as it was made in.  It takes
# what it keeps for each of them to be there, and crashes in another number: in fewer threads, and
# in as many again once it has solved in fewer.


def _threads() -> int:
    return _mkl().MKL_Get_Max_Threads()


@contextmanager
def _in_threads(number: int) -> Iterator[None]:
    """Have MKL use a number of threads, where it is called from this one."""
    before = _mkl().MKL_Set_Num_Threads_Local(number)
    try:
        yield
    finally:
        _mkl().MKL_Set_Num_Threads_Local(before)


def _free(solver: Any, threads: int, everything: bool) -> None:
    with _in_threads(threads):
        solver.free_memory(everything=everything)


# --------------------------------------------------------------------------------------- pypardiso


def _pypardiso() -> Any:
    try:
        return importlib.import_module("pypardiso")
    except ImportError as error:
        raise ImportError('Pardiso() needs pypardiso: pip install "tsgu_func[pardiso]"') from error


@functools.cache
def _mkl() -> Any:
    """Return MKL, and say where it is: pypardiso searches the disk, a third of a second a time."""
    library = _pypardiso().PyPardisoSolver().libmkl
    os.environ.setdefault("PYPARDISO_MKL_RT", library._name)
    return library


@functools.cache
def _solver_type(base: Any) -> Any:
    class Solver(base):
        """A solver that leaves out the analysis once it is made: pypardiso begins there always."""

        analyzed = False

        def set_phase(self, phase: int) -> None:
            super().set_phase(_LATER if self.analyzed and phase == _FIRST else phase)

    return Solver


def _name(kind: int) -> str:
    return next(name for name, number in _KINDS.items() if number == kind)


def _matrix(A: StoredMatrix, kind: int) -> Any:
    """Return what PARDISO is handed: all of a general matrix, half of a symmetric one."""
    from scipy.sparse import csr_matrix

    return csr_matrix(A.to_scipy().astype(np.float64)) if kind == _GENERAL else _upper(A)


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
    absent = torch.ones(s.rows, dtype=torch.bool, device="cpu")
    absent[row[row == col]] = False
    if bool(absent.any()):
        more = absent.nonzero().squeeze(-1)
        row, col = torch.cat([row, more]), torch.cat([col, more])
        order = torch.cat([order, torch.full_like(more, s.nnz)])
        by_place = torch.argsort(row * s.cols + col)
        row, col, order = row[by_place], col[by_place], order[by_place]
    return compress(row, s.rows).int(), col.int(), order
