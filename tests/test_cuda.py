"""On CUDA: what never waits for the device."""

import pytest
import torch
from torch.func import grad

import tsgu_func
from tests.systems import randn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def _matrix():
    dense = torch.zeros(5, 4, dtype=torch.float64, device="cuda")
    dense[[0, 1, 1, 3, 4], [1, 0, 3, 2, 2]] = torch.arange(1.0, 6, device="cuda").double()
    return tsgu_func.SparseMatrix.from_dense(dense)


def _product(A):
    B = randn(4, 3).cuda()
    return lambda: tsgu_func.sparse_mm(A, B)


def _gradient(A):
    B = randn(4, 3).cuda()
    loss = lambda v, B: (tsgu_func.sparse_mm(A.with_values(v), B) ** 2).sum()
    return lambda: grad(loss, argnums=(0, 1))(A.values, B)


def _segments(A):
    X, W, lengths = randn(5, 2).cuda(), randn(2, 2, 3).cuda(), torch.tensor([2, 3])
    loss = lambda X, W: (tsgu_func.segment_mm(X, W, lengths) ** 2).sum()
    return lambda: grad(loss, argnums=(0, 1))(X, W)


@pytest.mark.parametrize("make", [_product, _gradient, _segments])
def test_the_host_never_waits(make):
    run = make(_matrix())
    run()  # what is found out about a pattern once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
