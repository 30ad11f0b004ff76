"""The three loops of the product of two sparse matrices at the entries of a third.

All go through the same triples, row by row (Gustavson, 1978): entry (i, k) of A, entry (k, j) of B,
entry (i, j) of C.  A row of C is spread out to a dense one, so that no column is looked for.
Structures are (crow, col, cols), values (batch, nnz).
"""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled
from tsgu_func.kernels.compiled.products import member, of_member


@compiled
def into_product(A, B, C, a, b, c, first, last):
    """c[i, j] = sum of a[i, k] b[k, j]."""
    n, row = A[0].shape[0] - 1, np.zeros(C[2], c.dtype)
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        x, y, out = member(a, batch), member(b, batch), c[batch]
        for i in range(start, stop):
            begin, end = _entries(C, i)
            for r in range(begin, end):
                row[C[1][r]] = 0
            # What meets a column at which C stores nothing stays there: nobody reads it.
            for p in range(*_entries(A, i)):
                factor = x[p]
                for q in range(*_entries(B, A[1][p])):
                    row[B[1][q]] += factor * y[q]
            for r in range(begin, end):
                out[r] = row[C[1][r]]


@compiled
def into_left(A, B, C, b, c, a, first, last):
    """a[i, k] = sum of b[k, j] c[i, j]."""
    n, row = A[0].shape[0] - 1, np.zeros(C[2], a.dtype)
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        x, y, out = member(b, batch), member(c, batch), a[batch]
        for i in range(start, stop):
            begin, end = _entries(C, i)
            for r in range(begin, end):
                row[C[1][r]] = y[r]
            for p in range(*_entries(A, i)):
                total = out.dtype.type(0)
                for q in range(*_entries(B, A[1][p])):
                    total += x[q] * row[B[1][q]]
                out[p] = total
            for r in range(begin, end):
                row[C[1][r]] = 0


@compiled
def into_right(A, B, C, a, c, b):
    """b[k, j] = sum of a[i, k] c[i, j]: rows of A meet in one row of B, so by one thread."""
    n, row = np.uint64(A[0].shape[0] - 1), np.zeros(C[2], b.dtype)
    b[:] = 0
    for batch in range(b.shape[0]):
        x, y, out = member(a, batch), member(c, batch), b[batch]
        for i in range(np.uint64(0), n):
            begin, end = _entries(C, i)
            for r in range(begin, end):
                row[C[1][r]] = y[r]
            for p in range(*_entries(A, i)):
                factor = x[p]
                for q in range(*_entries(B, A[1][p])):
                    out[q] += factor * row[B[1][q]]
            for r in range(begin, end):
                row[C[1][r]] = 0


@compiled
def _entries(S, i):
    """Return the first entry of a row, and the one behind its last."""
    return np.uint64(S[0][i]), np.uint64(S[0][i + ONE])
