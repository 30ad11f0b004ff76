"""The figure: three images on top, three maps below."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

__all__ = ["Panels", "draw", "save"]

_ACROSS = 9.0  # inches, or less for a tall image
_TALLEST, _NARROWEST = 4.5, 1.7  # inches, of one panel
_WIDE = 2.6  # inches that a title of one line takes
_TITLE, _BAR = 0.25, 0.6  # inches of height: a title, and a colour bar with its label
_THICK = 0.1  # inches of height: the colour bar alone
_GAP = 0.04  # inches around a panel
_DOTS = 180  # per inch
_FONT, _SMALL = 10, 9


class Panels(NamedTuple):
    """What is drawn: tensors (height, width), and how good the images are, as text."""

    noisy: Tensor
    denoised: Tensor
    clean: Tensor
    weight: Tensor
    sensitivity: Tensor
    deviation: Tensor
    noisy_quality: str
    denoised_quality: str


def draw(panels: Panels) -> Figure:
    """Draw the panels, two rows of three."""
    height, width = panels.clean.shape
    across = max(min(_ACROSS / 3, _TALLEST * width / height), _NARROWEST)
    down = across * height / width
    figure = Figure(figsize=(3 * across, 2 * (down + _TITLE) + _BAR))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("compressed", w_pad=_GAP, h_pad=_GAP, wspace=0, hspace=0)
    axes = figure.subplots(2, 3)
    grey = Normalize(0, 1)  # one scale for the three; noise that leaves it is clipped
    between = ": " if across >= _WIDE else "\n"
    for ax, image, title in (
        (axes[0, 0], panels.noisy, f"(a) noisy{between}{panels.noisy_quality}"),
        (axes[0, 1], panels.denoised, f"(b) denoised{between}{panels.denoised_quality}"),
        (axes[0, 2], panels.clean, f"(c) clean{between}not used by the fit"),
    ):
        _show(ax, image, title, "gray", grey)
    weight, change, deviation = panels.weight, panels.sensitivity, panels.deviation
    shown = (
        _show(axes[1, 0], weight, "(d) edge weights", "viridis", _decades(weight)),
        # This map is dark where nothing changes, and as light on one side as on the other.
        _show(axes[1, 1], change, "(e) sensitivity", "berlin", _around_zero(change)),
        _show(axes[1, 2], deviation, "(f) uncertainty", "magma", _inner(deviation)),
    )
    labels = (
        "mean of a pixel's edges",
        r"$\partial x\,/\,\partial\log\lambda$",
        "posterior standard deviation",
    )
    for ax, image, label, extend in zip(
        axes[1], shown, labels, ("min", "both", "both"), strict=True
    ):
        _bar(figure, ax, image, label, extend, across, down)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure; the suffix says in which format."""
    figure.savefig(path, dpi=_DOTS, bbox_inches="tight", pad_inches=0.03)


def _show(ax: Axes, image: Tensor, title: str, colours: str, norm: Normalize) -> AxesImage:
    ax.set_axis_off()
    ax.set_title(title, fontsize=_FONT, pad=4)
    return ax.imshow(image.numpy(), cmap=colours, norm=norm, interpolation="nearest")


def _bar(
    figure: Figure,
    ax: Axes,
    image: AxesImage,
    label: str,
    extend: str,
    across: float,
    down: float,
) -> None:
    """Put a colour bar as wide as the panel below it; a panel is so many inches across and down."""
    size: dict[str, Any] = {
        "fraction": _THICK / down,
        "aspect": across / _THICK,
        "pad": _GAP / down,
    }
    bar = figure.colorbar(image, ax=ax, location="bottom", extend=extend, **size)
    bar.set_label(label, fontsize=_SMALL, labelpad=2)
    bar.ax.tick_params(labelsize=_SMALL)
    if not isinstance(image.norm, LogNorm):
        bar.ax.xaxis.set_major_locator(MaxNLocator(int(1.7 * across), steps=[1, 2, 5, 10]))


def _decades(image: Tensor) -> Normalize:
    """Span the upper two and a half decades: weights below do not smooth."""
    top = float(image.max())
    return LogNorm(top / 300, top)


def _around_zero(image: Tensor) -> Normalize:
    """Put zero in the middle, and let one pixel in a hundred exceed the scale."""
    top = float(np.quantile(image.abs().numpy(), 0.99)) or 1.0
    return Normalize(-top, top)


def _inner(image: Tensor) -> Normalize:
    """Let one pixel in two hundred exceed the scale at each end."""
    low, high = np.quantile(image.numpy(), [0.005, 0.995])
    return Normalize(low, high)
