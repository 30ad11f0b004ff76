"""What options take, for `argparse`: each function here is, or returns, the ``type`` of one."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["FIGURES", "add_choice", "add_count", "near", "output", "seconds", "whole"]

FIGURES = (".png", ".pdf", ".svg")
_MOST = 2**31 - 1  # of what is counted


def add_count(
    parser: argparse.ArgumentParser, name: str, default: int | list[int], what: str
) -> None:
    """Add an option that takes a number of something, or several where the default is a list."""
    several = isinstance(default, list)
    told = " ".join(map(str, default if several else [default]))
    parser.add_argument(
        name,
        type=whole(),
        nargs="+" if several else None,
        default=default,
        metavar="N",
        help=f"{what} (default: {told})",
    )


def add_choice(
    parser: argparse.ArgumentParser,
    name: str,
    known: Sequence[str],
    default: list[str] | None = None,
) -> None:
    """Add an option that takes some of the names that there are; without a default, all of them."""
    told = "all" if default is None else " ".join(default) or "none"
    parser.add_argument(
        name,
        nargs="+",
        choices=known,
        default=list(known) if default is None else default,
        metavar="NAME",
        help=f"some of {', '.join(known)} (default: {told})",
    )


def whole(least: int = 1, most: int = _MOST) -> Callable[[str], int]:
    """Return what takes a whole number in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"takes a whole number from {least} to {most}, got {text!r}"
            )
        return value

    return parse


def seconds(text: str) -> float:
    """Take a time that is neither zero nor without end."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a number of seconds, got {text!r}")
    return value


def output(*suffixes: str) -> Callable[[str], Path]:
    """Return what takes a file to be written, with one of some suffixes, or with any.

    It checks what need not wait for the end of a long run.
    """

    def parse(text: str) -> Path:
        path = Path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{path}: is written as {', '.join(suffixes)}")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"{path}: there is no directory {path.parent}")
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{path}: is a directory")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise argparse.ArgumentTypeError(f"{path}: is not writable")
        return path

    return parse


def near(text: str, names: Sequence[str]) -> list[str]:
    """Return the names that may be meant by one that is none of them; all, where none is alike."""
    holding = [name for name in names if text and text in name]
    return holding or difflib.get_close_matches(text, names, cutoff=0.75) or list(names)
