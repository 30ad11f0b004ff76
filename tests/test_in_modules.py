"""A module that holds sparse matrices and uses all that can be done with them, trained."""

import pytest
import torch
from torch.testing import assert_close

from tests.test_algebra import S, T, chain, chain_dense
from tsgu_func import (
    LinearOperator,
    SparseMatrix,
    SparseParameter,
    block_diag,
    factorize,
    hstack,
    kron,
    sparse_lstsq,
    sparse_solve,
    vstack,
)
from tsgu_func.solvers import CG, LSMR

EYE = SparseMatrix.eye(3, dtype=torch.float64)


class Sparse(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.A, self.B = SparseParameter(S), SparseParameter(T)
        self.d = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))


class Algebra(Sparse):
    def forward(self):
        return chain(self.A.values, self.B.values, self.d)


class Structure(Sparse):
    def forward(self):
        A, B = self.A(), self.B()
        K = kron(A, B[[2, 0]])[1:5][:, ::2]
        M = vstack([hstack([A.tril(), B]), hstack([B.triu(1), A[:, [1, 0, 2]]])])
        twice = torch.cat([self.d, self.d])
        N = block_diag([A, K]).matmul(torch.cat([twice, self.d]).sin()[: 3 + K.shape[1]])
        return torch.cat([M.matmul(twice), N, K.sum(-1)])


class Solves(Sparse):
    def forward(self):
        A, B = self.A(), self.B()
        H = A.T.matmul(A) + EYE * 5.0
        F = factorize(H)
        L = LinearOperator.from_matrix(H)
        tall = LinearOperator.from_matrix(vstack([A + EYE * 4.0, B]))
        right = torch.cat([self.d, self.d])
        return torch.cat(
            [
                F.solve(self.d),
                F.solve(self.d, adjoint=True),
                F.logabsdet[None],
                sparse_solve(L, self.d, solver=CG(rtol=1e-13)),
                sparse_lstsq(tall, right, solver=LSMR(rtol=1e-13)),
            ]
        )


class Dense(torch.nn.Module):
    """The same three, with PyTorch's dense operations at the same places."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.v, self.w = (torch.nn.Parameter(M.values.clone()) for M in (S, T))
        self.d = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))

    def forward(self):
        if self.kind is Algebra:
            return chain_dense(self.v, self.w, self.d)
        places = [(M.pattern.row.long(), M.pattern.col.long()) for M in (S, T)]
        zeros = torch.zeros(3, 3, dtype=torch.float64)
        A, B = (zeros.index_put(at, x) for at, x in zip(places, (self.v, self.w), strict=True))
        d = self.d
        if self.kind is Structure:
            K = torch.kron(A, B[[2, 0]])[1:5][:, ::2]
            M = torch.cat([torch.cat([A.tril(), B], 1), torch.cat([B.triu(1), A[:, [1, 0, 2]]], 1)])
            N = torch.block_diag(A, K) @ torch.cat([d, d, d]).sin()[: 3 + K.shape[1]]
            return torch.cat([M @ torch.cat([d, d]), N, K.sum(-1)])
        eye = torch.eye(3, dtype=torch.float64)
        H = A.T @ A + 5 * eye
        x = torch.linalg.solve(H, d)
        tall = torch.cat([A + 4 * eye, B])
        least = torch.linalg.solve(tall.T @ tall, tall.T @ torch.cat([d, d]))
        return torch.cat([x, x, torch.linalg.slogdet(H)[1][None], x, least])


def trained(module, loss):
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("kind", [Algebra, Structure, Solves])
def test_a_module_is_trained_like_a_dense_one(kind, mode):
    ours, theirs = kind(), Dense(kind)
    run = ours
    if mode == "compiled":
        run = torch.compile(ours, fullgraph=True, backend="aot_eager")
    losses = trained(ours, lambda: run().square().mean())
    assert_close(losses, trained(theirs, lambda: theirs().square().mean()), rtol=1e-8, atol=1e-10)
    assert losses[-1] < losses[0]
    moved = zip(ours.parameters(), [theirs.d, theirs.v, theirs.w], strict=True)
    for x, y in moved:
        assert_close(x.detach(), y.detach(), rtol=1e-8, atol=1e-10)
