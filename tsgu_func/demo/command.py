"""The run of the demo, from an image to a figure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TimeElapsedColumn
from torch import Tensor

from tsgu_func.console.ending import writing
from tsgu_func.console.progress import Description
from tsgu_func.demo import figure, report
from tsgu_func.demo.denoise import Grid, edge_weights, make_grid, solve, start, system
from tsgu_func.demo.images import (
    add_noise,
    psnr,
    read_image,
    resample,
    sample_image,
    ssim,
)
from tsgu_func.demo.maps import inverse_diagonal, inverse_entries, mean_weight, sensitivity
from tsgu_func.demo.newton import MOST_STEPS, Iterate, minimize
from tsgu_func.demo.risk import random_signs, sure, sure_frozen
from tsgu_func.demo.settings import Settings, longer_side
from tsgu_func.solvers import cache_info

__all__ = ["run_demo"]

_PROBES = 8
# Pixels between those that share a probe, for the posterior variance: at least, at most.
_SPACING = (8, 20)
_CHECKED = 32  # pixels where it is solved for exactly, too


class Stages:
    """Time, factorizations and solves of each stage, and the bar that shows them."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.done = progress, list[report.Stage]()

    @contextmanager
    def __call__(self, name: str, steps: int = 1) -> Iterator[report.Advance]:
        """Time a stage; call what is yielded after each of its steps."""
        task = self.progress.add_task(name, total=steps)
        began, before = time.perf_counter(), cache_info()
        yield lambda text="": self.progress.update(
            task, advance=1, description=f"{name} {text}".rstrip()
        )
        seconds, after = time.perf_counter() - began, cache_info()
        factors, found = after.misses - before.misses, after.hits - before.hits
        self.done.append(report.Stage(name, seconds, factors, factors + found))
        self.progress.remove_task(task)


def run_demo(settings: Settings) -> None:
    """Denoise an image without a clean reference, print how it went and write a figure."""
    console, began = Console(), time.perf_counter()
    generator = torch.Generator().manual_seed(settings.seed)
    clean = _image(settings)
    height, width = clean.shape
    noisy = add_noise(clean, settings.noise, generator)
    y, truth, sigma = noisy.flatten(), clean.flatten(), settings.noise
    report.introduce(console, settings, height, width, _PROBES)
    with Progress(
        SpinnerColumn(),
        Description(),
        BarColumn(min(40, console.width // 4)),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        stage = Stages(progress)
        with stage("pattern of the grid"):
            grid = make_grid(height, width, settings.classes)
            probes = random_signs(_PROBES, y.numel(), generator)
        steps, fit = _tune(stage, grid, y, truth, sigma, probes)
        promise = _promises(stage, grid, y, truth, sigma, probes)
        with stage("sensitivity"):
            change = sensitivity(grid, fit.theta, y)
        with stage("uncertainty"):
            deviation, off = _deviation(fit, width, sigma, generator)
        quality = {
            "noisy": (psnr((noisy - clean).square().mean()), ssim(noisy, clean)),
            "denoised": (steps[-1].true_psnr, ssim(fit.x.view(height, width), clean)),
        }
        with stage("figure"):
            maps = (fit.x, mean_weight(grid, fit.theta, y), change, deviation)
            denoised, weight, change, deviation = (m.view(height, width) for m in maps)
            words = (f"{decibel:.1f} dB, SSIM {s:.2f}" for decibel, s in quality.values())
            panels = figure.Panels(noisy, denoised, clean, weight, change, deviation, *words)
            _save(panels, settings)
    made = (denoised - clean).square().mean().sqrt()
    report.steps(console, steps, sigma)
    report.quality(console, quality)
    report.promises(console, promise, sigma)
    report.uncertainty(console, deviation, made, _CHECKED, off)
    report.stages(console, stage.done, time.perf_counter() - began)
    console.print("Figure:", str(settings.out), soft_wrap=True, markup=False)


def _image(settings: Settings) -> Tensor:
    image = sample_image() if settings.image is None else read_image(settings.image)
    longer = longer_side((image.shape[0], image.shape[1]), settings.size)
    return image if longer == max(image.shape) else resample(image, longer)


def _tune(
    stage: Stages, grid: Grid, y: Tensor, truth: Tensor, sigma: float, probes: Tensor
) -> tuple[list[report.Step], Iterate]:
    """Minimize the estimated risk, and note the true one, which the minimization never sees."""
    steps, last = list[report.Step](), None
    with stage("Newton's method", MOST_STEPS) as advance:
        for last in minimize(grid, start(len(grid.classes), sigma), y, sigma, probes):
            error = (last.x - truth).square().mean()
            steps.append(report.Step(*last[:3], psnr(last.risk), psnr(error)))
            advance(f"PSNR {report.decibel(steps[-1].estimated_psnr)} estimated")
    assert last is not None  # the first guess at least
    return steps, last


def _promises(
    stage: Stages, grid: Grid, y: Tensor, truth: Tensor, sigma: float, probes: Tensor
) -> dict[str, float]:
    """Estimate the risk at one θ with weights frozen and in full, beside the true one."""
    theta = report.strong_theta(sigma).repeat(1, len(grid.classes))
    with stage("frozen weights, for comparison"):
        A = system(grid, edge_weights(grid, theta, y))  # keeps the factor that all three need
        x = solve(A, y)
        return {
            "estimate, weights frozen": psnr(sure_frozen(grid, theta, y, sigma, probes)),
            "estimate, whole derivative": psnr(sure(grid, theta, y, sigma, probes)),
            "truth": psnr((x - truth).square().mean()),
        }


def _deviation(
    fit: Iterate, width: int, sigma: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Return the posterior standard deviation, and the largest relative error of a sample of it.

    In the Gaussian model y = x + σ n with a prior precision L / σ² of x, and the weights given, the
    posterior mean of x is (I + L)⁻¹ y and its covariance σ² (I + L)⁻¹.
    """
    A, (least, most) = fit.A, _SPACING
    # Where weights are λ, entries of A⁻¹ decay over √λ pixels: share a probe at twice that.
    spacing = min(max(math.ceil(2 * float(fit.theta[0].max().exp().sqrt())), least), most)
    estimate = inverse_diagonal(A, width, spacing, generator)
    # It is unbiased, but noise may take it below what every positive definite matrix obeys.
    deviation = sigma * torch.maximum(estimate, 1 / A.diagonal()).sqrt()
    pixels = torch.randint(0, A.shape[-1], (_CHECKED,), generator=generator)
    exact = sigma * inverse_entries(A, pixels).sqrt()
    return deviation, float((deviation[pixels] / exact - 1).abs().max())


def _save(panels: figure.Panels, settings: Settings) -> None:
    with writing(settings.out):
        figure.save(figure.draw(panels), settings.out)
