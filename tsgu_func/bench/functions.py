"""Functions with sparse derivatives, written once for PyTorch and for JAX.

Each takes a module of arrays, ``torch`` or ``jax.numpy``, and a vector: only what both call alike
is in it, so that all differentiate the same program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["FUNCTIONS", "Function", "point"]


class Function(NamedTuple):
    """A function of a vector.

    Attributes
    ----------
    title : str
        What it is.
    of_vector : callable
        ``of_vector(arrays, x)``, a vector of as many elements; of a Hessian, a number.
    size : callable
        ``size(n)``, how many elements x has, about n.
    derivative : {"jacobian", "hessian"}
        What is sparse.
    """

    title: str
    of_vector: Callable[[Any, Any], Any]
    size: Callable[[int], int]
    derivative: str = "jacobian"


def point(n: int) -> np.ndarray:
    """Return where a function is differentiated: positive numbers, the same at each call."""
    return 1.5 + np.sin(1.7 * np.arange(n))


def _brusselator_1d(xp: Any, x: Any) -> Any:
    u, v = x.reshape(2, -1)
    points = u.shape[0] + 1
    one = xp.ones_like(u[:1])

    def spread(w: Any, at_ends: Any) -> Any:
        beside = xp.concatenate([at_ends, w, at_ends])
        return points**2 / 50 * (beside[2:] - 2.0 * w + beside[:-2])

    reaction = u * u * v
    du = 1.0 + reaction - 4.0 * u + spread(u, one)
    dv = 3.0 * u - reaction + spread(v, 3.0 * one)
    return xp.concatenate([du, dv])


def _brusselator_2d(xp: Any, x: Any) -> Any:
    k = round((x.shape[0] / 2) ** 0.5)
    u, v = x.reshape(2, k, k)

    def spread(w: Any) -> Any:
        beside = xp.roll(w, 1, 0) + xp.roll(w, -1, 0) + xp.roll(w, 1, 1) + xp.roll(w, -1, 1)
        return k**2 / 50 * (beside - 4.0 * w)

    reaction = u * u * v
    du = 1.0 + reaction - 4.4 * u + spread(u)
    dv = 3.4 * u - reaction + spread(v)
    return xp.stack([du, dv]).reshape(-1)


def _heat(xp: Any, x: Any) -> Any:
    k = round(x.shape[0] ** 0.5)
    u = x.reshape(k, k)

    def flux(a: Any, b: Any) -> Any:
        mean = (a + b) / 2.0
        return (1.0 + mean * mean) * (b - a)

    down, across = flux(u[:-1], u[1:]), flux(u[:, :-1], u[:, 1:])
    none = xp.zeros_like(u[:1])
    into = xp.concatenate([down, none]) - xp.concatenate([none, down])
    none = none.reshape(k, 1)
    into = into + xp.concatenate([across, none], 1) - xp.concatenate([none, across], 1)
    return into.reshape(-1)


def _rosenbrock(xp: Any, x: Any) -> Any:
    del xp
    steps = x[1:] - x[:-1] * x[:-1]
    rest = 1.0 - x[:-1]
    return (100.0 * steps * steps + rest * rest).sum()


FUNCTIONS = {
    "brusselator-1d": Function("Brusselator, 1-D", _brusselator_1d, lambda n: 2 * (n // 2)),
    "brusselator-2d": Function(
        "Brusselator, 2-D", _brusselator_2d, lambda n: 2 * round((n / 2) ** 0.5) ** 2
    ),
    "heat": Function("nonlinear heat, 2-D", _heat, lambda n: round(n**0.5) ** 2),
    "rosenbrock": Function("chained Rosenbrock", _rosenbrock, lambda n: n, "hessian"),
}
