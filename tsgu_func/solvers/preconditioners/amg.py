"""Algebraic multigrid, by pyamg.

Ruge and Stüben, *Algebraic Multigrid*, in *Multigrid Methods*, SIAM, 1987; Vaněk, Mandel and
Brezina, *Algebraic Multigrid by Smoothed Aggregation*, Computing 56, 1996; Bell, Olson, Schroder
and Southworth, *PyAMG: Algebraic Multigrid Solvers in Python*, JOSS 8(87), 2023.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.preconditioners.reading import nonzero_diagonal
from tsgu_func.solvers.protocol import Settings, SolveError
from tsgu_func.solvers.traits import hermitian

__all__ = ["AMG"]

_METHODS, _CYCLES = ("ruge_stuben", "smoothed_aggregation"), ("V", "W")
# The same smoother before and after makes a cycle Hermitian where A is.
_SMOOTHER = ("gauss_seidel", {"sweep": "symmetric"})
# Rows are weighted by their own sums: an estimate of the spectral radius, as by default, would draw
# from NumPy's random state, which belongs to all threads.
_SMOOTH = ("jacobi", {"weighting": "local"})


@dataclass(frozen=True, eq=False)
class _Hierarchy:
    """pyamg's levels, and those of the transpose as soon as somebody asks for them."""

    solver: Any

    @functools.cached_property
    def transposed(self) -> Any:
        """The levels of Aᵀ whose cycle is the transposed cycle.

        A cycle is ``x += S r``, ``x += P Ac⁻¹ R (b - A x)``, ``x += S r``, with S an approximate
        inverse.  Its transpose has Sᵀ, which is symmetric Gauss-Seidel for Aᵀ, and in the place of
        P and R it has Rᵀ and Pᵀ.
        """
        from pyamg.multilevel import MultilevelSolver
        from pyamg.relaxation.smoothing import change_smoothers

        levels: list[Any] = [MultilevelSolver.Level() for _ in self.solver.levels]
        for level, source in zip(levels, self.solver.levels, strict=True):
            level.A = source.A.T.asformat(source.A.format)
            if source is not self.solver.levels[-1]:
                level.P = source.R.T.asformat(source.R.format)
                level.R = source.P.T.asformat(source.P.format)
        solver = MultilevelSolver(levels)
        change_smoothers(solver, _SMOOTHER, _SMOOTHER)
        return solver

    @property
    def bytes(self) -> int:
        parts = [getattr(level, name, None) for level in self.solver.levels for name in "APR"]
        arrays = [(x.data, x.indices, x.indptr) for x in parts if x is not None]
        own = sum(array.nbytes for of_one in arrays for array in of_one)
        return own * (1 + ("transposed" in self.__dict__))


@dataclass(frozen=True, eq=False)
class _State:
    """A hierarchy, and whether it is its own adjoint."""

    hierarchy: _Hierarchy
    hermitian: bool

    @property
    def bytes(self) -> int:
        return self.hierarchy.bytes

    def solve(self, R: np.ndarray, cycle: str, transpose: bool, conjugate: bool) -> np.ndarray:
        """Return one cycle from zero for each column of R."""
        if self.hermitian:  # the transpose is the conjugate
            transpose, conjugate = False, transpose != conjugate
        solver = self.hierarchy.transposed if transpose else self.hierarchy.solver
        cycled = solver.aspreconditioner(cycle=cycle)
        X = np.empty_like(R, order="C")
        for j in range(R.shape[1]):
            column = R[:, j].conj() if conjugate else R[:, j]
            X[:, j] = cycled.matvec(np.ascontiguousarray(column))
        return X.conj() if conjugate else X


@dataclass(frozen=True, repr=False)
class AMG(Settings):
    """One cycle of algebraic multigrid, by pyamg: the coarse levels are made from the entries of A.

    Use it for discretized elliptic equations and graph Laplacians, where the number of iterations
    then hardly grows with n.  If A is Hermitian positive definite, so is M.

    Parameters
    ----------
    method : str
        ``"ruge_stuben"`` is for real matrices, and works best if the entries beside the diagonal
        are negative.  ``"smoothed_aggregation"`` takes complex matrices too.
    cycle : str
        ``"V"``, or ``"W"``, which visits the coarse levels more often.

    Raises
    ------
    ImportError
        If pyamg is not installed.
    SolveError
        If an entry of the diagonal is zero, or pyamg finds no hierarchy.

    Notes
    -----
    It takes O(nnz) time to prepare, O(nnz) time for each column that it is applied to, one after
    the other, and O(nnz) memory.  The transpose of a matrix that is not Hermitian needs levels of
    its own, which are made when they are first used.  No random numbers are used.
    """

    method: str = "ruge_stuben"
    cycle: str = "V"

    def __post_init__(self) -> None:
        for name, choices in (("method", _METHODS), ("cycle", _CYCLES)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}; got {value!r}")

    def init(self, A: StoredMatrix) -> _State:
        """Make the levels."""
        if self.method == "ruge_stuben" and A.dtype.is_complex:
            raise TypeError(
                f"AMG(method='ruge_stuben') is for real matrices; got {A.dtype}: take "
                f"AMG(method='smoothed_aggregation')"
            )
        nonzero_diagonal(self, A)
        symmetric = hermitian(A)
        with _explained(self):
            solver = self._levels(A, symmetric)
            if not all(np.isfinite(level.A.data).all() for level in solver.levels):
                raise FloatingPointError("entries of a coarse level are not finite")
        return _State(_Hierarchy(solver), symmetric)

    def _levels(self, A: StoredMatrix, symmetric: bool) -> Any:
        pyamg = _pyamg()
        S = A.to_scipy()
        # pyamg's loops are compiled for these indices only.
        S.indices, S.indptr = (x.astype(np.intc, copy=False) for x in (S.indices, S.indptr))
        smoothers = {"presmoother": _SMOOTHER, "postsmoother": _SMOOTHER}
        if self.method == "ruge_stuben":
            return pyamg.ruge_stuben_solver(S, **smoothers)
        symmetry = "hermitian" if symmetric else "nonsymmetric"
        return pyamg.smoothed_aggregation_solver(S, symmetry=symmetry, smooth=_SMOOTH, **smoothers)

    def apply(
        self, state: _State, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Cycle once, from zero, for each column of R (n, p)."""
        solved = state.solve(R.resolve_conj().cpu().numpy(), self.cycle, transpose, conjugate)
        return torch.from_numpy(solved).to(R)


def _pyamg() -> Any:
    try:
        import pyamg
    except ImportError as error:
        raise ImportError('AMG needs pyamg: pip install "tsgu_func[amg]"') from error
    return pyamg


@contextlib.contextmanager
def _explained(preconditioner: object) -> Iterator[None]:
    """Raise where numbers get out of hand: such a hierarchy is none to hand on.

    NumPy's handling of errors belongs to this thread, filters of warnings would belong to all.
    """
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        try:
            yield
        except (FloatingPointError, ValueError) as error:
            raise SolveError(
                f"{preconditioner!r} found no levels for this matrix (pyamg: {error}): take "
                f"another method, or IC0() or ILU0()"
            ) from error
