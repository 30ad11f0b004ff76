"""What is measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["DIRECTIONS", "OURS", "Comparison", "amount"]

OURS = "tsgu_func"
DIRECTIONS = {"forward": False, "forward+backward": True}
_NOTHING: Mapping[str, Any] = {}


class Comparison(NamedTuple):
    """The measurements of all contenders for one case, taken in turn.

    Attributes
    ----------
    case : mapping
        What is computed, by words and numbers: all comparisons of a run differ in it.
    measured : mapping
        The measurements of each contender, in `unit`; as many of each.
    unit : str
        ``"s"``, ``"B"``, or ``"power"`` of a slope.
    more : mapping
        What else there is to tell of a contender, and ``failure`` of one that was not measured.
    command : str
        By which part of a table it was measured.
    """

    case: Mapping[str, str | int]
    measured: Mapping[str, Sequence[float]]
    unit: str = "s"
    more: Mapping[str, Mapping[str, Any]] = _NOTHING
    command: str = ""

    @property
    def title(self) -> str:
        """The case in columns."""
        parts = (
            f"{value:<16} " if isinstance(value, str) else f"{f'{name} = {value}':<10} "
            for name, value in self.case.items()
        )
        return "".join(parts)

    @property
    def peers(self) -> list[str]:
        """Those who were measured beside us."""
        return [name for name in self.measured if name != OURS]

    def median(self, name: str = OURS) -> float:
        """Return the median of a contender."""
        return statistics.median(self.measured[name])

    def ratio(self, name: str) -> float | None:
        """Return how often our measurement goes into that of a peer, or None without one."""
        if not {name, OURS} <= self.measured.keys():
            return None
        pairs = zip(self.measured[name], self.measured[OURS], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    def lines(self) -> list[str]:
        """Return the line that is printed."""
        ours = amount(self.median(), self.unit) if OURS in self.measured else "-"
        ratios = (f"   {name} x {self.ratio(name) or 0:.2f}" for name in self.peers)
        failures = (f"   {k}: {v['failure']}" for k, v in self.more.items() if "failure" in v)
        return [f"{self.title}{ours:>10}{''.join(ratios)}{''.join(failures)}"]


def amount(value: float, unit: str) -> str:
    """Spell seconds, bytes or a power."""
    if unit == "power":
        return f"{value:.2f}"
    if unit == "B":
        return f"{value / 1e6:.1f} MB"
    for least, factor, name in ((1.0, 1.0, "s"), (1e-3, 1e3, "ms")):
        if value >= least:
            return f"{factor * value:.2f} {name}"
    return f"{1e6 * value:.1f} us"
