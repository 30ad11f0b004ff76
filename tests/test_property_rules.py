"""Every rule of every primitive against finite differences, for drawn patterns and batches."""

import importlib
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsgu_func
from tests.calls import PRIMITIVES, PUBLIC, calls
from tests.derivatives import assert_derivatives
from tsgu_func import Primitive
from tsgu_func.ops.least_squares import least_norm, least_squares
from tsgu_func.ops.operator_least_squares import operator_least_norm, operator_least_squares
from tsgu_func.ops.operators import operator_solve
from tsgu_func.ops.roots import root

SEEDS = st.integers(0, 999)
ITERATIVE = (
    *(least_squares, least_norm, operator_solve, operator_least_squares, operator_least_norm),
    root,
)
DIRECT = [primitive for primitive in PRIMITIVES if primitive not in ITERATIVE]


def bent(function):
    """Follow a function by one that is not linear, so that no derivative vanishes."""
    return lambda *args: torch.sin(function(*args) / 2)


def test_every_primitive_is_drawn():
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(tsgu_func.__path__, "tsgu_func.")
        if not m.name.startswith(
            ("tsgu_func.demo", "tsgu_func.__main__", "tsgu_func.testing", "tsgu_func.selfcheck")
        )
    ]
    defined = {p for m in modules for p in vars(m).values() if isinstance(p, Primitive)}
    assert {p.name for p in defined} == {p.name for p in PRIMITIVES}


@pytest.mark.parametrize("primitive", PRIMITIVES, ids=lambda p: p.name.partition("::")[2])
@given(data=st.data())
def test_every_rule_is_reached(primitive, data):
    """The arguments that are varied are those that have rules."""
    call = data.draw(calls(PRIMITIVES[primitive]))
    varied = set(primitive.arguments[: len(call.args)])
    assert varied == set(primitive._vjps) == set(primitive._jvps)


@pytest.mark.slow
@pytest.mark.parametrize("primitive", DIRECT, ids=lambda p: p.name.partition("::")[2])
@given(data=st.data(), seed=SEEDS)
def test_rules(primitive, data, seed):
    call = data.draw(calls(PRIMITIVES[primitive]))
    assert_derivatives(bent(call.whole), call.args, seed)


@pytest.mark.slow
@pytest.mark.parametrize("primitive", ITERATIVE, ids=lambda p: p.name.partition("::")[2])
@settings(max_examples=settings().max_examples // 5)  # each of them is hundreds of iterations
@given(data=st.data(), seed=SEEDS)
def test_rules_of_what_iterates(primitive, data, seed):
    call = data.draw(calls(PRIMITIVES[primitive]))
    assert_derivatives(bent(call.whole), call.args, seed)


# The files of the other public functions have a test like this one.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse_mm", "sparse_generic_solve"])
@given(data=st.data(), seed=SEEDS)
def test_public(name, data, seed):
    call = data.draw(calls(PUBLIC[name]))
    assert_derivatives(bent(call.whole), call.args, seed)
