"""What the demo is to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FULL", "Settings", "longer_side"]

FULL = 256  # pixels along the longer side


@dataclass(frozen=True)
class Settings:
    """What to do; `size` is ``None`` for that of the image, up to `FULL`."""

    noise: float
    seed: int
    classes: int
    size: int | None
    image: Path | None
    out: Path


def longer_side(shape: tuple[int, int], size: int | None) -> int:
    """Return how many pixels the longer side is to have."""
    return size or min(max(shape), FULL)
