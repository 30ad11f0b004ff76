"""Compiled substitution with triangular matrices, for the CPU.

Each loop solves in place.  Columns do not depend on each other: `by_rows` and `by_columns` take a
span of the columns of all batch members, counted through, so that a thread pool can share them.
Rows come with where their entries beside the diagonal start and stop, so that what is stored in the
other triangle is never read, and with where that of the diagonal is; None says that it is one.
"""

from tsgu_func.kernels.compiled.compiling import compiled


@compiled
def by_rows(start, stop, col, values, diagonal, X, descending, singular, first, last):
    """Solve T X = B, B given in X (b, n, p): each row gathers what is known already.

    Where the diagonal has a zero, `singular` (1,) is set, and the rest is left as it is.
    """
    while first < last:
        batch, left, right = _of_member(X.shape[2], first, last)
        first += right - left
        v, x = values[batch], X[batch]
        if not sweep_rows(start, stop, col, v, diagonal, x, descending, left, right):
            singular[0] = True


@compiled
def by_columns(start, stop, col, values, diagonal, X, descending, singular, first, last):
    """Solve Tᵀ X = B, B given in X (b, n, p): each row, once known, is taken off the others."""
    while first < last:
        batch, left, right = _of_member(X.shape[2], first, last)
        first += right - left
        v, x = values[batch], X[batch]
        if not sweep_columns(start, stop, col, v, diagonal, x, descending, left, right):
            singular[0] = True


@compiled
def _of_member(p, first, last):
    """Return the first member that a span of columns meets, and the span of columns in it."""
    batch, left = divmod(first, p)
    return batch, left, min(p, left + last - first)


@compiled
def sweep_rows(start, stop, col, values, diagonal, x, descending, left, right):
    """Solve T X = B for some columns of one matrix; return False at a zero on its diagonal."""
    n = x.shape[0]
    for step in range(n):
        i = n - 1 - step if descending else step
        if diagonal is not None and values[diagonal[i]] == 0:
            return False
        if right - left == 1:
            total = x[i, left]
            for k in range(start[i], stop[i]):
                total -= values[k] * x[col[k], left]
            x[i, left] = total if diagonal is None else total / values[diagonal[i]]
        else:
            o = x[i, left:right]
            for k in range(start[i], stop[i]):
                a, known = values[k], x[col[k], left:right]
                for j in range(right - left):
                    o[j] -= a * known[j]
            if diagonal is not None:
                d = values[diagonal[i]]
                for j in range(right - left):
                    o[j] /= d
    return True


@compiled
def sweep_columns(start, stop, col, values, diagonal, x, descending, left, right):
    """Solve Tᵀ X = B for some columns of one matrix; return False at a zero on its diagonal."""
    n = x.shape[0]
    for step in range(n):
        i = n - 1 - step if descending else step
        if diagonal is not None and values[diagonal[i]] == 0:
            return False
        if right - left == 1:
            known = x[i, left]
            if diagonal is not None:
                known /= values[diagonal[i]]
                x[i, left] = known
            for k in range(start[i], stop[i]):
                x[col[k], left] -= values[k] * known
        else:
            o = x[i, left:right]
            if diagonal is not None:
                d = values[diagonal[i]]
                for j in range(right - left):
                    o[j] /= d
            for k in range(start[i], stop[i]):
                a, other = values[k], x[col[k], left:right]
                for j in range(right - left):
                    other[j] -= a * o[j]
    return True
