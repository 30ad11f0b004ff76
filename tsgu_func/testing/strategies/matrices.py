"""Sparse matrices of a kind, in a layout, alone or in a batch."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from hypothesis import note
from hypothesis import strategies as st
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.testing.strategies.coordinates import LAYOUTS, Entries
from tsgu_func.testing.strategies.entries import entries, is_square, triangle_of
from tsgu_func.testing.strategies.kinds import KINDS
from tsgu_func.testing.strategies.options import DTYPES, batches, choice, one_of_names
from tsgu_func.testing.strategies.places import Where, triangle_mask
from tsgu_func.testing.strategies.values import STRIDES, VALUES, restrided

__all__ = ["sparse_matrices"]

_OURS = ("matrix", "transposed")
_SAME_NUMBERS = tuple(s for s in STRIDES if s != "expanded")


def sparse_matrices(
    kind: str | st.SearchStrategy[str] = "general",
    *,
    layout: str | st.SearchStrategy[str] = "matrix",
    batch: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] = (),
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] = DTYPES,
    magnitudes: float | st.SearchStrategy[float] = 1.0,
    values: str | st.SearchStrategy[str] = "random",
    condition: tuple[float, float] | None = None,
    strides: str | st.SearchStrategy[str] = "contiguous",
    **where: Unpack[Where],
) -> st.SearchStrategy[Any]:
    """Draw a sparse matrix.  A test that fails prints the entries that it was made of.

    If a test needs the dense matrix as well, draw `entries`, and make both of them.

    Parameters
    ----------
    kind : str, or a strategy of them
        One of `KINDS`, which `entries` explains.
    layout : str, or a strategy of them
        ``"matrix"`` is a SparseMatrix, and ``"transposed"`` one whose pattern is kept by columns.
        ``"coo"`` is a COO tensor that is not coalesced, ``"coalesced"`` one that is, and ``"csr"``
        a CSR tensor.
    batch : tuple of int, or a strategy of them
        The shape of a batch.  The members of a SparseMatrix share the pattern.  A torch sparse
        tensor has at most one axis of a batch, and its members store different entries; in CSR
        they have to store equally many, so some of them store zeros.
    dtype, magnitudes, values, condition
        As for `entries`.
    strides : str, or a strategy of them
        How the values of a SparseMatrix lie in memory: see `restrided`, apart from ``"expanded"``.
    **where
        Options of `patterns`, as for `entries`.

    Returns
    -------
    SearchStrategy of SparseMatrix or of Tensor

    Raises
    ------
    TypeError
        If a bound is neither a number nor a pair.
    ValueError
        If there is no such kind, layout or strides, or if a torch sparse tensor is asked for with
        more than one axis of a batch.

    Examples
    --------
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import sparse_matrices
    >>> find(sparse_matrices(), lambda A: A.nnz >= 2)
    SparseMatrix(shape=(1, 2), nnz=2, dtype=torch.float64, device='cpu')
    >>> find(sparse_matrices("lower", layout="csr"), lambda A: A.shape[0] == 2).to_dense()
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    one_of_names("kind", kind, KINDS)
    one_of_names("layout", layout, LAYOUTS)
    one_of_names("strides", strides, _SAME_NUMBERS)
    one_of_names("values", values, VALUES)
    shared = {
        "dtype": choice(dtype),
        "magnitudes": choice(magnitudes),
        "values": choice(values),
        "condition": condition,
        **where,
    }
    entries(kind, **shared)  # which refuses wrong options here, and not when a test runs
    return _matrices(choice(kind), choice(layout), batches(batch), choice(strides), shared)


