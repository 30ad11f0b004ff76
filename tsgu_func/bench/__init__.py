"""Benchmarks against named peers, interleaved in one run: ``python -m tsgu_func bench``."""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Mapping

from tsgu_func.bench import table
from tsgu_func.bench.report import (
    as_json,
    check_marks,
    header,
    introduction,
    spelled,
    written,
)
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.subjects import SUBJECTS, declare, settle
from tsgu_func.bench.timing import in_threads
from tsgu_func.console.ending import writing

__all__ = ["add_arguments", "run"]

_SUBJECTS: Mapping[str, Subject] = {**SUBJECTS, "table": table.SUBJECT}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subjects and their options."""
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for name, subject in _SUBJECTS.items():
        own = subjects.add_parser(name, help=subject.summary, description=subject.summary)
        declare(own, subject)


def run(options: argparse.Namespace) -> int:
    """Measure, print a line for each comparison, and write the files asked for."""
    subject, plot = _SUBJECTS[options.subject], getattr(options, "plot", None)
    if plot is not None:
        importlib.import_module("matplotlib")  # before anything is measured
    if options.markdown is not None:
        check_marks(options.markdown, options.subject)
    with in_threads(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer has to say is not about its speed
        command = spelled(options)
        head = header(command, settle(options, subject), subject)
        first = introduction(head)
        comparisons = subject.compare(options)
        print(*first, "", sep="\n", flush=True)
        compared, printed = [], []
        for comparison in comparisons:
            lines = subject.lines(comparison)
            print(*lines, sep="\n", flush=True)
            compared.append(comparison)
            printed += lines
    summary = subject.summarize(compared)
    if summary:
        print("", *summary, sep="\n")
    if options.json is not None:
        with writing(options.json):
            options.json.write_text(as_json(head, compared, summary), encoding="utf-8")
    if options.markdown is not None:
        page = subject.page(command, first, printed, summary)
        written(options.markdown, options.subject, page)
    if plot is not None and subject.draw is not None:
        with writing(plot):
            subject.draw(compared, plot)
        print(f"drawn: {plot}")
    return 0
