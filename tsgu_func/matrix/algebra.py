"""Arithmetic of sparse matrices: what the operators mean for dense ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, overload

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels.shapes import broadcast_shapes
from tsgu_func.matrix import arguments, combined
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.batches import over_batches
from tsgu_func.matrix.conversion import Conversion
from tsgu_func.matrix.derived import derived
from tsgu_func.matrix.elementwise import at_entries, check_operand, check_scales, is_factor
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.ops.products import spmm
from tsgu_func.ops.sparse_products import spgemm

__all__ = ["Algebra"]


class Algebra(Conversion):
    """The arithmetic of a `SparseMatrix`."""

    # Binary operators of NumPy arrays leave the operation to this class.
    __array_ufunc__ = None

    # There is no __torch_function__: with one, Dynamo (2.13) would hand it A @ B and B @ A as the
    # same call.  Without, a compiled `@` raises, and sparse_mm is the way to write it there.
    @overload
    def __matmul__(self, B: Tensor) -> Tensor: ...

    @overload
    def __matmul__(self, B: Algebra) -> Self: ...

    def __matmul__(self, B: Any) -> Any:
        """Return ``A @ B``, of a dense or a sparse B: see `matmul`."""
        if not isinstance(B, (Tensor, Algebra)):
            return arguments.unless_foreign(B)
        return self.matmul(B)

    @overload
    def matmul(self, B: Tensor) -> Tensor: ...

    @overload
    def matmul(self, B: Algebra) -> Self: ...

    def matmul(self, B: Any) -> Any:
        r"""Return ``A @ B``.  The method also works inside of ``torch.compile``.

        `mm` and `mv` are other names of it.

        Parameters
        ----------
        B : Tensor, shape (m,), or ``(*batch, m, p)`` with a batch that broadcasts
            Or a SparseMatrix of such a shape.

        Returns
        -------
        Tensor, shape ``(*batch, n)`` for a vector, or ``(*batch, n, p)``
            If B is a SparseMatrix, so is the result.  It stores an entry wherever the two patterns
            allow one, even if its terms happen to cancel.  Where these places are is computed at
            the first product of two patterns and then kept, so the first one takes longer than
            those that follow.

        Notes
        -----
        For a cotangent :math:`G` of ``C = A @ B``, with B sparse,

        .. math:: \bar A_{ik} = \sum_j G_{ij} \overline{B_{kj}}, \qquad
            \bar B_{kj} = \sum_i \overline{A_{ik}} G_{ij} \quad\text{at their stored entries,}

        to any order.

        A product with a dense B takes O(nnz p) time.  With a sparse B, the time is proportional to
        the number of multiplications, and the memory to the number of entries that are stored (the
        method goes row by row: Gustavson, *ACM Transactions on Mathematical Software*, 1978).

        Python reads ``A @ B @ C`` as ``(A @ B) @ C``.  Put brackets where they make the
        intermediate product small.  Instead of multiplying with a diagonal matrix, use `scale_rows`
        or `scale_cols`.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
        >>> torch.compile(SparseMatrix.matmul, backend="eager")(A, torch.ones(2))
        tensor([2., 3.])
        >>> (A.T @ A).to_dense()
        tensor([[9., 0.],
                [0., 4.]])
        """
        if isinstance(B, Algebra):
            return _sparse_product(self, B)
        arguments.check_factor(B)
        arguments.check_matmul(self, B)
        return over_batches(_product, self.pattern, self.values, B)

    mm = mv = matmul

    def __rmatmul__(self, B: Tensor) -> Tensor:
        """Return ``B @ A``, of a dense B: a vector (n,), or ``(*batch, p, n)``."""
        if not isinstance(B, Tensor):
            return arguments.unless_foreign(B)
        return self.T @ B if B.ndim == 1 else (self.T @ B.mT).mT

    @overload
    def __add__(self, other: Tensor) -> Tensor: ...

    @overload
    def __add__(self, other: Algebra | int) -> Self: ...

    def __add__(self, other: Any) -> Any:
        """Return ``A + other``: see `add`."""
        return self.add(other) if _is_term(other) else arguments.unless_foreign(other)

    __radd__ = __add__

    def __neg__(self) -> Self:
        """Return ``-A``, with the same pattern."""
        return self._of(self.pattern, -self.values)

    @overload
    def __sub__(self, other: Tensor) -> Tensor: ...

    @overload
    def __sub__(self, other: Algebra | int) -> Self: ...

    def __sub__(self, other: Any) -> Any:
        """Return ``A - other``: see `add`."""
        return self.add(-other) if _is_term(other) else arguments.unless_foreign(other)

    def __rsub__(self, other: Any) -> Any:
        return (-self).add(other) if _is_term(other) else arguments.unless_foreign(other)

    @overload
    def add(self, other: Tensor) -> Tensor: ...

    @overload
    def add(self, other: Algebra | int) -> Self: ...

    def add(self, other: Any) -> Any:
        """Return ``A + other``.  The method also works inside of ``torch.compile``.

        Parameters
        ----------
        other : SparseMatrix, or dense Tensor that broadcasts with A
            The number 0 is accepted too, because Python's `sum` begins with it.

        Returns
        -------
        SparseMatrix, or Tensor for a dense `other`
            The sum of two sparse matrices stores an entry wherever at least one of them does.  If
            they have the same pattern, it is that pattern.  Otherwise the pattern of the sum is
            computed at the first call and kept for this pair of patterns.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A, B = SparseMatrix.eye(2), SparseMatrix.diag(torch.ones(1), 1)
        >>> (A + B).to_dense()
        tensor([[1., 1.],
                [0., 1.]])
        """
        if isinstance(other, Tensor):
            return _dense_sum(self, other)
        if not isinstance(other, Algebra):
            _check_zero(other)
            return self
        arguments.check_devices(self, other)
        if self.pattern == other.pattern:
            return self._of(self.pattern, self.values + other.values)
        _check_shapes(self, other, "added")
        assemble = derived(combined.union, self.pattern, other.pattern)
        return self._of(assemble.pattern, assemble(_side_by_side(self.values, other.values)))

    def __mul__(self, factor: Algebra | complex | Tensor) -> Self:
        """Return ``A * factor``, entry by entry: see `mul`."""
        if not (isinstance(factor, Algebra) or is_factor(factor)):
            return arguments.unless_foreign(factor)
        return self.mul(factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: complex | Tensor) -> Self:
        """Return ``A / divisor``, entry by entry: see `div`."""
        if isinstance(divisor, Algebra):
            raise TypeError(
                "a matrix is not divided by a sparse one, which is zero where it stores nothing: "
                "A * B.map(torch.reciprocal) divides where both store entries, sparse_solve(B, C) "
                "solves with B"
            )
        if not is_factor(divisor):
            return arguments.unless_foreign(divisor)
        return self.div(divisor)

    def mul(self, factor: Algebra | complex | Tensor) -> Self:
        """Return ``A * factor``, entry by entry.  It also works inside of ``torch.compile``.

        Parameters
        ----------
        factor : number, dense Tensor that broadcasts with A, or SparseMatrix
            A number or a dense factor multiplies the stored entries, as it would multiply
            ``A.to_dense()``, and the pattern stays as it is.  It may add axes to the batch, but
            no rows and no columns.  This takes O(nnz) time and memory.  The product with a
            SparseMatrix stores an entry wherever both of them do.

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
        if not isinstance(factor, Algebra):
            return self._of(self.pattern, self.values * at_entries(self, factor))
        arguments.check_devices(self, factor)
        if self.pattern == factor.pattern:
            return self._of(self.pattern, self.values * factor.values)
        _check_shapes(self, factor, "multiplied entry by entry")
        common = derived(combined.intersection, self.pattern, factor.pattern)
        first = self.values.index_select(-1, common.first)
        return self._of(common.pattern, first * factor.values.index_select(-1, common.second))

    def div(self, divisor: complex | Tensor) -> Self:
        """Return ``A / divisor``, entry by entry.  What the divisor may be is said in `mul`."""
        return self._of(self.pattern, self.values / at_entries(self, divisor))

    def scale_rows(self, d: Tensor) -> Self:
        """Return ``diag(d) @ A``, for d of shape ``(*batch, n)``; the pattern stays.  O(nnz).

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
        >>> A.scale_rows(1 / A.sum(-1)).to_dense()
        tensor([[0.2500, 0.7500],
                [0.0000, 1.0000]])
        """
        check_scales(d, self.shape[-2], "row")
        return self.mul(d.unsqueeze(-1))

    def scale_cols(self, d: Tensor) -> Self:
        """Return ``A @ diag(d)``, for d of shape ``(*batch, m)``; the pattern stays.  O(nnz)."""
        check_scales(d, self.shape[-1], "column")
        return self.mul(d.unsqueeze(-2))

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply an elementwise function to the stored values.  The pattern stays as it is.

        If the function maps zero to zero, as `torch.tanh` does, this is the same as applying it to
        the whole matrix.  If not, as with `torch.exp`, entries that are not stored remain zero.

        Parameters
        ----------
        function : callable
            It gets the values ``(*batch, nnz)`` and returns a tensor of the same shape, of any
            dtype.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import SparseMatrix
        >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
        >>> A.map(torch.sqrt).to_dense()
        tensor([[2., 0.],
                [0., 3.]])
        """
        values = function(self.values)
        if not isinstance(values, Tensor) or values.shape != self.values.shape:
            raise ValueError(
                f"map takes an elementwise function; of values of shape "
                f"{tuple(self.values.shape)} it made {describe(values)}"
            )
        return self._of(self.pattern, values)

    def abs(self) -> Self:
        """Return the absolute value of each entry."""
        return self._of(self.pattern, self.values.abs())

    def __abs__(self) -> Self:
        """Return ``abs(A)``: see `abs`."""
        return self.abs()

    def __pow__(self, exponent: float) -> Self:
        """Return ``A ** exponent`` entry by entry, for a positive exponent."""
        if not isinstance(exponent, (int, float)):
            return NotImplemented
        if exponent <= 0:
            raise ValueError(
                f"a power of each entry is sparse for a positive exponent, since 0 ** 0 is 1; got "
                f"{exponent}: A.map(lambda v: v ** {exponent}) applies it to the stored entries"
            )
        return self._of(self.pattern, self.values**exponent)

    def allclose(
        self, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
    ) -> bool:
        """Whether A and another matrix agree in all entries, by the rule of ``torch.allclose``.

        Parameters
        ----------
        other : SparseMatrix, or dense Tensor, of the shape of A
            An entry that only one of them stores is compared with zero.
        """
        if not isinstance(other, (Tensor, Algebra)) or other.shape != self.shape:
            raise ValueError(
                f"a matrix is compared with one of its shape, {tuple(self.shape)}; got "
                f"{describe(other)}"
            )
        tolerances = {"rtol": rtol, "atol": atol, "equal_nan": equal_nan}
        if isinstance(other, Tensor):
            return torch.allclose(self.to_dense(), other, **tolerances)
        if self.pattern == other.pattern:
            return torch.allclose(self.values, other.values, **tolerances)
        assemble = derived(combined.union, self.pattern, other.pattern)
        x, y = self.values, other.values
        here = assemble(torch.cat([x, x.new_zeros(*x.shape[:-1], other.nnz)], -1))
        there = assemble(torch.cat([y.new_zeros(*y.shape[:-1], self.nnz), y], -1))
        return torch.allclose(here, there, **tolerances)


def _product(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
    s = pattern.structure
    return spmm(values, B, s.crow, s.col, s.cols, pattern.transposed)


def _sparse_product(A: Algebra, B: Algebra) -> Any:
    arguments.check_sparse_matmul(A, B)
    if A.pattern.transposed and B.pattern.transposed:  # then nothing has to be ordered anew
        return _sparse_product(B.T, A.T).T
    (p, x), (q, y) = _by_rows(A), _by_rows(B)
    pattern = derived(combined.product, p, q)
    batch = broadcast_shapes(x.shape[:-1], y.shape[:-1])
    if batch:
        x, y = (v.expand(*batch, v.shape[-1]).flatten(0, -2) for v in (x, y))
    structures = (s for P in (p, q, pattern) for s in _stored(P))
    values = spgemm(x, y, *structures, "C")
    return A._of(pattern, values.unflatten(0, batch) if batch else values)


def _by_rows(A: Algebra) -> tuple[SparsityPattern, Tensor]:
    """Return a pattern that is compressed by rows, and the values in its order."""
    if not A.pattern.transposed:
        return A.pattern, A.values
    pattern, order = derived(combined.by_rows, A.pattern)
    return pattern, A.values.index_select(-1, order)


def _stored(pattern: SparsityPattern) -> tuple[Tensor, Tensor, int]:
    s = pattern.structure
    return s.crow, s.col, s.cols


def _is_term(x: Any) -> bool:
    return isinstance(x, (Algebra, Tensor, int, float, complex, np.number))


def _check_zero(x: Any) -> None:
    if x != 0:
        raise TypeError(
            f"a number is added to every entry, also where nothing is stored; got {x!r}: "
            f"A.to_dense() + {x!r} is that, A.with_values(A.values + {x!r}) changes stored entries"
        )


def _dense_sum(A: Algebra, other: Tensor) -> Tensor:
    check_operand(A, other, "what is added")
    return A.to_dense() + other


def _check_shapes(A: Algebra, B: Algebra, done: str) -> None:
    if A.pattern.shape != B.pattern.shape:
        raise ValueError(
            f"matrices of one shape can be {done}; got {A.pattern.shape} and {B.pattern.shape}"
        )


def _side_by_side(x: Tensor, y: Tensor) -> Tensor:
    batch = broadcast_shapes(x.shape[:-1], y.shape[:-1])
    return torch.cat([v.expand(*batch, v.shape[-1]) for v in (x, y)], -1)
