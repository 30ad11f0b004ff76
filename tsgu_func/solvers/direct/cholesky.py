"""Direct solution by CHOLMOD, through scikit-sparse.

Chen, Davis, Hager and Rajamanickam, *Algorithm 887: CHOLMOD, Supernodal Sparse Cholesky
Factorization and Update/Downdate*, ACM TOMS 35(3), 2008.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.direct.base import DirectWithPivots, on_host
from tsgu_func.solvers.protocol import SolveError
from tsgu_func.solvers.traits import hermitian

__all__ = ["Cholesky"]


# Of a pattern CHOLMOD notes an order, its inverse, a tree, and counts: four integers a row.
_PLACES = 16  # bytes


@dataclass(frozen=True)
class _Analysis:
    factor: Any
    nbytes: int


@dataclass(frozen=True)
class _Factor:
    cholesky: Any
    entries: int
    itemsize: int

    @property
    def bytes(self) -> int:
        return (self.itemsize + 4) * self.entries

    def solve(self, B: Tensor, transpose: bool, conjugate: bool) -> Tensor:
        # A is its own adjoint, so the transpose is the conjugate: conj(A conj(X) = conj(B)).
        wide = B.to(torch.complex128 if B.is_complex() else torch.float64)
        if transpose == conjugate:
            X = on_host(self.cholesky, wide)
        else:
            X = on_host(lambda b: self.cholesky(b.conj()).conj(), wide)
        return X.to(B.dtype)

    def logabsdet(self) -> Tensor:
        return torch.from_numpy(np.real(self.cholesky.D())).log().sum()


@dataclass(frozen=True, repr=False)
class Cholesky(DirectWithPivots):
    """Sparse Cholesky factorization by CHOLMOD, for Hermitian positive definite matrices.

    A pattern is analysed once, and the analysis is kept with it.  A system in single precision is
    solved in double precision.  `refine` is that of `Direct`.

    Raises
    ------
    ImportError
        If scikit-sparse is not installed: ``pip install "tsgu_func[cholesky]"``.
    SolveError
        If the matrix is not Hermitian, or not positive definite.

    Examples
    --------
    >>> from tsgu_func.solvers import Cholesky
    >>> Cholesky(refine=1)
    Cholesky(refine=1)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision is not None:
            raise ValueError("CHOLMOD factors in double precision: leave precision=None")

    def factor(self, A: StoredMatrix) -> _Factor:
        """Factor, by the analysis of the pattern."""
        cholmod = _cholmod()
        if not hermitian(A):
            raise SolveError(
                "Cholesky() is for Hermitian matrices; this is not one: take SuperLU()"
            )
        columns = _columns(A)
        kind = A.dtype.is_complex

        def analysed(_: Structure) -> _Analysis:
            return _Analysis(cholmod.analyze(columns), _PLACES * A.shape[0])

        analysis = A.structure.derive(("CHOLMOD", kind), analysed).factor
        factor = _factored(cholmod, analysis, columns)
        # Counted once, because that takes a copy.
        entries = A.structure.derive(("CHOLMOD entries", kind), lambda _: factor.copy().LD().nnz)
        return _Factor(factor, int(entries), columns.dtype.itemsize)


def _factored(cholmod: Any, analysis: Any, columns: Any) -> Any:
    try:
        factor = analysis.cholesky(columns)  # a copy: others share the analysis
    except cholmod.CholmodNotPositiveDefiniteError as error:
        raise _indefinite(analysis, error.column) from None
    # For very sparse matrices CHOLMOD makes an L D Lᴴ, of indefinite ones as well.
    wrong = np.flatnonzero(~(factor.D() > 0))
    if len(wrong):
        raise _indefinite(analysis, wrong[0])
    return factor


def _indefinite(analysis: Any, place: int) -> SolveError:
    return SolveError(
        f"the matrix is not positive definite: the pivot of row {int(analysis.P()[place])} is not "
        f"positive; take SuperLU(), or MINRES()"
    )


def _columns(A: StoredMatrix) -> Any:
    """Return A in double precision, by columns: those of a Hermitian matrix are its rows."""
    from scipy.sparse import csc_matrix

    wide = "complex128" if A.dtype.is_complex else "float64"
    return csc_matrix(A.to_scipy().T.astype(wide)).conj()


def _cholmod() -> Any:
    try:
        return importlib.import_module("sksparse.cholmod")
    except ImportError as error:
        raise ImportError(
            'Cholesky() needs scikit-sparse: pip install "tsgu_func[cholesky]"'
        ) from error
