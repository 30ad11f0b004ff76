"""Figures of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.bench.results import OURS, Comparison

__all__ = ["draw_ratios", "draw_scaling", "draw_systems"]

_PANEL = 3.4  # inches
_MARKERS = "osv^D<>Pp*hX"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    return figure


def _marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]


def _finish(figure: Figure, axes: Sequence[Axes], path: Path) -> None:
    """Write the figure, with one legend of all panels."""
    handles = {str(line.get_label()): line for ax in axes for line in ax.get_lines()}
    handles = {name: line for name, line in handles.items() if not name.startswith("_")}
    if handles:
        names = handles.keys()
        figure.legend(handles.values(), names, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=160)


def draw_ratios(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw a row for each comparison: how often our measurement goes into that of each peer."""
    names = list(dict.fromkeys(name for c in comparisons for name in c.peers))
    figure = _figure(2.6 * _PANEL, 0.22 * len(comparisons) + 1.8)
    ax = figure.subplots()
    for i, name in enumerate(names):
        points = [(c.ratio(name), row) for row, c in enumerate(comparisons) if c.ratio(name)]
        if points:
            ax.plot(
                *zip(*points, strict=True),
                linestyle="",
                marker=_marker(i),
                label=name,
            )
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yticks(range(len(comparisons)), [" ".join(c.title.split()) for c in comparisons])
    ax.tick_params(labelsize=7)
    ax.invert_yaxis()
    ax.set_xlabel(f"measured of a peer / of {OURS}")
    ax.grid(visible=True, linewidth=0.4, alpha=0.5)
    _finish(figure, [ax], path)


def draw_scaling(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw time and memory against entries, a line for each number of columns."""
    figure = _figure(2.4 * _PANEL, 1.3 * _PANEL)
    axes = figure.subplots(1, 2)
    for ax, what, unit in zip(axes, ("time", "memory"), ("seconds", "bytes"), strict=True):
        there = [c for c in comparisons if c.case["what"] == what and OURS in c.measured]
        for i, p in enumerate(dict.fromkeys(c.case["p"] for c in there)):
            points = [(int(c.case["entries"]), c.median()) for c in there if c.case["p"] == p]
            ax.loglog(*zip(*points, strict=True), marker=_marker(i), label=f"p = {p}")
        ax.set_xlabel("entries")
        ax.set_ylabel(f"{unit}, forward+backward")
        ax.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
    _finish(figure, list(axes), path)


def draw_systems(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw seconds of forward+backward against n, a panel for each problem."""
    counted = [c for c in comparisons if c.case["direction"] == "forward+backward"]
    problems = list(dict.fromkeys(str(c.case["problem"]) for c in counted))
    names = list(dict.fromkeys(name for c in counted for name in c.measured))
    across = min(len(problems), 3)
    down = -(-len(problems) // across)
    figure = _figure(_PANEL * across, _PANEL * down + 0.7)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for ax, problem in zip(axes, problems, strict=False):
        _panel(ax, problem, [c for c in counted if c.case["problem"] == problem], names)
    for ax in axes[len(problems) :]:
        ax.set_axis_off()
    for ax in axes[::across]:
        ax.set_ylabel("seconds, forward+backward")
    _finish(figure, list(axes), path)


def _panel(ax: Axes, problem: str, own: Sequence[Comparison], names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        points = sorted((int(c.case["n"]), c.median(name)) for c in own if name in c.measured)
        if points:
            ours = name == OURS
            ax.loglog(
                *zip(*points, strict=True),
                marker=_marker(i),
                color="black" if ours else f"C{i % 10}",
                linewidth=2.4 if ours else 1.0,
                markersize=6 if ours else 4,
                zorder=3 if ours else 2,
                label=name,
            )
    ax.set_title(PROBLEMS[problem].title, fontsize=10)
    ax.set_xlabel("n")
    ax.xaxis.set_minor_formatter(NullFormatter())
    if sizes := [int(c.case["n"]) for c in own]:  # about whole decades, which are numbered
        least, most = math.log10(min(sizes)), math.log10(max(sizes))
        ax.set_xlim(0.8 * 10 ** math.floor(least), 1.25 * 10 ** math.ceil(most))
    ax.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
