"""The augmented system of least squares, assembled, factored and solved with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.kernels.structure import Structure, compress
from tsgu_func.solvers.direct.base import Factor
from tsgu_func.solvers.direct.superlu import SuperLU
from tsgu_func.solvers.protocol import SolveError

__all__ = ["Saddle"]

_LU = SuperLU()
# Members of a batch are factored as blocks of one matrix, of about as many rows.
_ROWS = 20_000


@dataclass(frozen=True)
class Saddle:
    """The matrix ``[[α I, T], [Tᴴ, 0]]`` of each member of a batch, and its factor.

    Attributes
    ----------
    T : StoredMatrix
        With values (b, nnz).
    alpha : Tensor, shape (b, 1, 1)
    factors : list of (int, Factor or None)
        Of so many members each; None for one that is singular.
    """

    T: StoredMatrix
    alpha: Tensor
    factors: list[tuple[int, Factor | None]]

    @classmethod
    def of(cls, T: StoredMatrix, alpha: Tensor, pivoting: bool) -> Saddle:
        """Factor: along the diagonal as far as that will do, or with all the pivoting there is."""
        together = max(_ROWS // sum(T.shape), 1)
        groups = zip(T.values.split(together), alpha.split(together), strict=True)
        factors = [
            factor for v, a in groups for factor in _factored(replace(T, values=v), a, pivoting)
        ]
        return cls(T, alpha, factors)

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(factor.bytes for _, factor in self.factors if factor is not None)

    def solve(self, F: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Return S (b, m, p) and X (b, n, p), NaN for a singular member."""
        R = torch.cat([F, G], -2)
        peak = R.abs().amax(-2, keepdim=True)
        peak = torch.where(peak > 0, peak, 1)
        parts = (R / peak).split([count for count, _ in self.factors])
        pairs = zip(self.factors, parts, strict=True)
        solved = torch.cat([_solved(factor, part) for (_, factor), part in pairs]) * peak
        return solved[:, : F.shape[-2]].contiguous(), solved[:, F.shape[-2] :].contiguous()

    def residual(self, S: Tensor, X: Tensor, F: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Return what S and X leave of F and G."""
        return F - self.alpha * S - self.T @ X, G - self.T.mH @ S

    def sizes(self, S: Tensor, X: Tensor, F: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of magnitudes that the residual is a difference of.

        What F is perturbed by, its residual α S is as well, so it counts in the second part.
        """
        T = replace(self.T, values=self.T.values.abs(), conjugate=False)
        s, x, f, g = (y.abs() for y in (S, X, F, G))
        return self.alpha * s + T @ x + f, T.T @ (s + f / self.alpha) + g


def _solved(factor: Factor | None, R: Tensor) -> Tensor:
    if factor is None:
        return torch.full_like(R, torch.nan)
    return factor.solve(R.flatten(0, 1), False, False).reshape(R.shape)


def _factored(T: StoredMatrix, alpha: Tensor, pivoting: bool) -> list[tuple[int, Factor | None]]:
    """Factor the members as blocks of one matrix; one by one, if one of them is singular."""
    count = len(alpha)
    K = _assembled(T, alpha)
    try:
        return [(count, _LU.again(K, None) if pivoting else _LU.factor(K))]
    except SolveError:
        if count == 1:
            return [(1, None)]
    members = zip(T.values.split(1), alpha.split(1), strict=True)
    return [pair for v, a in members for pair in _factored(replace(T, values=v), a, pivoting)]


def _assembled(T: StoredMatrix, alpha: Tensor) -> StoredMatrix:
    """Return the block-diagonal matrix of all augmented systems, on the host."""
    count, transpose = len(alpha), T.transpose
    structure, order = T.structure.derive(
        ("augmented", transpose, count), lambda s: _pattern(s, transpose, count)
    )
    diagonal = alpha.squeeze(-1).expand(count, T.shape[0]).to(T.dtype)
    stored = torch.cat([diagonal, T.entries, T.entries.conj()], -1).cpu()
    values = stored.flatten().index_select(0, order).resolve_conj()
    return StoredMatrix(structure, values)


def _pattern(s: Structure, transpose: bool, count: int) -> tuple[Structure, Tensor]:
    """Return the pattern of `count` blocks, and which stored number is where."""
    row, col = s.row.cpu().long(), s.col.cpu().long()
    row, col = (col, row) if transpose else (row, col)
    m, n = (s.cols, s.rows) if transpose else (s.rows, s.cols)
    diagonal = torch.arange(m, device="cpu")
    rows, cols = torch.cat([diagonal, row, m + col]), torch.cat([diagonal, m + col, row])
    order = torch.argsort(rows * (m + n) + cols)
    blocks = torch.arange(count, device="cpu").unsqueeze(1)
    rows, cols = (x[order] + (m + n) * blocks for x in (rows, cols))
    order = (order + len(order) * blocks).flatten()
    crow = compress(rows.flatten(), count * (m + n)).int()
    return Structure(crow, cols.flatten().int(), count * (m + n)), order
