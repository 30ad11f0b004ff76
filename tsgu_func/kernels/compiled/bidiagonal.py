"""Compiled steps of the process of Golub and Kahan: products, vectors and norms in one pass each.

Vectors are columns (b, n, p), and are not divided by their norms, which would be one more pass: the
next step does that.
"""

import math

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled, compiled_as_written
from tsgu_func.kernels.compiled.products import member, of_member

_TWO = np.uint64(2)

# So many numbers of each vector are worked on at a time.
_CHUNK = 256


@compiled
def multiply(crow, col, values, X, Y, norms, squares, first, last):
    """Let Y be A X without its part along Y: A x - |X| y, for x = X / |X| and y = Y / |Y|.

    For values (b or 1, nnz), X (b, m, p) and Y (b, n, p), with their norms, two of (b, p).  The
    squares of the columns of the new Y are added up (b, p).
    """
    n, p = Y.shape[1], Y.shape[2]
    for batch in range(first // n, -(-last // n)):
        start, stop = of_member(batch, n, first, last)
        v, x, y = member(values, batch), X[batch].reshape(-1), Y[batch].reshape(-1)
        f, g, found = np.empty(p), np.empty(p), squares[batch]
        for j in range(p):
            f[j] = inverse(norms[0][batch, j])
            g[j] = norms[0][batch, j] * inverse(norms[1][batch, j])
        if p == 1:
            found[0] += _times_column(crow, col, v, x, y, f[0], g[0], start, stop)
            continue
        at = 0
        while p - at >= 8:
            _times_eight(crow, col, v, x, y, f, g, found, np.uint64(at), start, stop)
            at += 8
        if p - at >= 4:
            _times_four(crow, col, v, x, y, f, g, found, np.uint64(at), start, stop)
            at += 4
        if p - at >= 2:
            _times_two(crow, col, v, x, y, f, g, found, np.uint64(at), start, stop)
            at += 2
        if p - at >= 1:
            _times_one(crow, col, v, x, y, f, g, found, np.uint64(at), start, stop)


@compiled
def multiply_both(crow, col, values, V, U, room, norms, least, squares):
    """Let U be A V, and V be Aᴴ U, each without its part along itself, as `multiply` does.

    One pass over A for both, which takes two thirds of the time of two: for one column, and best
    for a tall A, as V is to be close at hand.  The norms are those of V and U; the squares (2, b),
    of zeros, become those of U and V; `room` is a vector like V.
    """
    for batch in range(U.shape[0]):
        v, x, y = member(values, batch), V[batch].reshape(-1), U[batch].reshape(-1)
        alpha, beta, total = norms[0][batch, 0], norms[1][batch, 0], room.reshape(-1)
        total[:] = 0
        f, g = inverse(alpha), alpha * inverse(beta)
        squares[0, batch] = _both_ways(crow, col, v, x, y, total, f, g)
        beta = root(squares[0, batch], least)
        f, g = inverse(beta), beta * inverse(alpha)
        squares[1, batch] = _replace_column(x, total, f, g)


@compiled
def advance(V, H, Hbar, change, start, numbers, squares, first, last):
    """Make the step of a recurrence: V has the norms alpha, and vectors are (b, n, p).

    The squares of start + change, and those of H, are added up (2, b, p).
    """
    n, p = V.shape[1], V.shape[2]
    for batch in range(first // n, -(-last // n)):
        begin, end = of_member(batch, n, first, last)
        span = slice(begin * np.uint64(p), end * np.uint64(p))
        vectors = (
            V[batch].reshape(-1)[span],
            H[batch].reshape(-1)[span],
            Hbar[batch].reshape(-1)[span],
            change[batch].reshape(-1)[span],
            start[batch].reshape(-1)[span],
        )
        factors = np.empty((4, _CHUNK // p * p + p), V.real.dtype)
        for j in range(factors.shape[1]):
            x = numbers[batch, j % p]
            factors[0, j], factors[1, j], factors[2, j] = x.first, x.second, x.third
            factors[3, j] = inverse(x.alpha)
        found = np.zeros(factors.shape[1]), np.zeros(factors.shape[1])
        _advance(vectors, factors, found)
        for j in range(factors.shape[1]):
            squares[0, batch, j % p] += found[0][j]
            squares[1, batch, j % p] += found[1][j]


@compiled_as_written
def roots(squares, least):
    """Let sums of squares be norms, those up to `least` zero; return whether all are finite."""
    finite = True
    for i in range(squares.size):
        squares.flat[i] = root(squares.flat[i], least)
        finite = finite and squares.flat[i] < np.inf
    return finite


@compiled_as_written
def root(square, least):
    """Return a norm; zero, if it is up to `least`; NaN stays NaN."""
    norm = math.sqrt(square)
    return 0.0 if norm <= least else norm


@compiled
def inverse(x):
    """Return 1 / x, and 0 for 0."""
    return 1 / x if x > 0 else 0.0


@compiled
def _square(a):
    return a.real * a.real + a.imag * a.imag


@compiled
def _times_column(crow, col, v, x, y, f, g, start, stop):
    real = y.real.dtype.type
    f, g, squares, k = real(f), real(g), 0.0, np.uint64(crow[start])
    for i in range(start, stop):
        total, last = y.dtype.type(0), np.uint64(crow[i + ONE])
        # Two at a time: most rows are too short for any more.
        while k + ONE < last:
            total += v[k] * x[col[k]] + v[k + ONE] * x[col[k + ONE]]
            k += _TWO
        if k < last:
            total += v[k] * x[col[k]]
        new = f * total - g * y[i]
        y[i], k = new, last
        squares += _square(new)
    return squares


@compiled
def _both_ways(crow, col, v, x, y, out, f, g):
    """Take each row for the product with it, and then for that with its adjoint, into `out`."""
    # A row is taken as in `_times_column`: with a function of its own for it, a solve takes four
    # times as long (`bench lstsq --columns 1`).
    real = y.real.dtype.type
    f, g, squares, first = real(f), real(g), 0.0, np.uint64(crow[0])
    for i in range(y.shape[0]):
        total, last, k = y.dtype.type(0), np.uint64(crow[i + 1]), first
        while k + ONE < last:
            total += v[k] * x[col[k]] + v[k + ONE] * x[col[k + ONE]]
            k += _TWO
        if k < last:
            total += v[k] * x[col[k]]
        new = f * total - g * y[i]
        y[i] = new
        squares += _square(new)
        for k in range(first, last):
            out[col[k]] += np.conj(v[k]) * new
        first = last
    return squares


@compiled
def _replace_column(x, total, f, g):
    real = x.real.dtype.type
    f, g, squares = real(f), real(g), 0.0
    for i in range(x.shape[0]):
        new = f * total[i] - g * x[i]
        x[i] = new
        squares += _square(new)
    return squares


def _times(width):
    """Return the loop over so many columns from one of p on, which is compiled for their number."""
    span = np.uint64(width)

    @compiled
    def loop(crow, col, v, x, y, f, g, squares, at, start, stop):
        p = np.uint64(squares.shape[0])
        total, found = np.empty(width, y.dtype), np.zeros(width)
        real = y.real.dtype
        f, g = f[at : at + span].astype(real), g[at : at + span].astype(real)
        first = np.uint64(crow[start])
        for i in range(start, stop):
            last = np.uint64(crow[i + ONE])
            for j in range(width):
                total[j] = 0
            for k in range(first, last):
                a, place = v[k], np.uint64(col[k]) * p + at
                for j in range(width):
                    total[j] += a * x[place + np.uint64(j)]
            place = i * p + at
            for j in range(width):
                new = f[j] * total[j] - g[j] * y[place + np.uint64(j)]
                y[place + np.uint64(j)] = new
                found[j] += _square(new)
            first = last
        for j in range(width):
            squares[at + np.uint64(j)] += found[j]

    return loop


_times_eight, _times_four, _times_two, _times_one = map(_times, (8, 4, 2, 1))


@compiled
def _advance(vectors, factors, found):
    """Advance rows of columns, some rows at a time, for which there are factors and sums."""
    first, second, third, scale = factors[0], factors[1], factors[2], factors[3]
    for begin in range(0, vectors[0].shape[0], first.shape[0]):
        span = slice(begin, begin + first.shape[0])
        V, H, Hbar = vectors[0][span], vectors[1][span], vectors[2][span]
        change, start = vectors[3][span], vectors[4][span]
        _combine(Hbar, H, first)
        _add(change, Hbar, second, start, found[0])
        _replace(H, V, scale, third, found[1])


# Each is for few enough vectors that the compiler sees whether they overlap, and then takes several
# numbers at a time.


@compiled
def _combine(Hbar, H, factor):
    for i in range(H.shape[0]):
        Hbar[i] = H[i] - factor[i] * Hbar[i]


@compiled
def _add(change, Hbar, factor, start, squares):
    for i in range(change.shape[0]):
        x = change[i] + factor[i] * Hbar[i]
        change[i] = x
        squares[i] += _square(start[i] + x)


@compiled
def _replace(H, V, scale, factor, squares):
    for i in range(H.shape[0]):
        h = scale[i] * V[i] - factor[i] * H[i]
        H[i] = h
        squares[i] += _square(h)
