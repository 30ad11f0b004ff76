"""The one table of subjects, and the options that all of them have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch

from tsgu_func.bench import (
    busy,
    indexed,
    jacobian,
    least_squares,
    memory,
    overhead,
    products,
    scaling,
    solve,
    sparse_products,
    triangular,
)
from tsgu_func.bench.subject import Subject

__all__ = ["SUBJECTS", "declare", "parsed", "settle"]

SUBJECTS: Mapping[str, Subject] = {
    "mm": products.SUBJECT,
    "spgemm": sparse_products.SUBJECT,
    "triangular": triangular.SUBJECT,
    "indexed": indexed.SUBJECT,
    "lstsq": least_squares.SUBJECT,
    "jacobian": jacobian.SUBJECT,
    "solve": solve.SUBJECT,
    "busy": busy.SUBJECT,
    "overhead": overhead.SUBJECT,
    "memory": memory.SUBJECT,
    "scaling": scaling.SUBJECT,
}


def declare(parser: argparse.ArgumentParser, subject: Subject) -> None:
    """Declare the options of a subject."""
    subject.add_arguments(parser)
    repeats, threads = subject.repeats, subject.threads or torch.get_num_threads()
    parser.add_argument("--repeats", type=int, default=repeats, help="measurements (%(default)s)")
    parser.add_argument("--threads", type=int, default=threads, help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", type=_file, metavar="FILE", help="where to write all figures")
    parser.add_argument(
        "--markdown", type=_page, metavar="FILE", help="a page with marks, to write between them"
    )
    if subject.draw is not None:
        parser.add_argument("--plot", type=_file, metavar="FILE", help="where to draw")
    parser.set_defaults(parser=parser)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {path.parent}")
    return path


def _page(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path}: there is no such page")
    return path


def settle(options: argparse.Namespace, subject: Subject) -> argparse.Namespace:
    """Make everything small that was not given, if it is to be quick."""
    small = {"repeats": 2, **subject.quick} if options.quick else {}
    for name, value in small.items():
        if getattr(options, name) == options.parser.get_default(name):
            setattr(options, name, value)
    return options


def parsed(command: str) -> argparse.Namespace:
    """Return the options of a command, which begins with its subject."""
    name, *arguments = command.split()
    parser = argparse.ArgumentParser(prog=f"bench {name}")
    declare(parser, SUBJECTS[name])
    return parser.parse_args([*arguments], argparse.Namespace(subject=name))
