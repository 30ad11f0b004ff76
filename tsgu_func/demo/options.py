"""The options of the demo.  Nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from tsgu_func.console.arguments import FIGURES, output, whole
from tsgu_func.demo.settings import FULL, Settings

__all__ = ["add_arguments", "run"]

_QUICK = 96  # pixels along the longer side


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
        type=whole(32, 512),
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
        type=whole(1, 8),
        metavar="K",
        help="classes of brightness with parameters of their own, 1 to 8 (default: 3)",
    )
    add(
        "--seed",
        type=whole(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="of the random numbers (default: %(default)s)",
    )
    add(
        "--out",
        type=output(*FIGURES),
        default="tsgu_func_demo.png",
        metavar="FILE",
        help="figure to write: .png, .pdf or .svg (default: %(default)s)",
    )
    add("--quick", action="store_true", help=f"take a few seconds: --size {_QUICK} --classes 1")


def run(options: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    from tsgu_func.demo.command import run_demo

    run_demo(_settings(options))
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    """Fill in what was not given."""
    return Settings(
        noise=options.noise,
        seed=options.seed,
        classes=options.classes or (1 if options.quick else 3),
        size=options.size or (_QUICK if options.quick else None),
        image=options.input,
        out=options.out,
    )


def _noise(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    # At 0 there is nothing to remove; and below 1e-4 rounding in θ would be all that is fitted.
    if not 1e-4 <= value <= 1:
        raise argparse.ArgumentTypeError(f"takes a number from 0.0001 to 1, got {text!r}")
    return value
