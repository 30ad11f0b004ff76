"""Solvers of linear systems, one a file.  They know nothing of autograd."""

from tsgu_func.solvers.auto import Auto
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
from tsgu_func.solvers.cholesky import Cholesky
from tsgu_func.solvers.dense import DenseLU
from tsgu_func.solvers.factors import cache_info, cache_limit, clear_cache
from tsgu_func.solvers.gmres import GMRES
from tsgu_func.solvers.iccg import ICCG
from tsgu_func.solvers.lsmr import LSMR
from tsgu_func.solvers.lsqr import LSQR
from tsgu_func.solvers.minres import MINRES
from tsgu_func.solvers.pardiso import Pardiso
from tsgu_func.solvers.preconditioners import AMG, DIC, IC0, ILU0, ILUT, SSOR, BlockJacobi, Jacobi
from tsgu_func.solvers.substitution import Substitution
from tsgu_func.solvers.superlu import SuperLU

__all__ = [
    "AMG",
    "CG",
    "DIC",
    "GMRES",
    "IC0",
    "ICCG",
    "ILU0",
    "ILUT",
    "LSMR",
    "LSQR",
    "MINRES",
    "SSOR",
    "Auto",
    "BiCGStab",
    "BlockJacobi",
    "Cholesky",
    "ConvergenceError",
    "DenseLU",
    "Jacobi",
    "Pardiso",
    "Preconditioner",
    "Result",
    "Solution",
    "SolveError",
    "Solver",
    "Substitution",
    "SuperLU",
    "cache_info",
    "cache_limit",
    "clear_cache",
]
