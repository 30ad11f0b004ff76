"""Sparse matrices from entries, from other libraries' matrices, and from dense ones."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from tsgu_func.matrix import arguments, torch_sparse
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.assembly import (
    Assembly,
    check_shape,
    compressed,
    compressed_coo,
    refuse_while_compiling,
)
from tsgu_func.matrix.base import MatrixBase
from tsgu_func.matrix.derived import derived
from tsgu_func.matrix.pattern import SparsityPattern, assemble_coo, assemble_csr, assembled

__all__ = ["Construction"]


class Construction(MatrixBase):
    """The ways to make a `SparseMatrix`."""

    @classmethod
    def from_coo(cls, row: Any, col: Any, values: Tensor, shape: tuple[int, int]) -> Self:
        """Create a matrix from entries in any order.  Entries at the same place are summed.

        ``A.values`` is sorted by row, and within a row by column, so it is not in the order in
        which you give the entries here.  To replace them later by others at the same places, use
        `SparsityPattern.from_coo`: it makes the pattern once, and a function that takes entries in
        *your* order and returns values for `with_values`.

        Parameters
        ----------
        row, col : Tensor or sequence of int, shape (entries,)
            Row and column of each entry.  In a compiled function they have to be lists or tuples of
            numbers.
        values : Tensor, shape ``(*batch, entries)``
        shape : (int, int)
        """
        if torch.compiler.is_compiling():
            assembly = _of_constants(_by_coo, values, shape, row, col)
        else:
            row, col = arguments.as_entries(values, row=row, col=col)
            assembly = assemble_coo(row, col, shape)
        return cls(assembly.pattern, assembly(values))

    @classmethod
    def from_csr(cls, crow: Any, col: Any, values: Tensor, shape: tuple[int, int]) -> Self:
        """Create a matrix from the arrays of CSR (compressed sparse rows).

        The columns need not be sorted within a row, and duplicates are summed.  In ``A.values``
        they are sorted: `SparsityPattern.from_csr` returns a function that brings values from your
        order to this one.

        Parameters
        ----------
        crow : Tensor or sequence of int, shape (n + 1,)
        col : Tensor or sequence of int, shape (entries,)
        values : Tensor, shape ``(*batch, entries)``
        shape : (int, int)
        """
        if torch.compiler.is_compiling():
            assembly = _of_constants(_by_csr, values, shape, crow, col)
        else:
            crow, col = arguments.as_entries(values, crow=crow, col=col)
            assembly = assemble_csr(crow, col, shape)
        return cls(assembly.pattern, assembly(values))

    @classmethod
    def from_torch(cls, A: Tensor) -> Self:
        """Create a matrix from a 2-D ``torch.sparse`` COO, CSR or CSC tensor, by copying it.

        The values are sorted by row, and within a row by column.  For CSC they are sorted by column
        first, as in the tensor.
        """
        if not isinstance(A, Tensor) or A.layout == torch.strided:
            raise TypeError(
                f"from_torch takes a torch sparse tensor; got {describe(A)}"
                + ("; use from_dense" if isinstance(A, Tensor) else "")
            )
        return cls(*torch_sparse.from_torch(A))

    @classmethod
    def from_scipy(cls, A: Any) -> Self:
        """Create a matrix from a SciPy sparse matrix or array of any format, by copying it.

        ``A.values`` is sorted by row, and within a row by column, whatever the order of the array
        ``data`` in SciPy is.  To fill in the numbers of another SciPy matrix with entries at the
        same places, convert that one too, or use `SparsityPattern.from_coo` with the places that
        SciPy's ``tocoo()`` gives.
        """
        import scipy.sparse

        if not scipy.sparse.issparse(A):
            raise TypeError(
                f"from_scipy takes a SciPy sparse matrix; got {type(A).__name__}: "
                f"from_dense(torch.from_numpy(A)) takes an array, from_torch(A) a sparse tensor, "
                f"scipy.io.mmread reads a file"
            )
        coo = A.tocoo()
        row, col = (torch.from_numpy(x.astype("int64")) for x in (coo.row, coo.col))
        return cls.from_coo(row, col, torch.from_numpy(coo.data.copy()), coo.shape)

    @classmethod
    def from_dense(cls, A: Tensor) -> Self:
        """Store the non-zero entries of a dense matrix ``(*batch, n, m)``.

        The members of a batch share one pattern, which stores an entry wherever at least one
        member is not zero.
        """
        refuse_while_compiling()
        if not isinstance(A, Tensor) or A.layout != torch.strided:
            raise TypeError(f"from_dense takes a dense tensor; got {describe(A)}")
        if A.ndim < 2:
            raise ValueError(f"a matrix has at least two axes; got shape {tuple(A.shape)}")
        if A.is_meta:
            raise ValueError(
                "a tensor on the meta device keeps no numbers, of which some are zero: make the "
                "matrix elsewhere and move it with .to('meta')"
            )
        used = (A.detach() != 0).flatten(0, -3).any(0) if A.ndim > 2 else A.detach() != 0
        row, col = used.nonzero(as_tuple=True)
        return cls.from_coo(row, col, A[..., row, col], (A.shape[-2], A.shape[-1]))

    @classmethod
    def diag(cls, values: Tensor, k: int = 0, *, shape: tuple[int, int] | None = None) -> Self:
        """Put a vector, or a batch of them, on a diagonal.

        Parameters
        ----------
        values : Tensor, shape ``(*batch, d)``
        k : int
            Which diagonal: 0 is the main one, 1 the one above, -1 the one below.
        shape : (int, int), optional
            Default: square, and as small as the diagonal allows, ``d + abs(k)`` rows.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> SparseMatrix.diag(torch.tensor([1.0, 2.0]), -1).to_dense()
        tensor([[0., 0., 0.],
                [1., 0., 0.],
                [0., 2., 0.]])
        """
        arguments.check_dense("values", values, TypeError)
        if values.ndim == 0:
            raise ValueError("values is a vector, or a batch of them; got a number")
        d = values.shape[-1]
        n, m = check_shape((d + abs(k),) * 2 if shape is None else shape)
        length = max(min(n - max(-k, 0), m - max(k, 0)), 0)
        if d != length:
            raise ValueError(
                f"diagonal {k} of a matrix of shape {(n, m)} has {length} entries; got {d}"
            )
        return cls(derived(_diagonal, n, m, k, d, str(values.device)), values)

    @classmethod
    def eye(
        cls,
        n: int,
        m: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return the identity, with n rows and m (default: n) columns.

        Examples
        --------
        >>> from tsgu_func import SparseMatrix
        >>> SparseMatrix.eye(2).to_dense()
        tensor([[1., 0.],
                [0., 1.]])
        """
        n, m = check_shape((n, n if m is None else m))
        values = torch.ones(min(n, m), **_or_defaults(dtype, device))
        return cls.diag(values, shape=(n, m))

    @classmethod
    def zeros(
        cls,
        n: int,
        m: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return a matrix that stores nothing, with n rows and m (default: n) columns."""
        n, m = check_shape((n, n if m is None else m))
        values = torch.zeros(0, **_or_defaults(dtype, device))
        return cls(derived(_diagonal, n, m, 0, 0, str(values.device)), values)


def _or_defaults(dtype: torch.dtype | None, device: torch.device | str | None) -> dict[str, Any]:
    """Return what a user left open as his defaults, as a factory of torch does."""
    if torch.compiler.is_compiling():  # the compiler knows the factories, and not their defaults
        return {"dtype": dtype, "device": device}
    return {
        "dtype": torch.get_default_dtype() if dtype is None else dtype,
        "device": torch.get_default_device() if device is None else device,
    }


def _of_constants(
    make: Callable[..., Assembly], values: Tensor, shape: tuple[int, int], *indices: Any
) -> Assembly:
    """Assemble at places that the compiler knows, which holds of lists and tuples of numbers."""
    arguments.check_dense("values", values, TypeError)
    for index in indices:
        if not (isinstance(index, (list, tuple)) and all(isinstance(i, int) for i in index)):
            refuse_while_compiling()
    places = (tuple([operator.index(i) for i in index]) for index in indices)
    return derived(make, *places, tuple(shape), str(values.device))


def _by_coo(row: Any, col: Any, shape: tuple[int, int], device: str) -> Assembly:
    row, col = (torch.tensor(index, dtype=torch.long, device=device) for index in (row, col))
    return assembled(compressed_coo(row, col, shape), len(col))


def _by_csr(crow: Any, col: Any, shape: tuple[int, int], device: str) -> Assembly:
    crow, col = (torch.tensor(index, dtype=torch.long, device=device) for index in (crow, col))
    return assembled(compressed(crow, col, shape), len(col))


def _diagonal(n: int, m: int, k: int, length: int, device: str) -> SparsityPattern:
    place = torch.arange(length, device=device)
    found = compressed_coo(place + max(-k, 0), place + max(k, 0), (n, m))
    return SparsityPattern.of_structure(found.structure)
