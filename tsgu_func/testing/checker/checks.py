"""The checks of a function: each compares something that came out with what had to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from tsgu_func.testing.checker.comparison import Comparison, Verdict, judge, largest
from tsgu_func.testing.checker.differences import Estimate, total
from tsgu_func.testing.checker.linearity import LinearMap
from tsgu_func.testing.checker.opchecks import check_custom_ops
from tsgu_func.testing.checker.places import PLACES, Place, as_it_is, expanded, moved
from tsgu_func.testing.checker.probe import Probe, only
from tsgu_func.testing.checker.problem import Function, Leaves, inner, size
from tsgu_func.testing.checker.selections import looped, of_five, stacked
from tsgu_func.testing.checker.transforms import (
    TRANSFORMS,
    Run,
    Transform,
    backward,
    bent,
    derivative,
    reals,
)

__all__ = ["BACKENDS", "CHECKS", "Check", "compared"]


# A derivative that is smaller than this, beside the function, is compared in absolute terms.
_NATURAL = 1e-3
# How much larger results may be at another point, if that is to be one like any other.
_FAR = 1e4


@dataclass(frozen=True)
class Check:
    """A row of the table: what is compared, and what it needs.

    ``run`` yields comparisons; it raises what the function raises.
    """

    name: str
    group: str
    run: Callable[[Probe], Iterator[Comparison]]
    modes: str = ""
    order: int = 0
    backend: str | None = None
    least: int = 1  # arguments, below which it has nothing to say


def _same(p: Probe, got: Leaves, expected: Leaves, against: str = "expected") -> Comparison:
    return Comparison(got, expected, p.tolerance.exact, against=against)


def compared(check: Check, p: Probe) -> Iterator[Comparison]:
    """Run a check.

    Derivatives that must be the same may differ by rounding beside their natural size, since they
    may vanish; and of those that are not finite on both sides nothing is known.
    """
    for c in check.run(p):
        if check.modes and c.scales is None:
            natural = _NATURAL * min(p.natural(check.modes))
            scales = [max(largest(e), natural) for e in c.expected]
            c = replace(c, scales=scales, infinite=False)
        yield c


# ------------------------------------------------------------------------------------ the value


def _repeatable(p: Probe) -> Iterator[Comparison]:
    rounding = 16 * p.eps  # sums may be taken in another order, on some devices
    f = p.problem.value
    yield Comparison(f(*p.x), f(*p.x), rounding, against="the first run")


def _untouched(p: Probe) -> Iterator[Comparison]:
    given = p.problem.given()
    before = tuple(a.clone() for a in given)
    p.f(*p.x)
    for after, a in zip(given, before, strict=True):  # each at its own scale
        yield Comparison((after,), (a,), 0.0, against="the arguments before the call")


def _strides(p: Probe) -> Iterator[Comparison]:
    def run(x: Leaves, place: Place) -> Leaves:
        return p.problem.value(*x)

    yield from _elsewhere(p, run)
    yield from _stored_once(p, run)


def _strided_pullback(p: Probe) -> Iterator[Comparison]:
    def pulled(x: Leaves, place: Place) -> Leaves:
        return vjp(p.f, *x)[1](tuple(map(place, p.w.ct_out[0])))

    yield from _elsewhere(p, pulled)
    yield from _stored_once(p, pulled)


def _strided_tangent(p: Probe) -> Iterator[Comparison]:
    def pushed(x: Leaves, place: Place) -> Leaves:
        return jvp(p.f, x, tuple(map(place, p.w.u[0])))[1]

    yield from _elsewhere(p, pushed)


def _elsewhere(p: Probe, run: Callable[[Leaves, Place], Leaves]) -> Iterator[Comparison]:
    """Run with arguments that are stored in other ways."""
    expected = run(p.x, as_it_is)
    for place in PLACES:
        x = moved(p.x, place)
        if x is not None:
            yield _same(p, run(x, place), expected, "what contiguous arguments give")


def _stored_once(p: Probe, run: Callable[[Leaves, Place], Leaves]) -> Iterator[Comparison]:
    """Run with arguments that are expanded, one after the other; dual numbers cannot be."""
    expected = run(p.x, as_it_is)
    for i, a in enumerate(p.x):
        flat = expanded(a)
        if flat is a:
            continue
        x = (*p.x[:i], flat.contiguous(), *p.x[i + 1 :])
        stored = _within(run, x, expected)
        if stored is not None:
            got = run((*p.x[:i], flat, *p.x[i + 1 :]), as_it_is)
            same = _same(p, got, stored, "what the same numbers give, each of them stored")
            if _holds(p, same) or _is_steady(p, run, x, stored):
                yield same


def _holds(p: Probe, comparison: Comparison) -> bool:
    return judge(comparison, p.tolerance.absolute).verdict is Verdict.HOLDS


def _is_steady(p: Probe, run: Callable[[Leaves, Place], Leaves], x: Leaves, out: Leaves) -> bool:
    """Whether rounding of the arguments does not decide what comes out.

    It does where eigenvalues or singular values are equal, as those of a matrix whose columns are.
    """
    near = tuple(a + 4 * p.eps * u for a, u in zip(x, p.w.u[0], strict=True))
    nearby = _within(run, near, out)
    return nearby is not None and _holds(p, _same(p, nearby, out))


def _within(run: Callable[[Leaves, Place], Leaves], x: Leaves, known: Leaves) -> Leaves | None:
    """Run at another point, of which nobody says that it is in the domain of the function.

    A matrix that is constant along an axis is singular: what raises, warns or is huge there is no
    mistake, and rounding may have become large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            out = run(x, as_it_is)
        except Exception:  # whatever it says, it is no fault at such a point
            return None
    most = _FAR * max((size(a) for a in known), default=1.0)
    return out if all(bool((a.detach().abs() <= most).all()) for a in out) else None


