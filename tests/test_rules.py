"""Every op, in every cell of the table, against its reference, differences and loops."""

import importlib
import pkgutil

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

import tsgu_func
from tsgu_func import Primitive
from tsgu_func.selfcheck.records import all_records, record_named
from tsgu_func.testing import check_rules
from tsgu_func.testing.checker.checks import CHECKS

RECORDS = all_records(torch.float64)
NAMES = [record.name for record in RECORDS]
# Records of primitives: what has rules of its own.  Public functions are made of these.
RULED = [record.name for record in RECORDS if record.primitive]
CASES = [(name, torch.float64) for name in NAMES] + [(name, torch.complex128) for name in RULED]
GROUPS = ("value", "first", "higher", "eager", "jacobian", "vmap")
pytestmark = pytest.mark.usefixtures("device")


def test_every_primitive_has_a_record():
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(tsgu_func.__path__, "tsgu_func.")
        if not m.name.startswith(
            ("tsgu_func.demo", "tsgu_func.__main__", "tsgu_func.testing", "tsgu_func.selfcheck")
        )
    ]
    defined = {p for m in modules for p in vars(m).values() if isinstance(p, Primitive)}
    covered = {record.primitive for record in RECORDS if record.primitive is not None}
    assert len(defined) >= 3
    assert {p.name for p in defined} == {p.name for p in covered}


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_uncompiled(name, dtype):
    record = record_named(name, dtype)
    cells = {check.name for check in CHECKS.values() if check.group in GROUPS}
    # Ten digits: all records are well-conditioned.  All groups at once share finite differences.
    check_rules(
        record.function,
        record.args,
        # A public function has no rules of its own, and those for complex numbers are no others.
        order=3 if record.primitive and not dtype.is_complex else 2,
        transforms=sorted(cells - record.refused),
        dtypes=(dtype,),
        reference=record.reference,
        rtol=1e-10,
    ).raise_if_failed()


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    record = record_named(name, torch.float64)
    check_rules(
        record.function, record.args, transforms=("opcheck",), dtypes=(torch.float64,)
    ).raise_if_failed()


@pytest.mark.parametrize("low", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_low_precision(name, low):
    record = record_named(name, torch.float64)
    report = check_rules(record.function, record.args, transforms=("precision",), dtypes=(low,))
    assert report.failures == report.undecided == (), str(report)


# Compilation takes seconds a cell.  Of each primitive one record goes through all that is not
# inside of something else; of its other uses, and of public functions, a few cells.  The page of
# what was checked has them all.
FIRST = {r.primitive: r.name for r in reversed(RECORDS) if r.primitive and r.compiles}
INSIDE = ("backward", "fr", "rrr")
BATCHED = ("vmap(vmap)", "vmap(vjp)", "vjp(vmap)")
if torch.__version__ >= (2, 13):  # before, PyTorch could not; tests/test_canaries.py
    BATCHED += ("jacfwd(jacfwd)", "hessian")
COMPLEX = ("value", "fr", "vmap(vjp)")
OF_DTYPE = {torch.float64: (*INSIDE, *BATCHED), torch.complex128: COMPLEX}
FEW = {torch.float64: ("backward", "fr", "vmap(vjp)"), torch.complex128: ("fr",)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [record.name for record in RECORDS if record.compiles])
def test_compiled(name, dtype):
    record = record_named(name, dtype)
    cells = OF_DTYPE if name in FIRST.values() else FEW
    check_rules(
        record.function,
        record.args,
        order=3,
        transforms=[f"compiled {cell}" for cell in cells[dtype]],
        dtypes=(dtype,),
        rtol=1e-10,
    ).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse_mm matrix", "sparse_generic_solve SuperLU"])
def test_inductor(name):
    record = record_named(name, torch.float64)
    cells = ("inductor value", "inductor backward")
    check_rules(
        record.function, record.args, transforms=cells, dtypes=(torch.float64,)
    ).raise_if_failed()


@pytest.mark.parametrize("name", RULED)
def test_gradcheck(name, dtype):
    # PyTorch's own checker, beside ours: neither is the judge of itself.
    record = record_named(name, dtype)
    args = tuple(a.clone().requires_grad_() for a in record.args)
    fast = dtype.is_complex  # along directions, not for each entry
    assert torch.autograd.gradcheck(
        record.function,
        args,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        fast_mode=fast,
    )
    assert torch.autograd.gradgradcheck(
        record.function, args, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=fast
    )


@pytest.mark.parametrize("name", [record.name for record in RECORDS if record.compiles])
def test_make_fx(name, dtype):
    record = record_named(name, dtype)
    graph = make_fx(lambda *x: torch.sin(record.function(*x)))(*record.args)
    expected = torch.sin(record.reference(*record.args))
    assert_close(graph(*record.args), expected, rtol=1e-10, atol=1e-10)
