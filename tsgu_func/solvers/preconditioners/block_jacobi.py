"""The blocks on the diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure
from tsgu_func.solvers.preconditioners.reading import check_square
from tsgu_func.solvers.protocol import Settings, SolveError
from tsgu_func.solvers.settings import check_count

__all__ = ["BlockJacobi"]


class _State(NamedTuple):
    inverse: Tensor  # (blocks, size, size)

    @property
    def bytes(self) -> int:
        return self.inverse.nbytes


class _Places(NamedTuple):
    """Which entries are in a block, and where they are in the blocks, counted through."""

    entries: Tensor
    target: Tensor


@dataclass(frozen=True, repr=False)
class BlockJacobi(Settings):
    """The blocks on the diagonal of A, for unknowns that come in groups of equal size.

    Parameters
    ----------
    size : int
        The number of rows of a block.  The last block may have fewer.

    Raises
    ------
    SolveError
        If a block is singular.

    Notes
    -----
    It takes O(n size²) time to prepare, O(n size p) time to apply, and O(n size) memory.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_generic_solve
    >>> from tsgu_func.solvers import CG
    >>> from tsgu_func.solvers.preconditioners import BlockJacobi
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, -1.0], [-1.0, 4.0]]))
    >>> solver = CG(preconditioner=BlockJacobi(size=2))
    >>> sparse_generic_solve(A, torch.tensor([3.0, 3.0]), solve=solver)
    tensor([1., 1.])
    """

    size: int = 4

    def __post_init__(self) -> None:
        check_count("size", self.size, 1)

    def init(self, A: StoredMatrix) -> _State:
        """Invert all blocks in one call."""
        check_square(self, A)
        n, size = A.shape[0], min(self.size, max(A.shape[0], 1))
        count = -(-n // size)
        places = A.structure.derive(("blocks", size), lambda s: _places(s, size))
        flat = A.values.new_zeros(count * size * size)
        flat[places.target] = A.values[places.entries]
        blocks = flat.view(count, size, size)
        if (fill := count * size - n) > 0:  # rows beyond the matrix are those of the identity
            blocks[-1].diagonal()[-fill:] = 1
        inverse, info = torch.linalg.inv_ex(blocks)
        if bool((singular := info != 0).any()):
            block = int(singular.nonzero()[0])
            last = min((block + 1) * size, n) - 1
            raise SolveError(
                f"{self!r} solves with the blocks on the diagonal, and block {block} (rows "
                f"{block * size} to {last}) is singular: take another size, or ILU0() or ILUT()"
            )
        return _State(inverse)

    def apply(
        self, state: _State, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Solve with each block, for R (n, p)."""
        inverse = state.inverse.mT if transpose else state.inverse
        inverse = inverse.conj() if conjugate else inverse
        (count, size, _), (n, p) = inverse.shape, R.shape
        padded = torch.nn.functional.pad(R, (0, 0, 0, count * size - n))
        return (inverse @ padded.reshape(count, size, p)).view(count * size, p)[:n]


def _places(s: Structure, size: int) -> _Places:
    row, col = s.row.long(), s.col.long()
    entries = (row // size == col // size).nonzero().squeeze(-1)
    row, col = row[entries], col[entries]
    return _Places(entries, row * size + col % size)
