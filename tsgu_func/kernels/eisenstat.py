"""Compiled conjugate gradients, preconditioned from both sides by triangles of the matrix.

A Hermitian matrix with rows and columns scaled so that the pivots are one is ``L + D + Lᴴ``, and
its preconditioner ``M = (I + L) (I + L)ᴴ`` has the same L.  So the product with
``K = (I + L)⁻¹ A (I + L)⁻ᴴ`` needs none with A, but the two sweeps alone:

    K p = t + (I + L)⁻¹ (p + (D - 2 I) t),   t = (I + L)⁻ᴴ p

(Eisenstat, *Efficient Implementation of a Class of Preconditioned Conjugate Gradient Methods*, SIAM
J. Sci. Stat. Comput. 2, 1981).

Rows are taken in the order of *levels*: each waits only for rows of levels before its own, so that
the processor has several of them in work at once.  A triangle is factored and solved with in this
order as in any other that keeps each row behind those that it waits for: with the same result.
"""

import numba
import numpy as np

_compile = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"}
)

# An unsigned number plus a signed one would be a float.
_ONE = np.uint64(1)

# How far above the goal, and how often in any case, the residual is computed and not estimated.
_NEAR, _EVERY = 4.0, 16


# ----------------------------------------------------------------------------- once a pattern


@_compile
def level_order(crow, col):
    """Return the rows by levels, and how many levels there are.

    The level of a row is one more than the highest of the rows before it in `col`.
    """
    n = crow.shape[0] - 1
    level, count = np.zeros(n, np.int64), np.zeros(n + 2, np.int64)
    for i in range(n):
        for k in range(crow[i], crow[i + 1]):
            j = col[k]
            if j < i:
                level[i] = max(level[i], level[j] + 1)
        count[level[i] + 1] += 1
    levels = 0
    for m in range(n):
        levels += count[m + 1] > 0
        count[m + 1] += count[m]
    order = np.empty(n, np.int64)
    for i in range(n):
        order[count[level[i]]] = i
        count[level[i]] += 1
    return order, levels


@_compile
def ordered_triangle(crow, col, order):
    """Return the strict lower triangle with rows and columns in an order: crow, col, places."""
    n = order.shape[0]
    place = np.empty(n, col.dtype)
    for r in range(n):
        place[order[r]] = r
    size = 0
    for i in range(n):
        for k in range(crow[i], crow[i + 1]):
            size += col[k] < i
    start, column = np.zeros(n + 1, crow.dtype), np.empty(size, col.dtype)
    entry, q = np.empty(size, np.int64), 0
    for r in range(n):
        i = order[r]
        for k in range(crow[i], crow[i + 1]):
            if col[k] < i:
                column[q], entry[q] = place[col[k]], k
                q += 1
        start[r + 1] = q
    return start, column, entry


# ------------------------------------------------------------------------------ once a matrix


@_compile
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


@_compile
def scaled(crow, col, values, pivots):
    """Return the entries of a triangle with rows and columns divided by the roots of pivots."""
    root, out = np.sqrt(pivots), np.empty_like(values)
    for i in range(pivots.shape[0]):
        for q in range(crow[i], crow[i + 1]):
            out[q] = values[q] / (root[i] * root[col[q]])
    return out


# --------------------------------------------------------------------------- once a solution
#
# Sweeps carry the end of a row along as the start of the next, and count without a sign: a loop
# over three entries is too short for anything besides.


@_compile
def forward(crow, col, values, R):
    """Solve (I + L) X = R for one column, in place."""
    first = np.uint64(0)
    for i in range(R.shape[0]):
        total, last = R[i], np.uint64(crow[i + 1])
        for q in range(first, last):
            total -= values[q] * R[col[q]]
        R[i], first = total, last


@_compile
def _backward(crow, col, values, R):
    """Solve (I + L)ᴴ X = R for one column, in place."""
    i, last = np.uint64(R.shape[0]), np.uint64(col.shape[0])
    for _ in range(R.shape[0]):
        i -= _ONE
        known, first = R[i], np.uint64(crow[i])
        for q in range(first, last):
            R[col[q]] -= np.conj(values[q]) * known
        last = first


@_compile
def square(R):
    """Return Rᴴ R."""
    total = 0.0
    for i in range(R.shape[0]):
        total += (np.conj(R[i]) * R[i]).real
    return total


@_compile
def _residual_norm(crow, col, values, root, R):
    """Return the norm of what `forward` made R of, before rows were scaled by 1 / root."""
    total, first = 0.0, np.uint64(0)
    for i in range(R.shape[0]):
        r, last = R[i], np.uint64(crow[i + 1])
        for q in range(first, last):
            r += values[q] * R[col[q]]
        r, first = r * root[i], last
        total += (np.conj(r) * r).real
    return np.sqrt(total)


@_compile
def _turn(beta, R, P, T):
    """Take the next direction, into p and t."""
    for i in range(R.shape[0]):
        p = R[i] + beta * P[i]
        P[i], T[i] = p, p


@_compile
def _curvature(crow, col, values, excess, P, T, W):
    """With t = (I + L)⁻ᴴ p at hand, make ``w = K p - t``; return pᴴ K p."""
    total, first = 0.0, np.uint64(0)
    for i in range(P.shape[0]):
        w, last = P[i] + excess[i] * T[i], np.uint64(crow[i + 1])
        for q in range(first, last):
            w -= values[q] * W[col[q]]
        W[i], first = w, last
        total += (np.conj(P[i]) * (w + T[i])).real
    return total


@_compile
def _advance(alpha, T, W, Z, R):
    """Move along t; return rᴴ r."""
    total = 0.0
    for i in range(R.shape[0]):
        Z[i] += alpha * T[i]
        r = R[i] - alpha * (T[i] + W[i])
        R[i] = r
        total += (np.conj(r) * r).real
    return total


@_compile
def iterate(crow, col, values, excess, root, vectors, numbers, goal, most):
    """Make iterations until the norm of the residual is at most `goal`, `most` of them.

    `vectors` are z, r, p, t and w: a correction, still to be scaled by 1 / root; the residual, as
    `forward` makes it; the direction; room.  `numbers` are rᴴ r, that divided by the one before,
    and the norm of the residual before `forward`, all of them up to date after each call.  Returns
    the number of iterations, and the last curvature: where that is not positive, there is no way
    on.
    """
    Z, R, P, T, W = vectors
    real = root.dtype.type
    gamma, beta, norm = numbers
    ratio, curvature = norm / np.sqrt(gamma), 1.0
    for step in range(most):
        _turn(real(beta), R, P, T)
        _backward(crow, col, values, T)
        curvature = _curvature(crow, col, values, excess, P, T, W)
        if not 0 < curvature < np.inf:
            return step + 1, curvature
        after = _advance(real(gamma / curvature), T, W, Z, R)
        gamma, beta = after, after / gamma
        norm = ratio * np.sqrt(gamma)
        if (norm <= _NEAR * goal or step % _EVERY == 0) and gamma > 0:
            norm = _residual_norm(crow, col, values, root, R)
            ratio = norm / np.sqrt(gamma)
        numbers[0], numbers[1], numbers[2] = gamma, beta, norm
        if norm <= goal:
            return step + 1, curvature
    return most, curvature
