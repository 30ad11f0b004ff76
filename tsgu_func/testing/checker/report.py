"""What `check_rules` found: a table, counterexamples, and lines that reproduce them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

import tsgu_func
from tsgu_func.testing.checker.comparison import Verdict

__all__ = ["Cell", "Counterexample", "Report", "RuleError"]

_MARKS = {
    Verdict.HOLDS: "yes",
    Verdict.FAILS: "WRONG",
    Verdict.RAISES: "RAISES",
    Verdict.UNDECIDED: "can't tell",
    Verdict.NOT_RUN: "not run",
}
_STYLES = {
    Verdict.HOLDS: "green",
    Verdict.FAILS: "bold red",
    Verdict.RAISES: "red",
    Verdict.UNDECIDED: "yellow",
    Verdict.NOT_RUN: "dim",
}
_BY_SEVERITY = (
    Verdict.FAILS,
    Verdict.RAISES,
    Verdict.UNDECIDED,
    Verdict.HOLDS,
    Verdict.NOT_RUN,
)


class RuleError(AssertionError):
    """A rule does not hold."""


@dataclass(frozen=True)
class Counterexample:
    """The smallest case found in which a cell fails."""

    where: str = ""
    expected: complex | None = None
    got: complex | None = None
    program: str = ""


@dataclass(frozen=True)
class Cell:
    """One check in one dtype, and its verdict."""

    name: str
    group: str
    dtype: str
    verdict: Verdict
    detail: str = ""
    counterexample: Counterexample | None = None

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.dtype}): {_MARKS[self.verdict]}; {self.detail}"]
        if (c := self.counterexample) is not None:
            if c.expected is not None:
                lines.append(f"  {c.where}: expected {_number(c.expected)}, got {_number(c.got)}")
            lines.append(f"  {c.program}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What `check_rules` found out about a function: a list of cells.

    ``print`` shows a table and what went wrong, as plain text.  ``rich.print`` shows it in colours.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing import check_rules
    >>> x = torch.tensor([1.0, 2.0])
    >>> report = check_rules(torch.sin, (x,), order=1, transforms=["first"], dtypes=[torch.float64])
    >>> print(report)
    sin: 7 of 7 cells hold
    cell                      float64
    ------------------------  -------
    f                         yes
    r                         yes
    vjp of strided arguments  yes
    jvp of strided arguments  yes
    vjp is linear             yes
    jvp is linear             yes
    vjp with jvp              yes
    >>> report.raise_if_failed()
    """

    subject: str
    cells: tuple[Cell, ...]

    @property
    def holds(self) -> bool:
        """Whether every cell that was run holds, and at least one was run."""
        ran = [c for c in self.cells if c.verdict is not Verdict.NOT_RUN]
        return bool(ran) and all(c.verdict is Verdict.HOLDS for c in ran)

    @property
    def failures(self) -> tuple[Cell, ...]:
        """The cells that fail or raise."""
        return tuple(c for c in self.cells if c.verdict in (Verdict.FAILS, Verdict.RAISES))

    @property
    def undecided(self) -> tuple[Cell, ...]:
        """The cells that could not be judged."""
        return tuple(c for c in self.cells if c.verdict is Verdict.UNDECIDED)

    def raise_if_failed(self) -> None:
        """Raise an error if a cell fails or raises, or if nothing was run.

        Raises
        ------
        RuleError
            An ``AssertionError`` with the table and the counterexamples.

        Warns
        -----
        UserWarning
            If there are cells that could not be judged.
        """
        if self.failures or not (self.holds or self.undecided):
            raise RuleError(f"\n{self}")
        if self.undecided:
            warnings.warn(f"\n{self}", stacklevel=2)

    def by_group(self) -> dict[str, Verdict]:
        """Return the worst verdict of each group of cells."""
        return {g: worst(c.verdict for c in self.cells if c.group == g) for g in self._groups()}

    def _groups(self) -> list[str]:
        return list(dict.fromkeys(c.group for c in self.cells))

    # --------------------------------------------------------------------------------- formats

    def _headline(self) -> str:
        ran = [c for c in self.cells if c.verdict is not Verdict.NOT_RUN]
        held = sum(c.verdict is Verdict.HOLDS for c in ran)
        left = len(self.cells) - len(ran)
        tail = f", {left} not run" if left else ""
        return f"{self.subject}: {held} of {len(ran)} cells hold{tail}"

    def _table(self) -> tuple[list[str], list[list[Verdict | None]], list[str]]:
        names = list(dict.fromkeys(c.name for c in self.cells))
        dtypes = list(dict.fromkeys(c.dtype for c in self.cells))
        found = {(c.name, c.dtype): c.verdict for c in self.cells}
        return names, [[found.get((n, d)) for d in dtypes] for n in names], dtypes

    def __str__(self) -> str:
        names, rows, dtypes = self._table()
        texts = [[n, *("" if v is None else _MARKS[v] for v in row)]
                 for n, row in zip(names, rows, strict=True)]  # fmt: skip
        return "\n".join([self._headline(), *columns(["cell", *dtypes], texts), *self._remarks()])

    def _remarks(self) -> list[str]:
        raised = _by_error(c for c in self.failures if c.verdict is Verdict.RAISES)
        wrong = [c for c in self.failures if c.verdict is Verdict.FAILS]
        told = [*map(str, wrong), *raised, *map(str, self.undecided)]
        left = {(c.dtype, c.detail) for c in self.cells if c.verdict is Verdict.NOT_RUN}
        return [
            *(f"\n{text}" for text in told),
            *(f"\nnot run ({d}): {why}" for d, why in sorted(left)),
        ]

    def __rich__(self) -> Any:
        """Return the table for rich."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        names, rows, dtypes = self._table()
        table = Table("cell", *dtypes, title=self._headline(), title_justify="left")
        for name, row in zip(names, rows, strict=True):
            marks = [Text("") if v is None else Text(_MARKS[v], _STYLES[v]) for v in row]
            table.add_row(name, *marks)
        return Group(table, *(Text(r) for r in self._remarks()))

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        names, rows, dtypes = self._table()
        texts = [[f"`{n}`", *("" if v is None else _MARKS[v] for v in row)]
                 for n, row in zip(names, rows, strict=True)]  # fmt: skip
        return "\n".join([self._headline(), "", *markdown(["cell", *dtypes], texts), ""])

    def to_json(self) -> str:
        """Return everything as JSON.  Complex numbers are written as ``[real, imaginary]``."""
        whole = {
            "subject": self.subject,
            "holds": self.holds,
            "tsgu_func": tsgu_func.__version__,
            "torch": torch.__version__,
            "cells": [asdict(c) for c in self.cells],
        }
        return json.dumps(whole, indent=2, default=lambda z: [z.real, z.imag])


def _by_error(cells: Iterable[Cell]) -> list[str]:
    """Tell each error once, with the cells that raise it."""
    found = dict[str, list[Cell]]()
    for c in cells:
        found.setdefault(c.detail, []).append(c)
    return [
        str(replace(c[0], name=_list(a.name for a in c), dtype=_list(a.dtype for a in c)))
        for c in found.values()
    ]


def _list(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def worst(verdicts: Any) -> Verdict:
    """Return the worst of several verdicts; of none: not run."""
    found = set(verdicts)
    return next((v for v in _BY_SEVERITY if v in found), Verdict.NOT_RUN)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Set a table in plain text."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * w for w in widths], *rows]
    return ["  ".join(t.ljust(w) for t, w in zip(r, widths, strict=True)).rstrip() for r in lines]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Set a table in Markdown."""
    return [f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows)]


def _number(x: complex | None) -> str:
    return "nothing" if x is None else f"{x:.8g}"
