"""Systems of equations, and what they are compared with: formulas, and dense Newton steps."""

import math

import torch
from torch.func import jacrev, jvp, vmap
from torch.nn.functional import pad

DOUBLE = {"dtype": torch.float64}


def bratu(u, strength):
    """-u'' = strength exp(u), with u = 0 at both ends of the unit interval."""
    wide = pad(u, (1, 1))
    second = (wide[2:] - 2 * u + wide[:-2]) * (len(u) + 1) ** 2
    return -second - strength * u.exp()


def bratu_peak(strength):
    """Return the largest value of the solution between the grid points, and its derivative."""
    t = 1.0
    for _ in range(200):
        t = math.sqrt(2 * strength) * math.cosh(t / 4)
    slope = math.cosh(t / 4) / math.sqrt(2 * strength)
    slope /= 1 - math.sqrt(2 * strength) * math.sinh(t / 4) / 4
    return 2 * math.log(math.cosh(t / 4)), math.tanh(t / 4) / 2 * slope


def bratu_2d(u, strength):
    """Solve on a square grid (n, n)."""
    wide = pad(u, (1, 1, 1, 1))
    around = wide[2:, 1:-1] + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2]
    return (4 * u - around) * (len(u) + 1) ** 2 - strength * u.exp()


def p_laplacian(u, given):
    """-div((1/10 + |grad u|²)^((p - 2) / 2) grad u) = f, by differences to the next point."""
    h = 1 / (len(u) + 1)
    wide = pad(u, (1, 1, 1, 1))
    right, down = (wide[:, 1:] - wide[:, :-1]) / h, (wide[1:] - wide[:-1]) / h
    squares = right[:-1] ** 2 + down[:, :-1] ** 2  # at each point but the last ones
    weight = (0.1 + squares) ** ((given["p"] - 2) / 2)
    along, across = weight * right[:-1], weight * down[:, :-1]
    divergence = (along[1:, 1:] - along[1:, :-1]) + (across[1:, 1:] - across[:-1, 1:])
    return -divergence / h - given["f"]


def convection(u, given):
    """-diffusion u'' + speed u u' + u³ = f, with u' taken upwind: the Jacobian is not symmetric."""
    wide = pad(u, (1, 1))
    second = wide[2:] - 2 * u + wide[:-2]
    upwind = u - wide[:-2]
    return -given["diffusion"] * second + given["speed"] * (1 + u) * upwind + u**3 - given["f"]


def convected(n=6):
    """Return parameters of `convection`."""
    f = torch.linspace(0.5, 1.5, n, **DOUBLE)
    return {"diffusion": torch.tensor(0.7, **DOUBLE), "speed": torch.tensor(1.9, **DOUBLE), "f": f}


def cycle(x, p):
    """Return what a cycle of equations leaves, of real or complex numbers."""
    return (4 + p * p) * x + x.roll(1) * (1 + x) + x * x * x / 4 - p


def dense_root(F, x0, given, steps=9):
    """Solve by undamped Newton steps with a dense Jacobian; all of them are differentiated.

    Each step beyond convergence makes derivatives of twice the order right.
    """

    def flat(x):
        return F(x, given).reshape(-1)

    x, unit = x0, torch.eye(x0.numel(), dtype=x0.dtype)
    for _ in range(steps):
        if x0.is_complex():
            units = unit.reshape(-1, *x0.shape)
            J = vmap(lambda v, x=x: jvp(flat, (x,), (v,))[1], out_dims=1)(units)
        else:
            J = jacrev(flat)(x).reshape(unit.shape)
        # Not by torch.linalg.solve, of which some second derivatives are wrong (2.13).
        x = x - (torch.linalg.inv(J) @ flat(x)).reshape(x0.shape)
    return x
