"""Functions with sparse derivatives, of all kinds that there are, and their dense Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import hessian, jacfwd, jvp, vmap
from torch.utils import _pytree as pytree

from tests.functions import wave
from tsgu_func import SparseMatrix, gather_mm, segment_mm, sparse_mm, sparse_solve

__all__ = ["CASES", "LOSSES", "Case", "dense_hessian", "dense_jacobian"]


class Case(NamedTuple):
    """A function, and what it is called with."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False

    @property
    def options(self) -> dict[str, Any]:
        return {"argnums": self.argnums, "has_aux": self.has_aux}


def dense_jacobian(case: Case) -> Tensor:
    """Put the blocks of ``torch.func.jacfwd`` together."""
    f = (lambda *args: case.f(*args)[0]) if case.has_aux else case.f
    columns, argnums = _chosen(case)
    rows = pytree.tree_leaves(f(*case.args))
    blocks = pytree.tree_leaves(jacfwd(f, argnums=argnums)(*case.args))
    assert len(blocks) == len(rows) * len(columns)
    grid = [
        [blocks[i * len(columns) + j].reshape(y.numel(), x.numel()) for j, x in enumerate(columns)]
        for i, y in enumerate(rows)
    ]
    dtype = [y.dtype for y in rows]
    for d in dtype:
        dtype[0] = torch.promote_types(dtype[0], d)
    return torch.cat([torch.cat([b.to(dtype[0]) for b in row], 1) for row in grid], 0)


def dense_hessian(case: Case) -> Tensor:
    """Put the blocks of ``torch.func.hessian`` together."""
    f = (lambda *args: case.f(*args)[0]) if case.has_aux else case.f
    leaves, argnums = _chosen(case)
    blocks = pytree.tree_leaves(hessian(f, argnums=argnums)(*case.args))
    k = len(leaves)
    grid = [
        [blocks[i * k + j].reshape(y.numel(), x.numel()) for j, x in enumerate(leaves)]
        for i, y in enumerate(leaves)
    ]
    return torch.cat([torch.cat(row, 1) for row in grid], 0)


def _chosen(case: Case) -> tuple[list[Tensor], int | tuple[int, ...]]:
    """Return the leaves that are differentiated, and argnums from the front.

    Of negative ones, jacfwd silently returns zeros (torch 2.13).
    """
    if isinstance(case.argnums, tuple):
        argnums = tuple(i % len(case.args) for i in case.argnums)
        return pytree.tree_leaves(tuple(case.args[i] for i in argnums)), argnums
    i = case.argnums % len(case.args)
    return pytree.tree_leaves(case.args[i]), i


