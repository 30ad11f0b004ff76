"""The run of ``python -m tsgu_func check``, from records to a table."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from tsgu_func.selfcheck.asked import Asked, OptionError
from tsgu_func.selfcheck.jobs import Job, created_on, devices_of, jobs_on
from tsgu_func.selfcheck.output import Outcome, as_json, as_markdown, show
from tsgu_func.selfcheck.progress import bar
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.report import Cell, Report

__all__ = ["run_check"]

_WIDTH = 120  # of what is written to a file or a pipe: no table is folded

# What PyTorch says of itself, whatever is run.
_NOISE: tuple[tuple[str, type[Warning]], ...] = (
    ("Sparse CS[RC] tensor support is in beta state", UserWarning),
    ("Sparse invariant checks are implicitly disabled", UserWarning),
    (".*torch.jit.", DeprecationWarning),
    (".*torch.jit.", FutureWarning),
    ("`torch._prims_common.check` is deprecated", FutureWarning),
    ("Attempted to insert a get_attr Node", UserWarning),
)


def run_check(asked: Asked) -> int:
    """Check the rules of every op, print what was found and write it to the files asked for.

    Parameters
    ----------
    asked : Asked
        What to check.

    Returns
    -------
    int
        The exit code: 0 if every cell that was run holds and there is one, else 1.

    Raises
    ------
    OptionError
        If there is nothing like what was asked for, or a file cannot be written.
    """
    began, found = time.perf_counter(), dict[str, list[Report]]()
    with _without_noise(), _one_thread(), bar("cells, {task.fields[wrong]} failed") as progress:
        for device in devices_of(asked):
            with created_on(device):
                found[device] = _run(jobs_on(device, asked), progress)
    outcome = Outcome(asked, found, time.perf_counter() - began)
    console = Console()
    show(console if console.is_terminal else Console(width=_WIDTH), outcome)
    for path, text in ((asked.json_file, as_json), (asked.markdown_file, as_markdown)):
        if path is not None:
            _write(path, text(outcome))
    return 0 if outcome.holds else 1


@contextmanager
def _without_noise() -> Iterator[None]:
    with warnings.catch_warnings():
        for message, category in _NOISE:
            warnings.filterwarnings("ignore", message, category)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    # All records are tiny.  Several threads would wait for each other, ten times as long as the
    # work takes where anything else runs on the machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(jobs: list[Job], progress: Progress) -> list[Report]:
    wrong, done, reports = 0, 0, list[Report]()
    task = progress.add_task("", total=sum(job.size for job in jobs), wrong=wrong)
    for job in jobs:
        cells = list[Cell]()
        for cell in job.cells():
            cells.append(cell)
            wrong += cell.verdict in (Verdict.FAILS, Verdict.RAISES)
            progress.update(
                task,
                description=f"{job.device}: {job.name}",
                completed=done + len(cells),
                wrong=wrong,
            )
        # Of a dtype that is not taken there is one cell, in place of those expected.
        done += job.size
        reports.append(Report(job.name, tuple(cells)))
    progress.remove_task(task)
    return reports


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{path}: cannot be written: {error.strerror}") from error
