"""Rules, and the names by which they ask for what they use."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["GIVEN", "ByName", "Joint", "LinearRule", "Rule", "asks_by_name"]

Rule = Callable[..., Any]
Groups = Mapping[str, tuple[str, ...]]
# Names a rule may ask for beside the arguments of its op.
GIVEN = frozenset({"ct", "cts", "tangent", "tangents", "out", "outs", "needs"})


def asks_by_name(function: Rule, arguments: Sequence[str], groups: Groups) -> bool:
    """Whether the parameters of a kernel say by their names what they get."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, without a signature
        return False
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}.intersection(arguments)
    return bool(named) or any(p.name in groups for p in parameters)


class ByName:
    """A function that gets, of what is given, what its parameters name.

    Parameters
    ----------
    function : callable
        A parameter that is the name of a group gets its members as a tuple.
    places : Mapping[str, Any]
        Where each value stands in what the function will be given: a key, or an index.
    groups : Mapping[str, tuple[str, ...]]
        The members of each group.
    """

    def __init__(self, function: Rule, places: Mapping[str, Any], groups: Groups) -> None:
        asked = getattr(function, "uses", None) or inspect.signature(function).parameters
        self._getters: dict[str, Callable[[Any], Any]] = {}
        uses: list[str] = []
        for name in asked:
            if name in groups:
                self._getters[name] = _several([places[member] for member in groups[name]])
            elif name in places:
                self._getters[name] = operator.itemgetter(places[name])
            else:
                raise ValueError(f"a rule asks for {name!r}, which is none of {[*places, *groups]}")
            uses += groups.get(name, (name,))
        self.uses = tuple(dict.fromkeys(uses))
        self._apply = self._by_position if _takes_in_order(function) else self._by_keyword
        self.function = function

    def __call__(self, given: Any) -> Any:
        """Apply the function to those of the given values that it asks for."""
        return self._apply(given)

    def _by_position(self, given: Any) -> Any:  # a third faster
        return self.function(*[get(given) for get in self._getters.values()])

    def _by_keyword(self, given: Any) -> Any:
        return self.function(**{name: get(given) for name, get in self._getters.items()})


def _several(places: Sequence[Any]) -> Callable[[Any], Any]:
    """Get a tuple, also of one or of none."""
    if len(places) < 2:
        return lambda given: tuple([given[place] for place in places])
    return operator.itemgetter(*places)


def _takes_in_order(function: Rule) -> bool:
    """Whether a function is sure to take its parameters in the order in which it names them.

    What a decorator returns may say what it does not take, and a callable or partial hide one.
    """
    if type(function) not in (FunctionType, MethodType):
        return False
    if any(hasattr(function, says) for says in ("uses", "__wrapped__", "__signature__")):
        return False
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    return kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}


class Joint(NamedTuple):
    """A derivative rule and the arguments that it serves."""

    arguments: tuple[str, ...]
    rule: ByName


class LinearRule:
    """The jvp of an op in an argument in which it is linear: the op, at the tangent.

    A list of tensors counts as one vector: ``cat(xs)`` is linear in ``xs``.
    """

    def __init__(self, op: Rule, arguments: Sequence[str], argument: str, is_list: bool) -> None:
        self.op, self.arguments, self.argument = op, arguments, argument
        self.uses = ("tangent", *(n for n in arguments if is_list or n != argument))

    def __call__(self, *, tangent: Any, **others: Any) -> Any:
        """Apply the op with the tangent in the place of its argument."""
        if not isinstance(tangent, Tensor):
            pairs = zip(tangent, others[self.argument], strict=True)
            tangent = [torch.zeros_like(x) if t is None else t for t, x in pairs]
        given = {**others, self.argument: tangent}
        return self.op(*(given[name] for name in self.arguments))
