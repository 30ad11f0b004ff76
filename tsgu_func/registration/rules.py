"""Derivative rules, and the names by which they ask for what they use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

__all__ = ["GIVEN", "Joint", "LinearRule", "Rule"]

Rule = Callable[..., Any]
# Names a rule may ask for beside the arguments of its op.
GIVEN = frozenset({"ct", "cts", "tangent", "tangents", "out", "outs", "needs"})


class Joint:
    """A rule, the arguments that it serves and the names that it asks for."""

    def __init__(self, arguments: tuple[str, ...], rule: Rule) -> None:
        self.arguments, self.rule = arguments, rule
        self.uses = getattr(rule, "uses", None) or tuple(inspect.signature(rule).parameters)

    def __call__(self, given: dict[str, Any]) -> Any:
        """Apply the rule to those of the given names that it asks for."""
        return self.rule(**{name: given[name] for name in self.uses})


class LinearRule:
    """The jvp of an op in an argument in which it is linear: the op, at the tangent."""

    def __init__(self, op: Rule, arguments: Sequence[str], argument: str) -> None:
        self.op, self.arguments, self.argument = op, arguments, argument
        self.uses = ("tangent", *(n for n in arguments if n != argument))

    def __call__(self, *, tangent: Tensor, **others: Any) -> Any:
        """Apply the op with the tangent in the place of its argument."""
        given = {self.argument: tangent, **others}
        return self.op(*(given[name] for name in self.arguments))
