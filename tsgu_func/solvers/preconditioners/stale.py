"""The factor of other values: of a matrix that the one to be solved with has moved away from."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.direct.base import Direct
from tsgu_func.solvers.direct.superlu import SuperLU
from tsgu_func.solvers.protocol import Settings
from tsgu_func.solvers.settings import check_count

__all__ = ["Stale"]

_kept = Store("stale factors", most=64)


@dataclass(frozen=True)
class _Factor:
    """A factor, and the matrix that it is of, which nobody writes to."""

    key: Hashable
    solver: Direct
    A: StoredMatrix
    state: Any

    @property
    def bytes(self) -> int:
        return self.A.values.nbytes + self.state.bytes


@dataclass(frozen=True, repr=False)
class Stale(Settings):
    """The factor of an earlier matrix with the same pattern.

    If a matrix changes little from one system to the next, as in Newton's method or in time steps,
    the factor of one matrix is a good preconditioner for those that follow, which then take a few
    iterations each.  If a solve takes more than `most` iterations, the next one makes a new factor.
    If a solve does not converge, a new factor is made at once.

    Parameters
    ----------
    solver : SuperLU, Pardiso, Cholesky or DenseLU
        The direct solver that factors the matrix.
    most : int
        After a solve with more iterations than this, the matrix is factored again.

    Raises
    ------
    TypeError
        If `solver` is not a direct solver.
    ValueError
        If `most` is not a positive whole number.

    Notes
    -----
    A factor belongs to a pattern and a dtype, and is used whatever the values are.  It is kept as
    long as the pattern exists and `cache_limit` leaves room.  So the number of iterations depends
    on what was solved before.  The solution does not, up to the tolerance of the solver.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_solve
    >>> from tsgu_func.solvers import GMRES, Stale, SuperLU
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, 1.0], [-2.0, 3.0]]).double())
    >>> solver = GMRES(Stale(SuperLU(), most=5))
    >>> for t in (0.0, 0.01, 0.02):
    ...     v = A.values + t
    ...     x, info = sparse_solve(A.with_values(v), torch.ones(2).double(), solver=solver,
    ...                            return_info=True)
    ...     print(int(info.iterations) < 3)
    True
    True
    True
    """

    solver: Direct = field(default=SuperLU())
    most: int = 20

    by_pattern: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Direct):
            raise TypeError(f"solver is a direct solver, such as SuperLU(); got {self.solver!r}")
        check_count("most", self.most, least=1)

    def init(self, A: StoredMatrix) -> _Factor:
        """Return the last factor of the pattern, or factor."""
        # A copy of the structure's number, not the structure: a key keeps nothing alive.
        key = repr(self.solver), A.structure.serial, A.dtype, A.values.device
        if (kept := _kept.get(key)) is not None:
            return kept
        return self._made(key, A)

    def _made(self, key: Hashable, A: StoredMatrix) -> _Factor:
        A = replace(A, values=A.values.clone())
        factor = _Factor(key, self.solver, A, self.solver.init(A))
        _kept.keep(key, factor, A.structure)
        return factor

    def apply(
        self, state: _Factor, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Return ``M⁻¹ R`` for the columns of R (n, p)."""
        A = replace(state.A, transpose=transpose, conjugate=conjugate)
        return state.solver.once(state.state, A, R)

    def learn(self, state: _Factor, A: StoredMatrix, iterations: Tensor, failed: bool) -> bool:
        """Note how a solve went; return whether another factor would be closer to A."""
        old = not torch.equal(state.A.values, A.values)
        if old and (failed or int(iterations.max()) > self.most):
            _kept.drop(state.key)
        return old and failed
