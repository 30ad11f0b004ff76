"""The checker catches what is wrong, passes what is right, and says when it can't tell."""

import io
import json
import re
import subprocess
import sys
import warnings

import pytest
import torch

from tests.planted import PYTORCHS, USUAL, X
from tsgu_func import SparseMatrix, sparse_mm
from tsgu_func.testing import (
    RuleError,
    Verdict,
    assert_grad_matches,
    check_rules,
    finite_difference_jacobian,
)

EAGER = ("value", "first", "higher", "eager", "jacobian", "vmap", "opcheck", "precision")
PLANTS = USUAL | PYTORCHS
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def dtypes_of(plant):
    return [torch.float64, plant.dtype]


def named(name):
    return str(name).removeprefix("torch.")


# ---------------------------------------------------------------------------- right and wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_mistake_is_caught(name):
    plant = PLANTS[name]()
    report = check_rules(plant.wrong, plant.args, transforms=EAGER, dtypes=dtypes_of(plant))
    caught = {
        c.name for c in report.cells if c.verdict == "fails" and c.dtype == named(plant.dtype)
    }
    assert set(plant.cells) <= caught
    with pytest.raises(RuleError, match="WRONG"):
        report.raise_if_failed()


@pytest.mark.parametrize("name", PLANTS)
def test_its_right_twin_passes(name):
    plant = PLANTS[name]()
    report = check_rules(plant.right, plant.args, transforms=EAGER, dtypes=dtypes_of(plant))
    assert report.holds, str(report)
    report.raise_if_failed()


@pytest.mark.parametrize("name", ["function", "linalg_solve"])
def test_a_mistake_of_the_second_order_is_blamed_on_nothing_else(name):
    plant = PLANTS[name]()
    report = check_rules(plant.wrong, plant.args, transforms=("value", "first"), order=3)
    assert report.holds, str(report)


@pytest.mark.slow
def test_what_only_the_compiler_gets_wrong():
    def f(x):
        return x * (2.0 if torch.compiler.is_compiling() else 3.0)

    report = check_rules(f, (X,), transforms=("first", "compile"), order=1, dtypes=[torch.float64])
    assert {c.name for c in report.failures} >= {"compiled value", "compiled r"}
    assert all(c.name.startswith(("compiled", "inductor")) for c in report.failures)


def test_what_changes_its_argument_or_its_mind():
    def careless(x):
        return x.mul_(2)

    calls = []

    def moody(x):
        calls.append(x)
        return x + len(calls)

    for f, cell in ((careless, "arguments untouched"), (moody, "repeatable")):
        report = check_rules(f, (X,), transforms=("value",), dtypes=[torch.float64])
        assert cell in {c.name for c in report.failures}


def test_what_depends_on_strides():
    def f(x):
        return torch.as_strided(x, x.shape, (1,)) ** 2

    x = torch.arange(4.0)
    report = check_rules(f, (x,), transforms=("strides",), dtypes=[torch.float64])
    assert [c.verdict for c in report.cells] == [Verdict.FAILS]


@pytest.mark.slow
def test_a_reference():
    report = check_rules(
        torch.sin, (X,), reference=torch.cos, transforms=("first", "vmap"), dtypes=[torch.float64]
    )
    assert {"f", "r", "vmap"} <= {c.name for c in report.failures}
    assert "the reference" in str(report)
    same = check_rules(
        torch.tan,
        (X,),
        reference=lambda x: x.sin() / x.cos(),
        transforms=EAGER,
        dtypes=[torch.float64, torch.float32],
    )
    same.raise_if_failed()


# ---------------------------------------------------------------------------- what can't be told


NOISY = {
    "noise": lambda x: x + 1e-5 * torch.randn(3, dtype=x.dtype),
    "low precision inside": lambda x: (x.float() ** 3).double(),
    "a kink": lambda x: torch.relu(x - X[0]),
    "a jump": lambda x: torch.where(x > X[0], x, x + 1),
}


@pytest.mark.parametrize("name", NOISY)
def test_noise_is_neither_right_nor_wrong(name):
    report = check_rules(NOISY[name], (X,), transforms=("f", "r"), dtypes=[torch.float64])
    assert {c.verdict for c in report.cells} == {Verdict.UNDECIDED}, str(report)
    assert not report.holds
    with pytest.warns(UserWarning, match="can't tell"):
        report.raise_if_failed()


def test_noise_does_not_hide_a_gross_mistake():
    plant = USUAL["sign"]()
    noisy = lambda x: plant.wrong(x) + 1e-9 * torch.randn(3, dtype=x.dtype)
    report = check_rules(noisy, (X,), transforms=("f",), dtypes=[torch.float64])
    assert [c.verdict for c in report.cells] == [Verdict.FAILS]


