"""Every op, in every cell of the table of transforms, against its reference and differences."""

import importlib
import pkgutil

import pytest
import torch
from torch.testing import assert_close

import tsgu_func
from tests.case import as_reals
from tests.cases import NAMES, case_named, primitive_cases
from tests.transforms import EAGER
from tsgu_func import Primitive

# Ten digits: all cases are well-conditioned.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
pytestmark = pytest.mark.usefixtures("device")


def test_every_primitive_has_a_case():
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(tsgu_func.__path__, "tsgu_func.")
        if not m.name.startswith(("tsgu_func.demo", "tsgu_func.__main__"))
    ]
    defined = {p for m in modules for p in vars(m).values() if isinstance(p, Primitive)}
    covered = {case.primitive for case in primitive_cases(torch.float64)}
    assert len(defined) >= 3
    assert {p.name for p in defined} == {p.name for p in covered if p is not None}


@pytest.mark.parametrize("cell", EAGER)
@pytest.mark.parametrize("name", NAMES)
def test_transform(name, cell, dtype):
    case = as_reals(case_named(name, dtype))
    result = EAGER[cell](case.function, case.args)
    expected = EAGER[cell](case.reference, case.args)
    assert_close(result, expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, dtype):
    case = case_named(name, dtype)
    args = tuple(a.clone().requires_grad_() for a in case.args)
    assert torch.autograd.gradcheck(
        case.function,
        args,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert torch.autograd.gradgradcheck(
        case.function, args, check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("case", primitive_cases(torch.float64), ids=repr)
def test_opcheck(case):
    # The op is called through its public handle, with what the case closes over.
    calls = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is case.primitive.op:
                calls.append(args)
            return func(*args, **(kwargs or {}))

    with Spy():
        case.function(*case.args)
    (args,) = calls
    for needed in (False, True):
        inputs = tuple(
            a.clone().requires_grad_(needed) if any(a is x for x in case.args) else a for a in args
        )
        torch.library.opcheck(case.primitive.op, inputs)
