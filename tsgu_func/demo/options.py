"""The options of the demo.  Nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tsgu_func.demo.settings import FULL, Settings

__all__ = ["add_arguments", "run"]

_QUICK = 96  # pixels along the longer side
_FORMATS = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Add noise to an image and remove it again, choosing the parameters without the clean one: "
        "Newton's method on Stein's unbiased risk estimate, through a sparse factorization. "
        "Writes a figure."
    )
    add = parser.add_argument
    add(
        "--input",
        type=Path,
        metavar="FILE",
        help="image to take: .png, or a 2-D array as .npy or .npz (default: a magnetic resonance "
        "image that comes with matplotlib)",
    )
    add(
        "--size",
        type=_whole(32, 512),
        metavar="N",
        help=f"pixels along the longer side, 32 to 512 (default: as many as the image has, "
        f"up to {FULL}; 512 takes minutes and 6 GB)",
    )
    add(
        "--noise",
        type=_noise,
        default=0.06,
        metavar="SIGMA",
        help="standard deviation of the noise, for an image in [0, 1]; the fit is told "
        "(default: %(default)s)",
    )
    add(
        "--classes",
        type=_whole(1, 8),
        metavar="K",
        help="classes of brightness with parameters of their own, 1 to 8 (default: 3)",
    )
    add(
        "--seed",
        type=_whole(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="of the random numbers (default: %(default)s)",
    )
    add(
        "--out",
        type=Path,
        default=Path("tsgu_func_demo.png"),
        metavar="FILE",
        help="figure to write: .png, .pdf or .svg (default: %(default)s)",
    )
    add("--quick", action="store_true", help=f"take a few seconds: --size {_QUICK} --classes 1")


def run(options: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    from tsgu_func.demo.command import run_demo
    from tsgu_func.demo.images import InputError

    try:
        run_demo(_settings(options))
    except InputError as error:
        print(f"tsgu_func demo: error: {error}", file=sys.stderr)
        return 2
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    """Fill in what was not given, and check what need not wait for the computation."""
    from tsgu_func.demo.images import InputError

    out: Path = options.out
    if out.suffix.lower() not in _FORMATS:
        raise InputError(f"{out}: a figure is written as {', '.join(_FORMATS)}")
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no directory {out.parent}")
    if out.is_dir():
        raise InputError(f"{out}: is a directory")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise InputError(f"{out}: is not writable")
    return Settings(
        noise=options.noise,
        seed=options.seed,
        classes=options.classes or (1 if options.quick else 3),
        size=options.size or (_QUICK if options.quick else None),
        image=options.input,
        out=out,
    )


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"takes a whole number from {low} to {high}, got {text!r}"
            )
        return value

    return parse


def _noise(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    # At 0 there is nothing to remove; and below 1e-4 rounding in θ would be all that is fitted.
    if not 1e-4 <= value <= 1:
        raise argparse.ArgumentTypeError(f"takes a number from 0.0001 to 1, got {text!r}")
    return value
