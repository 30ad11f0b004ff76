"""Time against size, a panel for each problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tsgu_func.bench.contenders import OURS
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.bench.rows import Row

__all__ = ["draw"]

_PANEL = 3.4  # inches


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw forward+backward of all that count, and write the figure."""
    counted = [row for row in rows if row.direction == "forward+backward" and row.counts]
    problems = list(dict.fromkeys(row.problem for row in rows))
    names = list(dict.fromkeys(row.contender for row in counted))
    across = min(len(problems), 3)
    down = -(-len(problems) // across)
    figure = Figure(figsize=(_PANEL * across, _PANEL * down + 0.7))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for ax, problem in zip(axes, problems, strict=False):
        _panel(ax, problem, [row for row in counted if row.problem == problem], names)
    for ax in axes[len(problems) :]:
        ax.set_axis_off()
    for ax in axes[::across]:
        ax.set_ylabel("seconds, forward+backward")
    handles = {str(line.get_label()): line for ax in axes for line in ax.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=160)


def _panel(ax: Axes, problem: str, rows: Sequence[Row], names: Sequence[str]) -> None:
    markers = "osv^D<>Pp*hX"
    for i, name in enumerate(names):
        points = sorted((row.n, row.seconds) for row in rows if row.contender == name)
        if points:
            ours = name == OURS
            ax.loglog(
                *zip(*points, strict=True),
                marker=markers[i % len(markers)],
                color="black" if ours else f"C{i % 10}",
                linewidth=2.4 if ours else 1.0,
                markersize=6 if ours else 4,
                zorder=3 if ours else 2,
                label=name,
            )
    ax.set_title(PROBLEMS[problem].title, fontsize=10)
    ax.set_xlabel("n")
    ax.xaxis.set_minor_formatter(NullFormatter())
    if sizes := [row.n for row in rows]:  # about whole decades, which are numbered
        least, most = math.log10(min(sizes)), math.log10(max(sizes))
        ax.set_xlim(0.8 * 10 ** math.floor(least), 1.25 * 10 ** math.ceil(most))
    ax.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
