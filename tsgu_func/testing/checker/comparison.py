"""What came out against what had to, and the verdict: holds, fails, or cannot be told."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Leaves

__all__ = [
    "Comparison",
    "Finding",
    "Tolerance",
    "Verdict",
    "is_exact",
    "judge",
    "judge_all",
    "largest",
]


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
    Where ``infinite`` is false, the same NaN or infinity on both sides says nothing.
    """

    got: Leaves
    expected: Leaves
    rtol: float
    errors: Sequence[float] | None = None
    scales: Sequence[float] | None = None
    against: str = "expected"
    infinite: bool = True


@dataclass(frozen=True)
class Finding:
    """A verdict, with the entry that decided it.

    ``apart`` is how far the numbers are apart beside their scale; of integers, and of what cannot
    be measured, such as a wrong shape, infinity.  ``sampled`` says that finite differences were the
    oracle.
    """

    verdict: Verdict
    detail: str = ""
    leaf: int = 0
    index: tuple[int, ...] = ()
    got: complex | None = None
    expected: complex | None = None
    apart: float = float("inf")
    sampled: bool = False


_HOLDS = Finding(Verdict.HOLDS)
_RANK = (Verdict.HOLDS, Verdict.UNDECIDED, Verdict.FAILS)


def judge(comparison: Comparison, atol: float) -> Finding:
    """Return the worst finding over all leaves."""
    got, expected = comparison.got, comparison.expected
    if len(got) != len(expected):
        return Finding(Verdict.FAILS, f"{len(got)} tensors came out, instead of {len(expected)}")
    # What is rounding for the largest leaf is nothing to be found in one that is zero.
    rounded = [e for e in expected if e.numel() and not is_exact(e)]
    eps = max((torch.finfo(e.dtype).eps for e in rounded), default=0.0)
    floor = atol + 100 * eps * max(map(largest, rounded), default=0.0)
    worst = _HOLDS
    for i in range(len(got)):
        finding = _judge_leaf(comparison, i, floor)
        if _RANK.index(finding.verdict) > _RANK.index(worst.verdict):
            worst = finding
    return worst


def judge_all(
    comparisons: Iterable[Comparison],
    atol: float,
    excuse: Callable[[Finding], Finding] = lambda finding: finding,
) -> Finding:
    """Return the first finding that fails without excuse, or else one that cannot be told."""
    left = _HOLDS
    for comparison in comparisons:
        finding = judge(comparison, atol)
        if finding.verdict is Verdict.FAILS:
            finding = excuse(finding)
        if finding.verdict is Verdict.FAILS:
            return finding
        if finding.verdict is Verdict.UNDECIDED:
            left = finding
    return left


def _judge_leaf(comparison: Comparison, i: int, floor: float) -> Finding:
    got, expected = comparison.got[i], comparison.expected[i]
    if got.shape != expected.shape:
        shapes = f"shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
        return Finding(Verdict.FAILS, shapes, i)
    if got.dtype != expected.dtype:
        return Finding(Verdict.FAILS, f"dtype {got.dtype} instead of {expected.dtype}", i)
    if not got.numel():
        return _HOLDS
    if is_exact(got):
        return _judge_integers(got, expected, i)
    return _judge_numbers(comparison, i, floor)


def is_exact(x: Tensor) -> bool:
    """Whether a tensor holds integers or truth values, which know no rounding."""
    return not (x.is_floating_point() or x.is_complex())


def _judge_integers(got: Tensor, expected: Tensor, i: int) -> Finding:
    if torch.equal(got, expected):
        return _HOLDS
    index = tuple((got != expected).nonzero()[0].tolist())
    numbers = (i, index, got[index].item(), expected[index].item())
    return Finding(Verdict.FAILS, "integers that are not the same", *numbers)


def _judge_numbers(comparison: Comparison, i: int, floor: float) -> Finding:
    got, expected = comparison.got[i].detach(), comparison.expected[i].detach()
    sampled = comparison.errors is not None
    error = 0.0 if comparison.errors is None else comparison.errors[i]
    scale = largest(expected) if comparison.scales is None else comparison.scales[i]
    tolerance = floor + comparison.rtol * scale
    gaps = _gaps(got, expected)
    at = int(gaps.flatten().argmax())
    gap = float(gaps.max())
    index = tuple(int(k) for k in torch.unravel_index(torch.tensor(at), got.shape))
    numbers = (i, index, got.flatten()[at].item(), expected.flatten()[at].item())
    finite = bool(torch.isfinite(expected).all())
    if sampled and not finite:
        return Finding(Verdict.UNDECIDED, "finite differences found no finite slope", *numbers)
    if gap == float("inf") and error > tolerance + scale:
        return Finding(Verdict.UNDECIDED, "finite differences do not settle here", *numbers)
    if gap > tolerance + 3 * error:
        apart = f"{gap:.1e} from {comparison.against}, where {tolerance:.1e} is allowed"
        beside = gap / scale if scale else float("inf")
        return Finding(Verdict.FAILS, apart, *numbers, beside, sampled)
    if error > tolerance:
        noisy = (
            f"finite differences are known to {error:.1e} only, where {tolerance:.1e} is needed: "
            f"the function is noisy or not smooth here"
        )
        return Finding(Verdict.UNDECIDED, noisy, *numbers)
    if not (finite or comparison.infinite):
        return Finding(Verdict.UNDECIDED, "NaN or infinity on both sides says nothing", *numbers)
    return _HOLDS


def _gaps(got: Tensor, expected: Tensor) -> Tensor:
    """Return how far the entries are apart: infinitely, where one of them alone is not finite."""
    same = (got == expected) | (got.isnan() & expected.isnan())
    gaps = torch.where(same, 0.0, (got - expected).abs())
    return gaps.nan_to_num(nan=torch.inf, posinf=torch.inf)


def largest(x: Tensor) -> float:
    """Return the largest of the finite entries: no tolerance is made of one that is not."""
    size = x.detach().abs()
    return float(torch.where(torch.isfinite(size), size, 0.0).max()) if x.numel() else 0.0
