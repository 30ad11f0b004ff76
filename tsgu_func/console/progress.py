"""What shows how far a command is: a bar where somebody watches, lines where nobody does."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

__all__ = ["Description", "bar", "instead"]

_WIDEST = 40  # of the bar itself


class Description(TextColumn):
    """The description of a task: the one column that gives way on a narrow terminal."""

    def __init__(self) -> None:
        super().__init__("{task.description}", table_column=Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        """Return the text, to be cut in its line."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


def bar(counted: str, console: Console | None = None) -> Progress:
    """Return a bar that is gone in the end, with a text of what it counts and of its fields.

    It is shown on standard error, so that it is there while the table goes to a file.
    """
    console = console or Console(stderr=True)
    whole = Column(no_wrap=True)
    columns: tuple[ProgressColumn, ...] = (
        Description(),
        BarColumn(min(_WIDEST, console.width // 5), table_column=whole),
        MofNCompleteColumn(table_column=whole),
        TextColumn(counted, table_column=whole),
        TimeElapsedColumn(table_column=whole),
    )
    return Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else what goes to a file would be shown instead
        disable=not console.is_terminal or console.is_dumb_terminal,
        refresh_per_second=4,
    )


def instead(progress: Progress, line: str) -> None:
    """Print a line where there is no bar."""
    if progress.disable:
        progress.console.print(line, soft_wrap=True, markup=False, highlight=False)