# ---------------------------------------------------------------------------------- linear maps


def _linear_pullback(p: Probe) -> Iterator[Comparison]:
    pull = vjp(p.f, *p.x)[1]
    g, h = (_multiplied(p.w.ct_out[k], p.w.scale) for k in (0, 1))
    weight = sum(float(s) * a.numel() for s, a in zip(p.w.scale, g, strict=True))
    natural = [_NATURAL * weight / size(a) for a in p.x]
    linear = LinearMap(pull, g, h, natural, p.tolerance.exact, p.problem.eps)
    yield from linear.comparisons()
    if len(g) > 1:
        yield linear.parts_of(pull(g), _alone_cotangents(p, g), "cotangents of one output alone")


def _alone_cotangents(p: Probe, ct: Leaves) -> list[Leaves]:
    """Go backward from each output alone: the others have no cotangent at all."""
    x = tuple(a.detach().clone().requires_grad_() for a in p.x)
    return [
        torch.autograd.grad(o, x, c, retain_graph=True, allow_unused=True, materialize_grads=True)
        for o, c in zip(p.f(*x), ct, strict=True)
        if o.requires_grad
    ]


def _linear_tangent(p: Probe) -> Iterator[Comparison]:
    def push(u: Leaves) -> Leaves:
        return jvp(p.f, p.x, u)[1]

    sizes = tuple(a.new_full((), size(a), dtype=a.real.dtype) for a in p.x)
    g, h = (_multiplied(p.w.u[k], tuple(1 / s for s in sizes)) for k in (0, 1))
    steepness = sum(1 / float(s) for s in sizes)
    natural = [_NATURAL * float(s) * steepness for s in p.w.scale]
    yield from LinearMap(push, g, h, natural, p.tolerance.exact, p.problem.eps).comparisons()


def _multiplied(x: Leaves, scales: Leaves) -> Leaves:
    return tuple(a * s for a, s in zip(x, scales, strict=True))


# ----------------------------------------------------------------------------- larger batches


