"""Entries of a matrix: places and values, of a kind that promises what it says.

Every kind but the general one is a diagonal whose entries have modulus 1 to 2, plus the rest, whose
rows and columns sum (in modulus) to at most 1/2 each.  The norm of the rest is then at most 1/2, as
``|N|₂² <= |N|₁ |N|∞``, so singular values lie between 1/2 and 5/2, and the condition number is at
most 5.  Triangles of such a matrix are such matrices too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import torch
from hypothesis import strategies as st
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.testing.strategies.options import DTYPES, batches, choice, one_of_names
from tsgu_func.testing.strategies.places import Places, Where, patterns
from tsgu_func.testing.strategies.values import SEEDS, numbers

__all__ = ["KINDS", "LAYOUTS", "Entries", "entries"]


class Entries(NamedTuple):
    """Entries of a matrix, or of a batch with one pattern: in any order, with duplicates.

    Attributes
    ----------
    row, col : Tensor, shape (nnz,), integer
    values : Tensor, shape ``(*batch, nnz)``
    shape : (int, int)

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies import Entries
    >>> e = Entries(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([2.0, 3.0]), (1, 2))
    >>> e.dense()
    tensor([[0., 5.]])
    >>> e.matrix().nnz, e.coo().is_coalesced(), e.csr().values()
    (1, False, tensor([5.]))
    """

    row: Tensor
    col: Tensor
    values: Tensor
    shape: tuple[int, int]

    @property
    def places(self) -> Places:
        """Where the entries are."""
        return Places(self.row, self.col, self.shape)

    def dense(self) -> Tensor:
        """Add up the entries one by one: the oracle, which shares no code with the library."""
        A = self.values.new_zeros(*self.values.shape[:-1], *self.shape)
        for k, (i, j) in enumerate(zip(self.row.tolist(), self.col.tolist(), strict=True)):
            A[..., i, j] += self.values[..., k]
        return A

    def matrix(self) -> SparseMatrix:
        """Return a SparseMatrix."""
        return SparseMatrix.from_coo(self.row, self.col, self.values, self.shape)

    def transposed(self) -> SparseMatrix:
        """Return the same matrix, as the transpose of one: its pattern is kept by columns."""
        n, m = self.shape
        return SparseMatrix.from_coo(self.col, self.row, self.values, (m, n)).T

    def coo(self) -> Tensor:
        """Return a ``torch.sparse_coo`` tensor with the entries as they are, not coalesced."""
        self._check_single("coo")
        indices = torch.stack([self.row, self.col]).long()
        return torch.sparse_coo_tensor(indices, self.values, self.shape, check_invariants=True)

    def coalesced(self) -> Tensor:
        """Return a ``torch.sparse_coo`` tensor that PyTorch has coalesced."""
        return self.coo().coalesce()

    def csr(self) -> Tensor:
        """Return a ``torch.sparse_csr`` tensor with indices of the dtype of `row`."""
        A = self.coo().to_sparse_csr()
        crow, col = (x.to(self.row.dtype) for x in (A.crow_indices(), A.col_indices()))
        return torch.sparse_csr_tensor(crow, col, A.values(), A.shape, check_invariants=True)

    def stored(self, layout: str) -> SparseMatrix | Tensor:
        """Return the matrix in one of `LAYOUTS`."""
        one_of_names("layout", layout, LAYOUTS)
        return _STORE[layout](self)

    def _check_single(self, layout: str) -> None:
        if self.values.ndim != 1:
            raise ValueError(
                f"{layout} takes the entries of one matrix; these have a batch of shape "
                f"{tuple(self.values.shape[:-1])}: sparse_matrices(layout={layout!r}, batch=(b,)) "
                f"draws a batch"
            )


_STORE: dict[str, Callable[[Entries], Any]] = {
    "matrix": Entries.matrix,
    "transposed": Entries.transposed,
    "coo": Entries.coo,
    "coalesced": Entries.coalesced,
    "csr": Entries.csr,
}
LAYOUTS = tuple(_STORE)


@dataclass(frozen=True)
class _Kind:
    """How a kind is built: its form, where its rest is, and what is on its diagonal."""

    form: str = "square"
    triangle: str | None = None
    diagonal: bool = True
    hermitian: bool = False


_KINDS: dict[str, _Kind | None] = {
    "general": None,
    "dominant": _Kind(),
    "definite": _Kind(triangle="lower", hermitian=True),
    "lower": _Kind(triangle="lower"),
    "upper": _Kind(triangle="upper"),
    "strictly lower": _Kind(triangle="strictly lower", diagonal=False),
    "strictly upper": _Kind(triangle="strictly upper", diagonal=False),
    "tall": _Kind(form="tall"),
}
KINDS = tuple(_KINDS)


def entries(
    kind: str | st.SearchStrategy[str] = "general",
    *,
    batch: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] = (),
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] = DTYPES,
    magnitudes: float | st.SearchStrategy[float] = 1.0,
    **where: Unpack[Where],
) -> st.SearchStrategy[Entries]:
    """Draw entries of a matrix: the pattern, then a seed for the values.

    A failing example shrinks to few entries, and to ones as their values.

    Parameters
    ----------
    kind : str, or a strategy of them
        ``"general"``, any entries anywhere, singular matrices among them.  All others have a
        condition number of at most 5, up to rounding:

        - ``"dominant"``: square, diagonally dominant by rows and by columns;
        - ``"definite"``: Hermitian, to the last bit if duplicates are added up in order, and
          positive definite;
        - ``"lower"``, ``"upper"``: triangular;
        - ``"strictly lower"``, ``"strictly upper"``: triangular without a diagonal; the bound is
          that of ``I + A``;
        - ``"tall"``: of full column rank, with at least as many rows as columns.
    batch : tuple of int, or a strategy of them
        Of matrices that share the pattern.
    dtype : torch.dtype, or a strategy of them
        float64 and complex128 unless given.
    magnitudes : float, or a strategy of them
        A factor for all values.  It is 1 unless given, because finite differences and absolute
        tolerances judge numbers of size one; `magnitudes` draws huge and tiny ones.
    **where
        Options of `patterns`.  A kind decides on `form` and `triangle`.  The bounds of `nnz` and
        `density` count what a kind has beside its diagonal and, if definite, in one triangle.

    Returns
    -------
    SearchStrategy of Entries

    Raises
    ------
    TypeError
        If a bound is no number and no pair.
    ValueError
        If there is no such kind, or bounds contradict each other or the kind.

    Examples
    --------
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import entries
    >>> e = find(entries("definite"), lambda e: bool((e.dense() != 0).all()) and e.shape[0] == 2)
    >>> e.dense()
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]], dtype=torch.float64)
    """
    one_of_names("kind", kind, KINDS)
    if isinstance(kind, str):
        _places(kind, where)  # which refuses wrong options here, and not when a test runs
    return _entries(choice(kind), batches(batch), choice(dtype), choice(magnitudes), where)


@st.composite
def _entries(
    draw: st.DrawFn,
    kinds: st.SearchStrategy[str],
    batch_sizes: st.SearchStrategy[tuple[int, ...]],
    dtypes: st.SearchStrategy[torch.dtype],
    factors: st.SearchStrategy[float],
    where: Where,
) -> Entries:
    name = draw(kinds)
    one_of_names("kind", name, KINDS)
    kind = _KINDS[name]
    places = draw(_places(name, where))
    batch, dtype, seed = draw(batch_sizes), draw(dtypes), draw(SEEDS)
    values = numbers((*batch, places.row.shape[0]), dtype, seed)
    e = Entries(places.row, places.col, values, places.shape)
    if kind is not None:
        e = _well_conditioned(e, kind, where.get("unique", False), seed)
        e = _ordered(e) if where.get("ordered", False) else e
    return e._replace(values=e.values * draw(factors))


def triangle_of(name: str, given: str | None) -> str | None:
    """Return the triangle that all entries of a kind are in, or None if they may be anywhere.

    A general matrix has the one that was given.
    """
    kind = _KINDS[name]
    if kind is None:
        return given
    return None if kind.hermitian else kind.triangle


def _places(name: str, where: Where) -> st.SearchStrategy[Places]:
    kind = _KINDS[name]
    if kind is None:
        return patterns(**where)
    for option in ("form", "triangle"):
        if option in where:
            raise ValueError(f"the kind {name!r} decides on {option}: leave it out")
    decided: Where = {**where, "form": kind.form, "triangle": kind.triangle}
    return patterns(**decided)


def _well_conditioned(e: Entries, kind: _Kind, unique: bool, seed: int) -> Entries:
    """Turn entries into the rest, and add the diagonal; see the top of this module."""
    if unique:
        e = _kept(e, e.row != e.col)  # the diagonal comes below
    if kind.hermitian:
        e = _mirrored(e)
    e = e._replace(values=e.values * _shrinking(e).unsqueeze(-1))
    if kind.diagonal:
        e = _with_diagonal(e, kind, seed)
    return _rows_permuted(e, seed) if kind.form == "tall" else e


def _mirrored(e: Entries) -> Entries:
    """Add to each entry beside the diagonal its mirror image.

    Duplicates keep their order, so that their sums are mirror images to the last bit.
    """
    off = _kept(e, e.row != e.col)
    row, col = torch.cat([e.row, off.col]), torch.cat([e.col, off.row])
    return Entries(row, col, torch.cat([e.values, off.values.conj()], -1), e.shape)


def _kept(e: Entries, mask: Tensor) -> Entries:
    return Entries(e.row[mask], e.col[mask], e.values[..., mask], e.shape)


def _shrinking(e: Entries) -> Tensor:
    """Return the factor, one for each member, that brings row and column sums to 1/2 or less."""
    size = (e.values * (e.row != e.col)).abs()
    largest = size.new_full(size.shape[:-1], 0.5)
    for index, length in ((e.row, e.shape[0]), (e.col, e.shape[1])):
        sums = size.new_zeros(*size.shape[:-1], length).index_add(-1, index, size)
        largest = largest if not length else torch.maximum(largest, sums.amax(-1))
    return 0.5 / largest


def _with_diagonal(e: Entries, kind: _Kind, seed: int) -> Entries:
    """Add the diagonal.  Entries that are there already get an equal share of it."""
    m = e.shape[1]
    raw = numbers((*e.values.shape[:-1], m), e.values.dtype, seed + 1 if seed else 0)
    modulus = 1 + raw.abs() % 1
    phase = torch.where((raw == 0) | kind.hermitian, torch.ones_like(raw), raw.sgn())
    on = e.row == e.col
    every = torch.arange(m, dtype=e.row.dtype)
    shares = 1 + torch.bincount(e.row[on], minlength=m)
    share = modulus * phase / shares
    # Beside the diagonal any column serves, as what is looked up there is not used.
    column = torch.where(on, e.col, 0)
    values = torch.where(on, share[..., column], e.values) if m else e.values
    row, col = torch.cat([e.row, every]), torch.cat([e.col, every])
    return Entries(row, col, torch.cat([values, share], -1), e.shape)


def _rows_permuted(e: Entries, seed: int) -> Entries:
    if seed == 0:
        return e
    generator = torch.Generator("cpu").manual_seed(seed)
    place = torch.randperm(e.shape[0], generator=generator, device="cpu").to(e.row)
    return e._replace(row=place[e.row])


def _ordered(e: Entries) -> Entries:
    order = torch.argsort(e.row.long() * e.shape[1] + e.col, stable=True)
    return Entries(e.row[order], e.col[order], e.values[..., order], e.shape)
