"""Peers that evaluate a derivative: dense ones of PyTorch, and asdex, on JAX under jit."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from tsgu_func.bench.functions import Function, point
from tsgu_func.bench.peers.arrays import jax
from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.timing import Contender

__all__ = ["DERIVATIVE", "Derivative"]

_ROOM = 4e9  # bytes that a dense derivative may take
_STEPS = 10  # results on the way, each as large as the dense matrix


class Derivative(NamedTuple):
    """A derivative that somebody is ready to evaluate.

    Attributes
    ----------
    told : mapping
        How many entries and colours it has; or the ``failure`` for which it is not measured.
    measured : mapping
        What is measured of it: ``"detection"``, with the colouring, ``"eager"``, ``"compiled"``.
    matrix : array or sparse array of SciPy
        Its values, at the `point`; None after a failure.
    """

    told: Mapping[str, int | str]
    measured: Mapping[str, Contender]
    matrix: Any


def _dense(function: Function, n: int) -> Derivative:
    transform = {"jacobian": torch.func.jacrev, "hessian": torch.func.hessian}
    derivative = transform[function.derivative](partial(function.of_vector, torch))
    x = torch.from_numpy(point(n))
    measured = {"eager": lambda: derivative(x)}
    if (needed := _STEPS * 8 * n * n) > _ROOM:
        failure = f"does not fit into {_ROOM / 1e9:.0f} GB: about {needed / 1e9:.0f} GB"
        return Derivative({"failure": failure}, measured, None)
    return Derivative({}, measured, derivative(x).numpy())


def _asdex(function: Function, n: int) -> Derivative:
    J, asdex = jax(), importlib.import_module("asdex")
    sparse = importlib.import_module("scipy.sparse")
    x = J.numpy.asarray(point(n))

    def detect() -> Any:
        # A function of its own, for which nothing is known from before.
        f = partial(function.of_vector, J.numpy)
        return getattr(asdex, f"{function.derivative}_coloring")(f, x)

    coloring = detect()
    evaluate = getattr(asdex, f"{function.derivative}_from_coloring")
    derivative = evaluate(partial(function.of_vector, J.numpy), coloring)
    values = J.jit(lambda x: derivative(x).data)  # and not places, which are the same each time
    places = coloring.sparsity.rows, coloring.sparsity.cols
    return Derivative(
        {"entries": coloring.sparsity.nnz, "colors": coloring.num_colors},
        {"detection": detect, "compiled": lambda: values(x).block_until_ready()},
        sparse.coo_array((np.asarray(values(x)), places), shape=(n, n)),
    )


DERIVATIVE = {"dense": Peer(_dense), "asdex": Peer(_asdex, "asdex", beside="jax")}