def _five(p: Probe) -> Iterator[Comparison]:
    """Map over five members: of three, those after the third cannot go wrong."""
    yield _mapped_five(p, p.problem.value)


def _five_pullbacks(p: Probe) -> Iterator[Comparison]:
    yield _mapped_five(p, derivative(p.f, "r", p.w))
    w, every = of_five(p.w), (True,) * len(p.x)
    cts = tuple(torch.stack([c] * len(w.members)) for c in w.ct_out[0])
    got = vjp(vmap(p.f, randomness=w.randomness), *stacked(p.x, w, every))[1](cts)
    yield _same(p, got, looped(derivative(p.f, "r", w), p.x, w, every), "what a loop gives")


def _mapped_five(p: Probe, f: Function) -> Comparison:
    every, w = (True,) * len(p.x), of_five(p.w)
    got = vmap(f, randomness=w.randomness)(*stacked(p.x, w, every))
    return _same(p, got, looped(f, p.x, w, every), "what a loop gives")


# -------------------------------------------------------------------------------- derivatives


def _by_differences(p: Probe, modes: str, got: Leaves) -> Iterator[Comparison]:
    """Compare the outermost derivative with differences of the derivative inside."""
    outer, inside = modes[0], modes[1:]
    if modes == "r":
        yield from _by_arguments(p, got, p.w.ct_out[0])
    elif outer == "f":
        yield _near(p, got, p.slope(inside))
    else:
        level = len(inside)
        ct = p.w.ct_in[level] if "r" in inside else p.w.ct_out[level]
        yield _paired(p, got, p.w.u[level], p.slope(inside), ct)


def _by_arguments(p: Probe, got: Leaves, ct: Leaves) -> Iterator[Comparison]:
    """Compare the pullback of a cotangent with differences, each argument alone."""
    for i in range(len(p.x)):
        yield _paired(p, got, only(p.w.u[0], i), p.slope("", i), ct)


def _of_some(p: Probe, mode: str) -> Iterator[Comparison]:
    """Compare derivatives with respect to some arguments, with the others held constant.

    Each alone, and all but each.
    """
    n, ct = len(p.x), p.w.ct_out[0]
    alone = [(i,) for i in range(n)] if n > 1 else []
    others = [tuple(k for k in range(n) if k != i) for i in range(n)] if n > 2 else []
    for kept in (*alone, *others):
        x, u = (tuple(leaves[i] for i in kept) for leaves in (p.x, p.w.u[0]))
        slopes = [p.slope("", i) for i in kept]
        f = _in_some(p, kept)
        if mode == "f":
            yield _near(p, jvp(f, x, u)[1], total(slopes))
        else:
            pulled = vjp(f, *x)[1](ct)
            for g, d, slope in zip(pulled, u, slopes, strict=True):
                yield _paired(p, (g,), (d,), slope, ct)


def _in_some(p: Probe, kept: tuple[int, ...]) -> Function:
    """See the function as one of some of its arguments."""

    def f(*some: Tensor) -> Leaves:
        whole = list(p.x)
        for i, a in zip(kept, some, strict=True):
            whole[i] = a
        return p.f(*whole)

    return f


def _whole(p: Probe, modes: str, got: Leaves) -> Iterator[Comparison]:
    """Compare a Jacobian, multiplied with directions, with differences along these."""
    if "r" not in modes[1:]:
        slope = p.slope("f" if len(modes) == 2 else "")
        expected = reals(slope.value)
        if p.mixed:  # then a Jacobian has one dtype or the other
            got = tuple(g.to(e.dtype) for g, e in zip(got, expected, strict=True))
        yield _near(p, got, slope._replace(value=expected))
        return
    # <ct, D²f[u, v]> is the derivative along v of the pullback of ct, weighed with u.
    slope, u = p.slope("r"), p.w.u[0]
    weighed = got[0] if modes == "fr" else inner(reals(p.w.ct_out[0]), got)
    yield _weighed(p, weighed, slope, u)


