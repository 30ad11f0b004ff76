"""The two products of a sparse matrix: with a matrix, and of two matrices at its entries.

    spmm:   C = S B or Sᵀ B                    O(nnz p) time, O(n p) memory
    sddmm:  v_k = X[row_k] . Y[col_k]          O(nnz p) time, O(nnz) memory

Data comes with one leading batch axis or without.  On the CPU, MKL is faster for three columns or
more, up to where `_NARROW` says, and the compiled loops for one, two or many (each by a factor of
up to two or three); elsewhere PyTorch's CSR products do the work, a batch as one
block-diagonal matrix.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import compiled, threads
from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.structure import Structure, index_dtype

__all__ = [
    "HALF",
    "batched",
    "check_batch",
    "check_sizes",
    "csr_tensor",
    "run_over_rows",
    "sddmm",
    "silence_beta_notice",
    "spmm",
]

# From three columns up to so many bytes in a row of B MKL wins, and up to more where rows of A are
# long: it keeps sums in registers.  On one thread both are as fast at 28 columns of float32, and at
# 11 to 16 of float64, for rows of 5 to 10 entries.
_NARROW = {torch.float32: (64, 5), torch.float64: (64, 5), torch.complex64: (32, 0)}
# Up to so many bytes in a row of B one thread adds multiples of it to rows of AᵀB, and needs no
# transpose: 1.2 to 3 times as fast as rows of the transpose, with their values brought into order.
_SCATTERED = 128
# Less work than this is done before another thread has started.
_WORTH_A_THREAD = 1 << 17
HALF = (torch.float16, torch.bfloat16)


@considerate
def spmm(structure: Structure, values: Tensor, B: Tensor, *, transpose: bool = False) -> Tensor:
    """Multiply, with values (nnz,) and B (m, p), or values (b, nnz) and B (b, m, p)."""
    rows = structure.rows if transpose else structure.cols
    check_batch(values.shape[:-1], B.shape[:-2])
    check_sizes((values.shape[-1], B.shape[-2]), (structure.nnz, rows), "values and rows of B")
    if values.dtype in HALF:
        wide = spmm(structure, values.float(), B.float(), transpose=transpose)
        return wide.to(values.dtype)
    if transpose and _is_scattered(structure, B):
        return _spmm_scattered(structure, values, B)
    oriented, order = structure.oriented(transpose)
    if order is not None:
        values = values.index_select(-1, order)
    if B.device.type != "cpu":
        return _spmm_torch(oriented, values, B)
    if values.ndim == 1 and _is_narrow(oriented, B) and _has_mkl():
        return _spmm_torch(oriented, values, B)
    return _spmm_loops(oriented, values, B)


@considerate
def sddmm(structure: Structure, X: Tensor, Y: Tensor) -> Tensor:
    """Dot rows of X (n, p) or (b, n, p) with rows of Y, at the stored entries."""
    check_batch(X.shape[:-2], Y.shape[:-2])
    given = (X.shape[-2], *Y.shape[-2:])
    expected = (structure.rows, structure.cols, X.shape[-1])
    check_sizes(given, expected, "rows of X, rows and columns of Y")
    if X.dtype in HALF:
        return sddmm(structure, X.float(), Y.float()).to(X.dtype)
    if X.device.type != "cpu":
        return _sddmm_torch(structure, X, Y)
    return _sddmm_loops(structure, X, Y)


def check_batch(first: torch.Size, second: torch.Size) -> None:
    """Check that two factors have one batch axis, or none."""
    if first != second:
        raise ValueError(
            f"both factors have the same batch axis, or none; got batches of shape {tuple(first)} "
            f"and {tuple(second)}: expand the other one"
        )


def check_sizes(given: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """Check sizes: the loops do not look where memory ends."""
    if given != expected:
        raise ValueError(f"{what} number {expected}, as the pattern says; got {given}")


def csr_tensor(structure: Structure, values: Tensor) -> Tensor:
    """View a structure and values (nnz,) as a ``torch.sparse_csr`` tensor.

    The values are stored one after the other: of others PyTorch makes a copy on CUDA, whose memory
    it gives to cuSPARSE to work in before the product has read it (2.11: numbers off by 1e-6).
    """
    silence_beta_notice()
    size = (structure.rows, structure.cols)
    kind = {"device": values.device, "check_invariants": False}
    return torch.sparse_csr_tensor(structure.crow, structure.col, values.contiguous(), size, **kind)


@functools.cache
def silence_beta_notice() -> None:
    """Create a first CSR tensor: PyTorch says once a process that their support is in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = {"dtype": torch.float32, "device": "cpu", "check_invariants": False}
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), **kind)


def _is_narrow(s: Structure, B: Tensor) -> bool:
    """Say whether B has so few columns that MKL multiplies faster than the compiled loops."""
    p = B.shape[-1]
    if p < 3 or B.dtype not in _NARROW:
        return False
    least, more = _NARROW[B.dtype]
    return p * B.itemsize * s.rows <= least * s.rows + more * s.nnz


