"""What came out against what had to, and the verdict: holds, fails, or cannot be told."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Leaves

__all__ = ["Comparison", "Finding", "Tolerance", "Verdict", "judge"]


class Verdict(enum.StrEnum):
    """What is known about a cell."""

    HOLDS = "holds"
    FAILS = "fails"
    RAISES = "raises"
    UNDECIDED = "can't tell"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart.

    ``exact`` is relative, for two ways to compute the same; ``differences`` is for finite
    differences, whose own error is accounted for beside; ``absolute`` comes on top of both.
    """

    exact: float
    differences: float
    absolute: float = 0.0

    @classmethod
    def of(cls, eps: float, rtol: float | None, atol: float | None) -> Tolerance:
        """Return the tolerances for a rounding unit, as far as they are not given."""
        exact = eps**0.5 if rtol is None else rtol
        return cls(exact, max(exact, eps**0.4), atol or 0.0)


@dataclass(frozen=True)
class Comparison:
    """Leaves that came out, those that had to, and how well these are known.

    ``scales`` are the sizes that errors are relative to, by default the largest entry of each leaf.
    """

    got: Leaves
    expected: Leaves
    rtol: float
    errors: Sequence[float] | None = None
    scales: Sequence[float] | None = None
    against: str = "expected"


@dataclass(frozen=True)
class Finding:
    """A verdict, with the entry that decided it."""

    verdict: Verdict
    detail: str = ""
    leaf: int = 0
    index: tuple[int, ...] = ()
    got: complex | None = None
    expected: complex | None = None


_HOLDS = Finding(Verdict.HOLDS)
_RANK = (Verdict.HOLDS, Verdict.UNDECIDED, Verdict.FAILS)


def judge(comparison: Comparison, atol: float) -> Finding:
    """Return the worst finding over all leaves."""
    got, expected = comparison.got, comparison.expected
    if len(got) != len(expected):
        return Finding(Verdict.FAILS, f"{len(got)} tensors came out, instead of {len(expected)}")
    # What is rounding for the largest leaf is nothing to be found in one that is zero.
    eps = max((torch.finfo(e.dtype).eps for e in expected if e.numel()), default=0.0)
    floor = atol + 100 * eps * max(map(_largest, expected), default=0.0)
    worst = _HOLDS
    for i in range(len(got)):
        finding = _judge_leaf(comparison, i, floor)
        if _RANK.index(finding.verdict) > _RANK.index(worst.verdict):
            worst = finding
    return worst


def _judge_leaf(comparison: Comparison, i: int, floor: float) -> Finding:
    got, expected = comparison.got[i], comparison.expected[i]
    if got.shape != expected.shape:
        shapes = f"shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
        return Finding(Verdict.FAILS, shapes, i)
    if got.dtype != expected.dtype:
        return Finding(Verdict.FAILS, f"dtype {got.dtype} instead of {expected.dtype}", i)
    if not got.numel():
        return _HOLDS
    got, expected = got.detach(), expected.detach()
    error = 0.0 if comparison.errors is None else comparison.errors[i]
    scale = _largest(expected) if comparison.scales is None else comparison.scales[i]
    gap = (got - expected).abs()
    # The same infinity or NaN on both sides is agreement; on one side it is as bad as can be.
    same = (got == expected) | (got.isnan() & expected.isnan())
    gap = torch.where(same, 0.0, gap).nan_to_num(nan=torch.inf)
    at = int(gap.flatten().argmax())
    index = tuple(int(k) for k in torch.unravel_index(torch.tensor(at), got.shape))
    numbers = (i, index, got.flatten()[at].item(), expected.flatten()[at].item())
    largest, tolerance = float(gap.max()), floor + comparison.rtol * scale
    if comparison.errors is not None and not bool(torch.isfinite(expected).all()):
        return Finding(Verdict.UNDECIDED, "finite differences found no finite slope", *numbers)
    if largest > tolerance + 3 * error:
        apart = f"{largest:.1e} from {comparison.against}, where {tolerance:.1e} is allowed"
        return Finding(Verdict.FAILS, apart, *numbers)
    if error > tolerance:
        noisy = (
            f"finite differences are known to {error:.1e} only, where {tolerance:.1e} is needed: "
            f"the function is noisy or not smooth here"
        )
        return Finding(Verdict.UNDECIDED, noisy, *numbers)
    return _HOLDS


def _largest(x: Tensor) -> float:
    if not x.numel():
        return 0.0
    largest = float(x.detach().abs().max())
    return largest if largest < float("inf") else 0.0
