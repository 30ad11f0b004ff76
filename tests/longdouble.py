"""Linear algebra with 64 bits of mantissa, by elimination: an oracle that shares no code."""

import numpy as np
import torch

__all__ = [
    "ACCURATE",
    "backward_error",
    "inverse",
    "least_squares",
    "refined",
    "residual",
    "sizes",
    "widest",
]

EPS = float(np.finfo(np.longdouble).eps)
# Elsewhere than on x86 the widest type may be the one that is to be judged.
ACCURATE = EPS < 1e-18
# A condition number, independent of units, up to which the oracle has ten digits.
_MOST = 1e-10 / EPS


def widest(x):
    """Return a tensor as an array of the widest type."""
    x = x.detach().resolve_conj().resolve_neg()
    if x.is_complex():
        return x.to(torch.complex128).numpy().astype(np.clongdouble)
    return x.to(torch.float64).numpy().astype(np.longdouble)


def residual(D, X, B):
    """Return B - D X."""
    return widest(B) - widest(D) @ widest(X)


def backward_error(D, X, B):
    """Return max |r_i| / s_i for each column, for what `sizes` returns."""
    return (np.abs(residual(D, X, B)) / sizes(D, X, B)).max(0, initial=0)


def sizes(D, X, B):
    """Return (|A||x| + |b|)_i, by which Oettli and Prager measure a residual.

    Where that is as little as rounding makes of other numbers, and zeros would have to be exact,
    |A||x| is the row sum times the largest of x: Arioli, Demmel and Duff, 1989.
    """
    A, x, b = (np.abs(widest(y)) for y in (D, X, B))
    size, large = A @ x + b, A.sum(1, keepdims=True) * x.max(0, initial=0)
    rounding = 1e3 * len(A) * torch.finfo(D.dtype).eps
    size = np.where(size <= rounding * (large + b), size + large, size)
    # Where numbers have no more digits to lose, rounding is absolute.
    return size + _granularity(D)


def _granularity(D):
    """Return the residual of each row that comes of numbers below the normal range, (n, 1)."""
    finfo = torch.finfo(D.dtype)
    A = widest(D)
    return (np.abs(A).sum(1, keepdims=True) + 1) * np.longdouble(finfo.tiny) / finfo.eps


def inverse(D):
    """Return the inverse, or None if it does not have ten digits."""
    A = widest(D)
    if not len(A):
        return A
    rows = _units(np.abs(A).max(1))
    cols = _units(np.abs(A / rows[:, None]).max(0))
    scaled = A / rows[:, None] / cols
    X = _eliminated(scaled)
    if X is None or (np.abs(X) @ np.abs(scaled)).sum(1).max() > _MOST:
        return None
    return X / cols[:, None] / rows


def refined(inverse, D, B):
    """Return the solution of D X = B: what an inverse makes of it, refined."""
    A, B = widest(D), widest(B)
    X = inverse @ B
    for _ in range(2):
        X = X + inverse @ (B - A @ X)
    return X


def _units(sizes):
    """Return a power of two next to each number; 1 for 0."""
    return np.exp2(np.round(np.log2(np.where(sizes == 0, 1, sizes))))


def _eliminated(A):
    """Invert by elimination with partial pivoting; None where no pivot is left."""
    n = len(A)
    M = np.concatenate([A, np.eye(n, dtype=A.dtype)], 1)
    for k in range(n):
        pivot = k + int(np.abs(M[k:, k]).argmax())
        if M[pivot, k] == 0:
            return None
        M[[k, pivot]] = M[[pivot, k]]
        M[k] /= M[k, k]
        others = np.arange(n) != k
        M[others] -= np.outer(M[others, k], M[k])
    return M[:, n:]


def least_squares(D, B):
    """Minimize by the normal equations; None if they do not leave ten digits."""
    A = widest(D)
    gram = A.conj().T @ A
    X = _eliminated(gram) if len(gram) else gram
    if X is None or (len(X) and (np.abs(X) @ np.abs(gram)).sum(1).max() > _MOST):
        return None
    solution = X @ (A.conj().T @ widest(B))
    return solution + X @ (A.conj().T @ (widest(B) - A @ solution))
