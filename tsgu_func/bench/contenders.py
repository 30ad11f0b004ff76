"""Who solves: `sparse_solve`, solvers of this library by name, and peers that are installed.

A contender prepares a system and returns what is measured: ``solve(backward) -> x``.  With
`backward` it also computes the gradients of the sum of x, with respect to the values of A and to b.
SciPy and pypardiso have no gradients; theirs are written out here: one more solve, and an outer
product where A stores an entry.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgu_func import solvers, sparse_solve

__all__ = ["OURS", "OWN", "PEERS", "Contender", "contender"]

Solve = Callable[[bool], np.ndarray]
OURS = "tsgu_func"
RTOL = 1e-9  # asked of all that iterate


class Contender(NamedTuple):
    """How to prepare a system, what it needs, and what of it can be compared.

    Attributes
    ----------
    prepare : callable
        ``prepare(S, b) -> solve`` for a SciPy array and a vector.
    package : str
        Without which it is left out.
    symmetric : bool
        Whether it is for symmetric systems only.
    group : str
        What it counts as in the summary.
    """

    prepare: Callable[[Any, np.ndarray], Solve]
    package: str = ""
    symmetric: bool = False
    group: str = ""

    @property
    def installed(self) -> bool:
        """Whether its package is."""
        return not self.package or importlib.util.find_spec(self.package) is not None


# ------------------------------------------------------------------------------------------- ours


def _own(solver: Any) -> Callable[[Any, np.ndarray], Solve]:
    def prepare(S: Any, b: np.ndarray) -> Solve:
        A, right = _torch_csr(S), torch.from_numpy(b)

        def solve(backward: bool) -> np.ndarray:
            A.requires_grad_(backward)
            right.requires_grad_(backward)
            return _solved(sparse_solve(A, right, solver=solver), backward, A, right)

        def told() -> str:
            info = sparse_solve(A.detach(), right.detach(), solver=solver, return_info=True)[1]
            steps = int(info.iterations)
            return info.solver + (f", {steps} iterations" if steps else "")

        solve.told = told  # pyright: ignore[reportFunctionMemberAccess]
        return solve

    return prepare


def _torch_csr(S: Any) -> Tensor:
    crow, col = (torch.from_numpy(x.astype(np.int64)) for x in (S.indptr, S.indices))
    return torch.sparse_csr_tensor(crow, col, torch.from_numpy(S.data), S.shape)


def _solved(x: Tensor, backward: bool, *inputs: Tensor) -> np.ndarray:
    if backward:  # not `backward`, where PyTorch copies the gradient of a sparse tensor once more
        torch.autograd.grad(x.sum(), inputs)
    return x.detach().reshape(-1).numpy()


OWN = {
    name: Contender(_own(solver), symmetric=symmetric)
    for name, solver, symmetric in (
        ("cg", solvers.CG(rtol=RTOL), True),
        ("cg+jacobi", solvers.CG(solvers.Jacobi(), rtol=RTOL), True),
        ("cg+ssor", solvers.CG(solvers.SSOR(), rtol=RTOL), True),
        ("cg+ic0", solvers.CG(solvers.IC0(), rtol=RTOL), True),
        ("cg+amg", solvers.CG(solvers.AMG(), rtol=RTOL), True),
        ("iccg", solvers.ICCG(rtol=RTOL), True),
        ("minres", solvers.MINRES(rtol=RTOL), True),
        ("minres+ic0", solvers.MINRES(solvers.IC0(), rtol=RTOL), True),
        ("bicgstab", solvers.BiCGStab(rtol=RTOL), False),
        ("bicgstab+jacobi", solvers.BiCGStab(solvers.Jacobi(), rtol=RTOL), False),
        ("bicgstab+ilu0", solvers.BiCGStab(solvers.ILU0(), rtol=RTOL), False),
        ("bicgstab+ilut", solvers.BiCGStab(solvers.ILUT(), rtol=RTOL), False),
        ("bicgstab+amg", solvers.BiCGStab(solvers.AMG(), rtol=RTOL), False),
        ("gmres+ilu0", solvers.GMRES(solvers.ILU0(), rtol=RTOL), False),
        ("gmres+ilut", solvers.GMRES(solvers.ILUT(), rtol=RTOL), False),
        ("gmres+blockjacobi", solvers.GMRES(solvers.BlockJacobi(), rtol=RTOL), False),
        ("lsmr", solvers.LSMR(rtol=RTOL), False),
        ("superlu", solvers.SuperLU(), False),
        ("superlu single", solvers.SuperLU(precision="single"), False),
        ("pardiso", solvers.Pardiso(), False),
        ("cholesky", solvers.Cholesky(), True),
    )
}

# ------------------------------------------------------------------------------------------ peers


def _upstream(
    name: str, as_column: bool, kind: str, settings: dict[str, Any]
) -> Callable[[Any, np.ndarray], Solve]:
    def prepare(S: Any, b: np.ndarray) -> Solve:
        peer = importlib.import_module(_PEER)
        module = importlib.import_module(f"{_PEER}.utils.{name}")
        options = {"solve": getattr(module, name), "settings": getattr(module, kind)(**settings)}
        A, right = _torch_csr(S), torch.from_numpy(b.copy())
        right = right.unsqueeze(-1) if as_column else right

        def solve(backward: bool) -> np.ndarray:
            A.requires_grad_(backward)
            right.requires_grad_(backward)
            return _solved(peer.sparse_generic_solve(A, right, **options), backward, A, right)

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
        return _solved(spsolve(values, row, col, S.shape, right), backward, values, right)

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
PEERS = {
    f"{_PEER} {name}": Contender(
        _upstream(name, as_column, kind, settings), _PEER, symmetric, group=_PEER
    )
    for name, as_column, kind, settings, symmetric in (
        ("linear_cg", True, "LinearCGSettings", _CG, True),
        ("bicgstab", False, "BICGSTABSettings", _BICG, False),
        ("minres", True, "MINRESSettings", _MINRES, True),
    )
} | {
    "torch-sla": Contender(_torch_sla, "torch_sla", group="torch-sla"),
    "scipy splu": Contender(_splu, group="factorization"),
    "scipy cg/bicgstab": Contender(_scipy_iterations),
    "pypardiso": Contender(_pypardiso(11), "pypardiso", group="factorization"),
    "pypardiso spd": Contender(_pypardiso(2), "pypardiso", True, group="factorization"),
}


def contender(name: str) -> Contender:
    """Return a contender by its name."""
    return Contender(_own(solvers.Auto(rtol=RTOL))) if name == OURS else {**OWN, **PEERS}[name]
