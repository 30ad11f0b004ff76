"""Direct solution by SuperLU, through SciPy.

Li, *An Overview of SuperLU: Algorithms, Implementation, and User Interface*, ACM TOMS 31(3), 2005.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.direct.base import DirectWithPivots, on_host
from tsgu_func.solvers.direct.memory import no_memory
from tsgu_func.solvers.protocol import SingularError
from tsgu_func.solvers.traits import symmetric_pattern

__all__ = ["GENERAL", "SYMMETRIC", "SuperLU"]

# For a symmetric pattern: along the diagonal, in a minimum-degree order.  For any other: whatever
# row is largest, in an order that is good for all choices of rows.
SYMMETRIC: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.01,
    "options": {"SymmetricMode": True},
}
GENERAL: dict[str, Any] = {"permc_spec": "COLAMD"}


@dataclass(frozen=True)
class _Factor:
    """A factor of Sᵀ (SciPy's takes columns, we store rows)."""

    lu: Any
    itemsize: int
    later: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        # The number of entries is that of both triangles, each with an index of 4 bytes; for each
        # row and column there is where it starts, and its place.  To look at the triangles copies
        # them, and SciPy keeps the copies.
        n = self.lu.shape[0]
        factors = int(self.lu.nnz) * (self.itemsize + 4) + 16 * n
        return factors * (2 if self.later else 1)

    def logabsdet(self) -> Tensor:
        if "logabsdet" not in self.later:
            pivots = torch.from_numpy(self.lu.U.diagonal())
            self.later["logabsdet"] = pivots.abs().double().log().sum()
        return self.later["logabsdet"]

    def solve(self, B: Tensor, transpose: bool, conjugate: bool) -> Tensor:
        # With F = Sᵀ: S = Fᵀ, conj(S) = Fᴴ, Sᵀ = F, and Sᴴ X = B is conj(F conj(X) = conj(B)).
        if transpose and conjugate:
            return on_host(lambda b: self.lu.solve(b.conj(), "N").conj(), B)
        mode = "N" if transpose else "H" if conjugate else "T"
        return on_host(lambda b: self.lu.solve(b, mode), B)


@dataclass(frozen=True, repr=False)
class SuperLU(DirectWithPivots):
    """Sparse LU factorization with SciPy's SuperLU, on the CPU.

    It takes any non-singular matrix, of float32 to complex128.  If the pattern is symmetric, the
    matrix is first factored along its diagonal in a minimum-degree order, because that factor is
    sparser.  If the residual shows that accuracy was lost, the matrix is factored again with full
    row pivoting.  The same factor solves with A, its transpose and its conjugate, and for all
    right-hand sides at once.

    The parameters are those of `Direct`.

    Raises
    ------
    SingularError
        If the matrix is singular to working precision.  The message names a row that depends on the
        others.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import SuperLU
    >>> A = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [4.0, 0.0]]))
    >>> sparse_solve(A, torch.tensor([2.0, 4.0]), solver=SuperLU(refine=1))
    tensor([1., 1.])
    """

    def factor(self, A: StoredMatrix) -> _Factor:
        """Factor, along the diagonal where the pattern is symmetric."""
        return _factored(A, SYMMETRIC if symmetric_pattern(A.structure) else GENERAL)

    def again(self, A: StoredMatrix, factor: Any) -> _Factor:
        """Factor with full row pivoting."""
        return _factored(A, GENERAL)


def _factored(A: StoredMatrix, settings: dict[str, Any]) -> _Factor:
    from scipy.sparse.linalg import splu

    columns = A.to_scipy().T  # the transpose of CSR is CSC, without a copy
    try:
        return _Factor(splu(columns, **settings), A.values.itemsize)
    except MemoryError:
        raise no_memory("SuperLU", A.shape[0], A.structure.nnz) from None
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
    raise SingularError(
        f"the matrix is exactly singular: SuperLU met a zero pivot{_place(columns)}"
    )


def _place(columns: Any) -> str:
    """Tell where a zero pivot is: in a row that is a combination of others.

    SuperLU does not tell where it stopped, so it factors once more, with a diagonal that is larger
    by a rounding; the row is that of the smallest pivot.  It may meet a zero again, by underflow.
    """
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import splu

    size = np.finfo(columns.dtype).eps * max(abs(columns).max(), np.finfo(columns.dtype).tiny)
    nudged = (columns + size * eye_array(columns.shape[0], dtype=columns.dtype)).tocsc()
    try:
        lu = splu(nudged, **GENERAL)
    except (RuntimeError, MemoryError):
        return ""
    # Column j of what was factored, a row of A, stands at place perm_c[j].
    row = int(np.argsort(lu.perm_c)[np.argmin(abs(lu.U.diagonal()))])
    return f" in row {row}, which is a combination of other rows"
