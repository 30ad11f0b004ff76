"""Patterns of Hessians against dense ones."""

import pytest
import torch
from torch.func import hessian

from tests.detected import check, dense, true_pattern
from tsgu_func import hessian_pattern

N = 12
INDEX = torch.tensor([3, 0, 3, 7])


def energy(x):
    u = x.reshape(3, 4)
    return sum((d**4).sum() for d in (u.diff(dim=0), u.diff(dim=1))) + u.exp().sum()


FUNCTIONS = {
    "convolution": (lambda x: (x.view(1, 1, -1).unfold(2, 3, 1).prod(-1)).sum(), False),
    "rosenbrock": (lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(), True),
    "separable": (lambda x: x.sin().sum(), True),
    "linear": (lambda x: (x * torch.arange(N)).sum(), True),
    "energy": (energy, True),
    "arrowhead": (lambda x: (x[0] * x[1:] ** 2).sum() + x[0] ** 3, True),
    "product": (lambda x: x[:3].prod() + x[5:7].prod(), False),
    "log of a sum": (lambda x: x.reshape(3, 4).logsumexp(1).sum(), True),
    "norms": (lambda x: x.reshape(3, 4).norm(dim=1).sum(), True),
    "softmax": (lambda x: (x.reshape(3, 4).softmax(1) ** 2).sum(), True),
    "gather": (lambda x: x[INDEX].prod() + (x[INDEX] ** 3).sum(), False),
    "scatter": (lambda x: (torch.zeros(8).double().scatter_add(0, INDEX, x[:4]) ** 3).sum(), True),
    "sorted": (lambda x: (x.sort().values[1:] ** 2).sum(), False),
    "relu": (lambda x: (x.relu() ** 3).sum(), True),
    "where": (lambda x: torch.where(x > 0, x**2, x**3).sum(), True),
    "maximum": (lambda x: (x.reshape(3, 4).amax(1) ** 2).sum(), False),
    "matrices": (lambda x: (x.reshape(3, 4) @ x.reshape(4, 3)).trace(), False),
    "determinants": (lambda x: torch.linalg.slogdet(x.reshape(3, 2, 2))[1].sum(), False),
    "cumulative": (lambda x: (x[:4].cumsum(0) ** 3).sum(), True),
    "gradient": (lambda x: torch.func.grad(lambda y: (y[1:] * y[:-1] ** 2).prod())(x)[0], False),
    "entropy": (lambda x: -(x.sigmoid() * x.sigmoid().log()).sum(), True),
    "huber": (lambda x: torch.nn.functional.huber_loss(x[1:], x[:-1]), True),
    "cross entropy": (
        lambda x: torch.nn.functional.cross_entropy(x.reshape(3, 4), torch.tensor([0, 3, 1])),
        True,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, in the oracle
def test_hessian(name):
    f, exact = FUNCTIONS[name]
    x = torch.randn(N, dtype=torch.float64)
    pattern = hessian_pattern(f, x)
    assert torch.equal(dense(pattern), dense(pattern).T)
    check(pattern, true_pattern(f, x, derivative=hessian, draws=5), exact)


def test_several_arguments():
    f = lambda x, y, z: (x * y.sum() * z).sum()
    x, y, z = (torch.randn(k, dtype=torch.float64) for k in (3, 2, 1))
    blocks = hessian(f, (0, 1))(x, y, z)
    true = torch.cat([torch.cat(list(row), 1) for row in blocks]) != 0
    check(hessian_pattern(f, x, y, z, argnums=(0, 1)), true)
    tree = lambda p: f(p["x"], p["y"], z)
    assert hessian_pattern(tree, {"x": x, "y": y}) == hessian_pattern(f, x, y, z, argnums=(0, 1))


def test_large():
    n = 100_000
    pattern = hessian_pattern(lambda x: ((x[1:] - x[:-1] ** 2) ** 2).sum(), torch.empty(n))
    assert pattern.shape == (n, n)
    assert pattern.nnz == 3 * n - 2
