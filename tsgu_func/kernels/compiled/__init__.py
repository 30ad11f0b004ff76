"""Loops compiled by Numba, for the CPU.

Each module is imported when it is first used, and Numba with it: ``import tsgu_func`` stays light.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsgu_func.kernels.compiled import (
        bidiagonal,
        coloring,
        eisenstat,
        incomplete,
        inspection,
        ordering,
        products,
        recurrences,
        residuals,
        scaling,
        sorting,
        sparse_products,
        substitution,
        synchronization,
    )

__all__ = [
    "bidiagonal",
    "coloring",
    "eisenstat",
    "incomplete",
    "inspection",
    "ordering",
    "products",
    "recurrences",
    "residuals",
    "scaling",
    "sorting",
    "sparse_products",
    "substitution",
    "synchronization",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
