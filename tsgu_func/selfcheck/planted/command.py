"""The run of ``python -m tsgu_func check --planted``."""

from __future__ import annotations

from pathlib import Path

import torch

from tsgu_func.console.ending import writing
from tsgu_func.selfcheck.planted.kinds import KINDS
from tsgu_func.selfcheck.planted.table import HEAD, Row, as_page, entries, rows
from tsgu_func.testing.checker.report import columns

__all__ = ["run_planted"]

_COMMAND = "python -m tsgu_func check --planted"


def run_planted(file: Path | None) -> int:
    """Plant each mistake, and print who tells it.

    Parameters
    ----------
    file : Path or None
        Where the page of the documentation is written to, if anywhere.

    Returns
    -------
    int
        The exit code: 0 if `check_rules` tells all that it must, and nothing else.

    Raises
    ------
    CommandError
        If the file cannot be written.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # all functions are tiny
    try:
        found = _run()
    finally:
        torch.set_num_threads(threads)
    if file is not None:
        with writing(file):
            file.write_text(as_page(found, f"{_COMMAND} --markdown {file.as_posix()}"), "utf-8")
    return 0 if all(row.as_it_must for row in found) else 1


def _run() -> list[Row]:
    """Run kind by kind, and print each table when it is there."""
    found: list[Row] = []
    for kind in KINDS:
        of_kind = list(rows((kind,)))
        found += of_kind
        print(f"{kind}\n", *columns(HEAD, list(map(entries, of_kind))), "", sep="\n", flush=True)
    wrong = [row.mistake.name for row in found if not row.as_it_must]
    print(f"{len(found)} rows; not as it must be: {', '.join(wrong) or 'none'}")
    return found