def _near(p: Probe, got: Leaves, slope: Estimate) -> Comparison:
    scales = [
        max(largest(v), _NATURAL * natural)
        for v, natural in zip(slope.value, slope.sizes, strict=True)
    ]
    return Comparison(
        got, slope.value, p.tolerance.differences, slope.error, scales, "finite differences"
    )


def _paired(p: Probe, pulled: Leaves, u: Leaves, slope: Estimate, ct: Leaves) -> Comparison:
    """Compare <Jᴴ ct, u> with <ct, J u>, J u by differences."""
    return _weighed(p, inner(pulled, u), slope, ct, _size_of_terms(pulled, u))


def _weighed(p: Probe, got: Tensor, slope: Estimate, ct: Leaves, scale: float = 0.0) -> Comparison:
    weights = [float(c.abs().sum()) for c in ct]
    error = sum(w * e for w, e in zip(weights, slope.error, strict=True))
    natural = _NATURAL * sum(w * s for w, s in zip(weights, slope.sizes, strict=True))
    scale = max(scale, _size_of_terms(ct, slope.value), natural)
    return Comparison(
        (got,), (inner(ct, slope.value),), p.tolerance.differences, (error,), (scale,),
        "finite differences",
    )  # fmt: skip


def _size_of_terms(x: Leaves, y: Leaves) -> float:
    """Return what rounding of <x, y> is relative to: its terms, not the sum.

    Where one of them is not finite there is no such size, and it must not become a tolerance.
    """
    terms = float(inner([a.abs() for a in x], [b.abs() for b in y]))
    return terms if terms < float("inf") else 0.0


def _dot_product(p: Probe) -> Iterator[Comparison]:
    """<ct, J u> = <Jᴴ ct, u>, to rounding."""
    pushed = jvp(p.f, p.x, p.w.u[0])[1]
    pulled = vjp(p.f, *p.x)[1](p.w.ct_out[0])
    ct = p.w.ct_out[0]
    scale = max(_size_of_terms(ct, pushed), _size_of_terms(pulled, p.w.u[0]), _NATURAL * p.weight)
    yield Comparison(
        (inner(pulled, p.w.u[0]),), (inner(ct, pushed),), p.tolerance.exact, None, (scale,),
        "the derivative by forward mode", infinite=False,
    )  # fmt: skip


def _second_agree(p: Probe) -> Iterator[Comparison]:
    """Compare the four ways to a second derivative, weighed, along two directions."""
    f, w = bent(p.f, p.w), p.w
    ct, (u, v) = w.ct_out[0], w.u[:2]
    forward_first = w._replace(ct_out=(ct, ct, *w.ct_out[2:]))
    terms = derivative(f, "fr", w)(*p.x)
    numbers = [
        inner(terms, u),
        inner(ct, derivative(f, "ff", w)(*p.x)),
        inner(derivative(f, "rf", forward_first)(*p.x), v),
        inner(derivative(f, "rr", w._replace(ct_in=(u, u, *w.ct_in[2:])))(*p.x), v),
    ]
    scale = max(_size_of_terms(terms, u), _NATURAL * p.weight)
    for number in numbers[1:]:
        yield Comparison(
            (number,), (numbers[0],), p.tolerance.exact, None, (scale,), "forward over reverse",
            infinite=False,
        )  # fmt: skip


def _second_alone(p: Probe) -> Iterator[Comparison]:
    """Go backward twice with respect to one argument, with the others held constant."""
    for i in range(len(p.x)):
        w = p.w._replace(ct_in=tuple(only(ct, i) for ct in p.w.ct_in))
        alone = w._replace(ct_in=tuple((ct[i],) for ct in p.w.ct_in))
        got = derivative(bent(_in_some(p, (i,)), w), "rr", alone)(p.x[i])
        whole = derivative(bent(p.f, w), "rr", w)(*p.x)
        yield _same(p, got, whole[i : i + 1], "what all arguments together give")


# ------------------------------------------------------------------------------ table of checks


