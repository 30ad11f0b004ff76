"""Jacobians and Hessians of many functions, by all modes, are those of torch.func."""

import pytest
from torch.testing import assert_close

from tests.differentiated import CASES, LOSSES, dense_hessian, dense_jacobian
from tsgu_func import (
    hessian_pattern,
    jacobian_pattern,
    sparse_hessian,
    sparse_jacobian,
)

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
MODES = ("auto", "forward", "reverse", "bidirectional")
HESSIAN_MODES = ("forward-reverse", "reverse-forward", "reverse-reverse", "forward-forward")


def test_there_are_forty_functions():
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # unfold has no batching rule
def test_jacobians(name):
    case = CASES[name]
    expected = dense_jacobian(case)
    pattern = jacobian_pattern(case.f, *case.args, **case.options)
    for mode in MODES:
        for chunk_size in (None, 1, 2):
            options = {**case.options, "mode": mode, "chunk_size": chunk_size}
            done = sparse_jacobian(case.f, pattern, **options)(*case.args)
            J = done[0] if case.has_aux else done
            assert J.pattern == pattern
            assert_close(J.to_dense(), expected, **CLOSE)
    found = sparse_jacobian(case.f, **case.options)(*case.args)
    J = found[0] if case.has_aux else found
    assert_close(J.to_dense(), expected, **CLOSE)


@pytest.mark.parametrize("name", LOSSES)
def test_hessians(name):
    case = LOSSES[name]
    expected = dense_hessian(case)
    pattern = hessian_pattern(case.f, *case.args, **case.options)
    for mode in HESSIAN_MODES:
        done = sparse_hessian(case.f, pattern, **case.options, mode=mode)(*case.args)
        H = done[0] if case.has_aux else done
        assert_close(H.to_dense(), expected, **CLOSE)