def complex_jacobian(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return the products with the unit vectors: jacfwd refuses complex numbers."""
    basis = torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape)
    return vmap(lambda v: jvp(f, (z,), (v,))[1].reshape(-1), out_dims=1)(basis)


# --------------------------------------------------------------------------------- the functions

IDX = torch.tensor([3, 0, 3, 1, 5])
MASK = torch.tensor([True, False, True, True, False, False])
A = SparseMatrix.from_coo([0, 0, 1, 2, 2, 3], [0, 3, 1, 2, 5, 4], wave(6, seed=2), (4, 6))
S = SparseMatrix.eye(4, dtype=torch.float64) * 3.0 + SparseMatrix.diag(wave(3), 1)
LENGTHS = torch.tensor([2, 0, 3])
SHIFT = 3 * torch.eye(2, dtype=torch.float64)
WHICH = torch.tensor([1, 0, 1, 1, 0])
W1, W2 = wave(4, 3), wave(2, 4, seed=1)
KERNEL = wave(2, 1, 3, seed=3)
KERNEL2 = wave(2, 2, 3, 3, seed=4)
BANK = wave(2, 3, 2, seed=5)


class Rounded(torch.autograd.Function):
    """Round, and let derivatives through as if nothing had been done."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, t):
        return t.clone()


class Doubled(torch.autograd.Function):
    """A derivative in reverse mode alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def laplacian(u):
    return u.roll(1, 0) + u.roll(-1, 0) + u.roll(1, 1) + u.roll(-1, 1) - 4 * u


def brusselator(state):
    u, v = state
    uuv = u * u * v
    return torch.stack([1 + uuv - 4.4 * u + laplacian(u), 3.4 * u - uuv + laplacian(v)])


def heat(u):
    padded = nn.functional.pad(u, (1, 1))
    return (1 + u.square()) * (padded[2:] - 2 * u + padded[:-2])


def network(x):
    return (x @ W1.T).tanh() @ W2.T


def cnn(x):
    h = nn.functional.conv2d(x, KERNEL2, padding=1).relu()
    return nn.functional.avg_pool2d(h, 2).flatten(1)


def frame(x):
    return torch.cat([x.prod().reshape(1), x[0] * x[1:] + x[1:].square()])


def in_place(x):
    y = x.clone()
    y[1:] *= x[:-1]
    y.add_(1).mul_(2)
    return y


def scattered(x):
    return torch.zeros(7, dtype=x.dtype).scatter_add(0, IDX, x[:5].sin()).square()


def tree(x):
    return {"sum": x["a"] + x["b"][0].sum(), "pair": (x["a"] * x["a"].T, x["b"][0].exp())}


CASES: dict[str, Case] = {
    "elementwise": Case(lambda x: x.sin() * x.exp() + x, (wave(5),)),
    "identity": Case(lambda x: x, (wave(5),)),
    "constant": Case(lambda x: torch.ones(3, dtype=x.dtype), (wave(5),)),
    "shape": Case(lambda x: x.square().T, (wave(2, 3),)),
    "heat": Case(heat, (wave(8),)),
    "brusselator": Case(brusselator, (wave(2, 4, 5),)),
    "slices": Case(lambda x: x[1:] ** 2 * x[:-1], (wave(6),)),
    "second differences": Case(lambda x: x.diff(n=2), (wave(6),)),
    "conv1d": Case(lambda x: nn.functional.conv1d(x, KERNEL, padding=1), (wave(2, 1, 6),)),
    "conv1d, strided": Case(
        lambda x: nn.functional.conv1d(x, KERNEL, stride=2).tanh(), (wave(1, 1, 9),)
    ),
    "conv2d": Case(lambda x: nn.functional.conv2d(x, KERNEL2), (wave(1, 2, 4, 5),)),
    "conv_transpose": Case(
        lambda x: nn.functional.conv_transpose1d(x, KERNEL, stride=2), (wave(1, 2, 3),)
    ),
    "network per sample": Case(network, (wave(4, 3),)),
    "cnn per sample": Case(cnn, (wave(2, 2, 4, 4),)),
    "gather": Case(lambda x: x[IDX] ** 2 * x[IDX.flip(0)], (wave(6),)),
    "gather along": Case(lambda x: x.gather(1, IDX[:4].view(2, 2) % 3), (wave(2, 3),)),
    "scatter_add": Case(scattered, (wave(6),)),
    "index_add": Case(
        lambda x: torch.zeros(6, 2, dtype=x.dtype).index_add(0, IDX, x), (wave(5, 2),)
    ),
    "index_put": Case(
        lambda x: torch.ones(6, dtype=x.dtype).index_put((IDX[:2],), x[:2].exp()), (wave(4),)
    ),
    "sort": Case(lambda x: x.sort(dim=-1).values ** 2, (wave(3, 4),)),
    "argsort": Case(lambda x: x[x.detach().argsort()].sin(), (wave(5),)),
    "topk": Case(lambda x: x.topk(2).values, (wave(3, 4),)),
    "where": Case(lambda x: torch.where(x > 0, x**2, x[::1].sin()), (wave(6),)),
    "clamp": Case(lambda x: x.clamp(-0.5, 0.5) * x, (wave(6),)),
    "relu": Case(lambda x: nn.functional.relu(x) + x, (wave(6),)),
    "masked_fill": Case(lambda x: x.masked_fill(MASK, 0.0) * x, (wave(6),)),
    "max_pool": Case(lambda x: nn.functional.max_pool1d(x, 2), (wave(1, 2, 6),)),
    "amax": Case(lambda x: x.amax(1), (wave(3, 4),)),
    "cumsum": Case(lambda x: x.cumsum(0), (wave(5),)),
    "cumprod": Case(lambda x: x.cumprod(1), (wave(2, 4),)),
    "flip, roll, permute": Case(lambda x: x.flip(0).roll(1, 1).permute(2, 0, 1), (wave(2, 3, 2),)),
    "cat, stack, repeat": Case(
        lambda x: torch.stack([torch.cat([x, x * 2]), x.repeat(2)]), (wave(3),)
    ),
    "unfold": Case(lambda x: x.unfold(0, 3, 2).prod(1), (wave(7),)),
    "bmm": Case(lambda x, y: torch.bmm(x, y), (wave(2, 2, 3), wave(2, 3, 2)), (0, 1)),
    "einsum": Case(lambda x: torch.einsum("bi,bj->bij", x, x.sin()), (wave(2, 3),)),
    "matmul": Case(lambda x: W1 @ x, (wave(3, 2),)),
    "softmax": Case(lambda x: x.softmax(1), (wave(3, 3),)),
    "logsumexp": Case(lambda x: x.logsumexp(1), (wave(3, 3),)),
    "layer_norm": Case(lambda x: nn.functional.layer_norm(x, (3,)), (wave(3, 3),)),
    "norm": Case(lambda x: x.norm(dim=1), (wave(3, 3),)),
    "tril, diagonal": Case(lambda x: torch.cat([x.tril().flatten(), x.diagonal()]), (wave(3, 3),)),
    "embedding": Case(lambda w: nn.functional.embedding(IDX, w).square(), (wave(6, 2),)),
    "fft": Case(lambda x: torch.fft.rfft(x).abs().square(), (wave(2, 4),)),
    "linalg.solve": Case(lambda x: torch.linalg.solve(SHIFT + x, x), (wave(3, 2, 2),)),
    "sparse_mm": Case(lambda x: sparse_mm(A, x.sin()), (wave(6, 2),)),
    "sparse_mm, values": Case(lambda a, x: A.with_values(a) @ x, (A.values, wave(6)), (0, 1)),
    "SparseMatrix": Case(lambda M: (M @ wave(6)).square(), (A,)),
    "sparse_solve": Case(lambda b: sparse_solve(S, b.square()), (wave(4),)),
    "sparse_solve, matrix": Case(lambda s: sparse_solve(S.with_values(s), wave(4)), (S.values,)),
    "gather_mm": Case(lambda a, b: gather_mm(a, b, WHICH), (wave(5, 3), BANK), (0, 1)),
    "segment_mm": Case(lambda a: segment_mm(a, wave(3, 3, 2), LENGTHS), (wave(5, 3),)),
    "straight through": Case(lambda x: Rounded.apply(3 * x)[1:] * x[:-1], (wave(6),)),
    "dense row and column": Case(frame, (wave(6),)),
    "in place": Case(in_place, (wave(5),)),
    "pytrees": Case(tree, ({"a": wave(2, 2), "b": [wave(3)]},)),
    "argnums": Case(lambda x, y, z: x[1:] * y + z[:-1] ** 2, (wave(4), wave(3), wave(4)), (2, 0)),
    "negative argnum": Case(lambda x, y: x * y[1:], (wave(3), wave(4)), -1),
    "aux": Case(lambda x: (x.diff(), {"kept": x + 1, "name": "x"}), (wave(5),), 0, True),
    "scalar result": Case(lambda x: x[::2].square().sum(), (wave(5),)),
    "number": Case(lambda x: torch.stack([x.sin(), x, torch.ones_like(x)]), (wave(),)),
    "number to number": Case(torch.sin, (wave(),)),
    "empty result": Case(lambda x: x[5:], (wave(5),)),
    "empty leaf of many": Case(lambda x, y: x.sum() + y, (wave(0), wave(3)), (0, 1)),
    "both empty": Case(lambda x: x.reshape(3, 0) * 2, (wave(0, 3),)),
    "empty leaf": Case(lambda x, y: (x, x.sum() * y), (wave(0, 2), wave(3)), (0, 1)),
}


# ------------------------------------------------------------------------------ scalar functions


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


LOSSES: dict[str, Case] = {
    "rosenbrock": Case(rosenbrock, (wave(8),)),
    "powers of differences": Case(lambda x: x.diff().pow(4).sum(), (wave(6),)),
    "heat energy": Case(lambda u: heat(u).square().sum(), (wave(7),)),
    "brusselator energy": Case(lambda s: brusselator(s).pow(3).sum(), (wave(2, 3, 3),)),
    "network per sample": Case(lambda x: network(x).square().sum(), (wave(3, 3),)),
    "softplus": Case(lambda x: nn.functional.softplus(x).prod(1).sum(), (wave(3, 3),)),
    "where": Case(lambda x: torch.where(x > 0, x**3, x.sin()).sum(), (wave(6),)),
    "sort": Case(lambda x: (x.sort().values ** 3).sum(), (wave(5),)),
    "gather": Case(lambda x: (x[IDX].exp() * x[:5]).sum(), (wave(6),)),
    "dense row and column": Case(lambda x: x[0] * (x[1:] ** 2).sum(), (wave(6),)),
    "logsumexp": Case(lambda x: x.logsumexp(0), (wave(4),)),
    "quadratic": Case(lambda x: (x * (S @ x)).sum(), (wave(4),)),
    "energy of a solve": Case(lambda b: sparse_solve(S, b).pow(3).sum(), (wave(4),)),
    "values of a solve": Case(lambda s: sparse_solve(S.with_values(s), wave(4)).sum(), (S.values,)),
    "pytrees": Case(
        lambda x: (x["a"].sum(1) * x["b"][0]).sin().sum(), ({"a": wave(2, 2), "b": [wave(2)]},)
    ),
    "argnums": Case(lambda x, y, z: (x * y.sin() * z).sum(), (wave(3), wave(3), wave(3)), (2, 0)),
    "aux": Case(lambda x: (x.pow(3).sum(), {"kept": x + 1, "name": "x"}), (wave(3),), 0, True),
    "number": Case(lambda x: x.sin(), (wave(),)),
    "linear": Case(lambda x: x.sum(), (wave(3),)),
    "constant": Case(lambda x: wave(), (wave(3),)),
    "empty leaf": Case(lambda x, y: x.sum() * y.exp().sum(), (wave(0), wave(2)), (0, 1)),
}
