"""Solvers of linear systems, one a file.  They know nothing of autograd."""

from tsgu_func.solvers.base import ConvergenceError, Solution, SolveError, Solver
from tsgu_func.solvers.factors import cache_info, clear_cache
from tsgu_func.solvers.superlu import SuperLU

__all__ = [
    "ConvergenceError",
    "Solution",
    "SolveError",
    "Solver",
    "SuperLU",
    "cache_info",
    "clear_cache",
]