def _of_transform(t: Transform) -> Check:
    def run(p: Probe) -> Iterator[Comparison]:
        q = p.problem
        # What is declared constant has values, but no derivatives.
        f, reference = (p.f, q.reference) if t.modes else (q.value, q.reference_value)
        got = t.run(f, p.x, p.w)
        if t.like is not None:
            yield _same(p, got, t.like(f, p.x, p.w), "what a loop gives")
        elif t.group == "jacobian":
            yield from _whole(p, t.modes, got)
        elif t.modes:
            yield from _by_differences(p, t.modes, got)
            if t.modes == "r":
                # What cancels for one cotangent by chance does not for another.
                other = p.w._replace(ct_out=p.w.ct_out[::-1])
                yield from _by_arguments(p, t.run(f, p.x, other), other.ct_out[0])
        if t.group == "first":
            yield from _of_some(p, t.name)
        if reference is not None:
            by = t.plain or t.run
            yield _same(p, got, by(reference, p.x, p.w), "the reference")

    return Check(t.name, t.group, run, t.modes, len(t.modes))


def _compiled(run: Run, backend: str) -> Callable[[Probe], Iterator[Comparison]]:
    """Run a transform inside the compiler and outside."""

    def check(p: Probe) -> Iterator[Comparison]:
        inside = _compile(lambda x, w: run(p.f, x, w), backend)
        yield _same(p, inside(p.x, p.w), run(p.f, p.x, p.w), "what comes out uncompiled")

    return check


def _backward_outside(backend: str) -> Callable[[Probe], Iterator[Comparison]]:
    """Compile the function alone, and go backward through it."""

    def check(p: Probe) -> Iterator[Comparison]:
        inside = _compile(p.f, backend)
        outside = backward(p.f, p.x, p.w)
        yield _same(p, backward(inside, p.x, p.w), outside, "what comes out uncompiled")

    return check


def _compile(f: Callable[..., Leaves], backend: str) -> Callable[..., Leaves]:
    # Each is compiled for itself: what has been compiled before would count as one function that
    # is compiled again and again.
    torch.compiler.reset()
    return torch.compile(f, fullgraph=True, backend=backend, dynamic=False)


def _opcheck(p: Probe) -> Iterator[Comparison]:
    check_custom_ops(p.f, p.x)
    yield from ()


BACKENDS = ("aot_eager", "inductor")


def _checks() -> list[Check]:
    trace, generate = BACKENDS
    rows = [
        Check("repeatable", "value", _repeatable),
        Check("arguments untouched", "value", _untouched),
        Check("strides", "value", _strides),
        *map(_of_transform, TRANSFORMS.values()),
        Check("vjp of strided arguments", "first", _strided_pullback, "r", 1),
        Check("jvp of strided arguments", "first", _strided_tangent, "f", 1),
        Check("vjp is linear", "first", _linear_pullback, "r", 1),
        Check("jvp is linear", "first", _linear_tangent, "f", 1),
        Check("vjp with jvp", "first", _dot_product, "fr", 1),
        Check("second derivatives agree", "higher", _second_agree, "fr", 2),
        Check("rr of one argument", "higher", _second_alone, "rr", 2, least=2),
        Check("vmap of 5", "vmap", _five),
        Check("vmap and vjp of 5", "vmap", _five_pullbacks, "r", 1),
        Check("opcheck", "opcheck", _opcheck),
        Check("compiled backward", "compile", _backward_outside(trace), "r", 1, trace),
    ]
    for t in TRANSFORMS.values():
        if t.compiled is not None:
            check = _compiled(t.run, trace)
            rows.append(Check(f"compiled {t.name}", "compile", check, t.modes, t.compiled, trace))
    value = _compiled(TRANSFORMS["value"].run, generate)
    rows.append(Check("inductor value", "compile", value, "", 1, generate))
    outside = _backward_outside(generate)
    rows.append(Check("inductor backward", "compile", outside, "r", 1, generate))
    return rows


CHECKS: dict[str, Check] = {check.name: check for check in _checks()}
