"""What ``python -m tsgu_func check --torch`` prints and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

import tsgu_func
from tsgu_func.selfcheck.asked import Asked, spelled
from tsgu_func.selfcheck.found import Found, counted
from tsgu_func.selfcheck.known import KNOWN, PREAMBLE, Known, known_of
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.report import markdown

__all__ = ["as_json", "as_page", "defects", "show"]

_COLUMNS = {
    "hold": Verdict.HOLDS,
    "raise": Verdict.RAISES,
    "disagree": Verdict.FAILS,
    "can't tell": Verdict.UNDECIDED,
}
_ISSUES = "https://github.com/pytorch/pytorch/issues/"


def show(console: Console, asked: Asked, found: Sequence[Found], seconds: float) -> None:
    """Print the operators of which not all cells hold, what disagrees, and a summary."""

    def say(line: str = "") -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    if rows := list(_rows(found, all_that_hold=False)):
        table = Table(*_head(), box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        for row in rows:
            table.add_row(*row)
        (console if console.is_terminal else Console(width=120)).print(table)
        say()
    for line in (*_disagreeing(found, asked), *_left_out(found)):
        say(line)
    say(f"{_summary(found)}; {seconds:.0f} seconds")


def _head() -> list[str]:
    return ["operator", *_COLUMNS, "known"]


def _rows(found: Sequence[Found], *, all_that_hold: bool) -> Iterator[list[str]]:
    for f in found:
        counts = [f.count(verdict) for verdict in _COLUMNS.values()]
        if all_that_hold or any(counts[1:]):
            known = known_of(f.op) if f.count(Verdict.FAILS) else []
            yield [f.op, *map(str, counts), ", ".join(map(_reference, known))]


def _reference(known: Known) -> str:
    return ", ".join(f"#{i}" for i in known.issues) or "not reported"


def _disagreeing(found: Sequence[Found], asked: Asked) -> Iterator[str]:
    """Say what disagrees, and how to see it again."""
    for f in found:
        for cell in f.cells:
            if cell["verdict"] != Verdict.FAILS:
                continue
            yield f"{f.op}: {cell['name']} (sample {cell['sample']}): WRONG; {cell['detail']}"
            if cell["expected"] is not None:
                yield f"  {cell['where']}: expected {cell['expected']}, got {cell['got']}"
            again = replace(
                asked, ops=(f.op,), cells=(cell["name"],),
                json_file=None, markdown_file=None, resume=None,
            )  # fmt: skip
            yield f"  {spelled(again)}\n"


def _left_out(found: Sequence[Found]) -> Iterator[str]:
    for f in found:
        for reason in (f.stopped, *f.refused):
            if reason:
                yield f"not run: {f.op}: {reason}"


def _summary(found: Sequence[Found]) -> str:
    n = counted(found)
    stopped = sum(bool(f.stopped) for f in found)
    return (
        f"{len(found)} operators, {stopped} of them stopped; {n[Verdict.HOLDS]} cells hold, "
        f"{n[Verdict.RAISES]} raise, {n[Verdict.FAILS]} disagree, "
        f"{n[Verdict.UNDECIDED]} cannot be told"
    )


def as_json(asked: Asked, found: Sequence[Found]) -> str:
    """Return every cell as JSON, by operator."""
    whole: dict[str, Any] = {
        "tsgu_func": tsgu_func.__version__,
        "torch": torch.__version__,
        "command": spelled(asked),
        "counts": counted(found),
        "operators": [asdict(f) for f in found],
    }
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


# ------------------------------------------------------------------------------------- the page


def as_page(asked: Asked, found: Sequence[Found]) -> str:
    """Return the page that the documentation shows: the defects that are known, and this run."""
    command = spelled(replace(asked, json_file=None, resume=None))
    rows = [[f"`{row[0]}`", *row[1:]] for row in _rows(found, all_that_hold=False) if row[3] != "0"]
    lines = [
        defects(),
        "## Numbers",
        "",
        f"By tsgu_func {tsgu_func.__version__} with torch {torch.__version__}:",
        "",
        "```bash",
        command,
        "```",
        "",
        f"{_summary(found)}. Cells that raise are what PyTorch says it cannot do. Not every cell "
        f"that disagrees is an error: an operator may depend on strides by contract, or have an "
        f"output that is meant to be constant. The operators with cells that disagree:",
        "",
        *markdown(_head(), rows),
    ]
    return "\n".join(lines) + "\n"


def defects() -> str:
    """Return the part of the page that does not depend on a run."""
    unreported = sum(not known.issues for known in KNOWN)
    lines = [
        "# Errors of PyTorch that the checker found",
        "",
        "[`check_rules`](check-your-op.md) runs over PyTorch's own database of operators, too:",
        "",
        "```bash",
        "python -m tsgu_func check --torch                 # --op NAME: one of them",
        "```",
        "",
        'It needs `pip install "tsgu_func[testing]"` and about a quarter of an hour; with '
        "`--resume FILE` it goes on where it was stopped. Each operator runs in a process of its "
        "own, for at most `--limit` seconds.",
        "",
        f"These {len(KNOWN)} defects were confirmed with torch 2.13, by another formulation or a "
        f"closed form. Of {unreported} we found no public issue. They are silent, but for the "
        f"error that `vmap` with `out_dims=-1` may end in. The programs, all after",
        "",
        "```python",
        PREAMBLE.rstrip(),
        "```",
        "",
        "compute what PyTorch gives (`got`) and what is right.",
        "",
    ]
    for number, known in enumerate(KNOWN, 1):
        lines += [f"## {number}. {known.title[0].upper()}{known.title[1:]}", "", known.told, ""]
        lines += ["```python", known.program.rstrip(), "```", "", _reported(known), ""]
    return "\n".join(lines)


def _reported(known: Known) -> str:
    links = ", ".join(f"[#{i}]({_ISSUES}{i})" for i in known.issues)
    told = f"Reported: {links}." if links else "We found no public issue."
    return f"{told} Right with torch {known.mended}." if known.mended else told
