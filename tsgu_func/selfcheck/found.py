"""What was found of an operator of PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tsgu_func.testing.checker.comparison import Verdict

__all__ = ["Found", "counted"]


@dataclass(frozen=True)
class Found:
    """What was found of an operator.

    `cells` are those of all samples, as they are written to JSON; `stopped` says why the process
    came to no end.
    """

    op: str
    cells: tuple[dict[str, Any], ...] = ()
    refused: tuple[str, ...] = ()
    stopped: str = ""
    seconds: float = 0.0

    def count(self, verdict: Verdict) -> int:
        """Count the cells of a verdict."""
        return sum(cell["verdict"] == verdict for cell in self.cells)


def counted(found: Sequence[Found]) -> dict[Verdict, int]:
    """Count the cells of each verdict."""
    total = Counter(cell["verdict"] for f in found for cell in f.cells)
    return {verdict: total[verdict] for verdict in Verdict}
