"""Compiled substitution with triangular matrices, for the CPU.

Each loop solves in place, for a span of the columns of all batch members, counted through: columns
do not depend on each other, so a thread pool can share them.  Rows come with where their entries
beside the diagonal start and stop, so that what is stored in the other triangle is never read.
"""

from tsgu_func.kernels.compiled.compiling import compiled


@compiled
def by_rows(start, stop, col, values, diagonal, X, descending, first, last):
    """Solve T X = B, B given in X (b, n, p): each row gathers what is known already."""
    n, p = X.shape[1], X.shape[2]
    while first < last:
        batch, left = divmod(first, p)
        right = min(p, left + last - first)
        first += right - left
        v, d, x = values[batch], diagonal[batch], X[batch]
        for step in range(n):
            i = n - 1 - step if descending else step
            if right - left == 1:
                total = x[i, left]
                for k in range(start[i], stop[i]):
                    total -= v[k] * x[col[k], left]
                x[i, left] = total / d[i]
            else:
                o = x[i, left:right]
                for k in range(start[i], stop[i]):
                    a, known = v[k], x[col[k], left:right]
                    for j in range(right - left):
                        o[j] -= a * known[j]
                for j in range(right - left):
                    o[j] /= d[i]


@compiled
def by_columns(start, stop, col, values, diagonal, X, descending, first, last):
    """Solve Tᵀ X = B, B given in X (b, n, p): each row, once known, is taken off the others."""
    n, p = X.shape[1], X.shape[2]
    while first < last:
        batch, left = divmod(first, p)
        right = min(p, left + last - first)
        first += right - left
        v, d, x = values[batch], diagonal[batch], X[batch]
        for step in range(n):
            i = n - 1 - step if descending else step
            if right - left == 1:
                x[i, left] /= d[i]
                known = x[i, left]
                for k in range(start[i], stop[i]):
                    x[col[k], left] -= v[k] * known
            else:
                o = x[i, left:right]
                for j in range(right - left):
                    o[j] /= d[i]
                for k in range(start[i], stop[i]):
                    a, other = v[k], x[col[k], left:right]
                    for j in range(right - left):
                        other[j] -= a * o[j]
