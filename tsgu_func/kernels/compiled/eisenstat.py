"""Compiled conjugate gradients, preconditioned from both sides by triangles of the matrix.

A Hermitian matrix with rows and columns scaled so that the pivots are one is ``L + D + Lᴴ``, and
its preconditioner ``M = (I + L) (I + L)ᴴ`` has the same L.  So the product with
``K = (I + L)⁻¹ A (I + L)⁻ᴴ`` needs none with A, but the two sweeps alone:

    K p = t + (I + L)⁻¹ (p + (D - 2 I) t),   t = (I + L)⁻ᴴ p

(Eisenstat, *Efficient Implementation of a Class of Preconditioned Conjugate Gradient Methods*, SIAM
J. Sci. Stat. Comput. 2, 1981).

Rows are in the order that `ordering` finds, so that a second thread can take half of them.
"""

import numpy as np

from tsgu_func.kernels.compiled import synchronization
from tsgu_func.kernels.compiled.compiling import ONE, compiled

_TWO = np.uint64(2)

# How far above the goal, and how often in any case, the residual is computed and not estimated.
_NEAR, _EVERY = 4.0, 16

# Bytes: what a way of a cache holds, and how far apart vectors are beyond multiples of it.
_WAY, _APART = 4096, 832


# ------------------------------------------------------------------------------ once a matrix


@compiled
def pivots(crow, col, values, diagonal, shift, relaxation, least):
    """Factor a Hermitian matrix, given by its lower triangle, as (E + L) E⁻¹ (E + L)ᴴ.

    L is that of the matrix: all that an elimination would change beside the diagonal is dropped,
    and `relaxation` times it taken off the diagonals of its rows (real parts, if complex); `shift`
    times the diagonal is added to it.  Returns the pivots E, and the first row with one of at most
    `least` times the diagonal entry, n if there is none.
    """
    n = diagonal.shape[0]
    below = np.zeros(n, values.dtype)  # sums of the columns of L: of what row k still meets
    for q in range(col.shape[0]):
        below[col[q]] += values[q]
    E = diagonal * diagonal.dtype.type(1 + shift)
    for i in range(n):
        for q in range(crow[i], crow[i + 1]):
            k, a = col[q], values[q]
            met = a + relaxation * (below[k] - a)
            E[i] -= (a / E[k] * np.conj(met)).real
        if not E[i] > least * diagonal[i]:
            return E, i
    return E, n


@compiled
def scaled(crow, col, values, pivots):
    """Return the entries of a triangle with rows and columns divided by the roots of pivots."""
    root, out = np.sqrt(pivots), np.empty_like(values)
    for i in range(pivots.shape[0]):
        for q in range(crow[i], crow[i + 1]):
            out[q] = values[q] / (root[i] * root[col[q]])
    return out


# --------------------------------------------------------------------------- once a solution
#
# Sweeps carry the end of a row along as the start of the next, count without a sign, and take two
# entries at a time: a loop over three is too short for anything besides.  The lines that do so are
# repeated: as a function, inlined or not, they take four times as long.


@compiled
def enter(triangle, root, order, R, out):
    """Solve (I + L) X = R / root for one column, with its rows put in order, into `out`."""
    crow, col, values = triangle
    q = np.uint64(0)
    for i in range(R.shape[0]):
        total, last = R[order[i]] / root[i], np.uint64(crow[i + 1])
        while q + ONE < last:
            total -= values[q] * out[col[q]] + values[q + ONE] * out[col[q + ONE]]
            q += _TWO
        if q < last:
            total -= values[q] * out[col[q]]
        out[i], q = total, last


@compiled
def leave(root, order, Z, out):
    """Put the rows of a correction back in their places, scaled by 1 / root."""
    for i in range(Z.shape[0]):
        out[order[i]] = Z[i] / root[i]


@compiled
def square(R):
    """Return Rᴴ R."""
    total = 0.0
    for i in range(R.shape[0]):
        total += (np.conj(R[i]) * R[i]).real
    return total


