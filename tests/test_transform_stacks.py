"""Stacks of transforms agree with plain autograd, and find a rule that does not."""

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis.errors import NoSuchExample

from tests.planted import FunctionCube
from tsgu_func import SparseMatrix, sparse_mm
from tsgu_func.testing.strategies import TransformStack, dense_tensors, transform_stacks

A = SparseMatrix.from_dense(torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], dtype=torch.float64))


def agree(stack, fn, *x):
    got, right = stack.apply(fn, *x), stack.by_hand(fn, *x)
    return all(torch.allclose(a, b) for a, b in zip(got, right, strict=True))


@settings(max_examples=20)
@given(transform_stacks(), dense_tensors((3, 2), strides="transposed"))
def test_a_product_in_both_arguments(stack, B):
    values = A.values.to(B.dtype)
    assert agree(stack, lambda values, B: sparse_mm(A.with_values(values), B).sin(), values, B)


def test_a_closed_form():
    x = torch.tensor([0.5, 2.0], dtype=torch.float64)
    (got,) = TransformStack(("vmap", "jvp")).apply(torch.sin, x)
    u = torch.tensor([1.5, 2.5]).sin().double()
    right = torch.stack([(k * x).cos() * u for k in (1.0, 0.75, -0.5)])
    torch.testing.assert_close(got, right)


def test_a_rule_that_is_lost_is_found():
    """autograd.Function is wrong in forward over forward mode, and there alone."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    wrong = lambda stack: not agree(stack, FunctionCube.apply, x)
    assert find(transform_stacks(), wrong).names == ("jvp", "jvp")
    with pytest.raises(NoSuchExample):
        find(transform_stacks(order=(0, 1)), wrong, settings=settings(max_examples=30))


def test_refuses():
    with pytest.raises(ValueError, match="levels is one of 'vmap', 'jvp', 'vjp'; got 'grad'"):
        transform_stacks(levels=("grad",))
    with pytest.raises(ValueError, match="depth"):
        transform_stacks((3, 1))
