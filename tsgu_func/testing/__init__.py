"""Verification of derivative and batching rules: of this library's ops, and of anyone's."""

from tsgu_func.testing.comparison import Verdict
from tsgu_func.testing.differences import finite_difference_jacobian
from tsgu_func.testing.gradients import assert_grad_matches
from tsgu_func.testing.graphs import Graphs, count_all_ops, count_ops
from tsgu_func.testing.report import Cell, Counterexample, Report, RuleError
from tsgu_func.testing.rules import check_rules

__all__ = [
    "Cell",
    "Counterexample",
    "Graphs",
    "Report",
    "RuleError",
    "Verdict",
    "assert_grad_matches",
    "check_rules",
    "count_all_ops",
    "count_ops",
    "finite_difference_jacobian",
]
