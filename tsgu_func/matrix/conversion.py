"""A sparse matrix as what other code takes: dense, a torch sparse tensor, a SciPy array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from tsgu_func.kernels.arrays import as_array
from tsgu_func.kernels.products import csr_tensor
from tsgu_func.kernels.structure import Structure
from tsgu_func.matrix import arguments
from tsgu_func.matrix.base import MatrixBase

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Conversion"]


class Conversion(MatrixBase):
    """What a `SparseMatrix` can be turned into."""

    def to_dense(self) -> Tensor:
        """Return the matrix ``(*batch, n, m)`` with zeros filled in: O(n m) memory."""
        arguments.check_whole(self)
        n, m = self.pattern.shape
        row, col = self.pattern.places()
        zeros = self.values.new_zeros(*self.values.shape[:-1], n * m)
        return zeros.index_add(-1, row.long() * m + col, self.values).unflatten(-1, (n, m))

    def to_coo(self) -> Tensor:
        """Return a coalesced ``torch.sparse_coo`` tensor (not batched): a copy."""
        s, values = self._by_rows("to_coo")
        indices = torch.stack([s.row, s.col]).long()
        return torch.sparse_coo_tensor(
            indices,
            values,
            (s.rows, s.cols),
            device=values.device,
            is_coalesced=True,
            check_invariants=False,
        )

    def to_csr(self) -> Tensor:
        """Return a ``torch.sparse_csr`` tensor (not batched): a copy."""
        s, values = self._by_rows("to_csr")
        return csr_tensor(Structure(s.crow.clone(), s.col.clone(), s.cols), values)

    def to_scipy(self) -> csr_array:
        """Return a SciPy CSR array (not batched): a copy, of which autograd knows nothing."""
        from scipy.sparse import csr_array

        s, values = self.detach()._by_rows("to_scipy")
        parts = values, s.col.clone(), s.crow.clone()
        return csr_array(tuple(map(as_array, parts)), shape=(s.rows, s.cols))

    def _by_rows(self, name: str) -> tuple[Structure, Tensor]:
        """Return compressed rows, and a copy of the values for them."""
        arguments.check_whole(self)
        if self.values.ndim != 1:
            raise ValueError(
                f"{name} takes one matrix; this is a batch of shape {tuple(self.shape[:-2])}: "
                f"index it first"
            )
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"{name} cannot be called in a compiled function, where PyTorch makes no sparse "
                f"tensors: call it outside, or use to_dense"
            )
        structure, order = self.pattern.structure.oriented(self.pattern.transposed)
        values = self.values.clone() if order is None else self.values.index_select(-1, order)
        return structure, values

    def __bool__(self) -> NoReturn:
        raise TypeError("a matrix is neither true nor false; ask `A is not None`, or `A.nnz > 0`")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "NumPy has no sparse arrays: A.to_scipy() makes a SciPy array, A.to_dense().numpy() a "
            "dense one"
        )

    def __repr__(self) -> str:
        v = self.values
        if not isinstance(v, Tensor):  # inside a transform's bookkeeping
            return f"SparseMatrix({self.pattern}, values={v!r})"
        grad = ", requires_grad=True" if v.requires_grad else ""
        return (
            f"SparseMatrix(shape={tuple(self.shape)}, nnz={self.nnz}, dtype={v.dtype}, "
            f"device='{v.device}'{grad})"
        )
