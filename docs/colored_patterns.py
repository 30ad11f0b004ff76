"""The coloured patterns of the guide: ``python docs/colored_patterns.py`` draws them."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from tsgu_func import SparseMatrix, color, jacobian_pattern

PICTURE = Path(__file__).resolve().parent / "images" / "colored-patterns.png"


def neighbours(u: torch.Tensor) -> torch.Tensor:
    """Return what each point of a grid becomes: it depends on its four neighbours and itself."""
    around = torch.nn.functional.pad(u, (1, 1, 1, 1))
    beside = around[2:, 1:-1] + around[:-2, 1:-1] + around[1:-1, 2:] + around[1:-1, :-2]
    return beside - 4 * torch.exp(u)


def arrow(n: int) -> torch.Tensor:
    """Return a matrix with a dense row, a dense column and a diagonal."""
    A = torch.eye(n)
    A[0, :] = A[:, 0] = 1
    return A


def draw(path: Path = PICTURE) -> None:
    """Draw three patterns side by side."""
    grid = jacobian_pattern(neighbours, torch.zeros(6, 6))
    head_and_shaft = SparseMatrix.from_dense(arrow(24)).pattern
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    colorings = {
        "a grid, by columns": color(grid),
        "an arrow, by rows and columns": color(head_and_shaft),
        "an arrow, as a Hessian": color(head_and_shaft, "symmetric"),
    }
    for ax, (title, coloring) in zip(figure.subplots(1, 3), colorings.items(), strict=True):
        coloring.spy(ax)
        ax.set_title(f"{title}: {coloring.colors} colours", fontsize=10)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    draw()
    print(PICTURE.relative_to(Path.cwd()))
