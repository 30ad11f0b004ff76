"""Functions as others write them: without setup_context, without jvp, a list of arguments."""

import time

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tsgu_func.testing import Verdict, check_rules
from tsgu_func.testing.checker import checks, shrink
from tsgu_func.testing.checker.problem import problem_of

F64 = torch.float64
X = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def old_style(factor):
    """Return a cube whose forward takes ctx, and whose derivative has a factor."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, ct):
            (x,) = ctx.saved_tensors
            return factor * ct * x.conj() ** 2

    return Cube.apply


EAGER = ("backward", "double backward", "is_grads_batched", "checkpoint", "no_grad, inference_mode")


def test_a_function_whose_forward_takes_ctx():
    groups = ("value", "first", "higher", "eager", "jacobian", "vmap")
    report = check_rules(old_style(3), (X,), transforms=groups, modes=["reverse"])
    found = {c.name: c.verdict for c in report.cells}
    assert {found[name] for name in EAGER} == {Verdict.HOLDS}, str(report)
    assert {found[name] for name in ("r", "rr", "vmap", "vmap(vjp)")} == {Verdict.NOT_RUN}
    assert report.holds, str(report)
    assert str(report).count("has setup_context") == 2  # a line for each dtype


def test_a_mistake_in_a_function_whose_forward_takes_ctx():
    report = check_rules(old_style(2), (X,), transforms=EAGER, dtypes=[F64])
    assert {"backward", "checkpoint"} <= {c.name for c in report.cells if c.verdict == "fails"}
    report = check_rules(old_style(3.0 + X.detach()), (X,), transforms=EAGER, dtypes=[F64])
    assert "backward" in {c.name for c in report.failures}


class WithoutJvp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, ct):
        (x,) = ctx.saved_tensors
        return 3 * ct * x.conj() ** 2


def test_a_missing_jvp_is_told_once():
    groups = ("first", "higher", "eager", "jacobian", "vmap")
    report = check_rules(WithoutJvp.apply, (X,), transforms=groups)
    raised = [c for c in report.failures if c.verdict is Verdict.RAISES]
    assert len(raised) > 12
    # One of them fails inside of PyTorch: "flat_bdims must not be None".
    line, *others = [line for line in str(report).splitlines() if "RAISES;" in line]
    assert len(others) <= 1
    assert line.startswith("f, ff, fr, rf, ")
    assert "(float64, complex128): RAISES;" in line
    assert "jvp" in line


def test_a_list_of_arguments():
    report = check_rules(torch.mul, [X, X + 1], transforms=("first",), dtypes=[F64])
    assert report.holds, str(report)


def test_all_counterexamples_share_their_time(monkeypatch):
    monkeypatch.setattr(shrink, "_SECONDS", 0.2)
    asked = []

    def slowly(problem):
        asked.append(problem)
        time.sleep(0.01)
        return True

    problem = problem_of(torch.sin, (torch.linspace(1, 2, 999, dtype=F64),))
    shrinking = shrink.Shrinking()
    counts = []
    for _ in range(40):
        asked.clear()
        shrinking.smallest(problem, slowly, lambda other: False)
        counts.append(len(asked))
    assert counts[0] > counts[20] >= counts[-1]
    assert sum(counts) < 80  # 40 cells of 5 s each would have asked thousands of times


def test_a_cell_is_compiled_once(monkeypatch):
    counter, compiled = CompileCounterWithBackend("aot_eager"), checks._compile
    monkeypatch.setattr(checks, "_compile", lambda f, backend: compiled(f, counter))
    check_rules(torch.exp, (X,), transforms=("compiled fr",), dtypes=[F64]).raise_if_failed()
    assert counter.frame_count == 1


def test_what_was_found_for_one_check_is_tried_for_the_next():
    problem = problem_of(torch.sin, (torch.linspace(1, 2, 9, dtype=F64),))
    shrinking, asked = shrink.Shrinking(), []
    found = shrinking.smallest(problem, lambda other: True, lambda other: True)
    assert found is not problem

    def ask(other):
        asked.append(other)
        return True

    assert shrinking.smallest(problem, ask, ask) is found
    assert asked == [found]
    # In another dtype the numbers of the point are others.
    single = problem_of(torch.sin, (torch.linspace(1, 2, 9),))
    assert shrinking.smallest(single, ask, ask).dtype == torch.float32


def test_a_counterexample_is_not_moved_to_zero():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.abs()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, ct):
            (x,) = ctx.saved_tensors
            return -ct * x.sign()

    x = torch.tensor([0.3, -0.2, 0.4], dtype=F64)
    report = check_rules(Wrong.apply, (x,), transforms=("r",), dtypes=[F64])
    example = report.failures[0].counterexample
    assert example.got == pytest.approx(-example.expected)
    assert example.expected != 0
