"""Compiled residuals of solutions, compared row by row with what makes them."""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled
from tsgu_func.kernels.compiled.products import member, of_member


@compiled
def residuals(crow, col, values, X, B, floor, rounding, R, errors, sums, vanishing, first, last):
    """R = B - A X, sums = |A| 1, errors = |R| / max(|A| |X| + |B|, sums * floor), where not 0 / 0.

    And whether A 1 is zero, up to a rounding of sums.  All is in the precision of R.  The magnitude
    of an entry of A, X or B is that of its parts, added: no root is taken.  For values (b or 1,
    nnz), X (b, m, p), B, R and errors (b, n, p), floor (b, 1, p), sums and vanishing (b, n).
    """
    n = R.shape[1]
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        v, x, b = member(values, batch), member(X, batch), member(B, batch)
        least, row, none = floor[batch, 0], sums[batch], vanishing[batch]
        if X.shape[2] == 1:
            given, r, e = (v, x[:, 0], b[:, 0], least[0]), R[batch, :, 0], errors[batch, :, 0]
            _of_column(crow, col, given, rounding, r, e, row, none, start, stop)
        else:
            given = v, x, b, least
            _of_columns(crow, col, given, rounding, R[batch], errors[batch], row, none, start, stop)


@compiled
def _size(a):
    return abs(a.real) + abs(a.imag)


@compiled
def _over(a, b):
    return a / b if b != 0 else a


@compiled
def _of_column(crow, col, given, rounding, R, errors, sums, vanishing, start, stop):
    v, x, b, floor = given
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        left, total = R.dtype.type(b[i]), R.dtype.type(0)
        size, row = errors.dtype.type(_size(left)), errors.dtype.type(0)
        for k in range(first, last):
            a, y = R.dtype.type(v[k]), R.dtype.type(x[col[k]])
            left -= a * y
            size += _size(a) * _size(y)
            row += _size(a)
            total += a
        R[i], sums[i], errors[i] = left, row, _over(abs(left), max(size, row * floor))
        vanishing[i] = abs(total) <= rounding * row
        first = last


@compiled
def _of_columns(crow, col, given, rounding, R, errors, sums, vanishing, start, stop):
    v, X, B, floor = given
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        row, total = errors.dtype.type(0), R.dtype.type(0)
        for j in range(X.shape[1]):
            R[i, j] = B[i, j]
            errors[i, j] = _size(R.dtype.type(B[i, j]))
        for k in range(first, last):
            a, c = R.dtype.type(v[k]), col[k]
            magnitude = _size(a)
            row += magnitude
            total += a
            for j in range(X.shape[1]):
                y = R.dtype.type(X[c, j])
                R[i, j] -= a * y
                errors[i, j] += magnitude * _size(y)
        for j in range(X.shape[1]):
            errors[i, j] = _over(abs(R[i, j]), max(errors[i, j], row * floor[j]))
        sums[i], vanishing[i] = row, abs(total) <= rounding * row
        first = last