def _is_scattered(s: Structure, B: Tensor) -> bool:
    """Say whether AᵀB is summed up without the transpose."""
    if B.device.type != "cpu" or B.shape[-1] * B.itemsize > _SCATTERED:
        return False
    return _parts(s, B.shape[:-2].numel(), B.shape[-1]) == 1


@functools.cache
def _has_mkl() -> bool:
    return torch.backends.mkl.is_available()


# ----------------------------------------------------------------------------------- the CPU


def _spmm_loops(s: Structure, values: Tensor, B: Tensor) -> Tensor:
    v, right = batched(values, 1), batched(B, 2)
    out = B.new_empty(*B.shape[:-2], s.rows, B.shape[-1])
    o, (crow, col) = batched(out, 2), s.arrays
    if o.size:
        product = compiled.products.product
        arguments = crow, col, v, right, o
        run_over_rows(s, len(o), o.shape[-1], lambda first, last: product(*arguments, first, last))
    return out


def _spmm_scattered(s: Structure, values: Tensor, B: Tensor) -> Tensor:
    v, right = batched(values, 1), batched(B, 2)
    out = B.new_empty(*B.shape[:-2], s.cols, B.shape[-1])
    compiled.products.transposed_product(*s.arrays, v, right, batched(out, 2))
    return out


def _sddmm_loops(s: Structure, X: Tensor, Y: Tensor) -> Tensor:
    p = X.shape[-1]
    out = X.new_empty(*X.shape[:-2], s.nnz) if p else X.new_zeros(*X.shape[:-2], s.nnz)
    left, right, o = batched(X, 2), batched(Y, 2), batched(out, 1)
    crow, col = s.arrays
    if p and o.size:
        sampled = compiled.products.sampled
        arguments = crow, col, left, right, o
        run_over_rows(s, len(o), p, lambda first, last: sampled(*arguments, first, last))
    return out


def batched(x: Tensor, rank: int) -> np.ndarray:
    """Give x one batch axis, of length 1 where all members are the same memory."""
    if x.ndim == rank:
        return x.contiguous().numpy()[None]
    if x.shape[0] > 1 and x.stride(0) == 0:
        x = x[:1]
    return x.contiguous().numpy()


def run_over_rows(s: Structure, batch: int, p: int, loop: Callable[[int, int], None]) -> None:
    """Run a loop over the rows of all members, cut so that the parts have equal work."""
    parts = _parts(s, batch, p)
    if parts == 1:
        return loop(0, batch * s.rows)
    crow, cuts = s.crow.numpy(), [0]
    for part in range(1, parts):
        member, entry = divmod(batch * s.nnz * part // parts, s.nnz)
        # A number of another type would have all of crow converted.
        row = int(crow.searchsorted(crow.dtype.type(entry)))
        cuts.append(member * s.rows + row)
    return threads.run_parts(loop, [*cuts, batch * s.rows])


def _parts(s: Structure, batch: int, p: int) -> int:
    """Return how many threads share the work."""
    return min(threads.workers(), 1 + batch * s.nnz * p // _WORTH_A_THREAD)


# ------------------------------------------------------------------------------ other devices


def _spmm_torch(s: Structure, values: Tensor, B: Tensor) -> Tensor:
    if B.ndim == 2:
        return csr_tensor(s, values) @ B
    blocks = block_diagonal(s, B.shape[0])
    product = csr_tensor(blocks, values.flatten()) @ B.flatten(0, 1)
    return product.unflatten(0, (B.shape[0], s.rows))


def _sddmm_torch(s: Structure, X: Tensor, Y: Tensor) -> Tensor:
    if X.ndim == 3:
        blocks = block_diagonal(s, X.shape[0])
        product = _sddmm_torch(blocks, X.flatten(0, 1), Y.flatten(0, 1))
        return product.unflatten(0, (X.shape[0], s.nnz))
    # What `values()` of a CSR tensor returns is a view of it, which cannot be conjugated.
    values = X.new_zeros(s.nnz)
    at = csr_tensor(s, values)
    torch.sparse.sampled_addmm(at, X, Y.mT, beta=0.0, out=at)
    return values


def block_diagonal(s: Structure, count: int) -> Structure:
    """Repeat a structure `count` times along the diagonal."""
    rows, cols, nnz = s.rows * count, s.cols * count, s.nnz * count
    dtype = index_dtype(rows, cols, nnz)
    member = torch.arange(count, dtype=dtype, device=s.col.device).unsqueeze(1)
    crow = (s.crow[:-1].to(dtype) + member * s.nnz).flatten()
    col = (s.col.to(dtype) + member * s.cols).flatten()
    return Structure(torch.cat([crow, crow.new_full((1,), nnz)]), col, cols)
