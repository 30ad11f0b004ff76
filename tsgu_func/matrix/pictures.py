"""Pictures of a sparsity pattern: for a notebook, and for matplotlib."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tsgu_func.registration.transforms import outside_transforms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tsgu_func.matrix.pattern import SparsityPattern

__all__ = ["card", "density", "spy", "text"]

_CELLS = 64  # of a picture in a notebook, each way
_FINE = 256  # of one for matplotlib
_SIDE = 140  # of a picture in a notebook, in pixels
_SHADES = 8
_LONG = 4  # how many times longer than wide a picture may be


def card(title: str, pattern: SparsityPattern, facts: dict[str, Any]) -> str:
    """Return HTML with a small picture of a pattern, beside a table of what is said of it."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(fact))}</td></tr>'
        for name, fact in facts.items()
    )
    return (
        '<div style="display:flex;gap:1.5em;align-items:center">'
        f"{_svg(pattern)}<div><b>{escape(title)}</b><table>{rows}</table></div></div>"
    )


def text(said: str) -> str:
    """Return HTML that says something as it stands."""
    return f"<pre>{escape(said)}</pre>"


def density(pattern: SparsityPattern) -> str:
    """Say which part of the entries is stored."""
    size = pattern.shape[0] * pattern.shape[1]
    return f"{pattern.nnz / size:.3g}" if size else "none"


def spy(pattern: SparsityPattern, ax: Axes | None, options: dict[str, Any]) -> Axes:
    """Draw where entries are stored."""
    try:
        from matplotlib import pyplot, ticker
    except ImportError as error:
        raise ImportError(
            'spy draws with matplotlib, which is not installed: pip install "tsgu_func[demo]"'
        ) from error
    if pattern.device.type == "meta":
        raise ValueError("a pattern on the meta device keeps no numbers, so there is none to draw")
    ax = pyplot.gca() if ax is None else ax
    n, m = pattern.shape
    usual = {
        "cmap": "Greys",
        "vmin": 0,
        "vmax": 1,
        "aspect": "equal" if max(n, m) <= _LONG * min(n, m) else "auto",
        "extent": (-0.5, m - 0.5, n - 0.5, -0.5),
    }
    if n and m:
        ax.imshow(_shades(pattern, _FINE), **usual | options)
    ax.xaxis.tick_top()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True))
    return ax


def _shades(pattern: SparsityPattern, most: int) -> np.ndarray:
    """Return how dark each cell of a grid is, from 0 to 1.  O(nnz) time.

    A cell is one entry, or for a matrix with more than `most` rows or columns a rectangle of them.
    It is white only where none is stored.
    """
    with outside_transforms():
        (row, rows), (col, cols) = (
            _cells(index.long(), size, most)
            for index, size in zip(pattern.places(), pattern.shape, strict=True)
        )
        count = torch.bincount(row * len(cols) + col, minlength=len(rows) * len(cols))
        stored = count.cpu().double().numpy().reshape(len(rows), len(cols))
    dense = stored / np.outer(rows, cols)
    dark = np.sqrt(dense / max(dense.max(initial=0), np.finfo(float).tiny))
    return np.where(stored > 0, 0.15 + 0.85 * dark, 0)


def _cells(index: torch.Tensor, size: int, most: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return the cell that each index falls into, and how many indices each cell has."""
    width = max(-(-size // most), 1)
    sizes = np.full(-(-size // width), width, dtype=float)
    sizes[-1:] = size - width * (len(sizes) - 1)
    return index // width, sizes


def _svg(pattern: SparsityPattern) -> str:
    """Return the picture for a notebook, in the colour of its text: a path for each shade."""
    n, m = pattern.shape
    if not (n and m) or pattern.device.type == "meta":
        return ""
    shades = _shades(pattern, _CELLS)
    level = np.ceil(shades * _SHADES).astype(int)
    rows, cols = level.shape
    longest = max(n, m)
    height, width = (max(_SIDE * size // longest, _SIDE // _LONG) for size in (n, m))
    paths = "".join(
        f'<path fill="currentColor" fill-opacity="{shade / _SHADES:.3g}" d="{runs}"/>'
        for shade in range(1, _SHADES + 1)
        if (runs := _runs(level == shade))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="where entries are stored" '
        f'width="{width}" height="{height}" viewBox="0 0 {cols} {rows}" '
        f'preserveAspectRatio="none" shape-rendering="crispEdges" style="flex:none">{paths}'
        f'<rect width="{cols}" height="{rows}" fill="none" stroke="currentColor" '
        f'stroke-opacity="0.5" vector-effect="non-scaling-stroke"/></svg>'
    )


def _runs(cells: np.ndarray) -> str:
    """Return a path around the runs of cells in each row."""
    steps = np.diff(cells.astype(np.int8), axis=1, prepend=0, append=0)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return "".join(
        f"M{x} {y}h{end - x}v1H{x}z" for (y, x), (_, end) in zip(starts, ends, strict=True)
    )
