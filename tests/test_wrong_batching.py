"""A derivative that PyTorch gets wrong where cotangents are mapped is refused there."""

import pytest
import torch
from torch.func import jacrev, vmap
from torch.testing import assert_close

from tests.functions import wave
from tsgu_func import color, jacobian_pattern, sparse_jacobian

X, Y = wave(8).reshape(4, 2), wave(6).cos().reshape(3, 2)
WRONG = "derivative of torch.cdist is wrong .* chunk_size=1"

FUNCTIONS = {
    "cdist": lambda x: torch.cdist(x, Y),
    "the op": lambda x: torch.ops.aten.cdist(x, Y, 2.0, None),
    "its overload": lambda x: torch.ops.aten.cdist.default(x, Y, 2.0, None),
    "the op below": lambda x: torch.ops.aten._cdist_forward(x, Y, 2.0, None),
}


def distances(x):
    return (x[:, None] - Y).square().sum(-1).sqrt()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_at_once(name):
    for chunk_size in (None, 2):
        with pytest.raises(NotImplementedError, match=WRONG):
            sparse_jacobian(FUNCTIONS[name], chunk_size=chunk_size)(X)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_product_at_a_time(name):
    expected = jacrev(distances)(X).reshape(12, 8)
    coloring = color(jacobian_pattern(FUNCTIONS[name], X), "reverse")
    jac = sparse_jacobian(FUNCTIONS[name], coloring, chunk_size=1)
    assert_close(jac(X).to_dense(), expected)
    # To map points is another matter than to map cotangents.
    mapped = vmap(lambda x: jac(x).to_dense())(torch.stack([X, -X]))
    assert_close(mapped, torch.stack([expected, jacrev(distances)(-X).reshape(12, 8)]))


@pytest.mark.slow
def test_compiled():
    coloring = color(jacobian_pattern(distances, X), "reverse")
    compiled = torch.compile(
        lambda x, k: sparse_jacobian(FUNCTIONS["cdist"], coloring, chunk_size=k)(x).to_dense(),
        fullgraph=True,
    )
    assert_close(compiled(X, 1), jacrev(distances)(X).reshape(12, 8))
    with pytest.raises((NotImplementedError, RuntimeError), match=WRONG):
        compiled(X, None)
