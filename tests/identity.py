"""Solvers that are told apart by what they hold: each solves a known number of times."""

import dataclasses

import torch
from torch import Tensor

from tests.systems import read_as
from tsgu_func.solvers.protocol import solution


def scaled(k):
    """Return a function that solves, k times."""
    return lambda M, B, **_: torch.linalg.solve(M.to_dense(), B) * k


class Scaled:
    """An object that solves, k times, in two ways."""

    def __init__(self, k):
        self.k = k

    def __call__(self, M, B):
        return scaled(self.k)(M, B)

    def solve(self, M, B):
        return scaled(self.k)(M, B)


def by(k, M, B):
    return scaled(k)(M, B)


@dataclasses.dataclass(frozen=True, eq=False)
class Inverse:
    """A user's solver, that prints like any other with an inverse of this shape."""

    M: Tensor

    def __repr__(self):
        return "Inverse(...)"

    def init(self, A):
        return self.M

    def compute(self, state, A, B, X0=None):
        M = read_as(state, A.transpose, A.conjugate)
        return solution(self, M @ B, torch.zeros(B.shape[-1], dtype=B.dtype.to_real()))


def compiled(function):
    return torch.compile(function, fullgraph=True, backend="eager")
