"""Random sparse matrices: general, triangular, Hermitian positive definite."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.utils import random_patterns as patterns
from tsgu_func.utils.construct import assemble, check_kinds, check_size
from tsgu_func.utils.random_patterns import Places, Source
from tsgu_func.utils.random_spd import make_spd_sparse

__all__ = [
    "generate_random_sparse_coo_matrix",
    "generate_random_sparse_csr_matrix",
    "generate_random_sparse_strictly_triangular_coo_matrix",
    "generate_random_sparse_strictly_triangular_csr_matrix",
    "generate_random_sparse_triangular_coo_matrix",
    "generate_random_sparse_triangular_csr_matrix",
    "make_spd_sparse",
    "rand_sparse",
    "rand_sparse_tri",
]

_CPU = torch.device("cpu")
_STRICT = {"strict": True, "well_conditioned": False, "min_diag_value": 1.0}

_Size = tuple[int, int] | tuple[int, int, int]
_Options = ParamSpec("_Options")


def rand_sparse(
    size: tuple[int, int] | tuple[int, int, int],
    nnz: int,
    layout: torch.layout | type[SparseMatrix] = torch.sparse_coo,
    *,
    indices_dtype: torch.dtype = torch.int64,
    values_dtype: torch.dtype = torch.float32,
    device: torch.device = _CPU,
    well_conditioned: bool = False,
    min_diag_value: float = 1.0,
    generator: torch.Generator | None = None,
) -> Any:
    """Draw a sparse matrix, or a batch of them, with entries from (0, 1] at random places.

    Parameters
    ----------
    size : tuple of int
        ``(n, m)`` or ``(b, n, m)``.
    nnz : int
        The exact number of entries of each matrix, all at different places.
    layout : {torch.sparse_coo, torch.sparse_csr, SparseMatrix}
        The members of a SparseMatrix have their entries at the same random places.
    indices_dtype : {torch.int64, torch.int32}
        For CSR.  The indices of COO are always int64 in PyTorch, and those of a SparseMatrix are
        int32 if they fit.
    values_dtype : torch.dtype
        float16, bfloat16, float32, float64, complex64 or complex128.  Of a complex number, both
        parts are from (0, 1].
    device : torch.device
    well_conditioned : bool
        Whether to make sure that the matrix has full rank, and a condition number of at most 5 in
        the 2-norm, up to the rounding of `values_dtype`.  The whole diagonal is then stored, with
        real entries between `min_diag_value` and twice that, and other entries are scaled down if
        they are too large.
    min_diag_value : float
        The smallest entry that the diagonal of a well-conditioned matrix may have.  Positive.
    generator : torch.Generator, optional
        The generator to use instead of PyTorch's global one.

    Returns
    -------
    sparse Tensor or SparseMatrix, shape `size`
        COO is coalesced, and CSR is sorted.  A generator in the same state gives the same matrix in
        every layout, apart from batches of a SparseMatrix.  A generator of the CPU gives the same
        matrix on every device.

    Raises
    ------
    ValueError
        If a size, number, dtype or layout is not among those above, or if `nnz` is too small for
        the diagonal of a well-conditioned matrix, which has min(n, m) entries.

    Notes
    -----
    All sets of places are equally likely (of a well-conditioned matrix, all sets beside the
    diagonal).  It takes O(b nnz log nnz) time and O(b nnz) memory, however large the matrix is, and
    O(b n) more for CSR.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import rand_sparse
    >>> generator = torch.Generator().manual_seed(0)
    >>> A = rand_sparse((10**6, 10**6), 1000, generator=generator)
    >>> A.shape, A.values().shape
    (torch.Size([1000000, 1000000]), torch.Size([1000]))
    >>> A = rand_sparse((2, 5, 5), 12, torch.sparse_csr, well_conditioned=True)
    >>> bool((torch.linalg.cond(A.to_dense()) < 5.001).all())
    True
    """
    batch, n, m = check_size(size)
    check_kinds(layout, values_dtype, indices_dtype)
    source = Source(torch.device(device), generator)
    place = patterns.with_diagonal if well_conditioned else patterns.anywhere
    places = _drawn(layout, place, batch, n, m, nnz, source)
    values = source.uniform(places.row.shape, 0.0, 1.0, values_dtype)
    if well_conditioned:
        _check_floor(min_diag_value)
        values = patterns.dominated(places, values, (n, m), min_diag_value, source)
    return assemble(*places, values.to(values_dtype), size, layout, indices_dtype)


def rand_sparse_tri(
    size: tuple[int, int] | tuple[int, int, int],
    nnz: int,
    layout: torch.layout | type[SparseMatrix] = torch.sparse_coo,
    *,
    upper: bool = True,
    strict: bool = False,
    indices_dtype: torch.dtype = torch.int64,
    values_dtype: torch.dtype = torch.float32,
    device: torch.device = _CPU,
    value_range: tuple[float, float] = (0, 1),
    well_conditioned: bool = False,
    min_diag_value: float = 1.0,
    generator: torch.Generator | None = None,
) -> Any:
    """Draw a sparse triangular matrix, or a batch of them, with or without the diagonal.

    Parameters
    ----------
    size : tuple of int
        ``(n, n)`` or ``(b, n, n)``.
    nnz : int
        The exact number of entries of each matrix.  With the diagonal, which is always stored, it
        is from n to n (n + 1) / 2, and without it from 0 to n (n - 1) / 2.
    layout : {torch.sparse_coo, torch.sparse_csr, SparseMatrix}
        The members of a SparseMatrix have their entries at the same random places.
    upper : bool
        True for the upper triangle, False for the lower one.
    strict : bool
        Whether to leave out the diagonal.
    indices_dtype, values_dtype, device
        As for `rand_sparse`.
    value_range : tuple of float
        Entries are drawn from (low, high].  Of a complex number, both parts are.
    well_conditioned : bool
        Whether to make sure that the condition number is at most 5 in the 2-norm, up to the
        rounding of `values_dtype`.  The diagonal then has real entries between `min_diag_value` and
        twice that, and other entries are scaled down if they are too large.  A strict triangle is
        scaled as if it had ones on its diagonal; with them, the condition number is at most 3.
    min_diag_value : float
        The smallest entry that the diagonal of a well-conditioned matrix may have.  Positive.
    generator : torch.Generator, optional
        The generator to use instead of PyTorch's global one.

    Returns
    -------
    sparse Tensor or SparseMatrix, shape `size`
        COO is coalesced, and CSR is sorted.

    Raises
    ------
    ValueError
        If the matrices are not square, or if a number, dtype, layout or range is not among those
        above.

    Notes
    -----
    All sets of places in the triangle, beside the diagonal, are equally likely.  It takes
    O(b nnz log nnz) time and O(b nnz) memory, however large the matrix is, and O(b n) more for CSR.

    Without `well_conditioned`, random triangular matrices have condition numbers that grow
    exponentially with n.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import rand_sparse_tri
    >>> L = rand_sparse_tri((4, 4), 7, upper=False).to_dense()
    >>> bool((L == L.tril()).all()), int((L != 0).sum())
    (True, 7)
    """
    batch, n = _square(size)
    check_kinds(layout, values_dtype, indices_dtype)
    _check_range(value_range)
    source = Source(torch.device(device), generator)
    place = patterns.strict_triangle if strict else patterns.triangle
    places = _drawn(layout, place, batch, n, nnz, upper, source)
    values = source.uniform(places.row.shape, *value_range, values_dtype)
    if well_conditioned:
        _check_floor(min_diag_value)
        floor = 1.0 if strict else min_diag_value
        values = patterns.dominated(places, values, (n, n), floor, source)
    return assemble(*places, values.to(values_dtype), size, layout, indices_dtype)


def _drawn(layout: Any, place: Callable[..., Places], batch: int, *options: Any) -> Places:
    """Draw places for each member of a batch, or once for all members of a SparseMatrix."""
    if layout is not SparseMatrix:
        return place(batch, *options)
    row, col = place(1, *options)
    members = max(batch, 1)
    return Places(row.expand(members, -1), col.expand(members, -1))


# ---------------------------------------------------------------------- one layout at a time


def _in_layout(
    general: Callable[Concatenate[Any, int, torch.layout, _Options], Tensor],
    layout: torch.layout,
    **fixed: Any,
) -> Callable[[Callable[[], None]], Callable[Concatenate[_Size, int, _Options], Tensor]]:
    """Return a decorator that makes `general` in one layout, with some options fixed, of a name.

    What it decorates gives the name, the docstring and no code.
    """
    signature = inspect.signature(general)
    taken = [p for name, p in signature.parameters.items() if name not in {"layout", *fixed}]
    # Equal to what `general` has, but written as torchsparsegradutils does.
    taken = [p.replace(default=(0.0, 1.0)) if p.name == "value_range" else p for p in taken]
    options = {p.name for p in taken if p.kind is p.KEYWORD_ONLY}

    def decorate(named: Callable[[], None]) -> Any:
        @functools.wraps(named)
        def draw(size: _Size, nnz: int, **given: Any) -> Tensor:
            for name in given.keys() - options:
                raise TypeError(f"{draw.__name__}() got an unexpected keyword argument {name!r}")
            return general(size, nnz, layout, **given, **fixed)  # pyright: ignore

        vars(draw)["__signature__"] = signature.replace(parameters=taken)
        draw.__annotations__ = {p.name: p.annotation for p in taken} | {"return": "Tensor"}
        return draw

    return decorate


@_in_layout(rand_sparse, torch.sparse_coo)
def generate_random_sparse_coo_matrix() -> None:
    """Draw a sparse COO matrix: `rand_sparse` in that layout.

    Examples
    --------
    >>> from tsgu_func.utils.random_sparse import generate_random_sparse_coo_matrix
    >>> generate_random_sparse_coo_matrix((3, 20, 30), 80).indices().shape
    torch.Size([3, 240])
    """


@_in_layout(rand_sparse, torch.sparse_csr)
def generate_random_sparse_csr_matrix() -> None:
    """Draw a sparse CSR matrix: `rand_sparse` in that layout.

    Examples
    --------
    >>> from tsgu_func.utils.random_sparse import generate_random_sparse_csr_matrix
    >>> generate_random_sparse_csr_matrix((3, 20, 30), 80).col_indices().shape
    torch.Size([3, 80])
    """


@_in_layout(rand_sparse_tri, torch.sparse_coo, strict=False)
def generate_random_sparse_triangular_coo_matrix() -> None:
    """Draw a triangular sparse COO matrix: `rand_sparse_tri` in that layout.

    Examples
    --------
    >>> from tsgu_func.utils import random_sparse
    >>> A = random_sparse.generate_random_sparse_triangular_coo_matrix((9, 9), 12)
    >>> A.is_coalesced(), bool((A.indices()[0] <= A.indices()[1]).all())
    (True, True)
    """


@_in_layout(rand_sparse_tri, torch.sparse_csr, strict=False)
def generate_random_sparse_triangular_csr_matrix() -> None:
    """Draw a triangular sparse CSR matrix: `rand_sparse_tri` in that layout.

    Examples
    --------
    >>> from tsgu_func.utils import random_sparse
    >>> A = random_sparse.generate_random_sparse_triangular_csr_matrix((9, 9), 12)
    >>> A.crow_indices()[-1], A.values().shape
    (tensor(12), torch.Size([12]))
    """


@_in_layout(rand_sparse_tri, torch.sparse_coo, **_STRICT)
def generate_random_sparse_strictly_triangular_coo_matrix() -> None:
    """Draw a strictly triangular sparse COO matrix: `rand_sparse_tri`, strict, in that layout.

    Examples
    --------
    >>> from tsgu_func.utils import random_sparse
    >>> A = random_sparse.generate_random_sparse_strictly_triangular_coo_matrix((9, 9), 12)
    >>> A.is_coalesced(), bool((A.indices()[0] < A.indices()[1]).all())
    (True, True)
    """


@_in_layout(rand_sparse_tri, torch.sparse_csr, **_STRICT)
def generate_random_sparse_strictly_triangular_csr_matrix() -> None:
    """Draw a strictly triangular sparse CSR matrix: `rand_sparse_tri`, strict, in that layout.

    Examples
    --------
    >>> from tsgu_func.utils import random_sparse
    >>> A = random_sparse.generate_random_sparse_strictly_triangular_csr_matrix((9, 9), 12)
    >>> A.crow_indices()[-1], A.values().shape
    (tensor(12), torch.Size([12]))
    """


# -------------------------------------------------------------------------------------- checks


def _square(size: tuple[int, ...]) -> tuple[int, int]:
    batch, n, m = check_size(size)
    if n != m:
        raise ValueError(f"triangular matrices are square, (n, n) or (b, n, n); got {tuple(size)}")
    return batch, n


def _check_range(value_range: tuple[float, float]) -> None:
    low, high = value_range
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"value_range is (low, high), finite and in order; got {value_range}")


def _check_floor(floor: float) -> None:
    if not 0 < floor < math.inf:
        raise ValueError(f"min_diag_value is positive and finite; got {floor}")
