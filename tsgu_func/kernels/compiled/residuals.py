"""Compiled residuals of solutions, compared row by row with what makes them."""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled
from tsgu_func.kernels.compiled.products import member, of_member


@compiled
def of_columns(crow, col, values, X, B, floor, rounding, R, room, columns, rows, first, last):
    """R = B - A X; and of what makes it, by columns and by members, what is largest in all rows.

    Of a column: |R|, |B|, |R| / max(|A| |X| + |B|, |A| 1 floor), where not 0 / 0; and the sums of
    |R|^2 and |B|^2.  Of a member: |A| 1, and whether A 1 is not zero, up to a rounding of that.

    All is in the precision of `room`, which is two vectors (p,).  B comes after the product: what
    vanishes in that by cancellation is nothing then, and hides no B, be it small.  The magnitude of
    an entry of A, X or B is that of its parts, added, within a row: no root is taken.  For values
    (b or 1, nnz), X (b, m, p), B and R (b, n, p), floor (b, 1, p); and columns (b, 5, p), rows
    (b, 2, 1), of zeros.
    """
    n = R.shape[1]
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        v, x, b = member(values, batch), member(X, batch), member(B, batch)
        given, row = (v, x, b, floor[batch, 0]), rows[batch, :, 0]
        _of_columns(crow, col, given, rounding, R[batch], room, columns[batch], row, start, stop)


@compiled
def of_column(crow, col, values, X, B, floor, rounding, R, room, columns, rows, first, last):
    """Do the same for one column, in half of the time; each is compiled where it is called."""
    n = R.shape[1]
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        v, x, b = member(values, batch), member(X, batch), member(B, batch)
        given, row = (v, x[:, 0], b[:, 0], floor[batch, 0, 0]), rows[batch, :, 0]
        found, r = columns[batch, :, 0], R[batch, :, 0]
        _of_column(crow, col, given, rounding, r, room, found, row, start, stop)


@compiled
def _size(a):
    return abs(a.real) + abs(a.imag)


@compiled
def _larger(a, b):
    """Return the larger of two numbers; NaN, if one is."""
    return b if b > a or b != b else a


@compiled
def _square(a):
    return a.real * a.real + a.imag * a.imag


@compiled
def _share(a, b, largest):
    """Return the larger of a / b, or a over nothing, and what was; most rows need no division."""
    return largest if a <= largest * b else _larger(largest, a / b if b != 0 else a)


@compiled
def _of_column(crow, col, given, rounding, R, room, found, rows, start, stop):
    v, x, b, floor = given
    wide, real = room[0].dtype.type, room[1].dtype.type
    largest, largest_b, error, squares, squares_b = found
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        right, product, total = wide(b[i]), wide(0), wide(0)
        size, row = real(_size(right)), real(0)
        largest_b, squares_b = _larger(largest_b, abs(right)), squares_b + _square(right)
        for k in range(first, last):
            a, y = wide(v[k]), wide(x[col[k]])
            product += a * y
            size += _size(a) * _size(y)
            row += _size(a)
            total += a
        left = right - product
        R[i], first = left, last
        r = abs(left)
        largest, squares = _larger(largest, r), squares + _square(left)
        error = _share(r, max(size, row * floor), error)
        _note(rows, row, abs(total) > rounding * row)
    found[0], found[1], found[2], found[3], found[4] = largest, largest_b, error, squares, squares_b


@compiled
def _of_columns(crow, col, given, rounding, R, room, found, rows, start, stop):
    v, X, B, floor = given
    product, size = room
    wide, real = product.dtype.type, size.dtype.type
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        row, total = real(0), wide(0)
        for j in range(X.shape[1]):
            right = wide(B[i, j])
            product[j], size[j] = wide(0), _size(right)
            found[1, j] = _larger(found[1, j], abs(right))
            found[4, j] += _square(right)
        for k in range(first, last):
            a, c = wide(v[k]), col[k]
            magnitude = _size(a)
            row += magnitude
            total += a
            for j in range(X.shape[1]):
                y = wide(X[c, j])
                product[j] += a * y
                size[j] += magnitude * _size(y)
        for j in range(X.shape[1]):
            left = wide(B[i, j]) - product[j]
            R[i, j], r = left, abs(left)
            found[0, j], found[3, j] = _larger(found[0, j], r), found[3, j] + _square(left)
            found[2, j] = _share(r, max(size[j], row * floor[j]), found[2, j])
        _note(rows, row, abs(total) > rounding * row)
        first = last


@compiled
def _note(rows, row, stands):
    rows[0] = _larger(rows[0], row)
    if stands:
        rows[1] = 1
