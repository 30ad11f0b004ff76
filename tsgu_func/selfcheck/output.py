"""What ``python -m tsgu_func check`` prints and writes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import tsgu_func
from tsgu_func.selfcheck.asked import DTYPES, Asked, spelled
from tsgu_func.testing.checker.check_rules import GROUPS
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.report import Cell, Report, markdown, worst

__all__ = ["Outcome", "as_json", "as_markdown", "show"]

_ENTRIES = {
    Verdict.HOLDS: ("yes", "green"),
    Verdict.FAILS: ("WRONG", "bold red"),
    Verdict.RAISES: ("RAISES", "red"),
    Verdict.UNDECIDED: ("can't tell", "yellow"),
    Verdict.NOT_RUN: ("not run", "dim"),
}
_PARTLY, _NOTHING = ("partly", "green"), ("-", "dim")
_MEANINGS = {
    _PARTLY: "what was run holds, and some cells were not run",
    _NOTHING: "there is no such cell among those asked for",
}
_NO_CUDA = "CUDA was not run: there is no CUDA device on this machine"


@dataclass(frozen=True)
class Outcome:
    """What was found: the reports of each device."""

    asked: Asked
    found: Mapping[str, Sequence[Report]]
    seconds: float

    @property
    def cells(self) -> list[Cell]:
        """All cells."""
        return [cell for reports in self.found.values() for r in reports for cell in r.cells]

    @property
    def holds(self) -> bool:
        """Whether every cell that was run holds, and there is one."""
        return Report("", tuple(self.cells)).holds

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many cells there are of each verdict."""
        counted = Counter(cell.verdict for cell in self.cells)
        return {verdict: counted[verdict] for verdict in Verdict}


# ------------------------------------------------------------------------------------ the table


def _groups(reports: Iterable[Report]) -> list[str]:
    found = {cell.group for report in reports for cell in report.cells}
    return [group for group in GROUPS if group in found]


def _entry(report: Report, group: str) -> tuple[str, str]:
    verdicts = [cell.verdict for cell in report.cells if cell.group == group]
    if not verdicts:
        return _NOTHING
    verdict = worst(verdicts)
    if verdict is Verdict.HOLDS and Verdict.NOT_RUN in verdicts:
        return _PARTLY
    return _ENTRIES[verdict]


def _legend(outcome: Outcome) -> list[tuple[str, str]]:
    """Explain those entries that explain nothing themselves, as far as they are there."""
    there = {
        _entry(report, group)
        for reports in outcome.found.values()
        for report in reports
        for group in _groups(reports)
    }
    return [(entry[0], text) for entry, text in _MEANINGS.items() if entry in there]


def _title(device: str, asked: Asked) -> str:
    name = device.upper()
    if device == "cuda" and torch.cuda.is_available():
        name += f" ({torch.cuda.get_device_name()})"
    dtypes = ", ".join(asked.dtypes or DTYPES)
    return f"{name}: {dtypes}; derivatives up to order {asked.order}"


def _table(reports: Sequence[Report]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, header_style="bold")
    table.add_column("record", overflow="fold")
    for group in _groups(reports):
        table.add_column(group, no_wrap=True)
    for report in reports:
        entries = (Text(*_entry(report, group)) for group in _groups(reports))
        table.add_row(Text(report.subject), *entries)
    return table


# ------------------------------------------------------------------------------------ the lines


def _wrong(reports: Iterable[Report]) -> Iterator[str]:
    for report in reports:
        for cell in (*report.failures, *report.undecided):
            yield f"{report.subject}: {cell}"


def _left_out(reports: Iterable[Report]) -> list[str]:
    """Say what was not run and why, in one line for each reason."""
    reasons: dict[str, list[tuple[str, Cell]]] = {}
    for report in reports:
        for cell in report.cells:
            if cell.verdict is Verdict.NOT_RUN:
                reasons.setdefault(cell.detail, []).append((report.subject, cell))
    lines = []
    for reason, cells in reasons.items():
        records = len({subject for subject, _ in cells})
        dtypes = ", ".join(dict.fromkeys(cell.dtype for _, cell in cells))
        lines.append(
            f"{_many(len(cells), 'cell')} of {_many(records, 'record')} ({dtypes}): {reason}"
        )
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _counted(outcome: Outcome) -> str:
    n = outcome.counts
    held = "1 cell holds" if n[Verdict.HOLDS] == 1 else f"{n[Verdict.HOLDS]} cells hold"
    return (
        f"{held}, {n[Verdict.FAILS] + n[Verdict.RAISES]} fail, "
        f"{n[Verdict.UNDECIDED]} cannot be told, {n[Verdict.NOT_RUN]} were not run"
    )


