"""The sparse matrix of this library: a pattern, and values that transforms see.

To PyTorch a `SparseMatrix` is a pytree whose only leaf is `values`.  So the gradient
``torch.func.grad(loss)(A)`` is a `SparseMatrix` with the pattern of ``A``, and ``vmap`` maps over a
batch of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.products import csr_tensor
from tsgu_func.kernels.structure import Structure
from tsgu_func.matrix import arguments, pytree, torch_sparse
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.batches import over_batches
from tsgu_func.matrix.elementwise import at_entries, is_factor
from tsgu_func.matrix.pattern import SAVED, SparsityPattern, assemble_coo, assemble_csr
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
        The entries, in the order of ``pattern.row`` and ``pattern.col``: by row, and within a row
        by column; of a transpose, in the order of what was transposed.  They are kept as they
        are, not copied: a leaf of autograd stays the leaf, and who writes to it changes the matrix.

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

    ``A + B``, ``A - B``, ``-A``, ``A @ B`` and ``B @ A`` mean what they mean for dense matrices.
    ``A * d`` and ``A / d`` do at the stored entries, for a number or a dense d that broadcasts with
    A: d of shape (m,) scales columns, (n, 1) rows, and ``t[:, None, None]`` each member of a batch.
    ``A[i]`` is a member of a batch.  Where one side is a tensor, a compiled function does not ask
    this class for its operators: call the methods `matmul`, `mul` and `div` there.

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
    # Binary operators of NumPy arrays leave the operation to this class.
    __array_ufunc__ = None

    def __init__(self, pattern: SparsityPattern, values: Tensor) -> None:
        if not isinstance(pattern, SparsityPattern):
            raise TypeError(f"pattern is a SparsityPattern; got {type(pattern).__name__}")
        if not isinstance(values, Tensor) or values.layout != torch.strided:
            raise TypeError(f"values is a dense tensor; got {describe(values)}")
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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _register(cls)

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

        The values of the matrix are sorted by row, and within a row by column: not in the order
        given here.  `SparsityPattern.from_coo` makes the pattern once, with a function that brings
        entries in the order of `row` and `col` to values, for `with_values` to change them.

        Parameters
        ----------
        row, col : Tensor or sequence of int, shape (entries,)
        values : Tensor, shape ``(*batch, entries)``
        shape : (int, int)
        """
        row, col = arguments.as_entries(values, row=row, col=col)
        assembly = assemble_coo(row, col, shape)
        return cls(assembly.pattern, assembly(values))

    @classmethod
    def from_csr(cls, crow: Any, col: Any, values: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        """Create from compressed rows; columns need not be sorted, duplicates are summed.

        The values of the matrix are sorted by column within a row; `SparsityPattern.from_csr`
        tells how they follow from those given here.

        Parameters
        ----------
        crow : Tensor or sequence of int, shape (n + 1,)
        col : Tensor or sequence of int, shape (entries,)
        values : Tensor, shape ``(*batch, entries)``
        shape : (int, int)
        """
        crow, col = arguments.as_entries(values, crow=crow, col=col)
        assembly = assemble_csr(crow, col, shape)
        return cls(assembly.pattern, assembly(values))

    @classmethod
    def from_torch(cls, A: Tensor) -> SparseMatrix:
        """Create from a 2-D ``torch.sparse`` COO, CSR or CSC tensor: values and indices are copied.

        Values are sorted by row and column, for CSC by column and row, as those of such tensors
        are.
        """
        if not isinstance(A, Tensor) or A.layout == torch.strided:
            raise TypeError(
                f"from_torch takes a torch sparse tensor; got {describe(A)}"
                + ("; use from_dense" if isinstance(A, Tensor) else "")
            )
        return cls(*torch_sparse.from_torch(A))

    @classmethod
    def from_scipy(cls, A: Any) -> SparseMatrix:
        """Create from a SciPy sparse matrix or array of any format: values and indices are copied.

        The values of the matrix are sorted by row, and within a row by column, whatever the order
        of ``A.data``.  To have that of another matrix with the same places later, convert it in
        the same way, or use `SparsityPattern.from_coo` with the places of ``A.tocoo()``.
        """
        import scipy.sparse

        if not scipy.sparse.issparse(A):
            dense = "; from_dense(torch.from_numpy(A)) takes a dense one"
            raise TypeError(
                f"from_scipy takes a SciPy sparse matrix; got {describe(A)}"
                + (dense if isinstance(A, np.ndarray) else "")
            )
        coo = A.tocoo()
        row, col = (torch.from_numpy(x.astype("int64")) for x in (coo.row, coo.col))
        return cls.from_coo(row, col, torch.from_numpy(coo.data.copy()), coo.shape)

    @classmethod
    def from_dense(cls, A: Tensor) -> SparseMatrix:
        """Store the non-zero entries of a dense matrix ``(*batch, n, m)``.

        A batch shares one pattern: the places that are non-zero in any member.
        """
        if not isinstance(A, Tensor) or A.layout != torch.strided:
            raise TypeError(f"from_dense takes a dense tensor; got {describe(A)}")
        if A.ndim < 2:
            raise ValueError(f"a matrix has at least two axes; got shape {tuple(A.shape)}")
        used = (A.detach() != 0).flatten(0, -3).any(0) if A.ndim > 2 else A.detach() != 0
        row, col = used.nonzero(as_tuple=True)
        return cls.from_coo(row, col, A[..., row, col], (A.shape[-2], A.shape[-1]))

    def with_values(self, values: Tensor) -> SparseMatrix:
        """Return a matrix with the same pattern and other values ``(*batch, nnz)``.

        Values are in the order of ``A.values``: that of ``A.pattern.row`` and ``A.pattern.col``,
        not that in which entries were given to `from_coo`, `from_csr` or `from_scipy`.  What
        `SparsityPattern.from_coo` returns with a pattern brings entries into this order.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix, SparsityPattern
        >>> pattern, assemble = SparsityPattern.from_coo([1, 0, 1], [0, 1, 0], (2, 2))
        >>> A = SparseMatrix(pattern, assemble(torch.tensor([1.0, 2.0, 3.0])))
        >>> A.with_values(A.values.square()).to_dense()
        tensor([[ 0.,  4.],
                [16.,  0.]])
        >>> A.with_values(assemble(torch.tensor([5.0, 6.0, 7.0]))).to_dense()
        tensor([[ 0.,  6.],
                [12.,  0.]])
        """
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
        """Return a SciPy CSR array (not batched): a copy."""
        from scipy.sparse import csr_array

        s, values = self.detach()._by_rows("to_scipy")
        parts = (x.cpu().resolve_conj() for x in (values, s.col.clone(), s.crow.clone()))
        return csr_array(tuple(x.numpy() for x in parts), shape=(s.rows, s.cols))

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
        arguments.check_whole(self)
        row, col = self.pattern.places()
        zeros = self.values.new_zeros(*self.values.shape[:-1], min(self.pattern.shape))
        # Entries off the diagonal add nothing, at any place that exists: traceable as it is.
        on = row == col
        kept = torch.where(on, self.values, self.values.new_zeros(()))
        return zeros if not zeros.shape[-1] else zeros.index_add(-1, torch.where(on, row, 0), kept)

    # There is no __torch_function__: with one, Dynamo (2.13) would hand it A @ B and B @ A as the
    # same call.  Without, a compiled `@` raises, and sparse_mm is the way to write it there.
    def __matmul__(self, B: Tensor) -> Tensor:
        return self.matmul(B) if isinstance(B, Tensor) else NotImplemented

    def matmul(self, B: Tensor) -> Tensor:
        """Return ``A @ B``, also inside of ``torch.compile``; `mm` and `mv` are other names for it.

        Parameters
        ----------
        B : Tensor, shape (m,), or ``(*batch, m, p)`` with a batch that broadcasts

        Returns
        -------
        Tensor, shape ``(*batch, n)`` for a vector, or ``(*batch, n, p)``

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
        >>> torch.compile(SparseMatrix.matmul, backend="eager")(A, torch.ones(2))
        tensor([2., 3.])
        """
        arguments.check_matmul(self, B)
        return over_batches(_product, self.pattern, self.values, B)

    mm = mv = matmul

    def __rmatmul__(self, B: Tensor) -> Tensor:
        if not isinstance(B, Tensor):
            return NotImplemented
        return self.T @ B if B.ndim == 1 else (self.T @ B.mT).mT

    def __add__(self, other: SparseMatrix) -> SparseMatrix:
        if not isinstance(other, SparseMatrix):
            return NotImplemented
        arguments.check_devices(self, other)
        if self.pattern == other.pattern:
            return self._of(self.pattern, self.values + other.values)
        if self.pattern.shape != other.pattern.shape:
            raise ValueError(
                f"matrices of one shape can be added; got {self.pattern.shape} "
                f"and {other.pattern.shape}"
            )
        p, q = self.pattern, other.pattern
        row, col = (torch.cat(both) for both in zip(p.places(), q.places(), strict=True))
        batch = torch.broadcast_shapes(self.values.shape[:-1], other.values.shape[:-1])
        both = [x.values.expand(*batch, x.nnz) for x in (self, other)]
        assembly = assemble_coo(row, col, p.shape)
        return self._of(assembly.pattern, assembly(torch.cat(both, -1)))

    def __neg__(self) -> SparseMatrix:
        return self._of(self.pattern, -self.values)

    def __sub__(self, other: SparseMatrix) -> SparseMatrix:
        return self + -other if isinstance(other, SparseMatrix) else NotImplemented

    def __mul__(self, factor: complex | Tensor) -> SparseMatrix:
        return self.mul(factor) if is_factor(factor) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: complex | Tensor) -> SparseMatrix:
        return self.div(divisor) if is_factor(divisor) else NotImplemented

    def mul(self, factor: complex | Tensor) -> SparseMatrix:
        """Return ``A * factor``, also inside of ``torch.compile``; the pattern stays.

        Parameters
        ----------
        factor : number, or dense Tensor that broadcasts with A
            What it does to ``A.to_dense()``, at the stored entries.  It may add axes to the batch,
            but no rows and no columns.  O(nnz) time and memory.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        >>> d = torch.tensor([10.0, 100.0])
        >>> (A * d).to_dense(), (A * d[:, None]).to_dense()
        (tensor([[ 10., 200.],
                [  0., 300.]]), tensor([[ 10.,  20.],
                [  0., 300.]]))
        """
        return self._of(self.pattern, self.values * at_entries(self, factor))

    def div(self, divisor: complex | Tensor) -> SparseMatrix:
        """Return ``A / divisor`` at the stored entries; for the divisor see `mul`."""
        return self._of(self.pattern, self.values / at_entries(self, divisor))

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
            raise TypeError(
                "this matrix has no batch to iterate over; A.values is the tensor of its entries"
            )
        return (self._of(self.pattern, values) for values in self.values)

    # ------------------------------------------------------------------------------- as a value

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


def _product(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
    s = pattern.structure
    return spmm(values, B, s.crow, s.col, s.cols, pattern.transposed)


def _register(cls: type[SparseMatrix], name: str | None = None) -> None:
    pytree.register(cls, "values", "pattern", lambda v, pattern: cls._of(pattern, v), name)


_register(SparseMatrix, "tsgu_func.SparseMatrix")
torch.serialization.add_safe_globals([SparseMatrix, *SAVED])