def vectors(n, dtype):
    """Return the vectors that `iterate` works on, all zero.

    Read side by side, they would push each other out of the first cache if they were apart by a
    multiple of what one of its ways holds.
    """
    stride = -(-n * dtype.itemsize // _WAY) * _WAY + _APART
    return tuple(np.zeros((5, stride // dtype.itemsize), dtype)[:, :n])


# What follows is for the rows from `start` to `stop`.


@compiled
def _direction(crow, col, values, beta, R, P, T, start, stop):
    """Take the next direction p, and make ``t = (I + L)⁻ᴴ p``; rows behind have theirs."""
    i, last = stop, np.uint64(crow[stop])
    for _ in range(start, stop):
        i -= ONE
        p = R[i] + beta * P[i]
        known, first = p + T[i], np.uint64(crow[i])
        P[i], T[i] = p, known
        q = first
        while q + ONE < last:
            T[col[q]] -= np.conj(values[q]) * known
            T[col[q + ONE]] -= np.conj(values[q + ONE]) * known
            q += _TWO
        if q < last:
            T[col[q]] -= np.conj(values[q]) * known
        last = first


@compiled
def _curvature(crow, col, values, excess, P, T, W, start, stop):
    """Make ``w = K p - t``; return pᴴ K p; rows before have theirs."""
    total, q = 0.0, np.uint64(crow[start])
    for i in range(start, stop):
        w, last = P[i] + excess[i] * T[i], np.uint64(crow[i + ONE])
        while q + ONE < last:
            w -= values[q] * W[col[q]] + values[q + ONE] * W[col[q + ONE]]
            q += _TWO
        if q < last:
            w -= values[q] * W[col[q]]
        W[i], q = w, last
        total += (np.conj(P[i]) * (w + T[i])).real
    return total


@compiled
def _advance(alpha, T, W, Z, R, start, stop):
    """Move along t, of which nothing is left; return rᴴ r."""
    total = 0.0
    for i in range(start, stop):
        t = T[i]
        r = R[i] - alpha * (t + W[i])
        Z[i] += alpha * t
        R[i], T[i] = r, 0
        total += (np.conj(r) * r).real
    return total


@compiled
def _unswept(crow, col, values, root, R, start, stop):
    """Return the square of what `enter` made R of, before rows were scaled by 1 / root."""
    total, q = 0.0, np.uint64(crow[start])
    for i in range(start, stop):
        r, last = R[i], np.uint64(crow[i + ONE])
        while q + ONE < last:
            r += values[q] * R[col[q]] + values[q + ONE] * R[col[q + ONE]]
            q += _TWO
        if q < last:
            r += values[q] * R[col[q]]
        r, q = r * root[i], last
        total += (np.conj(r) * r).real
    return total


# ------------------------------------------------------------------------------- two threads
#
# A job is one of these for all rows, and a number; halves have rows of their own to write to, and
# in a sweep, to read from.

# No literals, or Numba would compile what they are handed to once for each.
_SWEEP, _MOVE, _MEASURE = np.int64(0), np.int64(1), np.int64(2)
# What the threads share of a job, beside the words of `synchronization`: apart by a cache line.
_KIND, _FACTOR, _SUM = 0, 1, 8
# Looks for the other half that take longer than to do it: who is later has lost its processor.
_LOOKS_PER_ROW = 32


def shared_state():
    """Return room for what two threads share of their jobs."""
    return synchronization.words(), np.zeros(16)


@compiled
def _do(kind, factor, matrix, vectors, start, stop):
    """Do some rows of a job; return their share of its sum."""
    crow, col, values, excess, root = matrix
    Z, R, P, T, W = vectors
    if kind == _MEASURE:
        return _unswept(crow, col, values, root, R, start, stop)
    by = root.dtype.type(factor)
    if kind == _MOVE:
        return _advance(by, T, W, Z, R, start, stop)
    _direction(crow, col, values, by, R, P, T, start, stop)
    return _curvature(crow, col, values, excess, P, T, W, start, stop)


@compiled
def _second(kind, cuts):
    """Return where the second half of a job begins and ends: a sweep has rows that come last."""
    return cuts[0], cuts[1] if kind == _SWEEP else cuts[2]


@compiled
def _job(kind, factor, shared, matrix, vectors, cuts):
    """Do both halves of a job, unless a helper does one; return its sum."""
    words, numbers = shared
    start, stop = _second(kind, cuts)
    numbers[_KIND], numbers[_FACTOR] = kind, factor
    job = synchronization.offer(words)
    total = _do(kind, factor, matrix, vectors, np.uint64(0), start)
    if synchronization.claim(words, job):
        return total + _do(kind, factor, matrix, vectors, start, stop)
    synchronization.wait(words, job, _LOOKS_PER_ROW * np.int64(stop - start))
    return total + numbers[_SUM]


@compiled
def help_out(shared, matrix, vectors, cuts):
    """Do second halves of jobs of `iterate`, called with the same, until the words are closed."""
    words, numbers = shared
    job = synchronization.following(words, 0)
    while job > 0:
        if synchronization.claim(words, job):
            kind = int(numbers[_KIND])
            start, stop = _second(kind, cuts)
            numbers[_SUM] = _do(kind, numbers[_FACTOR], matrix, vectors, start, stop)
            synchronization.finish(words, job)
        job = synchronization.following(words, job)


# --------------------------------------------------------------------------------- iterations


@compiled
def iterate(shared, matrix, vectors, cuts, numbers, goal, most):
    """Make iterations until the norm of the residual is at most `goal`, `most` of them.

    `matrix` is L (crow, col, values), D - 2 I, and the roots of the pivots; `cuts` are where its
    second and its last part begin, and its end.  `vectors` are z, r, p, t and w: a correction,
    still to be scaled by 1 / root; the residual, as `enter` makes it; the direction; room, zero
    at first.  `numbers` are rᴴ r, that divided by the one before, the norm of the residual before
    `enter`, and the iterations before, all of them up to date after each call: so it makes no
    difference how many are made in one.  Returns the number of iterations, and the last curvature:
    where that is not positive, there is no way on.
    """
    gamma, beta, norm, before = numbers
    ratio, curvature, made = norm / np.sqrt(gamma), 1.0, 0
    while made < most and not norm <= goal:
        made += 1
        curvature = _sweep(beta, shared, matrix, vectors, cuts)
        if not 0 < curvature < np.inf:
            break
        after = _job(_MOVE, gamma / curvature, shared, matrix, vectors, cuts)
        gamma, beta = after, after / gamma
        norm = ratio * np.sqrt(gamma)
        if (norm <= _NEAR * goal or (before + made) % _EVERY == 1) and gamma > 0:
            norm = np.sqrt(_job(_MEASURE, 0.0, shared, matrix, vectors, cuts))
            ratio = norm / np.sqrt(gamma)
        numbers[0], numbers[1], numbers[2], numbers[3] = gamma, beta, norm, before + made
    return made, curvature


@compiled
def _sweep(beta, shared, matrix, vectors, cuts):
    """Take the next direction, and sweep: of the rows, those that come last are first to go up."""
    crow, col, values, excess, root = matrix
    _, R, P, T, W = vectors
    _direction(crow, col, values, root.dtype.type(beta), R, P, T, cuts[1], cuts[2])
    total = _job(_SWEEP, beta, shared, matrix, vectors, cuts)
    return total + _curvature(crow, col, values, excess, P, T, W, cuts[1], cuts[2])
