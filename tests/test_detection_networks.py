"""Patterns of networks, and how long large ones take."""

import time

import pytest
import torch
from torch import nn
from torch.func import jacrev

from tests.detected import check, dense, true_pattern
from tsgu_func import hessian_pattern, jacobian_pattern


def images(*layers, channels=1, size=6):
    net = nn.Sequential(*layers).double()
    return lambda x: net(x.reshape(-1, channels, size, size)), torch.zeros(2 * channels * size**2)


def conv(*args, **options):
    return nn.Conv2d(*args, **options)


# Name, layers, whether rules are exact.
NETWORKS = {
    "padded": ([conv(1, 2, 3, padding=1), nn.Tanh()], True),
    "strided, dilated": ([conv(1, 2, 2, stride=2, dilation=2, padding=1), nn.Tanh()], True),
    "grouped": ([conv(1, 4, 1), nn.Tanh(), conv(4, 2, 3, groups=2)], True),
    "transposed": ([conv(1, 2, 3), nn.ConvTranspose2d(2, 4, 3, 2, groups=2), nn.Tanh()], True),
    "average pool": ([conv(1, 2, 3), nn.Tanh(), nn.AvgPool2d(2)], True),
    "maximum pool": ([nn.MaxPool2d(3, 2, padding=1), nn.Tanh()], False),
    "adaptive maximum pool": ([nn.AdaptiveMaxPool2d((4, 3)), nn.Tanh()], False),
    "fractional": ([nn.AdaptiveAvgPool2d((4, 5)), nn.Tanh()], True),
    "upsampled": ([nn.Upsample(scale_factor=2, mode="bilinear"), nn.Tanh()], False),
    "batch norm, running": ([nn.BatchNorm2d(1).eval(), nn.Tanh()], True),
    "batch norm": ([conv(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)], True),
    "group norm": ([conv(1, 4, 1), nn.GroupNorm(2, 4), nn.Tanh()], True),
    "layer norm": ([nn.LayerNorm(6), nn.Tanh()], True),
    "gated": ([conv(1, 2, 1), nn.GLU(1)], True),
    "perceptron": ([nn.Flatten(), nn.Linear(36, 5), nn.SiLU(), nn.Linear(5, 3)], True),
    "prelu": ([conv(1, 2, 3), nn.PReLU(2)], True),
    "shuffled": ([conv(1, 4, 3), nn.PixelShuffle(2), nn.Softplus()], True),
    "folded": ([nn.Unfold(2), nn.Tanh(), nn.Fold((6, 6), 2)], True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name):
    layers, exact = NETWORKS[name]
    f, x = images(*layers)
    x = x.double()
    check(jacobian_pattern(f, x), true_pattern(f, x, derivative=jacrev, draws=2), exact)


@pytest.mark.parametrize("name", ["padded", "maximum pool", "average pool", "grouped", "folded"])
def test_hessian_of_network(name):
    layers, exact = NETWORKS[name]
    f, x = images(*layers)
    x = x.double()
    loss = lambda x: f(x).square().sum()
    true = true_pattern(loss, x, derivative=torch.func.hessian, draws=2)
    check(hessian_pattern(loss, x), true, exact)


def test_weights():
    net = nn.Sequential(conv(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 2)).double()
    weights = dict(net.named_parameters())
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    f = lambda w: torch.func.functional_call(net, w, (x,))
    blocks = jacrev(f)(weights)
    true = torch.cat([b.reshape(6, -1) for b in blocks.values()], 1) != 0
    check(jacobian_pattern(f, weights), true)


def test_recurrent():
    net = nn.LSTM(2, 3, batch_first=True).double()
    f = lambda x: net(x.reshape(2, 4, 2))[0]
    x = torch.zeros(16, dtype=torch.float64)
    check(jacobian_pattern(f, x), true_pattern(f, x))


def test_what_batch_norm_counts_in_stays():
    """Detection runs f on tensors without numbers; nothing of these may be left in a module."""
    net = nn.BatchNorm1d(2)
    before = net.running_mean.clone()
    x = torch.randn(4, 2)
    found = dense(
        jacobian_pattern(lambda x: nn.functional.batch_norm(x, None, None, None, None, True), x)
    )
    assert torch.equal(found, torch.eye(2).repeat(4, 4).bool())
    assert torch.equal(net.running_mean, before)


def seconds(run):
    """Return the least processor time of three runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.slow
def test_time_of_the_brusselator():
    n = 224

    def f(y):
        u, v = y.reshape(2, n, n)
        ring = lambda u: u.roll(1, 0) + u.roll(-1, 0) + u.roll(1, 1) + u.roll(-1, 1) - 4 * u
        uuv = u * u * v
        return torch.stack([1 + uuv - 4.4 * u + ring(u), 3.4 * u - uuv + ring(v)])

    y = torch.empty(2 * n * n)
    assert jacobian_pattern(f, y).nnz == 6 * 2 * n * n
    assert seconds(lambda: jacobian_pattern(f, y)) < 2


@pytest.mark.slow
def test_time_of_a_network():
    net = nn.Sequential(
        *(conv(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10)),
    )
    x = torch.empty(32, 1, 28, 28)
    pattern = jacobian_pattern(net, x)
    assert pattern.shape == (320, 32 * 784)
    assert pattern.nnz == 320 * 784  # each sample is for itself
    assert seconds(lambda: jacobian_pattern(net, x)) < 2


def test_a_mean_takes_no_quadratic_memory():
    x = torch.empty(100_000)
    assert jacobian_pattern(lambda x: (x - x.mean()).square().sum(), x).nnz == 100_000
    with pytest.raises(ValueError, match="not sparse"):
        jacobian_pattern(lambda x: x - x.mean(), x)
