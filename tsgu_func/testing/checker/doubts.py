"""Before a cell is called wrong: whether the oracle could know it.

Each doubt is looked into only where numbers are apart, so a right function pays for none of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tsgu_func.registration.transforms import DispatchMode
from tsgu_func.testing.checker.checks import Check, compared
from tsgu_func.testing.checker.comparison import Finding, Verdict, is_exact, judge_all, largest
from tsgu_func.testing.checker.probe import Probe
from tsgu_func.testing.checker.problem import Leaves, size

__all__ = ["judged"]

_CERTAIN = ("repeatable", "arguments untouched")
# What two ways to compute the same are compared with: the differences that both are to be near to.
_RESTS_ON = {"vjp with jvp": ("",), "second derivatives agree": ("r", "f")}
_AMPLIFIED = 1e3  # how much more a derivative may vary than the function, from run to run
_ROUNDED = 1e-5  # a distance, beside the point, over which rounding begins to count
_FAR = 1e3  # sizes of the function, beyond which the sine of it is no longer known to rounding


def judged(check: Check, p: Probe) -> Finding:
    """Judge a check: a doubt excuses what it explains, and nothing that is compared after it.

    But what finite differences contradict is sampled anew at once, all comparisons of it: the first
    that is excused in this way answers for the later ones.
    """
    closer: list[Finding] = []

    def excuse(finding: Finding) -> Finding:
        if finding.got is None or check.name in _CERTAIN:  # a shape, a dtype: nothing to doubt
            return finding
        for doubt in (_random, _far, _not_smooth):
            if reason := doubt(check, p, finding):
                return replace(finding, verdict=Verdict.UNDECIDED, detail=reason)
        if finding.sampled and not closer:  # all that is sampled is sampled anew then
            closer.append(_sampled_closer(check, p, finding))
        return closer[0] if finding.sampled else finding

    return judge_all(compared(check, p), p.tolerance.absolute, excuse)


def _random(check: Check, p: Probe, finding: Finding) -> str | None:
    exact = isinstance(finding.got, int)
    if _integers_vary(p) if exact else finding.apart <= _AMPLIFIED * _jitter(p):
        return "the function gives other numbers each time that it is called"
    several = check.group in ("vmap", "jacobian") and p.w.randomness == "different"
    if (several or check.name == "linearize") and _draws(p):
        return "the function draws random numbers, here in another order or without its seed"
    return None


def _jitter(p: Probe) -> float:
    """Return how far apart two runs of the function are, beside its size.

    Both are run now: rules that are wrong may have changed the arguments meanwhile.
    """
    runs = p.f(*p.x), p.f(*p.x)
    gaps = [_beside(largest(a - b), largest(a)) for a, b in zip(*runs, strict=True)]
    return max(gaps, default=0.0)


def _integers_vary(p: Probe) -> bool:
    runs = p.problem.value(*p.x), p.problem.value(*p.x)
    return any(is_exact(a) and not torch.equal(a, b) for a, b in zip(*runs, strict=True))


def _draws(p: Probe) -> bool:
    """Whether the function draws random numbers, be it from a seed of its own."""
    with _Draws() as seen:
        p.f(*p.x)
    return seen.any


class _Draws(DispatchMode):
    """Notices operations that PyTorch knows to draw."""

    any = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.any |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _far(check: Check, p: Probe, finding: Finding) -> str | None:
    """Say if a higher derivative is asked for where the sine in it turns round and round."""
    if check.group != "vmap" or len(check.modes) < 2:
        return None
    for member in p.w.members:
        sizes = zip(p.f(*member), p.w.scale, strict=True)
        if any(largest(y) > _FAR * float(s) for y, s in sizes):
            return (
                "the function is too steep for members of a batch that are not close to the point"
            )
    return None


def _not_smooth(check: Check, p: Probe, finding: Finding) -> str | None:
    """Say if the derivatives that are to agree are themselves known no better than they do."""
    known = max((_error(p, modes) for modes in _RESTS_ON.get(check.name, ())), default=0.0)
    if known > p.tolerance.differences and known >= min(finding.apart, 1.0):
        return f"finite differences are known to {known:.1e} only: noisy, or not smooth, here"
    return None


def _error(p: Probe, modes: str) -> float:
    slope = p.slope(modes)
    sizes = (max(largest(v), s) for v, s in zip(slope.value, slope.sizes, strict=True))
    return max(map(_beside, slope.error, sizes), default=0.0)


def _sampled_closer(check: Check, p: Probe, finding: Finding) -> Finding:
    """Take differences over shorter distances, where the function changes over shorter ones."""
    left, known = finding, False
    for reach in _reaches(p.x):
        found = judge_all(compared(check, p.closer(reach)), p.tolerance.absolute)
        if found.verdict is Verdict.HOLDS:
            return found
        if found.verdict is Verdict.FAILS:
            known |= _same_slope(finding, found)
        # Beside an entry that is next to nothing the others do not move at all: what is not known
        # over such a distance does not count against what is over two others.
        elif reach >= _ROUNDED or not known:
            reason = "finite differences over shorter distances do not say so: it is not smooth"
            left = replace(finding, verdict=Verdict.UNDECIDED, detail=reason)
    return left


def _same_slope(far: Finding, near: Finding) -> bool:
    """Whether differences over two distances give the same number, beside what came out."""
    if far.got is None or far.expected is None or near.expected is None:
        return False
    same_entry = (far.leaf, far.index) == (near.leaf, near.index)
    return same_entry and abs(near.expected - far.expected) < 0.1 * abs(far.got - far.expected)


def _reaches(x: Leaves) -> list[float]:
    """Return two short distances, and the least entry beside the others of its tensor."""
    sizes = [a.detach().abs() / size(a) for a in x]
    least = min((float(s[s > 0].min()) for s in sizes if bool((s > 0).any())), default=1.0)
    return [1e-3, _ROUNDED, *([least] if least < 1e-2 else [])]


def _beside(error: float, scale: float) -> float:
    return error / scale if scale else (float("inf") if error else 0.0)
