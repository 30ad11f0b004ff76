"""The order in which compiled sweeps take the rows of a Hermitian matrix.

*Twisted*: from both ends to the middle (van der Vorst, *Large Tridiagonal and Block Tridiagonal
Linear Systems on Vector and Parallel Computers*, Parallel Computing 5, 1987).  Where the natural
order goes along the graph, the rows of one half then wait for none of the other, up to the few that
come last, and two threads can sweep.

In each part rows are taken by *levels*: each waits only for rows of levels before its own, so that
the processor has several of them in work at once.  A triangle is factored and solved with in this
order as in any other that keeps each row behind those that it waits for: with the same result.
"""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled_as_written

# Parts: the first half, what of the second waits for none of the first, and the rest.
_FIRST, _SECOND, _LAST = 0, 1, 2
# Share of the rows in the last part beyond which there is nothing to gain from a second thread.
_MOST = 0.125


@compiled_as_written
def count_levels(crow, col):
    """Return how many levels a lower triangle has, with its rows in their natural order."""
    n = crow.shape[0] - 1
    return _depth(_from_both_ends(crow, col, n)[1])


@compiled_as_written
def order_of(crow, col):
    """Return an order of the rows, and where in it the second and the last part begin.

    The lower triangle is read.  Where too many rows would come last, all are in the first part.
    """
    n = crow.shape[0] - 1
    part, level = _from_both_ends(crow, col, n // 2)
    late = 0
    for i in range(n):
        late += part[i] == _LAST
    if late > _MOST * n:
        part, level = _from_both_ends(crow, col, n)
    deepest = _depth(level)
    start = np.zeros(3 * deepest + 1, np.int64)
    for i in range(n):
        start[part[i] * deepest + level[i] + 1] += 1
    for m in range(3 * deepest):
        start[m + 1] += start[m]
    second, last = start[deepest], start[2 * deepest]
    order = np.empty(n, np.int64)
    for i in range(n):
        m = part[i] * deepest + level[i]
        order[start[m]] = i
        start[m] += 1
    return order, second, last


@compiled_as_written
def _depth(level):
    """Return how many levels there are.  NumPy's `max` takes as long to compile as all else."""
    deepest = np.int64(0)
    for i in range(level.shape[0]):
        deepest = max(deepest, level[i] + 1)
    return deepest


@compiled_as_written
def _from_both_ends(crow, col, middle):
    """Return part and level of each row: up to the middle, then from the end down to it."""
    n = crow.shape[0] - 1
    part, level = np.zeros(n, np.uint8), np.zeros(n, np.int64)
    for i in range(middle):
        for k in range(crow[i], crow[i + 1]):
            j = col[k]
            if j < i:
                level[i] = max(level[i], level[j] + 1)
    part[middle:] = _SECOND
    for i in range(n - 1, middle - 1, -1):
        for k in range(crow[i], crow[i + 1]):
            j = col[k]
            if j < middle:
                part[i], level[i] = _LAST, max(level[i], level[j] + 1)
        for k in range(crow[i], crow[i + 1]):
            j = col[k]
            if middle <= j < i:  # j waits for i
                part[j], level[j] = max(part[j], part[i]), max(level[j], level[i] + 1)
    return part, level


@compiled_as_written
def triangle(crow, col, order):
    """Return the strict lower triangle of a Hermitian matrix with rows and columns in an order.

    That is: crow, col, the places of its entries in the matrix, of which the lower triangle is
    read, and which of them are conjugates of what is stored there.
    """
    n = order.shape[0]
    place, following = np.empty(n, col.dtype), np.zeros(n + 1, crow.dtype)
    for r in range(n):
        place[order[r]] = r
    for i in range(n):
        p = place[i]
        for k in range(crow[i], crow[i + 1]):
            if col[k] < i:
                following[max(p, place[col[k]])] += ONE
    start, size = np.empty(n + 1, crow.dtype), np.uint64(0)
    for r in range(n + 1):
        start[r] = size
        size += following[r]
        following[r] = start[r]
    column, entry = np.empty(size, col.dtype), np.empty(size, crow.dtype)
    mirrored = np.empty(size, np.bool_)
    for i in range(n):
        p = place[i]
        for k in range(crow[i], crow[i + 1]):
            if col[k] < i:
                c = place[col[k]]
                r = max(p, c)
                q = np.uint64(following[r])
                following[r] = q + ONE
                column[q], entry[q], mirrored[q] = min(p, c), k, c > p
    return start, column, entry, mirrored


@compiled_as_written
def entries(values, entry, mirrored):
    """Return the entries of a triangle that `triangle` made."""
    out = np.empty(entry.shape[0], values.dtype)
    for q in range(entry.shape[0]):
        a = values[entry[q]]
        out[q] = np.conj(a) if mirrored[q] else a
    return out
