"""What is printed and written of a run."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tsgu_func.bench.machine import describe
from tsgu_func.bench.peers import missing, packages
from tsgu_func.bench.results import Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.console.ending import CommandError, writing

__all__ = ["as_json", "check_marks", "header", "introduction", "replaced", "spelled", "written"]

_NOT_SPELLED = ("command", "subject", "parser", "json", "plot", "markdown")


def spelled(options: argparse.Namespace) -> str:
    """Return the command, without the files that are its own business."""
    words = ["python", "-m", "tsgu_func", "bench", options.subject]
    for name, value in vars(options).items():
        if name in _NOT_SPELLED or value == options.parser.get_default(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def header(command: str, options: argparse.Namespace, subject: Subject) -> dict[str, Any]:
    """Return what a reader must know: the command, machine, versions, who is missing."""
    threads = torch.get_num_threads()
    return {
        "command": command,
        **describe(packages(subject.works)),
        "measured": (
            f"median of {options.repeats}, all in turn; "
            + ("CPU time" if threads == 1 else "time by the clock")
        ),
        "missing": missing(subject.works),
    }


def introduction(head: Mapping[str, Any]) -> list[str]:
    """Return the header in lines."""
    machine, versions = head["machine"], head["versions"]
    threads = machine["threads"]
    lines = [
        f"{machine['processor']}, {machine['processors']} processors, {machine['system']}; "
        f"{threads} thread{'s' * (threads > 1)}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"{head['measured']}; a ratio is a peer's measurement to ours",
    ]
    for package in dict.fromkeys(head["missing"].values()):
        names = [name for name, needed in head["missing"].items() if needed == package]
        lines.append(f"not installed: {package} ({', '.join(names)})")
    return lines


def as_json(
    head: Mapping[str, Any], comparisons: Sequence[Comparison], summary: Sequence[str]
) -> str:
    """Return the header, a row for each comparison, and the summary."""
    rows = [
        {
            "case": dict(c.case),
            "unit": c.unit,
            "measured": {name: list(map(_number, x)) for name, x in c.measured.items()},
            "ratios": {name: _number(c.ratio(name)) for name in c.peers},
            "more": {
                name: {k: _number(v) for k, v in told.items()} for name, told in c.more.items()
            },
            **({"command": c.command} if c.command else {}),
        }
        for c in comparisons
    ]
    whole = {**head, "rows": rows, "summary": list(summary)}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _number(x: Any) -> Any:
    if not isinstance(x, float):
        return x
    # JSON has no word for what is not finite.
    return float(f"{x:.6g}") if math.isfinite(x) else str(x)


# --------------------------------------------------------------------------------- a page's block


def replaced(page: str, subject: str, lines: Sequence[str]) -> str:
    """Return a page with other lines between the marks of a subject."""
    first, last = (f"<!-- {slash}bench {subject} -->" for slash in ("", "/"))
    before, found, rest = page.partition(first)
    old, ended, after = rest.partition(last)
    del old
    if not (found and ended):
        raise CommandError(f"there are no lines {first} and {last}, between which to write")
    return before + "\n".join([first, "", *lines, "", last]) + after


def written(path: Path, subject: str, lines: Sequence[str]) -> None:
    """Replace a block of a file."""
    page = replaced(_read(path), subject, lines)
    with writing(path):
        path.write_text(page, encoding="utf-8")


def check_marks(path: Path, subject: str) -> None:
    """Raise an error where a page has no block for a subject."""
    try:
        replaced(_read(path), subject, [])
    except CommandError as error:
        raise CommandError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: cannot be read: {error}") from error
