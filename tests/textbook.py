"""Iterates of Krylov methods as textbooks define them, in NumPy."""

import numpy as np
import torch

from tests.systems import randn
from tsgu_func import SparseMatrix, sparse_solve
from tsgu_func.solvers import CG


def definite(dtype, n=12, seed=0, low=1.0, high=9.0):
    """Return a dense Hermitian matrix with the eigenvalues evenly between two numbers."""
    Q, _ = torch.linalg.qr(randn(n, n, dtype=dtype, seed=seed))
    D = (Q * torch.linspace(low, high, n, dtype=torch.float64)) @ Q.mH
    return (D + D.mH) / 2


def textbook(D, b, steps, krylov):
    """Return the iterates of CG or MINRES, by what they minimize over a Krylov space, in NumPy."""
    D, b = D.numpy(), b.numpy()
    basis, iterates = [b / np.linalg.norm(b)], []
    for _ in range(steps):
        V = np.stack(basis, 1)
        if krylov is CG:  # the residual is orthogonal to the space
            y = np.linalg.solve(V.conj().T @ D @ V, V.conj().T @ b)
        else:
            y = np.linalg.lstsq(D @ V, b, rcond=None)[0]
        iterates.append(V @ y)
        w = D @ basis[-1]
        for _ in range(2):
            w = w - V @ (V.conj().T @ w)
        basis.append(w / np.linalg.norm(w))
    return iterates


def left_by(D, iterates, b):
    left = [np.linalg.norm(b.numpy() - D.numpy() @ x) for x in iterates]
    return torch.tensor(left) / torch.linalg.vector_norm(b)


def solved(D, B, solver, **options):
    return sparse_solve(SparseMatrix.from_dense(D), B, solver=solver, return_info=True, **options)
