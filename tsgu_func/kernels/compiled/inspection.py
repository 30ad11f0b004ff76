"""Compiled inspections of a square matrix, before it is solved with: each takes O(nnz) time."""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled_as_written

# An odd factor without pattern, and how far down its product's upper half is.
_FACTOR, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


@compiled_as_written
def digest(words):
    """Return 64 bits that depend on each of some unsigned integers, and on its place.

    Four sums are independent, so that a processor works on them at once.
    """
    a, b, c, d = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    whole = len(words) - len(words) % 4
    for i in range(0, whole, 4):
        a = _mixed(a, words[i])
        b = _mixed(b, words[i + 1])
        c = _mixed(c, words[i + 2])
        d = _mixed(d, words[i + 3])
    for i in range(whole, len(words)):
        a = _mixed(a, words[i])
    return _mixed(_mixed(_mixed(a, b), c), d)


@compiled_as_written
def _mixed(total, word):
    product = (total ^ np.uint64(word)) * _FACTOR
    return product ^ (product >> _HALF)


@compiled_as_written
def diagonal(crow, col):
    """Return where in each row the diagonal is or would be, and whether it is stored."""
    n = crow.shape[0] - 1
    place, stored = np.empty(n, col.dtype), np.zeros(n, np.bool_)
    for i in range(n):
        k = crow[i]
        while k < crow[i + 1] and col[k] < i:
            k += ONE
        place[i], stored[i] = k, k < crow[i + 1] and col[k] == i
    return place, stored


@compiled_as_written
def traits(crow, col, values, slack, unequal):
    """Say what the pattern, and the values, decide; each of them a yes or no.

    They are: the pattern is that of the transpose; the matrix is Hermitian; its diagonal is real
    and positive; besides it is Hermitian, no other entry is positive and no row sum negative.

    Rows are gone through in order, so what is stored at (i, j) above the diagonal meets the
    entries (j, i) of row j in the order of its columns: the next one that has not been met.
    Row sums may be negative by `slack` times the sum of the magnitudes in the row; mirror images
    may differ by `unequal` times the root of the product of the diagonal entries of their rows.
    """
    following = crow[:-1].copy()
    pattern = hermitian = positive = dominant = True
    for i in range(crow.shape[0] - 1):
        total, size, found = 0.0, 0.0, False
        for k in range(crow[i], crow[i + 1]):
            j, a = col[k], values[k]
            total += a.real
            size += abs(a.real)
            if j == i:
                real = abs(a.imag) <= unequal * abs(a)
                hermitian &= real
                found = real and a.real > 0
                continue
            dominant &= a.imag == 0 and a.real <= 0
            if j < i:
                pattern &= k < following[i]
                continue
            q = following[j]
            if q < crow[j + 1] and col[q] == i:
                following[j] = q + ONE
                if values[q] != np.conj(a):
                    # Two signs of one number would be two functions to compile.
                    roots = _root(crow, col, values, np.uint64(i))
                    roots *= _root(crow, col, values, np.uint64(j))
                    hermitian &= abs(values[q] - np.conj(a)) <= unequal * roots
            else:
                pattern = False
        positive &= found
        dominant &= total >= -slack * size
    hermitian &= pattern
    return pattern, hermitian, positive, dominant and hermitian and positive


@compiled_as_written
def _root(crow, col, values, i):
    """Return the root of the magnitude on the diagonal."""
    for k in range(crow[i], crow[i + ONE]):
        if col[k] == i:
            return np.sqrt(abs(values[k]))
    return 0.0


@compiled_as_written
def asymmetry(crow, col, values):
    """Return the largest magnitude in A - Aᴴ, and that in A.

    As in `traits`, entries of a row below the diagonal are met in the order of its columns, each
    when its mirror image is; what is passed over has none.
    """
    following = crow[:-1].copy()
    most = largest = abs(values[0]) * 0 if values.shape[0] else 0.0
    for i in range(crow.shape[0] - 1):
        for k in range(crow[i], crow[i + 1]):
            j, a = col[k], values[k]
            largest = max(largest, abs(a))
            if j == i:
                most = max(most, 2 * abs(a.imag))
            elif j > i:
                q = following[j]
                while q < crow[j + 1] and col[q] < i:
                    most = max(most, abs(values[q]))
                    q += ONE
                if q < crow[j + 1] and col[q] == i:
                    most = max(most, abs(values[q] - np.conj(a)))
                    q += ONE
                else:
                    most = max(most, abs(a))
                following[j] = q
            elif k >= following[i]:
                most = max(most, abs(a))
    return most, largest


@compiled_as_written
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


@compiled_as_written
def widest_level(crow, col, most):
    """Return the size of the largest set of nodes at one distance from an end of the graph.

    An end of each connected part is what a search from any of its nodes comes to last.  The pattern
    is that of its transpose.  Nodes with more than `most` entries are left out; how many these are
    is returned as well.
    """
    n = crow.shape[0] - 1
    seen, queue = np.zeros(n, np.uint8), np.empty(n, col.dtype)
    widest = dense = 0
    for i in range(n):
        if crow[i + 1] - crow[i] > most:
            seen[i] = 2  # as after both searches
            dense += 1
    for first in range(n):
        if seen[first] == 0:
            queue[0] = first
            stop, _ = _search(crow, col, np.uint8(1), seen, queue)
            queue[0] = queue[stop - 1]
            _, width = _search(crow, col, np.uint8(2), seen, queue)
            widest = max(widest, width)
    return widest, dense


@compiled_as_written
def _search(crow, col, mark, seen, queue):
    """Mark by breadth all that the first in a queue is joined with.

    Returns how many these are, which are in the queue then, and the widest level.
    """
    seen[queue[0]] = mark
    begin, end, widest = 0, 1, 1
    while begin < end:
        level = end
        for place in range(begin, level):
            i = queue[place]
            for k in range(crow[i], crow[i + ONE]):
                j = col[k]
                if seen[j] < mark:
                    seen[j] = mark
                    queue[end] = j
                    end += 1
        begin = level
        widest = max(widest, end - begin)
    return end, widest
