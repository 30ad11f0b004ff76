"""Compiled residuals of solutions, with what they are to be compared with, row by row."""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled
from tsgu_func.kernels.compiled.products import member, of_member


@compiled
def residuals(crow, col, values, X, B, R, sizes, sums, totals, first, last):
    """R = B - A X, sizes = |A| |X| + |B|, sums = |A| 1 and totals = A 1, in the precision of R.

    The magnitude of a complex number is here that of its parts, added: no root is taken.  For
    values (b or 1, nnz), X (b, m, p), B, R and sizes (b, n, p), sums and totals (b, n).
    """
    n = R.shape[1]
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        v, x, b = member(values, batch), member(X, batch), member(B, batch)
        row, total = sums[batch], totals[batch]
        if X.shape[2] == 1:
            r, size = R[batch, :, 0], sizes[batch, :, 0]
            _of_column(crow, col, v, x[:, 0], b[:, 0], r, size, row, total, start, stop)
        else:
            _of_columns(crow, col, v, x, b, R[batch], sizes[batch], row, total, start, stop)


@compiled
def _size(a):
    return abs(a.real) + abs(a.imag)


@compiled
def _of_column(crow, col, v, x, b, R, sizes, sums, totals, start, stop):
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        left, total = R.dtype.type(b[i]), R.dtype.type(0)
        size, row = sizes.dtype.type(_size(left)), sizes.dtype.type(0)
        for k in range(first, last):
            a, y = R.dtype.type(v[k]), R.dtype.type(x[col[k]])
            left -= a * y
            size += _size(a) * _size(y)
            row += _size(a)
            total += a
        R[i], sizes[i], sums[i], totals[i] = left, size, row, total
        first = last


@compiled
def _of_columns(crow, col, v, X, B, R, sizes, sums, totals, start, stop):
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        row, total = sizes.dtype.type(0), R.dtype.type(0)
        for j in range(X.shape[1]):
            R[i, j] = B[i, j]
            sizes[i, j] = _size(R.dtype.type(B[i, j]))
        for k in range(first, last):
            a, c = R.dtype.type(v[k]), col[k]
            magnitude = _size(a)
            row += magnitude
            total += a
            for j in range(X.shape[1]):
                y = R.dtype.type(X[c, j])
                R[i, j] -= a * y
                sizes[i, j] += magnitude * _size(y)
        sums[i], totals[i] = row, total
        first = last
