"""``@pytest.mark.check_rules``, in a pytest of its own."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
PLUGIN = "-p", "tsgu_func.testing.pytest_plugin"

TESTS = """
import unittest

import pytest
import torch

SHORT = {"transforms": ["first"], "dtypes": [torch.float64]}


@pytest.fixture
def x():
    return torch.tensor([0.5, 2.0])


def half(x):
    return x.square() / 2 + x.square().detach() / 2


@pytest.mark.check_rules(**SHORT)
def test_right(x):
    return torch.sin, (x,)


@pytest.mark.check_rules(**SHORT)
@pytest.mark.parametrize("power", [2, 3])
def test_powers(x, power):
    return lambda x: x**power, (x,)


@pytest.mark.check_rules(**SHORT)
class TestWrong:
    def test_half(self, x):
        return half, (x,)

    @pytest.mark.check_rules(transforms=["value"])
    def test_own_options(self, x):
        return half, (x,)


@pytest.mark.check_rules(**SHORT)
def test_default(x, power=2):
    return lambda x: x**power, (x,)


class TestCase(unittest.TestCase):
    @pytest.mark.check_rules
    def test_in_a_case(self):
        return half, (torch.ones(2),)


@pytest.mark.check_rules
def test_nothing():
    pass


@pytest.mark.check_rules(1)
def test_positional(x):
    return torch.sin, (x,)


def test_plain():
    pass
"""


@pytest.fixture(autouse=True)
def _beside_this(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.mark.slow
def test_the_marker(pytester):
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_subprocess(*PLUGIN, "--strict-markers", "-rA")
    done.assert_outcomes(passed=6, failed=4)
    done.stdout.fnmatch_lines_random(
        [
            "PASSED *::test_powers[[]3[]]",
            "PASSED *::TestWrong::test_own_options",
            "FAILED *::TestWrong::test_half - Failed: half: * of *",
            "*WRONG; * from finite differences*",
            "*check_rules takes options by name; got (1,)*",
            "*unittest.TestCase cannot be marked with check_rules: call assert_rules*",
            "*returns a function and a tuple of its arguments; got None*",
        ]
    )
    text = str(done.stdout)
    assert "raise RuleError" not in text
    # In what is called CI, pytest repeats a failure in its summary.
    failures, _, _ = text.partition("short test summary info")
    assert failures.count("f (float64): WRONG") == 1


def test_the_marker_is_declared(pytester):
    done = pytester.runpytest_inprocess(*PLUGIN, "--markers")
    done.stdout.fnmatch_lines(["@pytest.mark.check_rules(*options): the test returns *"])
