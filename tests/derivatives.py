"""The public checker, as the property tests call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from tsgu_func.testing import check_rules

FIRST_AND_SECOND = ("f", "r", "ff", "fr", "rf", "rr")


def assert_derivatives(f: Callable[..., Tensor], x: Sequence[Tensor], seed: int = 0) -> None:
    """Check first and second derivatives, in all mixes of modes, against finite differences."""
    check_rules(
        f, tuple(x), transforms=FIRST_AND_SECOND, dtypes=(x[0].dtype,), seed=seed
    ).raise_if_failed()
