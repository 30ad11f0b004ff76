"""The sparse matrix of this library: a pattern, and values that transforms see.

To PyTorch a `SparseMatrix` is a pytree whose only leaf is `values`.  So the gradient
``torch.func.grad(loss)(A)`` is a `SparseMatrix` with the pattern of ``A``, and ``vmap`` maps over a
batch of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self, cast

import optree
import torch
from torch import Tensor
from torch.utils import _pytree as torch_pytree

from tsgu_func.matrix import arguments, torch_sparse
from tsgu_func.matrix.batches import over_batches
from tsgu_func.matrix.pattern import SparsityPattern, assemble_coo, assemble_csr, check_shape
from tsgu_func.ops.products import spmm

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["SparseMatrix", "SparsityPattern"]


class SparseMatrix:
    """A sparse matrix, or a batch of them that store entries at the same places.

    Parameters
    ----------
    pattern : SparsityPattern
        Where entries are stored: shape (n, m), `nnz` of them.
    values : Tensor, shape ``(*batch, nnz)``
        The entries, in the order of the pattern.

    Raises
    ------
    ValueError
        If the values do not fit the pattern, or are on another device.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    What is created from a dense or sparse argument is differentiable with respect to it.
    Under ``torch.func`` it is a pytree with the one leaf `values`.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix
    >>> A = SparseMatrix.from_coo([0, 0, 1], [0, 2, 1], torch.tensor([1.0, 2.0, 3.0]), (2, 3))
    >>> A
    SparseMatrix(shape=(2, 3), nnz=3, dtype=torch.float32, device='cpu')
    >>> A @ torch.ones(3)
    tensor([3., 3.])
    >>> torch.func.grad(lambda A: (A @ torch.ones(3)).square().sum())(A).values
    tensor([6., 6., 6.])
    """

    pattern: SparsityPattern
    values: Tensor
    # Binary operators of tensors and NumPy arrays leave the operation to this class.
    __array_priority__ = 1000

    def __init__(self, pattern: SparsityPattern, values: Tensor) -> None:
        if not isinstance(pattern, SparsityPattern):
            raise TypeError(f"pattern is a SparsityPattern; got {type(pattern).__name__}")
        if not isinstance(values, Tensor) or values.layout != torch.strided:
            raise TypeError(f"values is a dense tensor; got {_kind(values)}")
        if values.ndim == 0 or values.shape[-1] != pattern.nnz:
            raise ValueError(
                f"values has one entry for each of the {pattern.nnz} that the pattern stores, "
                f"along its last axis; got shape {tuple(values.shape)}"
            )
        if values.device != pattern.device:
            raise ValueError(
                f"pattern and values are on one device; got {pattern.device} and {values.device}"
            )
        self.pattern, self.values = pattern, values

    @classmethod
    def _of(cls, pattern: SparsityPattern, values: Any) -> Self:
        # Transforms put ints, None and placeholders where the leaf was: nothing is checked here.
        self = cls.__new__(cls)
        self.pattern, self.values = pattern, values
        return self

    # ---------------------------------------------------------------------------- construction

    @classmethod
    def from_coo(cls, row: Any, col: Any, values: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        """Create from entries, in any order; those at the same place are summed.

        Parameters
        ----------
        row, col : Tensor or sequence of int, shape (entries,)
        values : Tensor, shape ``(*batch, entries)``
        shape : (int, int)
        """
        row, col = _indices(row, values), _indices(col, values)
        _check_entries(values, row)
        assembly = assemble_coo(row, col, shape)
        return cls(assembly.pattern, assembly(values))

    @classmethod
    def from_csr(cls, crow: Any, col: Any, values: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        """Create from compressed rows; columns need not be sorted, duplicates are summed.

        Parameters
        ----------
        crow : Tensor or sequence of int, shape (n + 1,)
        col : Tensor or sequence of int, shape (entries,)
        values : Tensor, shape ``(*batch, entries)``
        shape : (int, int)
        """
        crow, col = _indices(crow, values), _indices(col, values)
        _check_entries(values, col)
        assembly = assemble_csr(crow, col, shape)
        return cls(assembly.pattern, assembly(values))

    @classmethod
    def from_torch(cls, A: Tensor) -> SparseMatrix:
        """Create from a 2-D ``torch.sparse`` COO, CSR or CSC tensor.

        Tensors with equal indices get the same pattern.
        """
        if not isinstance(A, Tensor) or A.layout == torch.strided:
            raise TypeError(
                f"from_torch takes a torch sparse tensor; got {_kind(A)}"
                + ("; use from_dense" if isinstance(A, Tensor) else "")
            )
        return cls(*torch_sparse.from_torch(A))

    @classmethod
    def from_scipy(cls, A: Any) -> SparseMatrix:
        """Create from a SciPy sparse matrix or array of any format; the values are copied."""
        import scipy.sparse

        if not scipy.sparse.issparse(A):
            raise TypeError(f"from_scipy takes a SciPy sparse matrix; got {_kind(A)}")
        coo = A.tocoo()
        check_shape(coo.shape)
        row, col = (torch.from_numpy(x.astype("int64")) for x in (coo.row, coo.col))
        return cls.from_coo(row, col, torch.from_numpy(coo.data.copy()), coo.shape)

    @classmethod
    def from_dense(cls, A: Tensor) -> SparseMatrix:
        """Store the non-zero entries of a dense matrix ``(*batch, n, m)``.

        A batch shares one pattern: the places that are non-zero in any member.
        """
        if not isinstance(A, Tensor) or A.layout != torch.strided:
            raise TypeError(f"from_dense takes a dense tensor; got {_kind(A)}")
        if A.ndim < 2:
            raise ValueError(f"a matrix has at least two axes; got shape {tuple(A.shape)}")
        used = (A.detach() != 0).flatten(0, -3).any(0) if A.ndim > 2 else A.detach() != 0
        row, col = used.nonzero(as_tuple=True)
        return cls.from_coo(row, col, A[..., row, col], (A.shape[-2], A.shape[-1]))

    def with_values(self, values: Tensor) -> SparseMatrix:
        """Return a matrix with the same pattern and other values ``(*batch, nnz)``."""
        return type(self)(self.pattern, values)

    # ------------------------------------------------------------------------------ attributes

    @property
    def shape(self) -> torch.Size:
        """``(*batch, n, m)``."""
        return torch.Size((*self.values.shape[:-1], *self.pattern.shape))

    @property
    def ndim(self) -> int:
        """Number of axes: two, and those of the batch."""
        return self.values.ndim + 1

    @property
    def nnz(self) -> int:
        """Number of stored entries of one member."""
        return self.pattern.nnz

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where values and indices are."""
        return self.values.device

    @property
    def requires_grad(self) -> bool:
        """Whether eager autograd records what is done with the values."""
        return self.values.requires_grad

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let eager autograd record; the gradient is ``A.values.grad``."""
        self.values.requires_grad_(requires_grad)
        return self

    def detach(self) -> SparseMatrix:
        """Return the same matrix, cut off the graph."""
        return self._of(self.pattern, self.values.detach())

    def to(
        self,
        device: torch.device | str | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> SparseMatrix:
        """Move to a device, convert to a dtype, or both."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        pattern = self.pattern if device is None else self.pattern.to(device)
        return self._of(pattern, self.values.to(device=pattern.device, dtype=dtype))

    # ------------------------------------------------------------------------------ conversion

    def to_dense(self) -> Tensor:
        """Return the matrix ``(*batch, n, m)`` with zeros filled in: O(n m) memory."""
        n, m = self.pattern.shape
        place = self.pattern.row.long() * m + self.pattern.col
        zeros = self.values.new_zeros(*self.values.shape[:-1], n * m)
        return zeros.index_add(-1, place, self.values).unflatten(-1, (n, m))

    def to_coo(self) -> Tensor:
        """Return a coalesced ``torch.sparse_coo`` tensor (not batched)."""
        A = self._by_rows("to_coo")
        indices = torch.stack([A.pattern.row, A.pattern.col]).long()
        return torch.sparse_coo_tensor(
            indices, A.values, A.shape, is_coalesced=True, check_invariants=False
        )

    def to_csr(self) -> Tensor:
        """Return a ``torch.sparse_csr`` tensor (not batched)."""
        A = self._by_rows("to_csr")
        s = A.pattern.structure
        return torch.sparse_csr_tensor(s.crow, s.col, A.values, A.shape, check_invariants=False)

    def to_scipy(self) -> csr_array:
        """Return a SciPy CSR array (not batched) with a copy of the values."""
        from scipy.sparse import csr_array

        A = self._by_rows("to_scipy")
        s, values = A.pattern.structure, A.values.detach().cpu().resolve_conj().numpy().copy()
        return csr_array((values, s.col.cpu().numpy(), s.crow.cpu().numpy()), shape=tuple(A.shape))

    def _by_rows(self, name: str) -> SparseMatrix:
        if self.values.ndim != 1:
            raise ValueError(
                f"{name} takes one matrix; this is a batch of shape {tuple(self.shape[:-2])}: "
                f"index it first"
            )
        if not self.pattern.transposed:
            return self
        structure, order = self.pattern.structure.transpose
        by_rows = SparsityPattern.of_structure(structure)
        return self._of(by_rows, self.values.index_select(-1, order))

    # ---------------------------------------------------------------------------------- algebra

    @property
    def T(self) -> SparseMatrix:
        """The transpose of each member; it shares indices and values."""
        return self._of(self.pattern.T, self.values)

    mT = T  # noqa: N815 - torch's name for it

    @property
    def mH(self) -> SparseMatrix:
        """The conjugate transpose of each member."""
        return self._of(self.pattern.T, self.values.conj())

    def conj(self) -> SparseMatrix:
        """Conjugate the values."""
        return self._of(self.pattern, self.values.conj())

    def diagonal(self) -> Tensor:
        """Return the main diagonal ``(*batch, min(n, m)``), with zeros where nothing is stored."""
        row, col = self.pattern.row, self.pattern.col
        zeros = self.values.new_zeros(*self.values.shape[:-1], min(self.pattern.shape))
        # Entries off the diagonal add nothing, at any place that exists: traceable as it is.
        on = row == col
        kept = torch.where(on, self.values, self.values.new_zeros(()))
        return zeros if not zeros.shape[-1] else zeros.index_add(-1, torch.where(on, row, 0), kept)

    # There is no __torch_function__: with one, Dynamo (2.13) would hand it A @ B and B @ A as the
    # same call.  Without, a compiled `@` raises, and sparse_mm is the way to write it there.
    def __matmul__(self, B: Tensor) -> Tensor:
        if not isinstance(B, Tensor):
            return NotImplemented
        arguments.check_matmul(self, B)
        return over_batches(_product, self.pattern, self.values, B)

    def __rmatmul__(self, B: Tensor) -> Tensor:
        if not isinstance(B, Tensor):
            return NotImplemented
        return self.T @ B if B.ndim == 1 else (self.T @ B.mT).mT

    def __add__(self, other: SparseMatrix) -> SparseMatrix:
        if not isinstance(other, SparseMatrix):
            return NotImplemented
        if self.pattern == other.pattern:
            return self._of(self.pattern, self.values + other.values)
        if self.pattern.shape != other.pattern.shape:
            raise ValueError(
                f"matrices of one shape can be added; got {self.pattern.shape} "
                f"and {other.pattern.shape}"
            )
        p, q = self.pattern, other.pattern
        row, col = torch.cat([p.row, q.row]), torch.cat([p.col, q.col])
        batch = torch.broadcast_shapes(self.values.shape[:-1], other.values.shape[:-1])
        both = [x.values.expand(*batch, x.nnz) for x in (self, other)]
        assembly = assemble_coo(row, col, p.shape)
        return self._of(assembly.pattern, assembly(torch.cat(both, -1)))

    def __neg__(self) -> SparseMatrix:
        return self._of(self.pattern, -self.values)

    def __sub__(self, other: SparseMatrix) -> SparseMatrix:
        return self + -other if isinstance(other, SparseMatrix) else NotImplemented

    def __mul__(self, factor: complex | Tensor) -> SparseMatrix:
        """Scale by a number, or each member by its own: a tensor with the shape of the batch."""
        scale = _per_member(factor)
        return NotImplemented if scale is None else self._scaled(self.values * scale)

    __rmul__ = __mul__

    def __truediv__(self, divisor: complex | Tensor) -> SparseMatrix:
        scale = _per_member(divisor)
        return NotImplemented if scale is None else self._scaled(self.values / scale)

    def _scaled(self, values: Tensor) -> SparseMatrix:
        return type(self)(self.pattern, values)

    # ------------------------------------------------------------------------------- the batch

    def __getitem__(self, index: Any) -> SparseMatrix:
        """Index the batch; entries of a matrix are not reached this way."""
        if self.values.ndim == 1:
            raise TypeError("this matrix has no batch to index; to_dense()[...] reaches entries")
        index = index if isinstance(index, tuple) else (index,)
        index = index if any(i is Ellipsis for i in index) else (*index, Ellipsis)
        return type(self)(self.pattern, self.values[(*index, slice(None))])

    def __len__(self) -> int:
        if self.values.ndim == 1:
            raise TypeError("this matrix has no batch, so no length; see shape")
        return self.values.shape[0]

    def __iter__(self) -> Iterator[SparseMatrix]:
        if self.values.ndim == 1:
            raise TypeError("this matrix has no batch to iterate over")
        return (self._of(self.pattern, values) for values in self.values)

    # ------------------------------------------------------------------------------- as a value

    def __repr__(self) -> str:
        v = self.values
        if not isinstance(v, Tensor):  # inside a transform's bookkeeping
            return f"SparseMatrix({self.pattern}, values={v!r})"
        grad = ", requires_grad=True" if v.requires_grad else ""
        return (
            f"SparseMatrix(shape={tuple(self.shape)}, nnz={self.nnz}, dtype={v.dtype}, "
            f"device='{v.device}'{grad})"
        )


