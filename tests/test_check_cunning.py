"""Wrong functions that were passed: each hides where few look."""

from dataclasses import replace

import pytest
import torch

from tsgu_func.testing import check_rules
from tsgu_func.testing.checker.comparison import Comparison, Verdict, judge_all

F64 = torch.float64
X = torch.tensor([0.5, 1.0, 2.0], dtype=F64)


def square(pullback):
    """Return a square with another pullback, a function of the cotangent and the point."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, ct):
            return pullback(ct, ctx.saved_tensors[0])

    return Square.apply


def failed(f, args, *cells):
    report = check_rules(f, args, transforms=cells, dtypes=[F64])
    return {c.name for c in report.failures}


@pytest.mark.parametrize("seed", range(6))
def test_terms_that_cancel_for_a_cotangent_hide_nothing(seed):
    cells = ("backward", "checkpoint")
    for factor in (1 - 1e-4, 1 + 1e-4):
        wrong = square(lambda ct, x, factor=factor: factor * 2 * ct * x)
        report = check_rules(wrong, (X,), transforms=cells, dtypes=[F64], seed=seed)
        assert {c.name for c in report.failures} == set(cells), str(report)


@pytest.mark.parametrize(
    "pullback",
    [
        lambda ct, x: 2 * x * ct.clamp(-1e3, 1e3),
        lambda ct, x: 2 * x * torch.where(ct.abs() < 1e-6, 0, ct),
    ],
)
def test_cotangents_of_all_sizes(pullback):
    class Square(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, ct):
            return pullback(ct, *ctx.saved_tensors)

    assert "vjp is linear" in failed(Square.apply, (X,), "vjp is linear")


def test_two_of_three_arguments():
    class Product(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, y, z):
            return x * y * z

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, ct):
            x, y, z = ctx.saved_tensors
            wrong = 2 if ctx.needs_input_grad == (False, True, True) else 1
            return ct * y * z, wrong * ct * x * z, ct * x * y

    assert failed(Product.apply, (X, X + 1, X + 2), "r") == {"r"}
    assert not failed(lambda x, y, z: x * y * z, (X, X + 1, X + 2), "first")


def test_indices_that_are_changed():
    def f(x, i):
        i.add_(1).remainder_(3)
        return x[i]

    cell = "arguments untouched"
    assert failed(f, (X, torch.tensor([0, 2])), cell) == {cell}
    assert not failed(lambda x, i: x[i], (X, torch.tensor([0, 2])), cell)
    assert not failed(lambda x, mask: x[mask], (X, X > 0.7), cell)


@pytest.mark.parametrize("large", [10**16, 2**60])
def test_a_large_integer_hides_nothing(large):
    def f(x, i):
        with torch.no_grad():
            x.mul_(2)
        return 2 * x

    def g(x, i):
        i.add_(1)
        return 2 * x

    cell = "arguments untouched"
    for changes in (f, g):
        assert failed(changes, (X, torch.tensor([0, large])), cell) == {cell}


def test_an_excuse_hides_nothing_that_is_compared_later():
    """Noise as large as the first gap explains that one, and not the larger one after it."""

    def apart(gap):
        return Comparison((X + gap,), (X,), 1e-9, against="itself")

    def excuse(finding):
        small = finding.apart < 1e-3
        return replace(finding, verdict=Verdict.UNDECIDED) if small else finding

    assert judge_all([apart(1e-5)], 0.0, excuse).verdict is Verdict.UNDECIDED
    assert judge_all([apart(1e-5), apart(1.0)], 0.0, excuse).verdict is Verdict.FAILS


def test_results_that_are_integers_are_compared_too():
    """A mapping rule that returns the largest entry, and the wrong place of it."""

    class Largest(torch.autograd.Function):
        @staticmethod
        def forward(x):
            value, place = x.max(-1)
            return value, place

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable(output[1])
            ctx.place, ctx.n = output[1], inputs[0].shape[-1]

        @staticmethod
        def backward(ctx, ct, _):
            return ct * torch.nn.functional.one_hot(ctx.place, ctx.n)

        @staticmethod
        def vmap(info, in_dims, x):
            value, place = x.movedim(in_dims[0], 0).max(-1)
            return (value, place + wrong), (0, 0)

    for wrong in (0, 1):
        report = check_rules(Largest.apply, (X,), transforms=("vmap of 5",), dtypes=[F64])
        expected = Verdict.FAILS if wrong else Verdict.HOLDS
        assert [c.verdict for c in report.cells] == [expected], str(report)


def test_integers_that_vary_are_not_condemned():
    def places(x):
        return x**2, torch.randperm(50)

    report = check_rules(places, (X,), transforms=("vmap of 5", "strides"), dtypes=[F64],
                         randomness="different")  # fmt: skip
    assert {c.verdict for c in report.cells} == {Verdict.UNDECIDED}, str(report)


def test_integers_that_vary_excuse_no_number():
    def doubled(x):
        return x * (1 if x.is_contiguous() else 2), torch.randperm(50)

    assert failed(doubled, (X,), "strides") == {"strides"}


def test_a_wrong_integer_is_shown():
    def place(x):
        return x**2, torch.tensor([0, 1 if x.is_contiguous() else 2])

    report = check_rules(place, (X,), transforms="strides", dtypes=[F64])
    (cell,) = report.failures
    assert (cell.counterexample.expected, cell.counterexample.got) == (1, 2)
    assert "out[1][1]" in str(report) or "expected 1, got 2" in str(report)
