"""Compiled recurrences of LSMR and LSQR: numbers, one record for each column, without vectors.

Fong and Saunders, *LSMR: An Iterative Algorithm for Sparse Least-Squares Problems*, SIAM J. Sci.
Comput. 33(5), 2011; Paige and Saunders, *LSQR: An Algorithm for Sparse Linear Equations and Sparse
Least Squares*, ACM TOMS 8(1), 1982.  Names follow the papers.

A step makes what `bidiagonal.advance` does: ``Hbar = H - first Hbar``, ``change += second Hbar``,
``H = V - third H``.
"""

import math

import numpy as np

from tsgu_func.kernels.compiled.compiling import compiled_as_written

__all__ = ["NUMBERS", "begin_lsmr", "begin_lsqr", "step_lsmr", "step_lsqr", "stop"]

_COMMON = "alpha beta norm_A norm_b norm_r gradient condition size size_H first second third"
_OF_BOTH = "rho rhobar"
_OF_LSMR = (
    "alphabar zetabar cbar sbar zeta passing smallest largest "
    "betadd betad rhodold tautilde thetatilde"
)
_NAMES = f"{_COMMON} {_OF_BOTH} {_OF_LSMR} size_D".split()

# Of a column: what is known of it, `active` while it is iterated with, `claimed` where the
# recurrence takes it for converged, and how many steps it made.
NUMBERS = np.dtype(
    [
        *((name, np.float64) for name in _NAMES),
        ("count", np.int64),
        ("active", np.bool_),
        ("claimed", np.bool_),
    ],
    align=True,
)


@compiled_as_written
def over(a, b):
    """Divide; zero where the divisor vanishes, in columns that have ended."""
    return a / b if b != 0 else 0.0


@compiled_as_written
def rotation(a, b):
    """Return c, s, r with c a + s b = r and c b = s a."""
    r = math.hypot(a, b)
    return over(a, r), over(b, r), r


@compiled_as_written
def stop(numbers, atol, btol, least, half):
    """Apply the papers' stopping rules; return whether a column is active still.

    A test up to `half` of what the precision resolves says that no digit is left to gain.
    """
    going = False
    for i in range(len(numbers)):
        x = numbers[i]
        size = x.norm_A * x.size
        consistent = over(x.norm_r, x.norm_b + size)
        test = over(x.gradient, x.norm_A * x.norm_r) if x.norm_r > 0 else 0.0
        done = x.norm_r <= btol * x.norm_b + atol * size or test <= max(atol, half)
        done = done or consistent <= half
        reciprocal = 1 / x.condition
        lost = reciprocal <= max(least, half)
        x.claimed = x.claimed or (x.active and done)
        x.active = x.active and not (done or lost)
        going = going or x.active
    return going


@compiled_as_written
def _bidiagonal(x):
    """Take a step of the bidiagonalization into account."""
    x.count += x.active
    # Not above the Frobenius norm of A, whatever the number of columns of V.
    x.norm_A = math.hypot(x.norm_A, math.hypot(x.alpha, x.beta))


# -------------------------------------------------------------------------------------- LSMR


@compiled_as_written
def begin_lsmr(numbers):
    """Start the recurrence."""
    for i in range(len(numbers)):
        x = numbers[i]
        x.norm_r, x.condition = x.beta, 1.0
        x.alphabar, x.zetabar = x.alpha, x.alpha * x.beta
        x.gradient = abs(x.zetabar)
        x.rho, x.rhobar, x.cbar, x.sbar = 1.0, 1.0, 1.0, 0.0
        x.smallest, x.largest = np.inf, 0.0  # of the rhobar
        x.betadd, x.betad, x.rhodold = x.beta, 0.0, 1.0
        x.tautilde, x.thetatilde, x.zeta = 0.0, 0.0, 0.0


@compiled_as_written
def step_lsmr(numbers):
    """Make both rotations."""
    for i in range(len(numbers)):
        x = numbers[i]
        _bidiagonal(x)
        rho_old, rhobar_old, zeta_old = x.rho, x.rhobar, x.zeta
        c, s, x.rho = rotation(x.alphabar, x.beta)
        theta, x.alphabar = s * x.alpha, c * x.alpha
        thetabar, x.passing = x.sbar * x.rho, x.cbar * x.rho
        x.cbar, x.sbar, x.rhobar = rotation(x.passing, theta)
        x.zeta, x.zetabar = x.cbar * x.zetabar, -x.sbar * x.zetabar
        x.first = over(thetabar * x.rho, rho_old * rhobar_old)
        x.second = over(x.zeta, x.rho * x.rhobar) if x.active else 0.0
        x.third = over(theta, x.rho)
        x.gradient = abs(x.zetabar)
        _estimate_residual(x, c, s, thetabar, zeta_old)
        _estimate_condition(x)


@compiled_as_written
def _estimate_residual(x, c, s, thetabar, zeta_old):
    betahat, x.betadd = c * x.betadd, -s * x.betadd
    theta_old = x.thetatilde
    ctilde, stilde, rhotilde = rotation(x.rhodold, thetabar)
    x.thetatilde, x.rhodold = stilde * x.rhobar, ctilde * x.rhobar
    x.betad = ctilde * betahat - stilde * x.betad
    x.tautilde = over(zeta_old - theta_old * x.tautilde, rhotilde)
    tau = over(x.zeta - x.thetatilde * x.tautilde, x.rhodold)
    x.norm_r = math.hypot(x.betad - tau, x.betadd)


@compiled_as_written
def _estimate_condition(x):
    largest, smallest = max(x.largest, abs(x.passing)), min(x.smallest, abs(x.passing))
    if x.active:
        x.condition = over(largest, smallest) if smallest > 0 else np.inf
    x.largest, x.smallest = max(x.largest, x.rhobar), min(x.smallest, x.rhobar)


# -------------------------------------------------------------------------------------- LSQR


@compiled_as_written
def begin_lsqr(numbers):
    """Start the recurrence."""
    for i in range(len(numbers)):
        x = numbers[i]
        x.rhobar, x.norm_r, x.gradient = x.alpha, x.beta, x.alpha * x.beta
        x.condition, x.size_D = 1.0, 0.0


@compiled_as_written
def step_lsqr(numbers):
    """Make a rotation, and a step along W, which is H."""
    for i in range(len(numbers)):
        x = numbers[i]
        _bidiagonal(x)
        c, s, x.rho = rotation(x.rhobar, x.beta)
        theta, x.rhobar = s * x.alpha, -c * x.alpha
        phi, x.norm_r = c * x.norm_r, abs(s * x.norm_r)
        x.first, x.third = 0.0, over(theta, x.rho)
        x.second = over(phi, x.rho) if x.active else 0.0
        x.gradient = x.norm_r * x.alpha * abs(c)
        # Frobenius norm of W diag(1 / rho)
        x.size_D = math.hypot(x.size_D, over(x.size_H, x.rho))
        if x.active:
            x.condition = max(x.norm_A * x.size_D, 1.0)
