"""Compiled loops over compressed rows, for the CPU.

Each works on a span of the rows of all batch members, counted through, so that a thread pool can
share the work; each output is written by one thread, in one order, so results are repeatable.
Numba compiles a loop at its first call for a dtype and keeps the result on disk.
"""

import numba

# Sums of products may be reordered, which is what lets them use vector instructions; NaN and
# infinity keep their meaning.
_compile = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"}
)


@_compile
def product(crow, col, values, B, out, first, last):
    """out[i] = A[i] @ B[i], for values (b or 1, nnz), B (b or 1, m, p) and out (b, n, p)."""
    n, p = out.shape[1], out.shape[2]
    for r in range(first, last):
        batch, i = divmod(r, n)
        v, right = values[batch if values.shape[0] > 1 else 0], B[batch if B.shape[0] > 1 else 0]
        o = out[batch, i]
        o[:] = 0
        if p == 1:
            total = o[0]
            for k in range(crow[i], crow[i + 1]):
                total += v[k] * right[col[k], 0]
            o[0] = total
        else:
            for k in range(crow[i], crow[i + 1]):
                a, b = v[k], right[col[k]]
                for j in range(p):
                    o[j] += a * b[j]


@_compile
def sampled(crow, col, X, Y, out, first, last):
    """out[i, k] += X[i, row_k] . Y[i, col_k], X (b or 1, n, p), Y (b or 1, m, p), out (b, nnz)."""
    n, p = X.shape[1], X.shape[2]
    for r in range(first, last):
        batch, i = divmod(r, n)
        x = X[batch if X.shape[0] > 1 else 0, i]
        right, o = Y[batch if Y.shape[0] > 1 else 0], out[batch]
        for k in range(crow[i], crow[i + 1]):
            y = right[col[k]]
            total = o[k]
            for j in range(p):
                total += x[j] * y[j]
            o[k] = total
