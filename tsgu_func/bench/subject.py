"""What a subject of the benchmark consists of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tsgu_func.bench.results import Comparison

__all__ = ["Subject", "markdown", "page_of_table"]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, whose first row is its head."""
    head, *others = rows
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *others)]


def page_of_table(
    command: str, head: Sequence[str], printed: Sequence[str], summary: Sequence[str]
) -> list[str]:
    """Return the block of a page: a table, without what was printed on the way."""
    del printed
    return ["```bash", command, "```", "", *(f"{line}  " for line in head), "", *summary]


def _line(comparison: Comparison) -> list[str]:
    return comparison.lines()


def _no_summary(comparisons: Sequence[Comparison]) -> list[str]:
    del comparisons
    return []


def _draw(comparisons: Sequence[Comparison], path: Path) -> None:
    from tsgu_func.bench.plot import draw_ratios

    draw_ratios(comparisons, path)


def _page(
    command: str, head: Sequence[str], printed: Sequence[str], summary: Sequence[str]
) -> list[str]:
    """Return the block of a page: the command, and what it printed."""
    return ["```bash", command, "```", "", "```text", *head, *printed, *summary, "```"]


class Subject(NamedTuple):
    """What can be measured.

    Attributes
    ----------
    summary : str
        A line.
    add_arguments, compare : callable
        The options of its own, and what measures under them.
    quick : mapping
        Options of a run that takes no time.
    works : tuple of str
        The peers that compete, as the registry lists them.
    repeats, threads : int
        How often each contender is measured, and in how many threads (0: as PyTorch does).
    lines, summarize, draw : callable
        What is printed of a comparison and of all, and how all are drawn, if they are.
    page : callable
        ``page(command, head, printed, summary)``, what a page of the documentation shows.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    compare: Callable[[argparse.Namespace], Iterator[Comparison]]
    quick: Mapping[str, Any]
    works: tuple[str, ...] = ()
    repeats: int = 15
    threads: int = 0
    lines: Callable[[Comparison], list[str]] = _line
    summarize: Callable[[Sequence[Comparison]], list[str]] = _no_summary
    draw: Callable[[Sequence[Comparison], Path], None] | None = _draw
    page: Callable[..., list[str]] = _page
