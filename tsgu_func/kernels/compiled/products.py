"""Compiled loops over compressed rows, for the CPU.

Those that a thread pool may share work on a span of the rows of all batch members, counted through;
each output is written by one thread, in one order, so results are repeatable.  Rows are counted
without a sign: an index that may be negative costs a comparison for each entry.
"""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled


@compiled
def product(crow, col, values, B, out, first, last):
    """out[i] = A[i] @ B[i], for values (b or 1, nnz), B (b or 1, m, p) and out (b, n, p)."""
    n = out.shape[1]
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        v, b = member(values, batch), member(B, batch)
        if B.shape[2] == 1:
            _times_column(crow, col, v, b[:, 0], out[batch, :, 0], start, stop)
        elif B.shape[2] == 2:
            _times_pair(crow, col, v, b, out[batch], start, stop)
        else:
            _times_columns(crow, col, v, b, out[batch], start, stop)


@compiled
def transposed_product(crow, col, values, B, out):
    """out[i] = A[i]^T @ B[i], for values (b or 1, nnz), B (b or 1, n, p) and out (b, m, p)."""
    out[:] = 0
    for batch in range(out.shape[0]):
        v, b = member(values, batch), member(B, batch)
        if B.shape[2] == 1:
            _scatter_column(crow, col, v, b[:, 0], out[batch, :, 0])
        else:
            _scatter_columns(crow, col, v, b, out[batch])


@compiled
def sampled(crow, col, X, Y, out, first, last):
    """out[i, k] = X[i, row_k] . Y[i, col_k], X (b or 1, n, p), Y (b or 1, m, p), out (b, nnz)."""
    n = crow.shape[0] - 1
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        x, y = member(X, batch), member(Y, batch)
        if X.shape[2] == 1:
            _sampled_column(crow, col, x[:, 0], y[:, 0], out[batch], start, stop)
        else:
            _sampled_columns(crow, col, x, y, out[batch], start, stop)


@compiled
def of_member(batch, n, first, last):
    """Return the span of rows of one member that is within a span counted through all."""
    return np.uint64(max(first - batch * n, 0)), np.uint64(min(last - batch * n, n))


@compiled
def member(x, batch):
    """Return one member, which may be that of all."""
    return x[batch if x.shape[0] > 1 else 0]


@compiled
def _times_column(crow, col, v, b, out, start, stop):
    first = np.uint64(crow[start])
    for i in range(start, stop):
        total, last = out.dtype.type(0), np.uint64(crow[i + ONE])
        for k in range(first, last):
            total += v[k] * b[col[k]]
        out[i], first = total, last


@compiled
def _times_pair(crow, col, v, B, out, start, stop):
    first = np.uint64(crow[start])
    for i in range(start, stop):
        left = right = out.dtype.type(0)
        last = np.uint64(crow[i + ONE])
        for k in range(first, last):
            a, c = v[k], col[k]
            left += a * B[c, 0]
            right += a * B[c, 1]
        out[i, 0], out[i, 1], first = left, right, last


@compiled
def _times_columns(crow, col, v, B, out, start, stop):
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        for j in range(B.shape[1]):
            out[i, j] = 0
        for k in range(first, last):
            a, c = v[k], col[k]
            for j in range(B.shape[1]):
                out[i, j] += a * B[c, j]
        first = last


@compiled
def _scatter_column(crow, col, v, b, out):
    first = np.uint64(crow[0])
    for i in range(np.uint64(b.shape[0])):
        x, last = b[i], np.uint64(crow[i + ONE])
        for k in range(first, last):
            out[col[k]] += v[k] * x
        first = last


@compiled
def _scatter_columns(crow, col, v, B, out):
    first = np.uint64(crow[0])
    for i in range(np.uint64(B.shape[0])):
        last = np.uint64(crow[i + ONE])
        for k in range(first, last):
            a, c = v[k], col[k]
            for j in range(B.shape[1]):
                out[c, j] += a * B[i, j]
        first = last


@compiled
def _sampled_column(crow, col, x, y, out, start, stop):
    first = np.uint64(crow[start])
    for i in range(start, stop):
        a, last = x[i], np.uint64(crow[i + ONE])
        for k in range(first, last):
            out[k] = a * y[col[k]]
        first = last


@compiled
def _sampled_columns(crow, col, X, Y, out, start, stop):
    first = np.uint64(crow[start])
    for i in range(start, stop):
        last = np.uint64(crow[i + ONE])
        for k in range(first, last):
            c, total = col[k], out.dtype.type(0)
            for j in range(X.shape[1]):
                total += X[i, j] * Y[c, j]
            out[k] = total
        first = last
