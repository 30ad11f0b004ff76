"""The product of two sparse matrices at the entries of a third, and what is adjoint to it.

With values a, b, c of three structures A (n, l), B (l, m), C (n, m), the trilinear form

    T(a, b, c) = sum of a_ik b_kj c_ij  over the i, k, j at which all three store entries

has three derivatives: in c, the product of a and b at the entries of C; in a, that of c with the
transpose of b at the entries of A; in b, that of the transpose of a with c at the entries of B.

On the CPU each is O(flops of A B + nnz) time and O(nnz + m) memory; elsewhere, where the triples
are written down, O(flops) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels import compiled
from tsgu_func.kernels.processors import considerate
from tsgu_func.kernels.products import HALF, batched, check_batch, check_sizes, run_over_rows
from tsgu_func.kernels.structure import Structure

__all__ = ["trilinear"]


@considerate
def trilinear(A: Structure, B: Structure, C: Structure, x: Tensor, y: Tensor, *, of: str) -> Tensor:
    """Return the derivative of the trilinear form in the values of one structure.

    Parameters
    ----------
    A, B, C : Structure, shapes (n, l), (l, m), (n, m)
    x, y : Tensor, shapes (nnz,), or (batch, nnz)
        Values of the other two, in the order of A, B, C.
    of : {"A", "B", "C"}
        Which one.
    """
    shapes = (A.rows, A.cols, B.cols)
    check_sizes(shapes, (C.rows, B.rows, C.cols), "rows of A, columns of A and columns of B")
    others = {"A": (B, C), "B": (A, C), "C": (A, B)}[of]
    check_batch(x.shape[:-1], y.shape[:-1])
    check_sizes((x.shape[-1], y.shape[-1]), (others[0].nnz, others[1].nnz), "the two values")
    if x.dtype in HALF:
        return trilinear(A, B, C, x.float(), y.float(), of=of).to(x.dtype)
    if x.device.type == "cpu":
        return _in_loops(A, B, C, x, y, of)
    return _by_triples(A, B, C, x, y, of)


def _in_loops(A: Structure, B: Structure, C: Structure, x: Tensor, y: Tensor, of: str) -> Tensor:
    nnz = {"A": A, "B": B, "C": C}[of].nnz
    out = x.new_empty(*x.shape[:-1], nnz)
    left, right, o = batched(x, 1), batched(y, 1), batched(out, 1)
    if not o.size:
        return out
    loops = compiled.sparse_products
    structures = tuple((*s.arrays, s.cols) for s in (A, B, C))
    if of == "B":
        loops.into_right(*structures, left, right, o)
        return out
    loop = loops.into_product if of == "C" else loops.into_left
    per_entry = 1 + B.nnz // max(B.rows, 1)
    run_over_rows(
        A, len(o), per_entry, lambda first, last: loop(*structures, left, right, o, first, last)
    )
    return out


def _by_triples(A: Structure, B: Structure, C: Structure, x: Tensor, y: Tensor, of: str) -> Tensor:
    """Do the same by gathering and adding: for devices for which no loops are compiled."""
    counts = B.crow.diff()[A.col.long()]
    in_A = torch.repeat_interleave(torch.arange(A.nnz, device=x.device), counts)
    number = torch.arange(len(in_A), device=x.device)
    starts = B.crow[:-1][A.col.long()] - (counts.cumsum(0) - counts)
    in_B = starts[in_A] + number
    wanted = A.row[in_A].long() * C.cols + B.col[in_B]
    stored = C.row.long() * C.cols + C.col
    in_C = torch.searchsorted(stored, wanted).clamp_max(max(C.nnz - 1, 0))
    there = stored[in_C] == wanted if C.nnz else torch.zeros_like(wanted, dtype=torch.bool)
    places = {"A": in_A[there], "B": in_B[there], "C": in_C[there]}
    nnz = {"A": A, "B": B, "C": C}[of].nnz
    first, second = (index for name, index in places.items() if name != of)
    terms = x[..., first] * y[..., second]
    return x.new_zeros(*x.shape[:-1], nnz).index_add(-1, places[of], terms)
