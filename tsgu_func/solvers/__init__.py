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
from tsgu_func.solvers.preconditioners import AMG, IC0, ILU0, ILUT, SSOR, BlockJacobi, Jacobi
from tsgu_func.solvers.substitution import Substitution
from tsgu_func.solvers.superlu import SuperLU

__all__ = [
    "AMG",
    "CG",
    "GMRES",
    "IC0",
    "ILU0",
    "ILUT",
    "MINRES",
    "SSOR",
    "BiCGStab",
    "BlockJacobi",
    "ConvergenceError",
    "Jacobi",
    "Preconditioner",
    "Result",
    "Solution",
    "SolveError",
    "Solver",
    "Substitution",
    "SuperLU",
    "cache_info",
    "clear_cache",
]
