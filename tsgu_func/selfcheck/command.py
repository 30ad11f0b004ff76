"""The run of ``python -m tsgu_func check``, from records to a table."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import Progress

from tsgu_func.console.ending import writing
from tsgu_func.console.progress import bar, instead
from tsgu_func.selfcheck.asked import Asked
from tsgu_func.selfcheck.jobs import Job, created_on, devices_of, jobs_on
from tsgu_func.selfcheck.output import Outcome, as_json, as_markdown, show
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.report import Cell, Report

__all__ = ["run_check"]

_WRONG = (Verdict.FAILS, Verdict.RAISES)
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
    CommandError
        If there is nothing like what was asked for, or a file cannot be written.
    """
    began, found = time.perf_counter(), dict[str, list[Report]]()
    try:
        with _without_noise(), _one_thread(), bar("cells, {task.fields[wrong]} failed") as progress:
            for device in devices_of(asked):
                with created_on(device):
                    _run(jobs_on(device, asked), progress, found.setdefault(device, []))
    except KeyboardInterrupt:
        there = {device: reports for device, reports in found.items() if reports}
        _show(Outcome(asked, there, time.perf_counter() - began))
        raise
    outcome = Outcome(asked, found, time.perf_counter() - began)
    _show(outcome)
    for path, text in ((asked.json_file, as_json), (asked.markdown_file, as_markdown)):
        if path is not None:
            with writing(path):
                path.write_text(text(outcome), encoding="utf-8")
    return 0 if outcome.holds else 1


def _show(outcome: Outcome) -> None:
    console = Console()
    show(console if console.is_terminal else Console(width=_WIDTH), outcome)


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


def _run(jobs: list[Job], progress: Progress, reports: list[Report]) -> None:
    """Run the jobs, and add their reports, each when it is complete."""
    wrong, done = 0, 0
    task = progress.add_task("", total=sum(job.size for job in jobs), wrong=wrong)
    for number, job in enumerate(jobs, 1):
        cells = list[Cell]()
        for cell in job.cells():
            cells.append(cell)
            wrong += cell.verdict in _WRONG
            progress.update(
                task,
                description=f"{job.device}: {job.name}",
                completed=done + len(cells),
                wrong=wrong,
            )
        # Of a dtype that is not taken there is one cell, in place of those expected.
        done += job.size
        reports.append(Report(job.name, tuple(cells)))
        failed = sum(cell.verdict in _WRONG for cell in cells)
        line = f"{number}/{len(jobs)} {job.device}: {job.name}: {len(cells)} cells, {failed} failed"
        instead(progress, line)
    progress.remove_task(task)
