"""Drawn compositions of ops: the pattern holds the true one, and is it where rules are exact."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import hessian, jvp

from tests.detected import check, dense, true_pattern
from tsgu_func import SparseMatrix, hessian_pattern, jacobian_pattern, sparse_mm

MOST = 24  # elements of an intermediate result


def weights(shape, draw):
    """Return numbers that let nothing cancel."""
    numbers = [draw.random() + 0.5 for _ in range(math.prod(shape))]
    return torch.tensor(numbers, dtype=torch.float64).reshape(tuple(shape))


def factor(n, draw):
    return next(k for k in draw.sample(range(1, n + 1), n) if n % k == 0)


def reshaped(x, draw):
    rows = factor(x.numel(), draw)
    return x.reshape(rows, x.numel() // rows)


def index(n, count, draw):
    return torch.tensor([draw.randrange(n) for _ in range(count)])


def written(x, draw):
    """Write to views of new and of old memory."""
    y = x.flatten().clone()
    y[:: draw.randint(1, 3)] *= 2.0
    start = draw.randrange(len(y))
    y[start:] = y.flip(0)[: len(y) - start].clone()
    z = torch.zeros(2, len(y), dtype=x.dtype)
    z.T[:, draw.randrange(2)] = y
    z[0, draw.randrange(len(y))] = 0.0
    return z[:, :12]


def sparse(x, draw):
    n = x.shape[0]
    A = torch.zeros(3, n, dtype=x.dtype)
    A[index(3, n, draw), index(n, n, draw)] = 1.5
    return sparse_mm(SparseMatrix.from_dense(A), x)


def axis(draw):
    return draw.randrange(2)


# Of a matrix, and of a source of numbers: another matrix.  `EXACT` where the rules are.
EXACT = {
    "sine": lambda x, d: x.sin(),
    "square": lambda x, d: x * x,
    "reshape": reshaped,
    "transpose": lambda x, d: x.T,
    "flip": lambda x, d: x.flip(axis(d)),
    "roll": lambda x, d: x.roll(d.randrange(5), axis(d)),
    "slice": lambda x, d: x[:: d.randint(1, 2), d.randrange(x.shape[1]) :],
    "pad": lambda x, d: torch.nn.functional.pad(x, (d.randrange(2), 1, 0, d.randrange(2))),
    "gather": lambda x, d: x[index(x.shape[0], 3, d)],
    "gather columns": lambda x, d: x.gather(1, index(x.shape[1], x.shape[0], d)[:, None]),
    "mask": lambda x, d: x * (index(2, x.shape[1], d) > 0) + x.roll(1, 0),
    "where": lambda x, d: torch.where(index(2, x.shape[1], d) > 0, x, x.flip(0)),
    "sum": lambda x, d: x.sum(axis(d), keepdim=True),
    "mean": lambda x, d: x.mean(axis(d), keepdim=True) + x,
    "cumulative": lambda x, d: x.cumsum(axis(d)),
    "softmax": lambda x, d: x.softmax(axis(d)),
    "matrix": lambda x, d: x @ weights((x.shape[1], d.randint(1, 3)), d),
    "gram": lambda x, d: x @ x.T,
    "cat": lambda x, d: torch.cat([x, x.sin().flip(0)], axis(d)),
    "stack": lambda x, d: torch.stack([x, x.cos()]).flatten(0, 1),
    "repeat": lambda x, d: x.repeat(1, d.randint(1, 2)),
    "expand": lambda x, d: x[:1].expand(3, -1),
    "diagonal": lambda x, d: x.diagonal()[None],
    "tril": lambda x, d: x.tril(d.randint(-1, 1)),
    "outer": lambda x, d: torch.outer(x[0], x[:, 0]),
    "windows": lambda x, d: x.unfold(1, min(2, x.shape[1]), 1).flatten(1),
    "scatter": lambda x, d: torch.zeros(4, x.shape[1], dtype=x.dtype).index_add(
        0, index(4, x.shape[0], d), x
    ),
    "convolution": lambda x, d: torch.nn.functional.conv1d(
        x[None], weights((2, x.shape[0], 2), d), padding=1
    )[0],
    "written": written,
    "sparse": sparse,
    "vmap": lambda x, d: torch.vmap(lambda r: r * r.sum() + r.roll(1))(x),
    "gradient": lambda x, d: torch.func.grad(lambda y: (y.sum(0) ** 3).sum())(x),
}
SAFE = EXACT | {
    "relu": lambda x, d: x.relu(),
    "clamp": lambda x, d: x.clamp(-0.5, 0.5),
    "maximum": lambda x, d: x.amax(axis(d), keepdim=True),
    "sort": lambda x, d: x.sort(axis(d)).values,
    "topk": lambda x, d: x.topk(1, axis(d)).values,
    "where by itself": lambda x, d: torch.where(x > x.mean(), x, x.roll(1, 1)),
    "computed index": lambda x, d: x.gather(axis(d), x.argsort(axis(d)) * 0 + 0),
    "scatter by itself": lambda x, d: torch.zeros_like(x).scatter_add(1, x.argsort(1), x),
    "solve": lambda x, d: torch.linalg.solve(
        x[:, :1] * x[:, :1].T + 9 * torch.eye(x.shape[0], dtype=x.dtype), x
    ),
    "pool": lambda x, d: torch.nn.functional.max_pool1d(x[None], min(2, x.shape[1]), 1)[0],
    "difference": lambda x, d: x - x.mean() - x.roll(1, 0),
    "fft": lambda x, d: torch.fft.fft(x, dim=axis(d)).real,
}


class Program:
    """Ops one after the other, with the numbers that they draw."""

    def __init__(self, table, steps):
        self.table, self.steps = table, steps

    def __call__(self, x):
        x = x.reshape(2, -1)
        for name, seed in self.steps:
            draw = random.Random(seed)
            x = self.table[name](x, draw).reshape(-1)[:MOST]
            x = reshaped(x * weights(x.shape, draw), draw)
        return x

    def __repr__(self):
        return f"Program({self.steps})"


def programs(table):
    step = st.tuples(st.sampled_from(sorted(table)), st.integers(0, 999))
    return st.lists(step, min_size=1, max_size=5).map(lambda steps: Program(table, steps))


X = torch.zeros(8, dtype=torch.float64)


@pytest.mark.slow
@given(programs(EXACT))
def test_exact(program):
    pattern = jacobian_pattern(program, X)
    check(pattern, true_pattern(program, X), exact=len(program.steps) == 1)


@pytest.mark.slow
@given(programs(SAFE))
def test_never_too_small(program):
    check(jacobian_pattern(program, X), true_pattern(program, X), exact=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of the oracle
@given(programs(SAFE))
def test_hessian_is_never_too_small(program):
    f = lambda x: (program(x) ** 2).sum()
    check(hessian_pattern(f, X), true_pattern(f, X, derivative=hessian, draws=2), exact=False)


@pytest.mark.slow
@given(programs(SAFE), st.integers(0, 99))
def test_local_is_right_where_it_was_detected(program, seed):
    x = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = dense(jacobian_pattern(program, x, detect="local"))
    columns = [jvp(program, (x,), (e,))[1].flatten() != 0 for e in torch.eye(8, dtype=x.dtype)]
    assert not (torch.stack(columns, 1) & ~found).any()
    assert not (found & ~dense(jacobian_pattern(program, x))).any()
