"""Sparse linear algebra for PyTorch that composes with every ``torch.func`` transform."""

from tsgu_func.coloring import Coloring, color
from tsgu_func.factorization import Factorization, factorize
from tsgu_func.indexed_matmul import gather_mm, segment_mm
from tsgu_func.linear_operator import LinearOperator
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.matrix.stacking import block, block_diag, hstack, kron, stack, vstack
from tsgu_func.pattern_detection import hessian_pattern, jacobian_pattern
from tsgu_func.registration.primitive import Primitive
from tsgu_func.sparse_jacobian import (
    check_pattern,
    ravel_pytree,
    sparse_hessian,
    sparse_jacobian,
)
from tsgu_func.sparse_lstsq import sparse_generic_lstsq, sparse_lstsq
from tsgu_func.sparse_matmul import sparse_mm
from tsgu_func.sparse_parameter import SparseParameter
from tsgu_func.sparse_root import sparse_root
from tsgu_func.sparse_solve import sparse_generic_solve, sparse_solve, sparse_triangular_solve

__version__ = "0.1.0"

__all__ = [
    "Coloring",
    "Factorization",
    "LinearOperator",
    "Primitive",
    "SparseMatrix",
    "SparseParameter",
    "SparsityPattern",
    "__version__",
    "block",
    "block_diag",
    "check_pattern",
    "color",
    "factorize",
    "gather_mm",
    "hessian_pattern",
    "hstack",
    "jacobian_pattern",
    "kron",
    "ravel_pytree",
    "segment_mm",
    "sparse_generic_lstsq",
    "sparse_generic_solve",
    "sparse_hessian",
    "sparse_jacobian",
    "sparse_lstsq",
    "sparse_mm",
    "sparse_root",
    "sparse_solve",
    "sparse_triangular_solve",
    "stack",
    "vstack",
]
