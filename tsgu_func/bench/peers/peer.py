"""Who can be compared with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Peer"]


class Peer(NamedTuple):
    """How to prepare some work for a contender, what it needs, and what of it can be compared.

    Attributes
    ----------
    prepare : callable
        ``prepare(*inputs, backward=...) -> contender``, or None for what it cannot do.  For
        systems, ``prepare(S, b) -> solve`` for a SciPy array and a vector.
    package : str
        The module without which it is left out.
    install : str
        What pip calls it, if that is another name.
    symmetric : bool
        Whether it is for symmetric systems only.
    group : str
        What it counts as in a summary.
    beside : str
        What it runs on, whose version matters as well.
    """

    prepare: Callable[..., Any]
    package: str = ""
    install: str = ""
    symmetric: bool = False
    group: str = ""
    beside: str = ""

    @property
    def distribution(self) -> str:
        """What pip installs."""
        return self.install or self.package

    @property
    def installed(self) -> bool:
        """Whether its package is."""
        return not self.package or importlib.util.find_spec(self.package) is not None
