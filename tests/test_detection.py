"""Patterns of Jacobians against dense ones: stencils, networks, indexing, and all that moves."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.detected import check, dense, true_pattern
from tsgu_func import jacobian_pattern

N = 12
INDEX = torch.tensor([3, 0, 3, 7])
MASK = torch.arange(N) % 3 == 0
WEIGHT = torch.randn(N, N, dtype=torch.float64)


def laplace(u):
    p = functional.pad(u.reshape(3, 4), (1, 1, 1, 1))
    return p[1:-1, 2:] + p[1:-1, :-2] + p[2:, 1:-1] + p[:-2, 1:-1] - 4 * u.reshape(3, 4)


def brusselator(y):
    u, v = y.reshape(2, 2, 3)
    ring = lambda u: u.roll(1, 0) + u.roll(-1, 0) + u.roll(1, 1) + u.roll(-1, 1) - 4 * u
    return torch.stack([1 + u * u * v - 4.4 * u + ring(u), 3.4 * u - u * u * v + ring(v)])


def written_in_place(x):
    y = torch.zeros(N, dtype=x.dtype)
    y[1:] = x[:-1] ** 2
    y[::2].mul_(x[:6])
    y.view(3, 4)[0] += x.sum()
    y[3] = 0.0
    return y


def gram(x):
    A = x.view(4, 3)
    return A.T @ A + torch.eye(3, dtype=x.dtype)


def triangle(x):
    B = torch.ones(3, 1, dtype=x.dtype)
    A = x.view(3, 3).tril() + 3 * torch.eye(3, dtype=x.dtype)
    return torch.linalg.solve_triangular(A, B, upper=False).expand(3, 3)


def looped(x):
    for k in range(4):
        x = x + 0.1 * k * (x.roll(1) - x) * x
    return x


# Name, function of 12 numbers, and whether the rules are exact.
FUNCTIONS = {
    "identity": (lambda x: x, True),
    "constant": (lambda x: torch.ones(3, dtype=x.dtype), True),
    "in part constant": (lambda x: torch.cat([x[:2], torch.ones(2, dtype=x.dtype)]), True),
    "difference": (lambda x: x.diff(), True),
    "product of neighbours": (lambda x: x[1:] * x[:-1], True),
    "laplace": (laplace, True),
    "brusselator": (brusselator, True),
    "rosenbrock": (lambda x: 100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2, True),
    "arrowhead": (lambda x: torch.cat([x.square().sum()[None], x[1:] * x[0]]), True),
    "outer product": (lambda x: torch.outer(x[:3], x[3:5]), True),
    "cumulative sum": (lambda x: x.reshape(3, 4).cumsum(1), True),
    "cumulative product": (lambda x: x.reshape(3, 4).cumprod(0), True),
    "logcumsumexp": (lambda x: x.logcumsumexp(0), True),
    "softmax": (lambda x: x.reshape(3, 4).softmax(1), True),
    "log_softmax": (lambda x: x.reshape(3, 4).log_softmax(0), True),
    "mean and variance": (lambda x: torch.cat(torch.var_mean(x.reshape(3, 4), 1)), True),
    "logsumexp": (lambda x: x.reshape(3, 4).logsumexp(0), True),
    "norm": (lambda x: x.reshape(3, 4).norm(dim=1), True),
    "centred": (lambda x: x - x.mean(), True),
    "product": (lambda x: x.reshape(3, 4).prod(1), True),
    "maximum of a row": (lambda x: x.reshape(3, 4).amax(1), False),
    "max with index": (lambda x: x.reshape(3, 4).max(0).values, False),
    "sorted": (lambda x: x.reshape(3, 4).sort(1).values, False),
    "topk": (lambda x: x.reshape(3, 4).topk(2, 1).values, False),
    "median": (lambda x: x.reshape(4, 3).median(1).values, False),
    "cummax": (lambda x: x.reshape(3, 4).cummax(1).values, False),
    "gather by a constant": (lambda x: x[INDEX] * 2, True),
    "gather by itself": (lambda x: x[x.argsort()], False),
    "gather along an axis": (
        lambda x: x.reshape(3, 4).gather(1, x.reshape(3, 4).argsort(1)),
        False,
    ),
    "selected": (lambda x: x.reshape(3, 4).index_select(0, INDEX[1:3] % 3), True),
    "mask": (lambda x: x[MASK], True),
    "mask of an axis": (lambda x: x.view(3, 4)[:, MASK[:4]].exp(), True),
    "mask and index": (lambda x: x.view(3, 4)[MASK[:3], INDEX[1]], True),
    "selected by a mask": (lambda x: x.masked_select(MASK), True),
    "selected by a broadcast mask": (lambda x: x[:4].masked_select(MASK.view(3, 4)), True),
    "scatter": (lambda x: torch.zeros(8).double().scatter(0, INDEX[[0, 1, 3]], x[:3]), True),
    "scatter_add": (lambda x: torch.zeros(8).double().scatter_add(0, INDEX, x[:4]), True),
    "scatter where a number says": (
        lambda x: (
            torch.zeros(3, 4).double().scatter_add(1, x.reshape(3, 4).argsort(1), x.view(3, 4))
        ),
        False,
    ),
    "index_add": (lambda x: torch.zeros(8).double().index_add(0, INDEX, x[:4]), True),
    "index_put": (lambda x: x.index_put((INDEX[[0, 1]],), x[8:10]), True),
    "masked_fill": (lambda x: x.roll(1).masked_fill(MASK, 0.0), True),
    "multiplied by a mask": (lambda x: x.roll(1) * MASK, True),
    "where by a constant": (lambda x: torch.where(MASK, x, x.flip(0)), True),
    "take": (lambda x: x.take(INDEX), True),
    "masked_scatter": (lambda x: x.masked_scatter(MASK, x.flip(0)), True),
    "where by itself": (lambda x: torch.where(x > 0, x, x.flip(0)), True),
    "clamp": (lambda x: x.clamp(-1, 1).roll(2), True),
    "relu": (lambda x: x.relu() + x.roll(1).abs(), True),
    "moved": (lambda x: x.reshape(3, 4).T.flip(0).roll(1, 1).repeat(1, 2), True),
    "unfold": (lambda x: x.unfold(0, 3, 2), True),
    "stacked": (lambda x: torch.stack([x[:4], x[4:8] ** 2], 1), True),
    "tril": (lambda x: x.reshape(3, 4).tril(), True),
    "diagonal": (lambda x: torch.diag_embed(x[:3]), True),
    "meshgrid": (lambda x: sum(torch.meshgrid(x[:3], x[3:5], indexing="ij")), True),
    "kron": (lambda x: torch.kron(x[:4].view(2, 2), x[4:8].view(2, 2)), True),
    "matrix": (lambda x: WEIGHT @ x, True),
    "matrices": (lambda x: x.reshape(3, 4) @ x.reshape(4, 3), True),
    "batched matrices": (lambda x: torch.bmm(x.view(2, 3, 2), x.view(2, 2, 3)), True),
    "einsum": (lambda x: torch.einsum("ij,kj->ik", x.view(3, 4), x.view(3, 4).exp()), True),
    "written in place": (written_in_place, False),  # a constant may be zero, and is not looked at
    "looped": (looped, False),  # one factor is zero
    "fft": (lambda x: torch.fft.rfft(x.reshape(3, 4)).abs(), True),
    "fft and back": (lambda x: torch.fft.irfft(torch.fft.rfft(x.view(3, 4)) ** 2, 4), True),
    "complex": (
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(6, 2)).conj() ** 2),
        True,
    ),
    "inverse": (lambda x: torch.linalg.inv(x[:8].view(2, 2, 2)), True),
    "solve": (lambda x: torch.linalg.solve(WEIGHT[:3, :3], x.view(4, 3, 1)), True),
    "triangular solve": (lambda x: triangle(x[:9]).mm(x[:9].view(3, 3)), False),
    "cholesky": (lambda x: torch.linalg.cholesky(gram(x)), False),
    "qr": (lambda x: torch.linalg.qr(gram(x))[0], False),
    "factors": (lambda x: torch.linalg.lu_factor(gram(x))[0], False),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(gram(x)), True),
    "solve by cholesky": (
        lambda x: torch.cholesky_solve(x.view(4, 3, 1), torch.linalg.cholesky(gram(WEIGHT[0]))),
        True,
    ),
    "determinant": (lambda x: torch.linalg.det(x[:8].view(2, 2, 2)), True),
    "vmap": (lambda x: torch.vmap(lambda r: torch.outer(r, r).sin().sum(0))(x.view(4, 3)), True),
    "gradient": (lambda x: torch.func.grad(lambda y: (y[1:] ** 2 * y[:-1]).sum())(x), True),
    "interpolate": (
        lambda x: functional.interpolate(x.view(1, 1, 3, 4), (6, 8), mode="bilinear"),
        False,
    ),
    "nearest": (lambda x: functional.interpolate(x.view(1, 3, 4), 8), True),
    "reflected": (lambda x: functional.pad(x.view(1, 3, 4), (2, 1), mode="reflect"), True),
    "average pool": (lambda x: functional.avg_pool2d(x.view(1, 3, 4), 2, 1, 1), True),
    "adaptive pool": (lambda x: functional.adaptive_avg_pool1d(x.view(1, 12), 5), True),
    "attention": (
        lambda x: functional.scaled_dot_product_attention(
            x.view(2, 3, 2), x.view(2, 3, 2), x.view(2, 3, 2)
        ),
        True,
    ),
    "sorted by a constant": (lambda x: x[torch.tensor(WEIGHT[0].tolist()).argsort()], True),
    "random mask": (lambda x: x * (torch.rand_like(x) < 2) + functional.dropout(x, 0.5) * 0, True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, in the oracle
def test_pattern(name):
    f, exact = FUNCTIONS[name]
    x = torch.randn(N, dtype=torch.float64)
    pattern = jacobian_pattern(f, x)
    if name == "random mask":
        assert torch.equal(dense(pattern), torch.eye(N, dtype=torch.bool))
    elif name == "attention":  # which has no forward mode otherwise
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            check(pattern, true_pattern(f, x), exact)
    elif name == "brusselator":
        check(pattern, true_pattern(f, x, draws=5), exact)
    else:
        check(pattern, true_pattern(f, x), exact)
