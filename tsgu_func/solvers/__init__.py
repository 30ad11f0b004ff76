"""Solvers of linear systems, one a file.  They know nothing of autograd."""

from tsgu_func.cache import cache_info, cache_limit, clear_cache
from tsgu_func.solvers.auto import Auto
from tsgu_func.solvers.choice import Plan, plan
from tsgu_func.solvers.direct.cholesky import Cholesky
from tsgu_func.solvers.direct.dense import DenseLU
from tsgu_func.solvers.direct.pardiso import Pardiso
from tsgu_func.solvers.direct.substitution import Substitution
from tsgu_func.solvers.direct.superlu import SuperLU
from tsgu_func.solvers.krylov.bicgstab import BiCGStab
from tsgu_func.solvers.krylov.cg import CG
from tsgu_func.solvers.krylov.gmres import GMRES
from tsgu_func.solvers.krylov.iccg import ICCG
from tsgu_func.solvers.krylov.minres import MINRES
from tsgu_func.solvers.lstsq.augmented import Augmented
from tsgu_func.solvers.lstsq.auto import AutoLeastSquares
from tsgu_func.solvers.lstsq.lsmr import LSMR
from tsgu_func.solvers.lstsq.lsqr import LSQR
from tsgu_func.solvers.newton import NewtonInfo
from tsgu_func.solvers.preconditioners import (
    AMG,
    DIC,
    IC0,
    ILU0,
    ILUT,
    SSOR,
    BlockJacobi,
    Custom,
    Jacobi,
    Stale,
)
from tsgu_func.solvers.protocol import (
    ConvergenceError,
    IllConditionedWarning,
    Info,
    Preconditioner,
    Result,
    SingularError,
    Solution,
    SolveError,
    Solver,
)

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
    "Augmented",
    "Auto",
    "AutoLeastSquares",
    "BiCGStab",
    "BlockJacobi",
    "Cholesky",
    "ConvergenceError",
    "Custom",
    "DenseLU",
    "IllConditionedWarning",
    "Info",
    "Jacobi",
    "NewtonInfo",
    "Pardiso",
    "Plan",
    "Preconditioner",
    "Result",
    "SingularError",
    "Solution",
    "SolveError",
    "Solver",
    "Stale",
    "Substitution",
    "SuperLU",
    "cache_info",
    "cache_limit",
    "clear_cache",
    "plan",
]
