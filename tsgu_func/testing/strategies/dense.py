"""Dense tensors: right-hand sides, in every layout in memory."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.testing.strategies.coordinates import Entries
from tsgu_func.testing.strategies.options import (
    DTYPES,
    Bounds,
    batches,
    bounds,
    choice,
    one_of_names,
)
from tsgu_func.testing.strategies.places import Places
from tsgu_func.testing.strategies.values import SEEDS, STRIDES, numbers, restrided

__all__ = ["dense_tensors", "right_hand_sides"]

Rows = int | SparseMatrix | Tensor | Entries | Places


def right_hand_sides(
    rows: Rows,
    columns: Bounds | None = (0, 3),
    *,
    batch: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] | None = None,
    magnitudes: float | st.SearchStrategy[float] = 1.0,
    strides: str | st.SearchStrategy[str] | None = None,
    units_of_rows: bool = False,
) -> st.SearchStrategy[Tensor]:
    """Draw a dense tensor with as many rows as a matrix, as the B in ``A X = B``.

    Parameters
    ----------
    rows : int, SparseMatrix, Tensor, Entries or Places
        The number of rows, or the matrix A, which has as many.  For a product ``A B``, give
        ``A.shape[-1]``.
    columns : int or (int, int), optional
        The smallest and the largest number of columns.  With None, a vector is drawn.
    batch : tuple of int, or a strategy of them, optional
        The axes in front.  Default: those of A.
    dtype : torch.dtype, or a strategy of them, optional
        Default: that of A; if only a number of rows is given, float64 and complex128.
    magnitudes : float, or a strategy of them
        A factor for all numbers; see `entries`.
    strides : str, or a strategy of them, optional
        How the tensor lies in memory: see `restrided`.  Default: all of `STRIDES`.
    units_of_rows : bool
        Whether each row is multiplied with a power of two close to the largest entry in the same
        row of A.  Then, in a system that ``entries("penalty")`` draws, the unknowns that a penalty
        prescribes are as large as all others.

    Returns
    -------
    SearchStrategy of Tensor
        Shape ``(*batch, n, p)``, or ``(*batch, n)`` with ``columns=None``.

    Raises
    ------
    TypeError
        If `rows` or `columns` is of another kind.
    ValueError
        If a number is negative, if there are no such strides, or if `units_of_rows` is set without
        a matrix, or with a matrix that has another batch.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import find
    >>> from tsgu_func import SparseMatrix
    >>> from tsgu_func.testing.strategies import right_hand_sides
    >>> find(right_hand_sides(2, strides="transposed"), lambda B: B.shape[1] == 3).stride()
    (1, 2)
    >>> A = SparseMatrix.from_dense(torch.diag(torch.tensor([1.0, 1e6])))
    >>> find(right_hand_sides(A, 1, units_of_rows=True), lambda B: bool(B.all()))
    tensor([[1.0000e+00],
            [1.0486e+06]])
    """
    if strides is not None:
        one_of_names("strides", strides, STRIDES)
    n, batch_of_A, dtype_of_A = _of(rows)
    sizes = st.none() if columns is None else st.integers(*bounds("columns", columns))
    return _dense(
        n,
        sizes,
        batches(batch_of_A if batch is None else batch),
        choice(dtype_of_A if dtype is None else dtype),
        choice(magnitudes),
        st.sampled_from(STRIDES) if strides is None else choice(strides),
        _units(rows, batch) if units_of_rows else None,
    )


def dense_tensors(
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]],
    *,
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] = DTYPES,
    magnitudes: float | st.SearchStrategy[float] = 1.0,
    strides: str | st.SearchStrategy[str] | None = None,
) -> st.SearchStrategy[Tensor]:
    """Draw a dense tensor that lies in memory in any way that PyTorch knows.

    Parameters
    ----------
    shape : tuple of int, or a strategy of them
    dtype : torch.dtype, or a strategy of them
        Default: float64 and complex128.
    magnitudes : float, or a strategy of them
        A factor for all numbers; see `entries`.
    strides : str, or a strategy of them, optional
        How the tensor lies in memory: see `restrided`.  Default: all of `STRIDES`.

    Returns
    -------
    SearchStrategy of Tensor

    Raises
    ------
    TypeError
        If the shape is not a tuple.
    ValueError
        If there are no such strides.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import dense_tensors
    >>> find(dense_tensors((2, 3)), lambda x: not x.is_contiguous() and x.stride(0) == 1).stride()
    (1, 2)
    """
    if strides is not None:
        one_of_names("strides", strides, STRIDES)
    ways = st.sampled_from(STRIDES) if strides is None else choice(strides)
    return st.builds(
        lambda shape, dtype, seed, k, way: restrided(numbers(shape, dtype, seed) * k, way),
        batches(shape),
        choice(dtype),
        SEEDS,
        choice(magnitudes),
        ways,
    )


def _units(rows: Rows, batch: object) -> Tensor:
    """Return a power of two for each row, (*batch, n)."""
    if isinstance(rows, (int, Places)):
        raise ValueError(f"units_of_rows takes a matrix with values as rows; got {rows!r}")
    A = rows.dense() if isinstance(rows, Entries) else rows.to_dense()
    if A.ndim > 2 and batch is not None:
        raise ValueError("units_of_rows are those of each member: leave batch out")
    largest = torch.cat([A.abs(), A.abs().new_zeros(*A.shape[:-1], 1)], -1).amax(-1).double()
    power = torch.where(largest == 0, 1, largest).log2().round()
    units = [2.0**p for p in power.flatten().tolist()]
    return torch.tensor(units, dtype=torch.float64).reshape(power.shape)


def _of(
    rows: Rows,
) -> tuple[int, tuple[int, ...], torch.dtype | st.SearchStrategy[torch.dtype]]:
    """Return how many rows there are, and the batch and dtype that go with them."""
    if isinstance(rows, Entries):
        return rows.shape[0], tuple(rows.values.shape[:-1]), rows.values.dtype
    if isinstance(rows, Places):
        return rows.shape[0], (), DTYPES
    if isinstance(rows, (SparseMatrix, Tensor)):
        return rows.shape[-2], tuple(rows.shape[:-2]), rows.dtype
    if not isinstance(rows, int):
        raise TypeError(f"rows is a number, or a matrix that has as many; got {rows!r}")
    return bounds("rows", rows)[0], (), DTYPES


@st.composite
def _dense(
    draw: st.DrawFn,
    n: int,
    columns: st.SearchStrategy[int | None],
    batch_sizes: st.SearchStrategy[tuple[int, ...]],
    dtypes: st.SearchStrategy[torch.dtype],
    factors: st.SearchStrategy[float],
    strides: st.SearchStrategy[str],
    units: Tensor | None,
) -> Tensor:
    p, batch = draw(columns), draw(batch_sizes)
    shape = (*batch, n) if p is None else (*batch, n, p)
    x = numbers(shape, draw(dtypes), draw(SEEDS)) * draw(factors)
    if units is not None:
        x = x * (units if p is None else units.unsqueeze(-1)).to(x.dtype)
    return restrided(x, draw(strides))