@st.composite
def _matrices(
    draw: st.DrawFn,
    kinds: st.SearchStrategy[str],
    layouts: st.SearchStrategy[str],
    batch_sizes: st.SearchStrategy[tuple[int, ...]],
    strides: st.SearchStrategy[str],
    shared: dict[str, Any],
) -> SparseMatrix | Tensor:
    kind, layout, batch = draw(kinds), draw(layouts), draw(batch_sizes)
    if layout in _OURS:
        e = draw(entries(kind, batch=batch, **shared))
        note(f"sparse_matrices drew, as {layout!r}, {e}")
        A = e.matrix() if layout == "matrix" else e.transposed()
        return A.with_values(restrided(A.values, _same_numbers(draw(strides))))
    if not batch:
        e = draw(entries(kind, **shared))
        note(f"sparse_matrices drew, as {layout!r}, {e}")
        return e.stored(layout)
    return _torch_batch(draw, kind, layout, batch, shared)


def _same_numbers(strides: str) -> str:
    one_of_names("strides", strides, _SAME_NUMBERS)
    return strides


def _torch_batch(
    draw: st.DrawFn, kind: str, layout: str, batch: tuple[int, ...], shared: dict[str, Any]
) -> Tensor:
    one_of_names("layout", layout, LAYOUTS)
    if len(batch) != 1:
        raise ValueError(
            f"a torch sparse tensor has one axis of a batch, or none; got batch {batch} for "
            f"layout {layout!r}"
        )
    first = draw(entries(kind, **shared))
    alike = shared | _sizes(first, kind, shared)
    members = [first, *(draw(entries(kind, **alike)) for _ in range(batch[0] - 1))][: batch[0]]
    note(f"sparse_matrices drew, as {layout!r}, {members}")
    if layout == "csr":
        return _stacked_csr(members, first, triangle_of(kind, shared.get("triangle")))
    A = _stacked_coo(members, first)
    return A.coalesce() if layout == "coalesced" else A


def _sizes(first: Entries, kind: str, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the options that make a member like the first one."""
    n, m = first.shape
    square = is_square(kind, shared.get("form"))
    sizes: dict[str, Any] = {"rows": n} if square else {"rows": n, "cols": m}
    return sizes | {"dtype": first.values.dtype, "index_dtype": first.row.dtype}


def _stacked_coo(members: list[Entries], first: Entries) -> Tensor:
    """Stack members as a COO tensor; `first` says what there is of none."""
    none = first.values[:0]
    values = torch.cat([none, *(e.values for e in members)])
    indices = [
        torch.stack([torch.full_like(e.row, k), e.row, e.col]) for k, e in enumerate(members)
    ]
    places = torch.cat([torch.zeros(3, 0, dtype=torch.int64), *(i.long() for i in indices)], 1)
    shape = (len(members), *first.shape)
    return torch.sparse_coo_tensor(places, values, shape, check_invariants=True)


def _stacked_csr(members: list[Entries], first: Entries, triangle: str | None) -> Tensor:
    """Stack members as a CSR tensor; those with fewer entries than others store zeros as well."""
    n, m = first.shape
    nnz = max((int(e.places.mask().sum()) for e in members), default=0)
    parts = [_padded(e, nnz, triangle).csr() for e in members]
    crow, col, values = first.row.new_zeros(0, n + 1), first.row[:0, None], first.values[:0, None]
    if parts:
        crow = torch.stack([A.crow_indices() for A in parts])
        col = torch.stack([A.col_indices() for A in parts])
        values = torch.stack([A.values() for A in parts])
    return torch.sparse_csr_tensor(crow, col, values, (len(parts), n, m), check_invariants=True)


def _padded(e: Entries, nnz: int, triangle: str | None) -> Entries:
    """Store zeros at the first free places of the triangle, so that nnz places hold entries."""
    mask = e.places.mask()
    free = (triangle_mask(e.shape, triangle) & ~mask).nonzero()
    free = free[: nnz - int(mask.sum())].to(e.row.dtype)
    row, col = torch.cat([e.row, free[:, 0]]), torch.cat([e.col, free[:, 1]])
    return Entries(row, col, torch.cat([e.values, e.values.new_zeros(len(free))]), e.shape)