def _product(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
    s = pattern.structure
    return spmm(values, B, s.crow, s.col, s.cols, pattern.transposed)


def _per_member(factor: Any) -> Any:
    """Line a factor of each member up with its values; None for what is no factor."""
    if isinstance(factor, Tensor):
        return factor.unsqueeze(-1)
    return factor if isinstance(factor, (int, float, complex)) else None


def _kind(x: Any) -> str:
    return f"a tensor of layout {x.layout}" if isinstance(x, Tensor) else type(x).__name__


def _indices(index: Any, values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.layout != torch.strided:
        raise TypeError(f"values is a dense tensor; got {_kind(values)}")
    if isinstance(index, Tensor):
        return index
    index = torch.as_tensor(index, device=values.device)
    return index if index.numel() else index.long()


def _check_entries(values: Tensor, index: Tensor) -> None:
    if values.ndim == 0 or index.ndim != 1 or values.shape[-1] != index.shape[0]:
        raise ValueError(
            f"there is one value for each index, along the last axis of values; got indices of "
            f"shape {tuple(index.shape)} and values of shape {tuple(values.shape)}"
        )


# -------------------------------------------------------------------------------------- pytree


def _flatten(A: SparseMatrix) -> tuple[list[Any], SparsityPattern]:
    return [A.values], A.pattern


def _unflatten(children: Any, pattern: SparsityPattern) -> SparseMatrix:
    (values,) = children
    return SparseMatrix._of(pattern, values)


def _flatten_with_keys(A: SparseMatrix) -> tuple[list[tuple[Any, Any]], SparsityPattern]:
    return [(torch_pytree.GetAttrKey("values"), A.values)], A.pattern


torch_pytree.register_pytree_node(
    SparseMatrix,
    _flatten,
    _unflatten,
    serialized_type_name="tsgu_func.SparseMatrix",
    flatten_with_keys_fn=_flatten_with_keys,
)
cast(Any, optree.register_pytree_node)(
    SparseMatrix,
    lambda A: ((A.values,), A.pattern, ("values",)),
    lambda pattern, children: _unflatten(children, pattern),
    path_entry_type=optree.GetAttrEntry,
    namespace="tsgu_func",
)
