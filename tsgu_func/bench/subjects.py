"""The one table of subjects, and the options that all of them have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

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
from tsgu_func.console.arguments import FIGURES, output, whole

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
    add = parser.add_argument
    add(
        "--repeats",
        type=whole(),
        default=repeats,
        metavar="N",
        help="measurements of each contender (%(default)s)",
    )
    add("--threads", type=whole(), default=threads, metavar="N", help="of each (%(default)s)")
    add("--quick", action="store_true", help="small sizes, to see that it runs")
    add("--json", type=output(), metavar="FILE", help="where to write all figures")
    add(
        "--markdown",
        type=output(),
        metavar="FILE",
        help="a page with marks, to write between them",
    )
    if subject.draw is not None:
        kinds = ", ".join(FIGURES)
        add("--plot", type=output(*FIGURES), metavar="FILE", help=f"where to draw: {kinds}")
    parser.set_defaults(parser=parser)


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