def test_a_dtype_that_is_not_taken_is_not_counted():
    def f(x):
        if x.is_complex():
            raise TypeError("real numbers only")
        return x**2

    report = check_rules(f, (X,), transforms=("first",))
    assert report.holds
    (left,) = [c for c in report.cells if c.verdict is Verdict.NOT_RUN]
    assert left.dtype == "complex128"
    assert "real numbers only" in left.detail


def test_nothing_run_is_not_passed():
    def f(x):
        if x.is_complex():
            raise TypeError("real numbers only")
        return x**2

    report = check_rules(f, (X,), transforms=("first",), dtypes=[torch.complex128])
    with pytest.raises(RuleError):
        report.raise_if_failed()


def test_a_function_of_single_precision_only():
    def f(x):
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return torch.sin(x)

    report = check_rules(f, (X.float(),), transforms=("first", "vmap"))
    ran = [c for c in report.cells if c.verdict is Verdict.HOLDS]
    assert {c.dtype for c in ran} == {"float32"}
    assert report.holds


# ------------------------------------------------------------------------------- counterexamples


def test_the_counterexample_is_one_entry():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, ct):
            (x,) = ctx.saved_tensors
            wrong = torch.zeros_like(x)
            wrong[7] = 1
            return 2 * x * ct + wrong * ct

    x = torch.linspace(1, 2, 20)
    report = check_rules(Wrong.apply, (x,), transforms=("r",), dtypes=[torch.float64])
    example = report.failures[0].counterexample
    assert "along args[0][7]" in example.where
    assert "weighed at out[0][7]" in example.where
    # Rounded, x[7] is 1: the slope is 2, and 3 comes out; times one direction and cotangent.
    assert example.got / example.expected == pytest.approx(1.5)


def tangents_are_wrong(x):
    """Stand for the function of a user, where a program can import it."""
    return FunctionOfX.apply(x)


