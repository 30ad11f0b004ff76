"""What the demo prints."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tsgu_func.demo.settings import Settings

__all__ = [
    "Advance",
    "Stage",
    "Step",
    "decibel",
    "introduce",
    "promises",
    "quality",
    "stages",
    "steps",
    "strong_theta",
    "uncertainty",
]


class Advance(Protocol):
    """Tells the bar that a step is done."""

    def __call__(self, text: str = "") -> None:
        """Advance, and say where things stand."""
        ...


class Stage(NamedTuple):
    """What a stage took; a solve may have many columns."""

    name: str
    seconds: float
    factorizations: int
    solves: int


class Step(NamedTuple):
    """A step of the minimization; ratios of peak signal to noise as estimated, and as they are."""

    theta: Tensor
    risk: float
    slope: float
    estimated_psnr: float
    true_psnr: float


def strong_theta(sigma: float) -> Tensor:
    """Return θ (2, 1) with strong smoothing and sharp edges, where the weights matter most."""
    return torch.tensor([[6.0], [sigma / 3]], dtype=torch.float64).log()


def decibel(value: float) -> str:
    """Write a ratio in dB; an estimate of the error below zero has none."""
    return "error < 0" if math.isnan(value) else f"{value:.2f}"


def introduce(console: Console, settings: Settings, height: int, width: int, probes: int) -> None:
    """Say what is about to be done."""
    name = "magnetic resonance image" if settings.image is None else str(settings.image)
    classes = f"{settings.classes} class{'es' if settings.classes > 1 else ''}"
    console.rule("Denoising without a clean reference")
    console.print(
        f"{name}, {width} x {height}: {width * height:,} unknowns; {classes} of brightness; "
        f"noise {settings.noise:g} (the fit is told), seed {settings.seed}; {probes} probes",
        highlight=False,
        markup=False,
    )


def steps(console: Console, fit: list[Step], sigma: float) -> None:
    """Print the way to the minimum."""
    table = _table("step", "SURE", "gradient", "λ", "κ / σ", "estimated", "true dB")
    for number, step in enumerate(fit):
        weight, scale = step.theta.exp() / torch.tensor([[1.0], [sigma]])
        table.add_row(
            str(number),
            f"{step.risk:.2e}",
            f"{step.slope:.0e}",
            _numbers(weight),
            _numbers(scale),
            decibel(step.estimated_psnr),
            decibel(step.true_psnr),
        )
    _print(console, "Newton's method on Stein's unbiased risk estimate (SURE), and PSNR", table)


def quality(console: Console, values: dict[str, tuple[float, float]]) -> None:
    """Print how near the images are to the clean one."""
    table = _table("image", "PSNR dB", "SSIM")
    for name, (ratio, similarity) in values.items():
        table.add_row(name, decibel(ratio), f"{similarity:.3f}")
    _print(console, "Against the clean image, which the fit never sees", table)


def promises(console: Console, values: dict[str, float], sigma: float) -> None:
    """Print what the derivative through the weights is worth."""
    table = _table(f"at λ = 6, κ = {sigma / 3:.2g}", "PSNR dB")
    for name, value in values.items():
        table.add_row(name, decibel(value))
    _print(console, "What it is worth to differentiate the weights", table)


def uncertainty(
    console: Console, deviation: Tensor, error: Tensor, checked: int, deviates: float
) -> None:
    """Print the posterior standard deviation beside the error that was made."""
    table = _table("", "root mean square")
    table.add_row("posterior standard deviation", f"{float(deviation.square().mean().sqrt()):.4f}")
    table.add_row("error made", f"{float(error):.4f}")
    _print(console, "Uncertainty", table)
    console.print(
        f"Posterior standard deviations at {checked} pixels were solved for exactly, too:\n"
        f"the estimate by probes is off by {deviates:.1%} at most.\n",
        highlight=False,
    )


def stages(console: Console, done: list[Stage], total: float) -> None:
    """Print where the time went."""
    table = _table("stage", "seconds", "factorizations", "solves")
    for s in done:
        table.add_row(s.name, f"{s.seconds:.1f}", str(s.factorizations), str(s.solves))
    table.add_section()
    factorizations, solves = sum(s.factorizations for s in done), sum(s.solves for s in done)
    name = "all, with reading and printing"
    table.add_row(name, f"{total:.1f}", str(factorizations), str(solves))
    _print(console, "Time (a solve may have many right-hand sides)", table)


def _numbers(x: Tensor) -> str:
    return " ".join(f"{value:.2g}" for value in x.tolist())


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _print(console: Console, title: str, table: Table) -> None:
    console.print(f"[bold]{title}[/]", highlight=False)
    console.print(table)
