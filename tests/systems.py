"""Linear systems for the iterative solvers, and NumPy's dense solutions, which judge them."""

import dataclasses

import numpy as np
import torch

from tsgu_func import SparseMatrix
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.utils.bicgstab import bicgstab
from tsgu_func.utils.linear_cg import linear_cg
from tsgu_func.utils.minres import minres

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
SQUARE_SOLVERS = [linear_cg, bicgstab, minres]
N = 20


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def matrix_for(solve, dtype, n=N):
    """Return a dense matrix with many zeros: definite for CG, indefinite for MINRES, any else."""
    A = randn(n, n, dtype=dtype, seed=3) * (randn(n, n, seed=4).abs() > 1)
    if solve is bicgstab:
        return A + 6 * torch.eye(n, dtype=dtype)
    signs = torch.ones(n)
    if solve is not linear_cg:
        signs[:6] = -1
    return 0.3 * (A + A.mH) + torch.diag(6 * signs).to(dtype)


def numpy_solve(A, B):
    """Solve densely in double precision."""
    if B.ndim == 1:
        return numpy_solve(A, B[:, None])[:, 0]
    return torch.from_numpy(np.linalg.solve(wide(A), wide(B)))


def numpy_lstsq(A, B, rcond=1e-12):
    """Solve for the least norm among the least squares, densely in double precision."""
    return torch.from_numpy(np.linalg.pinv(wide(A), rcond=rcond) @ wide(B))


def wide(A):
    return A.resolve_conj().numpy().astype(np.complex128 if A.is_complex() else np.float64)


def close(dtype):
    single = dtype in (torch.float32, torch.complex64)
    return {"rtol": 2e-4, "atol": 2e-4} if single else {"rtol": 2e-6, "atol": 2e-6}


def counted(A):
    calls = []

    def multiply(X):
        calls.append(tuple(X.shape))
        return A @ X

    return multiply, calls


KINDS = {
    "dense": lambda A: A,
    "coo": lambda A: A.to_sparse_coo(),
    "csr": lambda A: A.to_sparse_csr(),
    "matrix": SparseMatrix.from_dense,
    "transposed": lambda A: SparseMatrix.from_dense(A.mT).T,
    "adjoint": lambda A: SparseMatrix.from_dense(A.mH).mH,
    "function": lambda A: lambda X: A @ X,
}


def stored(M, **flags):
    """View a SparseMatrix as what an op hands to its solver."""
    return StoredMatrix(M.pattern.structure, M.values, **flags)


# How a matrix is read: (transpose, conjugate).
FLAGS = [(False, False), (True, False), (False, True), (True, True)]


def read_as(D, transpose, conjugate):
    """Return D, Dᵀ, conj(D) or Dᴴ, for a dense matrix or a stored one."""
    if isinstance(D, StoredMatrix):
        return dataclasses.replace(D, transpose=transpose, conjugate=conjugate)
    D = D.mT if transpose else D
    return D.conj() if conjugate else D


def computed(solver, D, B, X0=None):
    """Solve by a solver itself, with no op around it."""
    A = D if isinstance(D, StoredMatrix) else stored(SparseMatrix.from_dense(D))
    return solver.compute(solver.init(A), A, B, X0)
