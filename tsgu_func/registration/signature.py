"""The schemas that a `Primitive` serves, and the arguments of its calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tsgu_func.registration import transforms

__all__ = ["Signature"]

_TENSORS = ("Tensor", "Optional[Tensor]", "List[Tensor]")


class Signature:
    """The arguments of an op: their names, order, kinds and defaults.

    Raises
    ------
    ValueError
        If the schema is not one that a `Primitive` serves.
    """

    def __init__(self, name: str, schema: str) -> None:
        parsed = transforms.parse_schema(schema)
        if reason := _refusal(parsed):
            raise ValueError(f"{name}: {reason}; got the schema {schema!r}")
        types = {a.name: str(a.type) for a in parsed.arguments}
        self.arguments = tuple(types)
        self.outputs = len(parsed.returns)
        self.tensors = frozenset(n for n, kind in types.items() if kind in _TENSORS)
        self.lists = frozenset(n for n, kind in types.items() if kind == "List[Tensor]")
        self._places = [(i, n) for i, n in enumerate(self.arguments) if n in self.tensors]
        self._defaults = {a.name: a.default_value for a in parsed.arguments}
        self._positional = sum(not a.kwarg_only for a in parsed.arguments)

    def complete(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Return all arguments in their order; the dispatcher leaves out what is the default."""
        if len(args) == len(self.arguments):
            return args
        given = {**self._defaults, **kwargs}
        return *args, *(given[name] for name in self.arguments[len(args) :])

    def given(self, args: Sequence[Any]) -> tuple[list[str], list[Any]]:
        """Return the names of the tensors among all arguments, and these; none of them is None."""
        names, given = [], []
        for i, name in self._places:
            if isinstance(x := args[i], (list, tuple)):
                names += [name] * len(x)
                given += x
            elif x is not None:
                names.append(name)
                given.append(x)
        return names, given

    def detached(self, args: Sequence[Any]) -> list[Any]:
        """Return all arguments, the tensors without what autograd knows of them."""
        plain = [*args]
        for i, _ in self._places:
            if isinstance(x := plain[i], (list, tuple)):
                plain[i] = [a.detach() for a in x]
            elif x is not None:
                plain[i] = x.detach()
        return plain

    def in_order(self, function: Callable[..., Any], *, before: int = 0) -> Callable[..., Any]:
        """Let a function that takes keywords be called with all arguments in their order."""
        first, keywords = before + self._positional, self.arguments[self._positional :]
        if not keywords:
            return function
        return lambda *args: function(
            *args[:first], **dict(zip(keywords, args[first:], strict=True))
        )

    # The autograd function of PyTorch sees the tensors of a list when each is its own argument.

    def lengths(self, args: Sequence[Any]) -> dict[str, int]:
        """Return the length of each list of tensors."""
        if not self.lists:
            return {}
        pairs = zip(self.arguments, args, strict=True)
        return {name: len(value) for name, value in pairs if name in self.lists}

    def flat(self, values: Sequence[Any]) -> Sequence[Any]:
        """Put what belongs to the tensors of each list in the place of the list."""
        if not self.lists:
            return values
        pairs = zip(self.arguments, values, strict=True)
        parts = (value if name in self.lists else (value,) for name, value in pairs)
        return tuple(itertools.chain.from_iterable(parts))

    def grouped(self, values: Sequence[Any], lengths: Mapping[str, int]) -> Sequence[Any]:
        """Put one value for each argument, or for each tensor of a list, into lists again."""
        if not self.lists:
            return values
        return tuple(_grouped(values, self.arguments, lengths))


def _grouped(
    values: Iterable[Any], names: Iterable[str], lengths: Mapping[str, int]
) -> Iterator[Any]:
    """Yield for each name the next value, or as many as its list is long."""
    rest = iter(values)
    for name in names:
        n = lengths.get(name)
        yield next(rest) if n is None else tuple(itertools.islice(rest, n))


def _refusal(schema: Any) -> str:
    """Say what in a schema is not served."""
    if schema.overload_name:
        return f"an op has no overload name, such as {schema.overload_name!r}"
    for value in (*schema.arguments, *schema.returns):
        if value.alias_info is not None:
            return (
                "an op is functional, so that every transform can be right: no argument is "
                "modified and no output is a view of one"
            )
    if not schema.returns or any(str(r.type) != "Tensor" for r in schema.returns):
        return "an op returns one Tensor, or a tuple of several"
    for argument in schema.arguments:
        kind = str(argument.type)
        if ("Tensor" in kind and kind not in _TENSORS) or kind == "Any":
            return (
                f"its argument {argument.name!r} may hold tensors and is neither Tensor, Tensor? "
                f"nor Tensor[]"
            )
        if "Tensor" in kind and argument.kwarg_only:
            return f"its tensor {argument.name!r} is keyword-only, where vmap does not look"
    return ""