class FunctionOfX(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 2 * tangent * x**2


@pytest.mark.slow
def test_the_program_reproduces_it():
    report = check_rules(tangents_are_wrong, (X,), transforms=("f",), dtypes=[torch.float64])
    program = report.failures[0].counterexample.program
    assert program.startswith('python -c "')
    line = program.removeprefix('python -c "').removesuffix('"')
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "RuleError" in done.stderr
    assert "WRONG" in done.stderr


def test_the_program_where_nothing_can_be_imported():
    plant = USUAL["sign"]()
    report = check_rules(plant.wrong, plant.args, transforms=("f",), dtypes=[torch.float64], seed=3)
    fn, args = plant.wrong, plant.args
    names = {"check_rules": check_rules, "torch": torch, "fn": fn, "args": args}
    with pytest.raises(RuleError):
        eval(report.failures[0].counterexample.program, names)


# ----------------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def wrong_report():
    plant = USUAL["conjugate"]()
    return check_rules(plant.wrong, plant.args, transforms=("first",), order=1)


def test_report_as_text(wrong_report):
    lines = str(wrong_report).splitlines()
    assert re.match(r"planted::op\d+: \d+ of \d+ cells hold", lines[0])
    assert lines[1].split() == ["cell", "float64", "complex128"]
    assert any(line.split() == ["r", "yes", "WRONG"] for line in lines)
    assert any("expected" in line and "got" in line for line in lines)


def test_report_as_json(wrong_report):
    read = json.loads(wrong_report.to_json())
    assert read["holds"] is False
    assert len(read["cells"]) == len(wrong_report.cells)
    bad = next(c for c in read["cells"] if c["verdict"] == "fails")
    assert {"expected", "got", "program", "where"} <= set(bad["counterexample"])


def test_report_as_markdown(wrong_report):
    lines = wrong_report.to_markdown().splitlines()
    assert lines[2] == "| cell | float64 | complex128 |"
    assert "| `r` | yes | WRONG |" in lines


def test_report_in_colours(wrong_report):
    from rich.console import Console

    console = Console(record=True, width=120, file=io.StringIO())
    console.print(wrong_report)
    assert "WRONG" in console.export_text()


def test_by_group(wrong_report):
    assert wrong_report.by_group() == {"first": Verdict.FAILS}


# ---------------------------------------------------------------------------------- arguments


@pytest.mark.slow
def test_pytrees():
    A = SparseMatrix.from_coo([0, 0, 1], [0, 1, 1], torch.tensor([1.0, 2.0, 3.0]), (2, 2))

    def f(parts, scale):
        return {"product": sparse_mm(parts["A"], parts["B"][0]) * scale, "sum": parts["B"][0].sum()}

    args = ({"A": A, "B": [torch.ones(2, 2)]}, 3)
    check_rules(f, args, transforms=EAGER).raise_if_failed()


def test_a_torch_op():
    check_rules(torch.ops.aten.sin.default, (X,), transforms=("first", "vmap")).raise_if_failed()


def test_scalars_empty_tensors_and_several_results():
    def f(x, y):
        return x * y.sum(), y * 2, (x > 0)

    args = (torch.tensor(2.0), torch.empty(0))
    check_rules(f, args, transforms=EAGER, dtypes=[torch.float64]).raise_if_failed()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 4}, "order is 1, 2 or 3; got 4"),
        ({"modes": ["sideways"]}, "modes are some of 'forward', 'reverse'; got 'sideways'"),
        ({"transforms": ["fly"]}, "transforms are some of .*; got 'fly'"),
        ({"dtypes": [torch.int64]}, "dtypes are floating or complex; got torch.int64"),
        ({"rtol": -1.0}, "rtol is a number that is not negative; got -1.0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        check_rules(torch.sin, (X,), **options)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="no floating or complex tensor"):
        check_rules(torch.sin, (torch.ones(2, dtype=torch.int64),))
    with pytest.raises(TypeError, match="SparseMatrix"):
        check_rules(torch.sin, (torch.eye(2).to_sparse_coo(),))
    with pytest.raises(ValueError, match="NaN or infinity"):
        check_rules(torch.sin, (torch.tensor([torch.nan]),))
    with pytest.raises(TypeError, match="what comes out"):
        check_rules(lambda x: x > 0, (X,), dtypes=[torch.float64])
    with pytest.raises(ValueError, match="complex dtype"):
        check_rules(torch.sin, (X + 1j,), dtypes=[torch.float64])


@pytest.mark.slow
def test_forward_mode_alone():
    report = check_rules(tangents_are_wrong, (X,), modes=["forward"], dtypes=[torch.float64])
    assert "f" in {c.name for c in report.failures}
    assert not {"r", "fr", "rr"} & {c.name for c in report.cells}


def test_the_seed_changes_what_is_drawn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in (0, 1, 2):
            check_rules(
                torch.sinh, (X,), seed=seed, transforms=("first", "higher")
            ).raise_if_failed()


# ----------------------------------------------------------------- for those who want only that


def test_assert_grad_matches():
    args = ({"x": X, "y": X + 1j}, 2)
    f = lambda d, k: d["x"] ** k * d["y"]
    assert_grad_matches(f, args, lambda d, k: d["x"] * d["x"] * d["y"])
    with pytest.raises(RuleError, match="tensor 0 that comes out"):
        assert_grad_matches(f, args, lambda d, k: d["x"] ** 3 * d["y"])
    twice = lambda d, k: (d["x"].detach() * d["x"]) * d["y"]
    with pytest.raises(RuleError, match=r"gradient with respect to args\[0\]\['x'\]"):
        assert_grad_matches(twice, args, f)


def test_finite_difference_jacobian_is_that_of_jacrev():
    A = SparseMatrix.from_coo([0, 0, 1], [0, 1, 1], X, (2, 2))
    B = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    f = lambda A, B: {"product": torch.sin(sparse_mm(A, B)), "sum": B.sum()}
    found = finite_difference_jacobian(f, (A, B))
    assert found["product"].values.shape == (2, 2, 3)
    expected = torch.func.jacrev(f)(A, B)
    torch.testing.assert_close(found["product"].values, expected["product"].values)
    torch.testing.assert_close(found["sum"].values, expected["sum"].values)
    found = finite_difference_jacobian(f, (A, B), -1)["product"]
    torch.testing.assert_close(found, torch.func.jacrev(f, 1)(A, B)["product"])


def test_finite_difference_jacobian_of_complex_numbers():
    z = torch.tensor([1 + 2j, 0.5j], dtype=torch.complex128)
    found = finite_difference_jacobian(torch.sin, (z,))
    torch.testing.assert_close(found, torch.diag(torch.cos(z)))
    with pytest.raises(ValueError, match="not holomorphic"):
        finite_difference_jacobian(lambda z: z.conj(), (z,))


def test_finite_difference_jacobian_says_when_it_is_noisy():
    with pytest.warns(UserWarning, match="differences agree to"):
        finite_difference_jacobian(lambda x: x + 1e-4 * torch.rand(3), (X,))
    with pytest.warns(UserWarning, match="differences agree to inf"):
        finite_difference_jacobian(lambda x: torch.where(x == X, x, torch.nan), (X,))
    with pytest.raises(ValueError, match="argnum is one of the 1 arguments; got 2"):
        finite_difference_jacobian(torch.sin, (X,), 2)


def test_finite_difference_jacobian_stays_in_the_domain():
    x = torch.tensor([1e-5, 1.0, 1e5], dtype=torch.float64)
    found = finite_difference_jacobian(torch.log, (x,))
    torch.testing.assert_close(found, torch.diag(1 / x))
