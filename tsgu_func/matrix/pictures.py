"""Pictures of a sparsity pattern: for a notebook, and for matplotlib."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tsgu_func.registration.transforms import outside_transforms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tsgu_func.matrix.pattern import SparsityPattern

__all__ = ["card", "density", "painted", "spy", "spy_painted", "text", "thumbnail"]

# What number each entry has, (nnz,), and red, green and blue for each number, (numbers, 3).
Paints = tuple[np.ndarray, np.ndarray]

_CELLS = 64  # of a picture in a notebook, each way
_FINE = 256  # of one for matplotlib
_SIDE = 140  # of a picture in a notebook, in pixels
_SHADES = 8
_LONG = 4  # how many times longer than wide a picture may be


def card(title: str, picture: str, facts: dict[str, Any]) -> str:
    """Return HTML with a small picture beside a table of what is said of it."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(fact))}</td></tr>'
        for name, fact in facts.items()
    )
    return (
        '<div style="display:flex;gap:1.5em;align-items:center">'
        f"{picture}<div><b>{escape(title)}</b><table>{rows}</table></div></div>"
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
    return _draw(pattern, ax, _shades, {"cmap": "Greys", "vmin": 0, "vmax": 1} | options)


def spy_painted(
    pattern: SparsityPattern, paints: Paints, ax: Axes | None, options: dict[str, Any]
) -> Axes:
    """Draw where entries are stored, each with its paint; between them the ground shows through."""
    number, hues = paints
    clear = np.zeros((1, 4))
    rgba = np.concatenate([np.insert(hues, 3, 1.0, axis=1), clear])  # the last is that of no entry

    def image(pattern: SparsityPattern, most: int) -> np.ndarray:
        return rgba[_numbers(pattern, number, most)]

    return _draw(pattern, ax, image, options)


def _draw(
    pattern: SparsityPattern,
    ax: Axes | None,
    image: Callable[[SparsityPattern, int], np.ndarray],
    options: dict[str, Any],
) -> Axes:
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
        "aspect": "equal" if max(n, m) <= _LONG * min(n, m) else "auto",
        "extent": (-0.5, m - 0.5, n - 0.5, -0.5),
    }
    if n and m:
        ax.imshow(image(pattern, _FINE), **usual | options)
    ax.xaxis.tick_top()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True))
    return ax


def painted(number: np.ndarray, forward: int, reverse: int) -> Paints:
    """Return paints for products: by hue alone if there is one kind, else cold and warm ones.

    Neighbours differ in brightness too.
    """
    spans = [(forward, (0.0, 1.0))] if not reverse else [(reverse, (0.0, 1.0))]
    if forward and reverse:
        spans = [(forward, (0.42, 0.75)), (reverse, (0.0, 0.15))]
    hues = [
        colorsys.hsv_to_rgb((low + (high - low) * k / count) % 1, 0.75, 0.6 if k % 2 else 0.92)
        for count, (low, high) in spans
        for k in range(count)
    ]
    return number, np.array(hues).reshape(-1, 3)


def _numbers(pattern: SparsityPattern, number: np.ndarray, most: int) -> np.ndarray:
    """Return the number of the first entry in each cell of a grid, -1 where there is none."""
    with outside_transforms():
        (row, rows), (col, cols) = (
            _cells(index.cpu().long(), size, most)
            for index, size in zip(pattern.places(), pattern.shape, strict=True)
        )
    grid = np.full((len(rows), len(cols)), -1)
    grid[row.flip(0).numpy(), col.flip(0).numpy()] = number[::-1]  # the first is written last
    return grid


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


def thumbnail(pattern: SparsityPattern, paints: Paints | None = None) -> str:
    """Return the picture for a notebook: in the colour of its text, or with paints."""
    n, m = pattern.shape
    if not (n and m) or pattern.device.type == "meta":
        return ""
    if paints is None:
        level = np.ceil(_shades(pattern, _CELLS) * _SHADES).astype(int)
        fills = {
            shade: f'"currentColor" fill-opacity="{shade / _SHADES:.3g}"'
            for shade in range(1, _SHADES + 1)
        }
    else:
        level = _numbers(pattern, paints[0], _CELLS)
        hues = (paints[1] * 255).astype(np.uint8)
        fills = {k: f'"#{bytes(hue).hex()}"' for k, hue in enumerate(hues)}
    return _svg((n, m), level, fills)


def _svg(shape: tuple[int, int], level: np.ndarray, fills: dict[int, str]) -> str:
    """Return a grid as SVG: a path for each way to fill a cell."""
    rows, cols = level.shape
    height, width = (max(_SIDE * size // max(shape), _SIDE // _LONG) for size in shape)
    paths = "".join(
        f'<path fill={fills[number]} d="{_runs(level == number)}"/>'
        for number in np.unique(level).tolist()
        if number in fills
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
