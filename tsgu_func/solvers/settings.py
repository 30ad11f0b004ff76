"""The numbers that set a solver or a preconditioner: checked where it is made, and a default."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch

from tsgu_func.solvers.protocol import Preconditioner

__all__ = [
    "check_count",
    "check_preconditioner",
    "check_real",
    "check_settings",
    "default_tolerance",
]

_MOST = 2**63 - 1  # that compiled loops can count to


def check_real(
    name: str, value: Any, least: float = 0.0, most: float = math.inf, *, positive: bool = False
) -> None:
    """Check that a setting is a finite number in a range.

    Not a tensor or an array: settings are part of the key of a solver, and constants of graphs.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is a number; got {_called(value)}")
    value = _plain(value)
    if not (least <= value <= most and math.isfinite(value)) or (positive and value == 0):
        raise ValueError(f"{name} must be {_range(least, most, positive)}; got {value}")


def check_count(name: str, value: Any, least: int = 0) -> None:
    """Check that a setting is a whole number that is not too small."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        whole = isinstance(value, float) and value.is_integer()
        hint = f": {name}={value:.0f} is one" if whole else ""
        raise TypeError(f"{name} is a whole number; got {_called(value)}{hint}")
    if not least <= int(value) <= _MOST:
        bounds = "not negative" if least == 0 else f"at least {least}"
        raise ValueError(f"{name} must be {bounds}, and below 2**63; got {int(value):,}")


def check_preconditioner(M: Any, examples: str) -> None:
    """Check that what is to precondition is a `Preconditioner`, or None; say which there are."""
    if not (M is None or isinstance(M, Preconditioner)) or isinstance(M, type):
        hint = "; call it" if isinstance(M, type) else ""
        raise TypeError(f"preconditioner is a Preconditioner, such as {examples}; got {M!r}{hint}")


def check_settings(settings: Any, kind: type) -> None:
    """Check that the settings of a function are of its kind."""
    if not isinstance(settings, kind):
        raise TypeError(f"settings is a {kind.__name__}; got {type(settings).__name__}")


def _plain(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _range(least: float, most: float, positive: bool) -> str:
    if not math.isinf(most):
        return f"between {least} and {most}"
    if least:
        return f"finite and at least {least}"
    return f"finite and {'positive' if positive else 'not negative'}"


def _called(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, float, str)) else type(value).__name__


def default_tolerance(dtype: torch.dtype) -> float:
    """Return the relative residual that is asked for by default."""
    return 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-10