def _without_cuda(outcome: Outcome) -> bool:
    return not outcome.asked.devices and "cuda" not in outcome.found


def show(console: Console, outcome: Outcome) -> None:
    """Print the tables, what is wrong and how to see it again, what was left out, and a summary.

    Parameters
    ----------
    console : rich.console.Console
        Where.
    outcome : Outcome
        What was found.
    """

    def say(line: str = "") -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    for device, reports in outcome.found.items():
        console.print(Text(_title(device, outcome.asked), "bold"))
        say()
        console.print(_table(reports))
        say()
        for line in _wrong(reports):
            say(f"{line}\n")
    for entry, meaning in _legend(outcome):
        say(f"{entry}: {meaning}")
    for reports in outcome.found.values():
        for line in _left_out(reports):
            say(f"not run: {line}")
    if _without_cuda(outcome):
        say(_NO_CUDA)
    say(f"{_counted(outcome)}; {outcome.seconds:.0f} seconds")


# ------------------------------------------------------------------------------------ the files


def as_json(outcome: Outcome) -> str:
    """Return every cell as JSON.

    Parameters
    ----------
    outcome : Outcome
        What was found.

    Returns
    -------
    str
        An object: versions, the command, ``holds``, ``counts`` by verdict, and ``records``, each
        with its device and ``cells``.  Complex numbers are ``[real, imaginary]``; what is not
        finite is a string.
    """
    whole = {
        "tsgu_func": tsgu_func.__version__,
        "torch": torch.__version__,
        "command": spelled(outcome.asked),
        "holds": outcome.holds,
        "counts": outcome.counts,
        "seconds": round(outcome.seconds, 1),
        "records": [
            {"record": r.subject, "device": device, "cells": [_plain(cell) for cell in r.cells]}
            for device, reports in outcome.found.items()
            for r in reports
        ],
    }
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _plain(cell: Cell) -> dict[str, Any]:
    plain = asdict(cell)
    example = plain["counterexample"]
    if example is not None:
        example.update({name: _number(example[name]) for name in ("expected", "got")})
    return plain


def _number(x: complex | None) -> Any:
    if isinstance(x, complex):
        return [_number(x.real), _number(x.imag)]
    # JSON has no word for what is not finite.
    return x if x is None or math.isfinite(x) else str(x)


def as_markdown(outcome: Outcome) -> str:
    """Return the page that the documentation shows.

    Parameters
    ----------
    outcome : Outcome
        What was found.

    Returns
    -------
    str
        The tables and what was left out, without dates and times: the same outcome is the same
        page.
    """
    lines = [
        "# What was checked",
        "",
        "This page is written by the command",
        "",
        "```bash",
        spelled(replace(outcome.asked, json_file=None)),  # whose path is nobody else's
        "```",
        "",
        f"with tsgu_func {tsgu_func.__version__} and torch {torch.__version__}. A row is a record: "
        "an op in one of its uses. [What works](what-works.md) says what the columns mean.",
        *(f"`{entry}`: {meaning}." for entry, meaning in _legend(outcome)),
        "",
        f"{_counted(outcome)}.",
    ]
    for device, reports in outcome.found.items():
        groups = _groups(reports)
        rows = [[f"`{r.subject}`", *(_entry(r, g)[0] for g in groups)] for r in reports]
        lines += [
            "",
            f"## {_title(device, outcome.asked)}",
            "",
            *markdown(["record", *groups], rows),
        ]
        if wrong := list(_wrong(reports)):
            lines += ["", "What does not hold:", "", "```text", *wrong, "```"]
        if left := _left_out(reports):
            lines += ["", "Not run:", "", *(f"- {line}" for line in left)]
    if _without_cuda(outcome):
        lines += ["", f"{_NO_CUDA}."]
    return "\n".join(lines) + "\n"
