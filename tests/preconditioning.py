"""Sparse matrices for the preconditioners, and what is asked of those in the tests."""

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, eye_array, kron

from tests.systems import randn, stored
from tsgu_func import SparseMatrix
from tsgu_func.kernels.stored import StoredMatrix

SINGLE = (torch.float32, torch.complex64)


def poisson(n):
    T = diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    return csr_array(kron(T, eye_array(n)) + kron(eye_array(n), T))


def from_scipy(S):
    S = csr_array(S)
    S.sort_indices()
    csr = torch.sparse_csr_tensor(S.indptr, S.indices, S.data, S.shape, dtype=torch.float64)
    return stored(SparseMatrix.from_torch(csr))


def as_it_is(S):
    """Return a stored matrix of the dtype of a SciPy array."""
    return stored(SparseMatrix.from_scipy(S))


def general(dtype=torch.float64, n=23, seed=0):
    """Return a dense matrix with an irregular pattern and a diagonal that dominates loosely."""
    A = randn(n, n, dtype=dtype, seed=seed) * (randn(n, n, seed=seed + 1).abs() > 1.2)
    A.fill_diagonal_(0)
    A[4] = A[:, 7] = 0
    phase = randn(n, dtype=dtype, seed=seed + 2).sgn()
    return A + torch.diag((1 + 0.8 * A.abs().sum(1)).to(dtype) * phase)


def hermitian(dtype=torch.float64, n=23, seed=0):
    A = general(dtype, n, seed)
    A = A + A.mH
    A.fill_diagonal_(0)
    return A + torch.diag((1 + 0.8 * A.abs().sum(1)).to(dtype))


def scaled(A):
    scale = torch.logspace(-4, 4, len(A), dtype=torch.float64).to(A.dtype)
    return scale[:, None] * A * scale.flip(0)


def with_zeros(A):
    """Store A with some explicit zeros."""
    pattern = A.clone()
    pattern[2, 9] = pattern[9, 2] = pattern[5, 1] = pattern[1, 5] = 1
    M = SparseMatrix.from_dense(pattern)
    rows, cols = (x.long() for x in (M.pattern.structure.row, M.pattern.structure.col))
    return StoredMatrix(M.pattern.structure, A[rows, cols])


def dense_inverse(M, state, n, dtype=torch.float64):
    return M.apply(state, torch.eye(n, dtype=dtype))


class Diagonal:
    """A preconditioner written here: M is a given diagonal."""

    def __init__(self, *diagonal):
        self.diagonal = torch.tensor(diagonal)

    def __repr__(self):
        return f"Diagonal{tuple(self.diagonal.tolist())}"

    def init(self, A):
        return self.diagonal.to(A.dtype)

    def apply(self, state, R, transpose=False, conjugate=False):
        return R / state.unsqueeze(-1)


def close(dtype):
    return {"rtol": 2e-4, "atol": 2e-5} if dtype in SINGLE else {"rtol": 1e-9, "atol": 1e-11}
