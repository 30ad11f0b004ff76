"""The options of ``python -m tsgu_func check``.  Nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tsgu_func.console.arguments import near, output, seconds, whole
from tsgu_func.console.ending import CommandError
from tsgu_func.selfcheck.asked import DEVICES, DTYPES, LIMIT, ORDER, SEED, Asked

__all__ = ["add_arguments", "run"]


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
    _add_torch(parser)


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
        default=ORDER,
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
        type=whole(0),
        default=SEED,
        metavar="N",
        help="of directions and batches (default: %(default)s)",
    )
    add(
        "--planted",
        action="store_true",
        help="instead: plant mistakes in functions, and print which check_rules, gradcheck, "
        "gradgradcheck and opcheck tell (alone, or with --markdown)",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    for name, what in (("--json", "all cells as JSON"), ("--markdown", "the table as Markdown")):
        parser.add_argument(name, type=output(), metavar="FILE", help=f"write {what}, too")


def _add_torch(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "PyTorch's own operators",
        "The exit code is 1 if a cell disagrees or a process was stopped: cells that raise are "
        "what PyTorch says it cannot do.",
    )
    group.add_argument(
        "--torch",
        action="store_true",
        help="check the operators of PyTorch's database in place of this library's, in float64 "
        "unless --dtype says complex128; --op takes a whole name",
    )
    group.add_argument(
        "--limit",
        type=seconds,
        default=LIMIT,
        metavar="S",
        help="seconds for an operator (default: %(default)g)",
    )
    group.add_argument(
        "--resume",
        type=output(),
        metavar="FILE",
        help="write each operator to FILE when it is done, and leave out those that are there",
    )


def run(options: argparse.Namespace) -> int:
    """Run the checks; return the exit code."""
    if options.planted:
        return _run_planted(options)
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
        torch=options.torch,
        limit=options.limit,
        resume=options.resume,
    )
    return _runner(asked)(asked)


def _run_planted(options: argparse.Namespace) -> int:
    from tsgu_func.selfcheck.planted.command import run_planted

    others = {"op", "cell", "dtype", "device", "order", "compile", "quick", "seed", "json"}
    others |= {"torch", "limit", "resume"}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [name for name in sorted(others) if getattr(options, name) != parser.get_default(name)]
    if given:
        raise CommandError(f"--planted takes --markdown alone beside it, got --{given[0]}")
    return run_planted(options.markdown)


def _runner(asked: Asked) -> Callable[[Asked], int]:
    if not asked.torch:
        if asked.resume is not None or asked.limit != LIMIT:
            raise CommandError("--resume and --limit go with --torch")
        from tsgu_func.selfcheck.command import run_check

        return run_check
    if asked.devices or asked.quick or not asked.compiled:
        raise CommandError("--device, --quick and --no-compile do not go with --torch")
    if len(asked.dtypes) > 1 or set(asked.dtypes) - {"float64", "complex128"}:
        raise CommandError("--torch takes one --dtype, float64 or complex128")
    from tsgu_func.selfcheck.operators import run_operators

    return run_operators


def _cell(text: str) -> str:
    from tsgu_func.testing.checker.check_rules import GROUPS
    from tsgu_func.testing.checker.checks import CHECKS

    known = dict.fromkeys((*GROUPS, *CHECKS))
    if text not in known:
        those = ", ".join(map(repr, near(text, list(known))))
        raise argparse.ArgumentTypeError(f"no cell is {text!r}; there are {those}")
    return text
