"""Verification of derivative and batching rules: of this library's ops, and of anyone's."""

from tsgu_func.testing.checker.check_rules import check_rules
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.differences import finite_difference_jacobian
from tsgu_func.testing.checker.gradients import assert_grad_matches
from tsgu_func.testing.checker.graphs import Graphs, count_all_ops, count_ops
from tsgu_func.testing.checker.report import Cell, Counterexample, Report, RuleError
from tsgu_func.testing.gradcheck import GradcheckError, gradcheck, gradgradcheck
from tsgu_func.testing.helper import assert_rules

__all__ = [
    "Cell",
    "Counterexample",
    "GradcheckError",
    "Graphs",
    "Report",
    "RuleError",
    "Verdict",
    "assert_grad_matches",
    "assert_rules",
    "check_rules",
    "count_all_ops",
    "count_ops",
    "finite_difference_jacobian",
    "gradcheck",
    "gradgradcheck",
]
