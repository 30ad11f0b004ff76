"""Sparse matrices put together from others: beside and below each other, in blocks, as a batch.

Where the result stores entries depends on the patterns alone, and is found once for given ones; the
values follow by operations of PyTorch, differentiable to any order, also inside of
``torch.compile``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsgu_func.kernels.shapes import broadcast_shapes
from tsgu_func.matrix.arguments import check_whole, describe, is_sparse_matrix
from tsgu_func.matrix.arrangements import kronecker, spread, tiled
from tsgu_func.matrix.base import MatrixBase
from tsgu_func.matrix.derived import derived

__all__ = ["block", "block_diag", "hstack", "kron", "stack", "vstack"]

Matrix = TypeVar("Matrix", bound=MatrixBase)


def vstack(matrices: Sequence[Matrix]) -> Matrix:
    """Put matrices below each other.

    Parameters
    ----------
    matrices : list or tuple of SparseMatrix, shapes ``(*batch, n_i, m)``
        All of the same dtype, on the same device.  Batches broadcast.

    Returns
    -------
    SparseMatrix, shape ``(*batch, sum n_i, m)``

    Raises
    ------
    ValueError
        If there is no matrix, or shapes, dtypes or devices do not fit.
    TypeError
        If one is no SparseMatrix.

    Notes
    -----
    O(nnz) time and memory.  The pattern of the result is computed at the first call for these
    patterns, in O(nnz log nnz), and then kept.

    Examples
    --------
    >>> import torch
    >>> import tsgu_func
    >>> A, B = tsgu_func.SparseMatrix.eye(2), tsgu_func.SparseMatrix.diag(torch.ones(1), 1)
    >>> tsgu_func.vstack([A, B]).to_dense()
    tensor([[1., 0.],
            [0., 1.],
            [0., 1.],
            [0., 0.]])
    """
    _check(matrices, "vstack")
    return block([[A] for A in matrices])


def hstack(matrices: Sequence[Matrix]) -> Matrix:
    """Put matrices ``(*batch, n, m_i)`` beside each other.  See `vstack`."""
    _check(matrices, "hstack")
    return block([matrices])


def block(rows: Sequence[Sequence[Matrix | None]]) -> Matrix:
    """Put matrices together as blocks of one.

    Parameters
    ----------
    rows : list of lists of SparseMatrix or None
        The blocks of a row must have the same number of rows, and blocks below each other the
        same number of columns.  None stands for a block without entries, whose size follows from
        the others.  Batches, dtypes and devices are treated as in `vstack`.

    Returns
    -------
    SparseMatrix

    Raises
    ------
    ValueError
        If the blocks do not fit together, or no block tells the size of a row or column.

    Examples
    --------
    The matrix of a problem with constraints:

    >>> import torch
    >>> import tsgu_func
    >>> H = tsgu_func.SparseMatrix.diag(torch.tensor([2.0, 3.0]))
    >>> C = tsgu_func.SparseMatrix.from_dense(torch.tensor([[1.0, 1.0]]))
    >>> tsgu_func.block([[H, C.T], [C, None]]).to_dense()
    tensor([[2., 0., 1.],
            [0., 3., 1.],
            [1., 1., 0.]])
    """
    if not isinstance(rows, (list, tuple)) or not all(isinstance(r, (list, tuple)) for r in rows):
        raise TypeError("block takes a list of lists of matrices, a list for each row of blocks")
    if len({len(r) for r in rows}) != 1:
        raise ValueError(
            f"there are equally many blocks in each row, None where one is zero; got "
            f"{[len(r) for r in rows] or 'none'}"
        )
    given = [A for r in rows for A in r if A is not None]
    _check(given, "block")
    heights = [_size(r, 0, f"row {i} of the blocks") for i, r in enumerate(rows)]
    columns = zip(*rows, strict=True)
    widths = [_size(c, 1, f"column {j} of the blocks") for j, c in enumerate(columns)]
    starts = list(accumulate(heights, initial=0)), list(accumulate(widths, initial=0))
    corners = [
        (starts[0][i], starts[1][j])
        for i, r in enumerate(rows)
        for j, A in enumerate(r)
        if A is not None
    ]
    return _tiled(given, corners, (starts[0][-1], starts[1][-1]))


def block_diag(matrices: Sequence[Matrix]) -> Matrix:
    """Put matrices with any patterns and shapes along the diagonal of one matrix.

    One product or one solve then computes for all of them.  `tsgu_func.utils.block_split` takes the
    result apart.

    Parameters
    ----------
    matrices : list or tuple of SparseMatrix, shapes ``(*batch, n_i, m_i)``
        As for `vstack`.

    Returns
    -------
    SparseMatrix, shape ``(*batch, sum n_i, sum m_i)``

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, block_diag
    >>> from tsgu_func.utils import block_split
    >>> A, B = (SparseMatrix.from_dense(torch.ones(n, 2)) for n in (1, 3))
    >>> packed = block_diag([A, B])
    >>> packed.shape
    torch.Size([4, 4])
    >>> [x.tolist() for x in block_split(packed @ torch.ones(4), [A, B])]
    [[2.0], [2.0, 2.0, 2.0]]
    """
    _check(matrices, "block_diag")
    rows, cols = (
        list(accumulate((A.pattern.shape[axis] for A in matrices), initial=0)) for axis in (0, 1)
    )
    corners = list(zip(rows[:-1], cols[:-1], strict=True))
    return _tiled(matrices, corners, (rows[-1], cols[-1]))


def kron(A: Matrix, B: Matrix) -> Matrix:
    """Return the Kronecker product, in which each entry of A is replaced by itself times B.

    Parameters
    ----------
    A : SparseMatrix, shape ``(*batch, n, m)``
    B : SparseMatrix, shape ``(*batch, p, q)``
        Batches broadcast.

    Returns
    -------
    SparseMatrix, shape ``(*batch, n p, m q)``

    Notes
    -----
    The result stores ``A.nnz * B.nnz`` entries.  If you only want to multiply with it, you do not
    need it: for a dense X of shape (m, q), ``kron(A, B) @ X.flatten()`` is the same as
    ``(A @ X @ B.T).flatten()``.

    Examples
    --------
    The Laplacian of a grid is the sum of a Laplacian along the rows and one along the columns:

    >>> import torch
    >>> from tsgu_func import SparseMatrix, kron
    >>> A, eye = SparseMatrix.from_dense(torch.tensor([[2.0, -1], [-1, 2]])), SparseMatrix.eye(2)
    >>> (kron(A, eye) + kron(eye, A)).to_dense()
    tensor([[ 4., -1., -1.,  0.],
            [-1.,  4.,  0., -1.],
            [-1.,  0.,  4., -1.],
            [ 0., -1., -1.,  4.]])
    """
    _check([A, B], "kron")
    assemble = derived(kronecker, A.pattern, B.pattern)
    products = A.values.unsqueeze(-1) * B.values.unsqueeze(-2)
    return A._of(assemble.pattern, assemble(products.flatten(-2)))


def stack(matrices: Sequence[Matrix], dim: int = 0) -> Matrix:
    """Make a batch of matrices, as ``torch.stack`` does of dense ones.

    Parameters
    ----------
    matrices : list or tuple of SparseMatrix, shapes ``(*batch, n, m)``
        All of the same size and dtype, on the same device.  Batches broadcast.
    dim : int
        Where in the shape the new axis is inserted.

    Returns
    -------
    SparseMatrix, shape ``(b, *batch, n, m)`` for ``dim=0``
        The members of a batch share one pattern.  If the matrices have different patterns, it is
        their union, and a member stores zeros where its matrix stored nothing.

    Examples
    --------
    >>> import torch
    >>> import tsgu_func
    >>> A = tsgu_func.SparseMatrix.eye(2)
    >>> tsgu_func.stack([A, 2 * A]).values
    tensor([[1., 1.],
            [2., 2.]])
    """
    _check(matrices, "stack")
    first = matrices[0]
    if len({A.pattern.shape for A in matrices}) > 1:
        raise ValueError(
            f"the members of a batch have one size; got {[tuple(A.shape) for A in matrices]}: "
            f"block_diag packs those of different ones"
        )
    batch = _batch(matrices)
    axis = dim + len(batch) + 3 if dim < 0 else dim
    if not 0 <= axis <= len(batch):
        raise IndexError(
            f"dim is an axis of the batch, 0 to {len(batch)}, and rows and columns come last; got "
            f"{dim}"
        )
    if all(A.pattern == first.pattern for A in matrices):
        pattern, values = first.pattern, [A.values for A in matrices]
    else:
        pattern, places = derived(spread, *(A.pattern for A in matrices))
        values = [
            A.values.new_zeros(*A.values.shape[:-1], pattern.nnz).index_add(-1, place, A.values)
            for A, place in zip(matrices, places, strict=True)
        ]
    return first._of(pattern, torch.stack([v.expand(*batch, pattern.nnz) for v in values], axis))


def _tiled(
    matrices: Sequence[Matrix], corners: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> Matrix:
    """Return the matrix that has others at the places of their first rows and columns."""
    tiles = tuple((A.pattern, *corner) for A, corner in zip(matrices, corners, strict=True))
    assemble = derived(tiled, tiles, shape)
    batch = _batch(matrices)
    values = torch.cat([A.values.expand(*batch, A.nnz) for A in matrices], -1)
    return matrices[0]._of(assemble.pattern, assemble(values))


def _batch(matrices: Sequence[MatrixBase]) -> tuple[int, ...]:
    shapes = [A.values.shape[:-1] for A in matrices]
    try:
        return tuple(broadcast_shapes(*shapes))
    except RuntimeError:
        raise ValueError(f"batches broadcast; got {[tuple(shape) for shape in shapes]}") from None


def _size(blocks: Sequence[MatrixBase | None], axis: int, where: str) -> int:
    """Return the common number of rows, or of columns, of blocks."""
    sizes = {A.pattern.shape[axis] for A in blocks if A is not None}
    if len(sizes) == 1:
        return sizes.pop()
    what = ("rows", "columns")[axis]
    if not sizes:
        raise ValueError(
            f"all blocks in {where} are None, so its number of {what} is not known: put "
            f"SparseMatrix.zeros(n, m) in the place of one"
        )
    raise ValueError(f"the blocks in {where} have one number of {what}; got {sorted(sizes)}")


def _check(matrices: Any, name: str) -> None:
    """Check that these are sparse matrices that go together."""
    if not isinstance(matrices, (list, tuple)):
        raise TypeError(f"{name} takes a list of matrices; got {describe(matrices)}")
    if not matrices:
        raise ValueError(f"{name} takes one matrix or more; got none")
    for A in matrices:
        if not is_sparse_matrix(A):
            raise TypeError(f"{name} takes sparse matrices; got {describe(A)}{_cure(A)}")
        check_whole(A)
    for kind in ("dtype", "device"):
        if len(found := {getattr(A, kind) for A in matrices}) > 1:
            raise ValueError(
                f"the matrices have one {kind}; got {sorted(map(str, found))}: convert with .to"
            )
    _batch(matrices)


def _cure(x: Any) -> str:
    if not isinstance(x, Tensor):
        return ""
    dense = x.layout == torch.strided
    return f": SparseMatrix.{'from_dense' if dense else 'from_torch'}(A) makes one"
