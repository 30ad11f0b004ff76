"""Peers that solve a system.

Each prepares one and returns what is measured: ``solve(backward) -> x``.  With `backward` it also
computes the gradients of the sum of x, with respect to the values of A and to b.  SciPy and
pypardiso have no gradients; theirs are written out here: one more solve, and an outer product where
A stores an entry.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.peers.splineax import SPLINEAX

__all__ = ["RTOL", "SOLVE", "Solve", "solved", "torch_csr"]

Solve = Callable[[bool], np.ndarray]
RTOL = 1e-9  # asked of all that iterate


def torch_csr(S: Any) -> Tensor:
    """Return the tensor that all are handed."""
    crow, col = (torch.from_numpy(x.astype(np.int64)) for x in (S.indptr, S.indices))
    return torch.sparse_csr_tensor(crow, col, torch.from_numpy(S.data), S.shape)


def solved(x: Tensor, backward: bool, *inputs: Tensor) -> np.ndarray:
    """Return x, and compute its gradients if they are asked for."""
    if backward:  # not `backward`, where PyTorch copies the gradient of a sparse tensor once more
        torch.autograd.grad(x.sum(), inputs)
    return x.detach().reshape(-1).numpy()


def _upstream(
    name: str, as_column: bool, kind: str, settings: dict[str, Any]
) -> Callable[[Any, np.ndarray], Solve]:
    def prepare(S: Any, b: np.ndarray) -> Solve:
        peer = importlib.import_module(_PEER)
        module = importlib.import_module(f"{_PEER}.utils.{name}")
        options = {"solve": getattr(module, name), "settings": getattr(module, kind)(**settings)}
        A, right = torch_csr(S), torch.from_numpy(b.copy())
        right = right.unsqueeze(-1) if as_column else right

        def solve(backward: bool) -> np.ndarray:
            A.requires_grad_(backward)
            right.requires_grad_(backward)
            return solved(peer.sparse_generic_solve(A, right, **options), backward, A, right)

        return solve

    return prepare


def _torch_sla(S: Any, b: np.ndarray) -> Solve:
    spsolve = importlib.import_module("torch_sla").spsolve
    coo = S.tocoo()
    row, col = (torch.from_numpy(x.astype(np.int64)) for x in coo.coords)
    values, right = torch.from_numpy(coo.data.copy()), torch.from_numpy(b.copy())

    def solve(backward: bool) -> np.ndarray:
        values.requires_grad_(backward)
        right.requires_grad_(backward)
        return solved(spsolve(values, row, col, S.shape, right), backward, values, right)

    return solve


def _with_formula(solve: Callable[[np.ndarray, bool], np.ndarray], S: Any, b: np.ndarray) -> Solve:
    """Solve, and for the gradients once more with the transpose."""

    def run(backward: bool) -> np.ndarray:
        x = solve(b, False)
        if backward:
            w = solve(np.ones_like(b), True)
            row = np.repeat(np.arange(len(b)), np.diff(S.indptr))
            np.negative(w[row] * x[S.indices])
        return x

    return run


def _splu(S: Any, b: np.ndarray) -> Solve:
    from scipy.sparse.linalg import splu

    def run(backward: bool) -> np.ndarray:
        lu = splu(S.tocsc())
        return _with_formula(lambda r, t: lu.solve(r, "T" if t else "N"), S, b)(backward)

    return run


def _scipy_iterations(S: Any, b: np.ndarray) -> Solve:
    from scipy.sparse.linalg import bicgstab, cg

    symmetric = abs(S - S.T).max() < 1e-12 * abs(S).max()
    method: Any = cg if symmetric else bicgstab

    def solve(r: np.ndarray, transposed: bool) -> np.ndarray:
        x, code = method(S.T if transposed else S, r, rtol=RTOL, maxiter=100_000)
        if code:
            raise RuntimeError(f"{method.__name__} did not converge: {code}")
        return x

    return _with_formula(solve, S, b)


def _pypardiso(kind: int) -> Callable[[Any, np.ndarray], Solve]:
    def prepare(S: Any, b: np.ndarray) -> Solve:
        from scipy.sparse import csr_matrix, triu

        package = importlib.import_module("pypardiso")
        A = csr_matrix(triu(S) if kind == 2 else S)
        solver = package.PyPardisoSolver(mtype=kind)  # here, because it searches the disk for MKL

        def run(backward: bool) -> np.ndarray:
            solver.factorize(A)
            x = _with_formula(lambda r, t: solver.solve(A.T if t and kind == 11 else A, r), S, b)(
                backward
            )
            solver.free_memory(everything=True)
            return x

        return run

    return prepare


_PEER = "torchsparsegradutils"
_CG = {"max_cg_iterations": 20_000, "cg_tolerance": RTOL, "max_lanczos_quadrature_iterations": 20}
_BICG = {"reltol": RTOL, "abstol": 1e-30, "matvec_max": 40_000}
# Its tolerance is on the change of the solution, far below what is asked of the residual.
_MINRES = {"minres_tolerance": 1e-12, "max_cg_iterations": 20_000}
SOLVE = {
    f"{_PEER} {name}": Peer(
        _upstream(name, as_column, kind, settings), _PEER, symmetric=symmetric, group=_PEER
    )
    for name, as_column, kind, settings, symmetric in (
        ("linear_cg", True, "LinearCGSettings", _CG, True),
        ("bicgstab", False, "BICGSTABSettings", _BICG, False),
        ("minres", True, "MINRESSettings", _MINRES, True),
    )
} | {
    "torch-sla": Peer(_torch_sla, "torch_sla", "torch-sla", group="torch-sla"),
    "scipy splu": Peer(_splu, group="factorization"),
    "scipy cg/bicgstab": Peer(_scipy_iterations),
    "pypardiso": Peer(_pypardiso(11), "pypardiso", group="factorization"),
    "pypardiso spd": Peer(_pypardiso(2), "pypardiso", symmetric=True, group="factorization"),
    **SPLINEAX,
}
