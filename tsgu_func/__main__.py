"""Command line: ``python -m tsgu_func COMMAND``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

import tsgu_func
from tsgu_func import SparseMatrix, bench, warm
from tsgu_func.bench.machine import version_or_none
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.console.ending import CommandError, ended, refused
from tsgu_func.demo import options as demo
from tsgu_func.selfcheck import options as check
from tsgu_func.solvers import plan
from tsgu_func.solvers.machine import dense_speed

__all__ = ["main"]

# Packages that not every installation has.
_OPTIONAL = ("expecttest", "hypothesis", "matplotlib", "rich", "threadpoolctl")


class Command(NamedTuple):
    """What can be asked for.

    Whatever is heavy or optional is imported by `run`, not by the module that declares it.  `extra`
    names what brings the optional packages that it imports.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    extra: str = ""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help explains)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    0; 1 if a check fails; what else there is, `tsgu_func.console.ending` says.
    """
    return ended(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    command, name = _COMMANDS[options.command], f"tsgu_func {options.command}"
    try:
        return command.run(options)
    except CommandError as error:
        return refused(name, error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OPTIONAL or not command.extra:
            raise
        needed = f'pip install "tsgu_func[{command.extra}]"'
        return refused(name, f"{package} is not installed: {needed}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tsgu_func",
        description="Sparse linear algebra for PyTorch, under every torch.func transform.",
    )
    parser.add_argument("--version", action="version", version=f"tsgu_func {tsgu_func.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        own = commands.add_parser(name, help=command.summary, description=command.summary)
        command.add_arguments(own)
    return parser


# ---------------------------------------------------------------------------------------- info


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Leave the parser as it is."""


def _info(options: argparse.Namespace) -> int:
    """Print what a report of a problem should contain."""
    parts = {
        "Versions": _versions(),
        "Devices": _devices(),
        "Kernels": _kernels(),
        "sparse_solve chooses": _choices(),
    }
    for title, rows in parts.items():
        print(title)
        width = max(map(len, rows))
        for name, text in rows.items():
            print(f"  {name:<{width}}  {text}")
    return 0


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "scipy", "numba", "optree")
    optional = ("pyamg", "pypardiso", "scikit-sparse")
    return {
        "tsgu_func": tsgu_func.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: metadata.version(name) for name in packages},
        **{name: version_or_none(name) or "not installed (optional)" for name in optional},
    }


def _devices() -> dict[str, str]:
    devices = {"CPU": f"{torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        devices[f"cuda:{i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return devices


def _kernels() -> dict[str, str]:
    """Say which code does the work; `tsgu_func.kernels.products` is where that is decided."""
    loops = "loops compiled by Numba"
    if torch.backends.mkl.is_available():
        product = f"MKL for few columns, {loops} for many, complex numbers and batches"
    else:
        product = f"{loops} (MKL, for few columns, is not available)"
    kernels = {
        "A @ B": product,
        "gradient of A": f"{loops} (sampled products)",
        "triangular solve": f"{loops} (substitution)",
        "sparse_solve": "chosen by the matrix: tsgu_func.solvers.plan explains",
        "compiled loops": _kept_at(warm.place()),
    }
    if torch.cuda.is_available():
        kernels["sparse on CUDA"] = "cuSPARSE, through PyTorch"
    return kernels


def _choices() -> dict[str, str]:
    """Say which solvers are tried for model problems, for a few and for many right-hand sides."""
    chosen = {}
    for problem in PROBLEMS.values():
        S = problem.build(problem.sizes[0])
        A = SparseMatrix.from_scipy(S)
        for columns in (1, 256):
            name = f"{problem.title}, {columns} column{'s' if columns > 1 else ''}"
            chosen[name] = ", then ".join(map(repr, plan(A, columns).solvers))
    chosen["dense arithmetic"] = f"taken to be {dense_speed():g} times as fast as usual"
    return chosen


def _kept_at(folder: str | None) -> str:
    if folder is None:
        return "not kept, compiled again by each process: NUMBA_CACHE_DIR says where to keep them"
    there = Path(folder)
    while not there.exists():  # it is made when something is kept
        there = there.parent
    writable = "" if os.access(there, os.W_OK) else ", which cannot be written to"
    return f"kept in {folder}{writable}"


# -------------------------------------------------------------------------------- the commands

_COMMANDS = {
    "bench": Command(
        "measure speed against other packages", bench.add_arguments, bench.run, "demo"
    ),
    "check": Command("check every rule of every op", check.add_arguments, check.run, "testing"),
    "demo": Command("denoise an image without a clean one", demo.add_arguments, demo.run, "demo"),
    "info": Command("show versions, devices and kernels", _no_arguments, _info),
    "warm": Command("compile loops ahead of time", warm.add_arguments, warm.run),
}

if __name__ == "__main__":
    sys.exit(main())
