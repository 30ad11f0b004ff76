"""Helpers around the ops: iterative solvers on plain tensors, packing of matrices."""

from tsgu_func.utils.blocks import block_diag, block_split
from tsgu_func.utils.linear_cg import LinearCGSettings, linear_cg

__all__ = ["LinearCGSettings", "block_diag", "block_split", "linear_cg"]
