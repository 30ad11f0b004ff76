"""Helpers around the ops: iterative solvers on plain tensors, packing of matrices."""

from tsgu_func.utils.bicgstab import BICGSTABSettings, bicgstab
from tsgu_func.utils.blocks import (
    block_diag,
    block_split,
    sparse_block_diag,
    sparse_block_diag_split,
)
from tsgu_func.utils.construct import sparse_eye, stack_csr
from tsgu_func.utils.convert import convert_coo_to_csr, convert_coo_to_csr_indices_values
from tsgu_func.utils.linear_cg import LinearCGSettings, linear_cg
from tsgu_func.utils.lsmr import lsmr
from tsgu_func.utils.minres import MINRESSettings, minres
from tsgu_func.utils.random_sparse import rand_sparse, rand_sparse_tri
from tsgu_func.utils.random_spd import make_spd_sparse

__all__ = [
    "BICGSTABSettings",
    "LinearCGSettings",
    "MINRESSettings",
    "bicgstab",
    "block_diag",
    "block_split",
    "convert_coo_to_csr",
    "convert_coo_to_csr_indices_values",
    "linear_cg",
    "lsmr",
    "make_spd_sparse",
    "minres",
    "rand_sparse",
    "rand_sparse_tri",
    "sparse_block_diag",
    "sparse_block_diag_split",
    "sparse_eye",
    "stack_csr",
]
