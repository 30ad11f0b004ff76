"""The plugin for pytest, ``@pytest.mark.check_rules``.

A conftest asks for it by ``pytest_plugins = ["tsgu_func.testing.pytest_plugin"]``.  There is no
entry point: every run of pytest would import it where tsgu_func is installed, and PyTorch with it.
"""

from __future__ import annotations

import inspect
import unittest
from typing import NoReturn

import pytest

from tsgu_func.testing import RuleError, assert_rules

__all__: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "check_rules(**options): the test returns a function and a tuple of its arguments, of "
        "which tsgu_func.testing.check_rules checks every derivative and batching rule",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Refuse the marker where unittest calls the test, and drops what it returns."""
    owner = getattr(item, "cls", None)
    if owner and issubclass(owner, unittest.TestCase) and item.get_closest_marker("check_rules"):
        _fail("a method of unittest.TestCase cannot be marked with check_rules: call assert_rules")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test with the marker, and check the rules of the function that it returns."""
    marks = list(pyfuncitem.iter_markers("check_rules"))
    if not marks:
        return None
    options = {}
    for mark in reversed(marks):  # from the module to the test, which has the last word
        if mark.args:
            _fail(f"check_rules takes options by name; got {mark.args}")
        options |= mark.kwargs
    parameters = inspect.signature(pyfuncitem.obj).parameters.values()
    names = [p.name for p in parameters if p.name in pyfuncitem.funcargs]  # others have defaults
    returned = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    if not isinstance(returned, tuple) or len(returned) != 2:
        _fail(
            "a test marked with check_rules returns a function and a tuple of its arguments; got "
            f"{returned!r}"
        )
    wrong = None
    try:
        assert_rules(*returned, **options)
    except RuleError as error:
        wrong = str(error).strip()
    if wrong is not None:
        _fail(wrong)
    return True


def _fail(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)  # the report says it all
