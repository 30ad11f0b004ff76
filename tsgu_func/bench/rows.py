"""What was measured of a contender, for the table and for the figure."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from tsgu_func.bench.worker import Measured

__all__ = ["DIRECTIONS", "GOAL", "Row"]

GOAL = 1e-8  # the relative residual of a solution that is compared
DIRECTIONS = {"forward": False, "forward+backward": True}


class Row(NamedTuple):
    """The measurements of a contender for a problem of one size, in one direction."""

    contender: str
    problem: str
    n: int
    direction: str
    measured: tuple[Measured, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(m.seconds for m in self.measured)

    @property
    def last(self) -> Measured:
        """The last measurement."""
        return self.measured[-1]

    @property
    def counts(self) -> bool:
        """Whether all solutions are good enough to be compared."""
        return all(not m.failure and m.residual <= GOAL for m in self.measured)
