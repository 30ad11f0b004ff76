"""Every op, in every cell of the table of transforms, against its reference and differences."""

import importlib
import pkgutil

import pytest
import torch
from torch.testing import assert_close

import tsgu_func
from tests.transforms import EAGER
from tsgu_func import Primitive
from tsgu_func.testing.records import all_records, record_named
from tsgu_func.testing.records.base import as_reals

# Ten digits: all records are well-conditioned.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
RECORDS = all_records(torch.float64)
NAMES = [record.name for record in RECORDS]
OF_PRIMITIVES = [record for record in RECORDS if record.primitive is not None]
pytestmark = pytest.mark.usefixtures("device")


def test_every_primitive_has_a_record():
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(tsgu_func.__path__, "tsgu_func.")
        if not m.name.startswith(("tsgu_func.demo", "tsgu_func.__main__", "tsgu_func.testing"))
    ]
    defined = {p for m in modules for p in vars(m).values() if isinstance(p, Primitive)}
    covered = {record.primitive for record in OF_PRIMITIVES}
    assert len(defined) >= 3
    assert {p.name for p in defined} == {p.name for p in covered if p is not None}


@pytest.mark.parametrize("cell", EAGER)
@pytest.mark.parametrize("name", NAMES)
def test_transform(name, cell, dtype):
    record = as_reals(record_named(name, dtype))
    result = EAGER[cell](record.function, record.args)
    expected = EAGER[cell](record.reference, record.args)
    assert_close(result, expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, dtype):
    record = record_named(name, dtype)
    args = tuple(a.clone().requires_grad_() for a in record.args)
    assert torch.autograd.gradcheck(
        record.function,
        args,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert torch.autograd.gradgradcheck(
        record.function, args, check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("record", OF_PRIMITIVES, ids=repr)
def test_opcheck(record):
    # The op is called through its public handle, with what the record closes over.
    calls = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is record.primitive.op:
                calls.append(args)
            return func(*args, **(kwargs or {}))

    with Spy():
        record.function(*record.args)
    (args,) = calls
    for needed in (False, True):
        inputs = tuple(
            a.clone().requires_grad_(needed) if any(a is x for x in record.args) else a
            for a in args
        )
        torch.library.opcheck(record.primitive.op, inputs)
