"""The three loops of the product of two sparse matrices at the entries of a third.

All go through the same triples: entry (i, k) of A, entry (k, j) of B, entry (i, j) of C.  Where C
stores row i is written down, column by column, before row i is gone through (Gustavson, 1978); a
column in which C stores nothing there points outside of the row.
"""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled
from tsgu_func.kernels.compiled.products import member, of_member


@compiled
def into_product(A, B, C, a, b, c, first, last):
    """c[i, j] = sum of a[i, k] b[k, j]; structures are (crow, col, cols), values (batch, nnz)."""
    n, place = A[0].shape[0] - 1, _nowhere(C)
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        x, y, out = member(a, batch), member(b, batch), c[batch]
        for i in range(start, stop):
            begin, width = _write_down(C, i, place)
            out[begin : begin + width] = 0
            for p in range(A[0][i], A[0][i + ONE]):
                k, factor = A[1][p], x[p]
                for q in range(B[0][k], B[0][k + ONE]):
                    r = np.uint64(place[B[1][q]])
                    if r - begin < width:
                        out[r] += factor * y[q]


@compiled
def into_left(A, B, C, b, c, a, first, last):
    """a[i, k] = sum of b[k, j] c[i, j]."""
    n, place = A[0].shape[0] - 1, _nowhere(C)
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        x, y, out = member(b, batch), member(c, batch), a[batch]
        for i in range(start, stop):
            begin, width = _write_down(C, i, place)
            for p in range(A[0][i], A[0][i + ONE]):
                k, total = A[1][p], out.dtype.type(0)
                for q in range(B[0][k], B[0][k + ONE]):
                    r = np.uint64(place[B[1][q]])
                    if r - begin < width:
                        total += x[q] * y[r]
                out[p] = total


@compiled
def into_right(A, B, C, a, c, b):
    """b[k, j] = sum of a[i, k] c[i, j]: rows of A meet in one row of B, so by one thread."""
    n, place = np.uint64(A[0].shape[0] - 1), _nowhere(C)
    b[:] = 0
    for batch in range(b.shape[0]):
        x, y, out = member(a, batch), member(c, batch), b[batch]
        for i in range(np.uint64(0), n):
            begin, width = _write_down(C, i, place)
            for p in range(A[0][i], A[0][i + ONE]):
                k, factor = A[1][p], x[p]
                for q in range(B[0][k], B[0][k + ONE]):
                    r = np.uint64(place[B[1][q]])
                    if r - begin < width:
                        out[q] += factor * y[r]


@compiled
def _nowhere(C):
    """For each column, an entry that is in no row."""
    return np.full(C[2], C[1].shape[0], C[0].dtype)


@compiled
def _write_down(C, i, place):
    """Write down where the entries of a row are; return the first, and how many there are."""
    begin, end = np.uint64(C[0][i]), np.uint64(C[0][i + ONE])
    for r in range(begin, end):
        place[C[1][r]] = r
    return begin, end - begin
