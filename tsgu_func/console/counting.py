"""The bar that is shown while cases are measured, where rich is installed and somebody watches."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["counted"]

Case = TypeVar("Case")


def counted(cases: Sequence[Case], unit: str = "comparisons") -> Iterator[Case]:
    """Go through cases, and show which of them it is."""
    if not (sys.stderr.isatty() and _has_rich()):
        yield from cases
        return
    from tsgu_func.console.progress import bar

    with bar(unit) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            parts = case if isinstance(case, tuple) else (case,)
            progress.update(task, description=", ".join(map(str, parts)))
            yield case
            progress.advance(task)


def _has_rich() -> bool:
    found = importlib.util.find_spec("rich") is not None
    if not found:
        print('no bar is shown without rich: pip install "tsgu_func[progress]"', file=sys.stderr)
    return found
