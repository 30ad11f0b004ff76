"""Compiled incomplete factorizations on the pattern of a matrix, and the solves with them, for CPU.

All factors have unit triangles and a diagonal between them: a sweep then waits for no division.  A
triangle is given as rows: where the entries of each start and stop, and their columns, increasing.
"""

import numpy as np

from tsgu_func.kernels.compiled.compiling import ONE, compiled
from tsgu_func.kernels.compiled.substitution import sweep_columns, sweep_rows

# ---------------------------------------------------------------------------- factorizations


@compiled
def ic0(crow, col, values, diagonal, inverse, shift, relaxation, least):
    """Factor a Hermitian matrix as (I + V)ᴴ D (I + V) on the pattern of its upper triangle.

    In place: the strict upper triangle in `values` becomes V, `inverse` D⁻¹.  Step k takes
    conj(u_ki) u_kj / d_k off each entry (i, j); what falls outside of the pattern is dropped, and
    `relaxation` times its real part taken off the diagonals of both its rows; `shift` times the
    diagonal is added to it.  Returns the first row with a pivot of at most `least` times the
    diagonal entry, n if there is none.
    """
    n = diagonal.shape[0]
    pivots = diagonal * diagonal.dtype.type(1 + shift)
    for k in range(n):
        if not pivots[k] > least * diagonal[k]:
            return k
        inverse[k] = 1 / pivots[k]
        first, last = np.uint64(crow[k]), np.uint64(crow[k + 1])
        for q in range(first, last):
            i = col[q]
            factor = np.conj(values[q]) * inverse[k]
            pivots[i] -= (factor * values[q]).real
            # Both rows increase: one pass finds where the entries of row k are in row i.
            place, end = np.uint64(crow[i]), np.uint64(crow[i + ONE])
            for r in range(q + ONE, last):
                j = col[r]
                while place < end and col[place] < j:
                    place += ONE
                change = factor * values[r]
                if place < end and col[place] == j:
                    values[place] -= change
                else:
                    dropped = relaxation * change.real
                    pivots[i] -= dropped
                    pivots[j] -= dropped
        for q in range(first, last):
            values[q] *= inverse[k]
    return n


@compiled
def ilu0(lower, upper, col, values, diagonal, inverse, relaxation, least):
    """Factor a matrix as (I + L) D (I + V) on its pattern.

    In place: `values` become L and V, `inverse` D⁻¹.  `lower` and `upper` are where the entries of
    each row before and after the diagonal start and stop.  Row i is eliminated by the rows k
    before it (Saad, *Iterative Methods for Sparse Linear Systems*, algorithm 10.4); `relaxation`
    times what falls outside of the pattern goes to its diagonal.  Returns the first row whose
    pivot is at most `least` times the sum of the magnitudes it came from, n if there is none.
    """
    n = diagonal.shape[0]
    place, owner = np.empty(n, np.uint64), np.full(n, -1)
    for i in range(n):
        for q in range(lower[0][i], lower[1][i]):
            place[col[q]], owner[col[q]] = q, i
        for q in range(upper[0][i], upper[1][i]):
            place[col[q]], owner[col[q]] = q, i
        owner[i] = -1  # the diagonal is kept apart
        pivot, size, dropped = diagonal[i], abs(diagonal[i]), values.dtype.type(0)
        for q in range(lower[0][i], lower[1][i]):
            k = col[q]
            factor = values[q]  # l_ik d_k, which meets u_kj / d_k
            for r in range(upper[0][k], upper[1][k]):
                j, change = col[r], factor * values[r]
                if owner[j] == i:
                    values[place[j]] -= change
                elif j == i:
                    pivot -= change
                    size += abs(change)
                else:
                    dropped += change
            values[q] = factor * inverse[k]
        pivot -= relaxation * dropped
        size += relaxation * abs(dropped)
        if not abs(pivot) > least * size:
            return i
        inverse[i] = 1 / pivot
        for q in range(upper[0][i], upper[1][i]):
            values[q] *= inverse[i]
    return n


@compiled
def is_laplacian(crow, col, values, diagonal, slack):
    """Say whether a strict triangle has no positive entry and, mirrored, no negative row sum.

    Row sums may be negative by `slack` times the sum of the magnitudes in the row.
    """
    total = diagonal.copy()
    for i in range(diagonal.shape[0]):
        for q in range(crow[i], crow[i + 1]):
            if values[q] > 0:
                return False
            total[i] += values[q]
            total[col[q]] += values[q]
    sound = True
    for i in range(diagonal.shape[0]):
        # Beside the diagonal magnitudes sum up to diagonal - total.
        sound &= total[i] >= -slack * (2 * diagonal[i] - total[i])
    return sound


# -------------------------------------------------------------------------------------- sweeps


@compiled
def _by_rows(start, stop, col, values, X, descending):
    """Solve (I + T) X = B, B given in X (n, p)."""
    sweep_rows(start, stop, col, values, None, X, descending, 0, X.shape[1])


@compiled
def _by_columns(start, stop, col, values, X, descending):
    """Solve (I + T)ᵀ X = B, B given in X (n, p)."""
    sweep_columns(start, stop, col, values, None, X, descending, 0, X.shape[1])


@compiled
def _scale(inverse, X):
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            X[i, j] *= inverse[i]


@compiled
def _scale_conjugated(inverse, X):
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            X[i, j] = np.conj(X[i, j]) * inverse[i]


@compiled
def solve_ldu(lower, upper, col, values, inverse, X):
    """Solve (I + L) D (I + V) X = B, B given in X (n, p)."""
    _by_rows(lower[0], lower[1], col, values, X, False)
    _scale(inverse, X)
    _by_rows(upper[0], upper[1], col, values, X, True)


@compiled
def solve_ldu_transposed(lower, upper, col, values, inverse, X):
    """Solve (I + V)ᵀ D (I + L)ᵀ X = B, B given in X (n, p)."""
    _by_columns(upper[0], upper[1], col, values, X, False)
    _scale(inverse, X)
    _by_columns(lower[0], lower[1], col, values, X, True)


@compiled
def solve_ldlh(crow, col, values, inverse, X):
    """Solve (I + V)ᴴ D (I + V) X = conj(B), B given in X (n, p).

    With Yᴴ for the conjugate transpose, (I + V)ᴴ Y = conj(B) is (I + V)ᵀ conj(Y) = B: no entry of
    V needs to be conjugated.
    """
    _by_columns(crow[:-1], crow[1:], col, values, X, False)
    _scale_conjugated(inverse, X)
    _by_rows(crow[:-1], crow[1:], col, values, X, True)


@compiled
def solve_llh(crow, col, values, X):
    """Solve (I + L) (I + L)ᴴ conj(X) = B, B given in X (n, p); conjugation as in `solve_ldlh`."""
    _by_rows(crow[:-1], crow[1:], col, values, X, False)
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            X[i, j] = np.conj(X[i, j])
    _by_columns(crow[:-1], crow[1:], col, values, X, True)
