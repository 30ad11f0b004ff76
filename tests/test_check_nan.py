"""NaN and infinity are never right where a finite number is, whichever cell meets them."""

import pytest
import torch

from tsgu_func.testing import Verdict, check_rules
from tsgu_func.testing.checker import shrink
from tsgu_func.testing.checker.check_rules import Settings, plan

F64 = torch.float64
X = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
CELLS = ("first", "higher", "eager", "jacobian", "vmap")
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def spoiled(spoil, *, forward=False):
    """Return a cube whose backward, or else whose jvp, is spoiled."""

    class Cube(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, ct):
            (x,) = ctx.saved_tensors
            slope = 3 * ct * x**2
            return slope if forward else spoil(slope)

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            slope = 3 * tangent * x * x
            return spoil(slope) if forward else slope

    return Cube.apply


SPOILS = {
    "NaN": lambda slope: slope * torch.nan,
    "infinity": lambda slope: slope * torch.inf,
    "minus infinity": lambda slope: slope * -torch.inf,
    "NaN at an entry": lambda slope: slope * torch.tensor([1.0, torch.nan, 1.0]),
    "infinity at an entry": lambda slope: slope * torch.tensor([1.0, 1.0, torch.inf]),
}
# PyTorch drops the tangent of the tangent of a Function, and its part of a derivative of jvp.
PYTORCHS = {"ff", "jacfwd(jacfwd)", "second derivatives agree"}


@pytest.fixture
def in_no_time(monkeypatch):
    """Leave counterexamples as they are found."""
    monkeypatch.setattr(shrink, "_SECONDS", 0.0)


def verdicts(f, cells=CELLS):
    report = check_rules(f, (X,), transforms=cells, dtypes=[F64])
    return {c.name: c.verdict for c in report.cells}, report


def using(letter):
    """Return the cells that differentiate in a mode."""
    everything = Settings(2, frozenset("fr"), frozenset(CELLS), (F64,), None, None, 0)
    return {check.name for check in plan(everything) if letter in check.modes and check.least == 1}


def test_the_right_twin_passes(in_no_time):
    found, report = verdicts(spoiled(lambda slope: slope))
    assert {name for name, v in found.items() if v is not Verdict.HOLDS} == PYTORCHS, str(report)


@pytest.mark.parametrize("name", SPOILS)
def test_a_backward_that_is_not_finite_never_holds(name, in_no_time):
    found, report = verdicts(spoiled(SPOILS[name]))
    assert not {n for n in using("r") if found[n] is Verdict.HOLDS}, str(report)
    told = {"r", "rf", "vjp with jvp", "backward", "checkpoint", "jacrev", "functional.jacobian"}
    assert {found[n] for n in told} == {Verdict.FAILS}, str(report)
    untouched = set(found) - using("r") - PYTORCHS
    assert {found[n] for n in untouched} == {Verdict.HOLDS}, str(report)


@pytest.mark.parametrize("name", SPOILS)
def test_a_tangent_that_is_not_finite_never_holds(name, in_no_time):
    found, report = verdicts(spoiled(SPOILS[name], forward=True))
    assert not {n for n in using("f") if found[n] is Verdict.HOLDS}, str(report)
    told = {"f", "vjp with jvp", "forward_ad", "linearize", "jacfwd"}
    assert {found[n] for n in told} == {Verdict.FAILS}, str(report)


@pytest.mark.parametrize("cell", ["backward", "checkpoint", "r", "rf"])
def test_each_cell_alone_tells(cell, in_no_time):
    found, report = verdicts(spoiled(SPOILS["NaN"]), (cell,))
    assert found == {cell: Verdict.FAILS}, str(report)


def test_a_counterexample_of_nan_stays_one():
    report = check_rules(spoiled(SPOILS["NaN at an entry"]), (X,), transforms=("r",), dtypes=[F64])
    example = report.failures[0].counterexample
    assert torch.tensor(example.got).isnan()
    assert example.expected != 0
    assert torch.tensor(example.expected).isfinite()


def test_nan_in_low_precision_alone():
    def f(x):
        return x**2 if x.dtype == F64 else x**2 + torch.nan

    report = check_rules(f, (X,), transforms=("precision",), dtypes=[torch.float32])
    assert {c.name: c.verdict for c in report.cells}["value"] is Verdict.FAILS


def test_an_infinite_entry_beside_hides_nothing():
    def f(x, factor=1.0):
        return torch.stack([torch.full_like(x, torch.inf), factor * x.sin()])

    calls = []

    def moody(x):
        calls.append(x)
        return f(x, 1 + len(calls))

    report = check_rules(f, (X,), transforms=("value", "vmap"), dtypes=[F64])
    assert not report.failures, str(report)
    report = check_rules(moody, (X,), transforms=("repeatable",), dtypes=[F64])
    assert report.failures
