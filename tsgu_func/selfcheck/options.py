"""The options of ``python -m tsgu_func check``.  Nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEVICES", "DTYPES", "Asked", "OptionError", "add_arguments", "run", "spelled"]

DTYPES = ("float64", "complex128", "float32", "float16", "bfloat16")
DEVICES = ("cpu", "cuda")
_ORDER, _SEED = 2, 0


class OptionError(ValueError):
    """What was asked for cannot be done."""


@dataclass(frozen=True)
class Asked:
    """What to check; where a tuple is empty: all there is.

    Examples
    --------
    >>> from tsgu_func.selfcheck.options import Asked, spelled
    >>> spelled(Asked(ops=("sparse_mm",), order=3))
    'python -m tsgu_func check --op sparse_mm --order 3'
    """

    ops: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    order: int = _ORDER
    seed: int = _SEED
    compiled: bool = True
    quick: bool = False
    json_file: Path | None = None
    markdown_file: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Check the rules of every op on this machine: values, derivatives in all mixes of forward "
        "and reverse mode, vmap and the compiler, against finite differences, loops and PyTorch's "
        "own dense ops. Prints a table of records (an op in one of its uses) and capabilities. "
        "The exit code is 0 if every cell that was run holds and there is one, else 1."
    )
    _add_selection(parser)
    _add_extent(parser)
    _add_files(parser)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    several = {"action": "append", "default": None}
    parser.add_argument(
        "--op",
        metavar="NAME",
        help="a record, or how the names of records start; may be given again (default: all)",
        **several,
    )
    parser.add_argument(
        "--cell",
        type=_cell,
        metavar="NAME",
        help="a cell, or a column of the table; may be given again (default: all)",
        **several,
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="may be given again (default: all). Those below double precision have the cells of "
        "the column 'precision'",
        **several,
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="may be given again (default: all that this machine has)",
        **several,
    )


def _add_extent(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--order",
        type=int,
        choices=(1, 2, 3),
        default=_ORDER,
        help="up to which order derivatives are checked (default: %(default)s)",
    )
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run cells inside of torch.compile, which takes most of the time (default: yes)",
    )
    add(
        "--quick",
        action="store_true",
        help="end within a minute: one record for each function, unless --op is given, and few "
        "compiled cells, unless --cell is given",
    )
    add(
        "--seed",
        type=_seed,
        default=_SEED,
        metavar="N",
        help="of directions and batches (default: %(default)s)",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    for name, what in (("--json", "all cells as JSON"), ("--markdown", "the table as Markdown")):
        parser.add_argument(name, type=_file, metavar="FILE", help=f"write {what}, too")


def run(options: argparse.Namespace) -> int:
    """Run the checks; return the exit code."""
    from tsgu_func.selfcheck.command import run_check

    asked = Asked(
        ops=tuple(options.op or ()),
        cells=tuple(options.cell or ()),
        dtypes=tuple(options.dtype or ()),
        devices=tuple(options.device or ()),
        order=options.order,
        seed=options.seed,
        compiled=options.compile,
        quick=options.quick,
        json_file=options.json,
        markdown_file=options.markdown,
    )
    try:
        return run_check(asked)
    except OptionError as error:
        print(f"tsgu_func check: error: {error}", file=sys.stderr)
        return 2


def spelled(asked: Asked) -> str:
    """Return the command line that asks for this.

    Parameters
    ----------
    asked : Asked
        What to check.

    Returns
    -------
    str
        Without the options that have their defaults.

    Examples
    --------
    >>> from tsgu_func.selfcheck.options import Asked, spelled
    >>> spelled(Asked(cells=("vmap(vjp)",), compiled=False))
    'python -m tsgu_func check --cell "vmap(vjp)" --no-compile'
    """
    words = ["python", "-m", "tsgu_func", "check"]
    lists = {"op": asked.ops, "cell": asked.cells, "dtype": asked.dtypes, "device": asked.devices}
    for name, values in lists.items():
        for value in values:
            words += [f"--{name}", _quoted(value)]
    if asked.order != _ORDER:
        words += ["--order", str(asked.order)]
    if asked.seed != _SEED:
        words += ["--seed", str(asked.seed)]
    words += ["--no-compile"] * (not asked.compiled) + ["--quick"] * asked.quick
    for name, path in (("json", asked.json_file), ("markdown", asked.markdown_file)):
        if path is not None:
            words += [f"--{name}", _quoted(path.as_posix())]
    return " ".join(words)


def _quoted(word: str) -> str:
    # Double quotes, because every shell takes them; no name holds a quote itself.
    plain = all(c.isalnum() or c in "_.-/" for c in word)
    return word if plain and word else f'"{word}"'


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes a whole number that is not negative, got {text!r}")
    return int(text)


def _cell(text: str) -> str:
    from tsgu_func.testing.checker.check_rules import GROUPS
    from tsgu_func.testing.checker.checks import CHECKS

    known = dict.fromkeys((*GROUPS, *CHECKS))
    if text not in known:
        raise argparse.ArgumentTypeError(f"is one of {', '.join(map(repr, known))}; got {text!r}")
    return text


def _file(text: str) -> Path:
    """Check what need not wait for the end of a long run."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: there is no directory {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a directory")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path}: is not writable")
    return path
