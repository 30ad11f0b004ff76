"""What a test calls, of any framework: it raises, and the message is the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tsgu_func.testing.checker.check_rules import check_rules
from tsgu_func.testing.checker.report import Report

__all__ = ["assert_rules"]


def assert_rules(fn: Callable[..., Any], args: Any, **options: Any) -> Report:
    """Check every derivative and batch of a function, and raise an error if one is wrong.

    Parameters
    ----------
    fn, args
        As for `check_rules`.
    **options
        The options of `check_rules`.

    Returns
    -------
    Report
        The report of `check_rules`, with every cell.

    Raises
    ------
    RuleError
        An ``AssertionError`` with the table and the counterexamples.

    Warns
    -----
    UserWarning
        If there are cells that could not be judged.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing import assert_rules
    >>> options = {"transforms": ["first"], "dtypes": [torch.float64]}
    >>> assert_rules(torch.sin, (torch.ones(2),), **options).holds
    True
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    report = check_rules(fn, args, **options)
    report.raise_if_failed()
    return report
