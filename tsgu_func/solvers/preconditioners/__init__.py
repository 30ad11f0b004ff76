"""Preconditioners, one a file: cheap approximations M of a matrix, with their transposes.

Each is handed to an iterative solver by name and settings, as in ``CG(preconditioner=IC0())``; the
solver makes M from the matrix; or, with `Custom`, is given it.
"""

from tsgu_func.solvers.preconditioners.amg import AMG
from tsgu_func.solvers.preconditioners.block_jacobi import BlockJacobi
from tsgu_func.solvers.preconditioners.custom import Custom
from tsgu_func.solvers.preconditioners.dic import DIC
from tsgu_func.solvers.preconditioners.ic0 import IC0
from tsgu_func.solvers.preconditioners.ilu0 import ILU0
from tsgu_func.solvers.preconditioners.ilut import ILUT
from tsgu_func.solvers.preconditioners.jacobi import Jacobi
from tsgu_func.solvers.preconditioners.ssor import SSOR
from tsgu_func.solvers.preconditioners.stale import Stale

__all__ = ["AMG", "DIC", "IC0", "ILU0", "ILUT", "SSOR", "BlockJacobi", "Custom", "Jacobi", "Stale"]
