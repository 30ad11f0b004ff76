"""Solvers of linear systems, one a file.  They know nothing of autograd."""

from tsgu_func.solvers.base import (
    ConvergenceError,
    Preconditioner,
    Result,
    Solution,
    SolveError,
    Solver,
)
from tsgu_func.solvers.bicgstab import BiCGStab
from tsgu_func.solvers.cg import CG
from tsgu_func.solvers.factors import cache_info, clear_cache
from tsgu_func.solvers.gmres import GMRES
from tsgu_func.solvers.minres import MINRES
from tsgu_func.solvers.superlu import SuperLU

__all__ = [
    "CG",
    "GMRES",
    "MINRES",
    "BiCGStab",
    "ConvergenceError",
    "Preconditioner",
    "Result",
    "Solution",
    "SolveError",
    "Solver",
    "SuperLU",
    "cache_info",
    "clear_cache",
]
