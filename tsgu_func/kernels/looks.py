"""Compiled looks at a square matrix, before it is solved with: each takes O(nnz) time."""

import numba
import numpy as np

_compile = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compile
def diagonal(crow, col):
    """Return where in each row the diagonal is or would be, and whether it is stored."""
    n = crow.shape[0] - 1
    place, stored = np.empty(n, col.dtype), np.zeros(n, np.bool_)
    for i in range(n):
        k = crow[i]
        while k < crow[i + 1] and col[k] < i:
            k += crow.dtype.type(1)
        place[i], stored[i] = k, k < crow[i + 1] and col[k] == i
    return place, stored


@_compile
def symmetry(crow, col, values):
    """Say whether the pattern is that of the transpose, and whether the matrix is Hermitian.

    Rows are gone through in order, so what is stored at (i, j) above the diagonal meets the
    entries (j, i) of row j in the order of its columns: the next one that has not been met.
    """
    n = crow.shape[0] - 1
    following, hermitian = crow[:-1].copy(), True
    for i in range(n):
        for k in range(following[i], crow[i + 1]):
            j = col[k]
            if j < i:  # met by nothing above the diagonal
                return False, False
            if j > i:
                q = following[j]
                if q >= crow[j + 1] or col[q] != i:
                    return False, False
                following[j] = q + crow.dtype.type(1)
                hermitian &= values[q] == np.conj(values[k])
            else:
                hermitian &= values[k] == np.conj(values[k])
    return True, hermitian


@_compile
def magnitudes(crow, col, values, rows, columns):
    """Add the magnitudes of the entries of each matrix of a batch up, by rows and by columns."""
    for batch in range(values.shape[0]):
        for i in range(crow.shape[0] - 1):
            total = rows[batch, i]
            for k in range(crow[i], crow[i + 1]):
                size = abs(values[batch, k])
                total += size
                columns[batch, col[k]] += size
            rows[batch, i] = total


@_compile
def dominance(crow, col, values, slack):
    """Say whether no entry beside the diagonal is positive, and no row sum negative.

    Row sums may be negative by `slack` times the sum of the magnitudes in the row.
    """
    for i in range(crow.shape[0] - 1):
        total = size = 0.0
        for k in range(crow[i], crow[i + 1]):
            a = values[k]
            if a > 0 and col[k] != i:
                return False
            total += a
            size += abs(a)
        if not total >= -slack * size:
            return False
    return True


@_compile
def widest_level(crow, col):
    """Return the size of the largest set of nodes at one distance from an end of the graph.

    An end of each connected part is what a search from any of its nodes comes to last.  The pattern
    is that of its transpose.
    """
    n = crow.shape[0] - 1
    seen, queue = np.zeros(n, np.uint8), np.empty(n, np.int64)
    widest = 0
    for first in range(n):
        if seen[first] == 0:
            stop, _ = _search(crow, col, first, np.uint8(1), seen, queue)
            _, width = _search(crow, col, queue[stop - 1], np.uint8(2), seen, queue)
            widest = max(widest, width)
    return widest


@_compile
def _search(crow, col, first, mark, seen, queue):
    """Mark all that `first` is joined with, by breadth; return how many, and the widest level."""
    queue[0], seen[first] = first, mark
    begin, end, widest = 0, 1, 1
    while begin < end:
        level = end
        for place in range(begin, level):
            i = queue[place]
            for k in range(crow[i], crow[i + 1]):
                j = col[k]
                if seen[j] < mark:
                    seen[j] = mark
                    queue[end] = j
                    end += 1
        begin = level
        widest = max(widest, end - begin)
    return end, widest
