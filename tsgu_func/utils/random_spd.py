"""Random Hermitian positive definite matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.utils import random_patterns as patterns
from tsgu_func.utils.construct import assemble, check_kinds, check_size
from tsgu_func.utils.random_patterns import Source

__all__ = ["make_spd_sparse"]

# Room for the rounding of sums to half precision.
_MARGIN = 1.01


def make_spd_sparse(
    n: int,
    layout: torch.layout | type[SparseMatrix],
    value_dtype: torch.dtype,
    index_dtype: torch.dtype,
    device: torch.device,
    sparsity_ratio: float = 0.5,
    nz: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Any, Tensor]:
    """Draw a sparse Hermitian positive definite matrix, and return it as a dense one as well.

    Parameters
    ----------
    n : int
        The number of rows and columns.
    layout : {torch.sparse_coo, torch.sparse_csr, SparseMatrix}
    value_dtype : torch.dtype
        float16, bfloat16, float32, float64, complex64 or complex128.
    index_dtype : {torch.int64, torch.int32}
        For CSR.  The indices of COO are always int64 in PyTorch, and those of a SparseMatrix are
        int32 if they fit.
    device : torch.device
    sparsity_ratio : float
        Of the n (n - 1) / 2 pairs (i, j), (j, i) beside the diagonal, the share that is not stored,
        rounded down.
    nz : int, optional
        Instead of a share, the number of pairs that are not stored.
    generator : torch.Generator, optional
        The generator to use instead of PyTorch's global one.

    Returns
    -------
    sparse : sparse Tensor or SparseMatrix, shape (n, n)
        It has n entries, and two for each pair that is stored.
    dense : Tensor, shape (n, n)
        The same matrix.

    Raises
    ------
    ValueError
        If a size, share, number, dtype or layout is not among those above.

    Notes
    -----
    Entries beside the diagonal are standard normal.  Each entry on the diagonal exceeds the sum of
    absolute values of its row by at least 1, up to rounding, so no eigenvalue is below 1, by
    Gershgorin's theorem.  The dense matrix takes O(n²) memory.  For large matrices use
    `rand_sparse` with ``well_conditioned=True``.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.utils import make_spd_sparse
    >>> cpu = torch.device("cpu")
    >>> A, D = make_spd_sparse(6, torch.sparse_csr, torch.float64, torch.int32, cpu, nz=11)
    >>> A.values().shape, bool((torch.linalg.eigvalsh(D) > 0.99).all())
    (torch.Size([14]), True)
    """
    check_size((n, n))
    check_kinds(layout, value_dtype, index_dtype)
    source = Source(torch.device(device), generator)
    kept = n * (n - 1) // 2 - _pairs_left_out(n, sparsity_ratio, nz)
    row, col = (x[0] for x in patterns.strict_triangle(1, n, kept, False, source))
    # Rounded here, so that the diagonal exceeds the sum of what is stored.
    lower = source.normal(row.shape, value_dtype).to(value_dtype)
    size = lower.abs().to(torch.promote_types(value_dtype.to_real(), torch.float32))
    sums = size.new_zeros(n).index_add(0, row, size).index_add(0, col, size)
    diagonal = (1 + _MARGIN * sums).to(value_dtype)
    index = torch.arange(n, device=row.device)
    i, j = torch.cat([row, col, index]), torch.cat([col, row, index])
    values = torch.cat([lower, lower.conj().resolve_conj(), diagonal])
    order = torch.argsort(i * n + j)
    i, j, values = (x[order].unsqueeze(0) for x in (i, j, values))
    A = assemble(i, j, values, (n, n), layout, index_dtype)
    return A, A.to_dense()


def _pairs_left_out(n: int, ratio: float, nz: int | None) -> int:
    pairs = n * (n - 1) // 2
    if nz is None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"sparsity_ratio is between 0 and 1; got {ratio}")
        return int(ratio * pairs)
    if not 0 <= nz <= pairs:
        raise ValueError(f"nz is 0 to {pairs}, the pairs off the diagonal of {n} rows; got {nz}")
    return nz
