"""What makes a right function wrong: each changes one rule of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.selfcheck.planted.base import BASES, WEIGHED, Base, Leaves, function

_ALL = tuple(BASES)

Change = Callable[[Base], Base]


class Case(NamedTuple):
    """The rules of a wrong function and of its right twin, and both functions."""

    wrong_rules: Base
    right_rules: Base
    wrong: Callable[..., Any]
    right: Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """What is wrong, in which functions, and the cells of `check_rules` that must tell.

    Without cells nobody can tell, or nothing is wrong: `why` says so.  `in_op` says whether an op
    of ``torch.library`` can have it.
    """

    name: str
    change: Change
    cells: tuple[str, ...] = ()
    bases: tuple[str, ...] = _ALL
    dtype: torch.dtype = torch.float64
    why: str = ""
    in_op: bool = True
    at: Callable[[Base], Base] = lambda base: base
    around: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda f: f

    def cases(self) -> Iterator[Case]:
        """Yield the wrong function and the right one, for each base."""
        for name in self.bases:
            right = self.at(BASES[name])
            right = right.with_args(*(_as(a, self.dtype) for a in right.args))
            wrong = self.change(right)
            yield Case(wrong, right, self.around(function(wrong)), function(right))


def _as(a: Tensor, dtype: torch.dtype) -> Tensor:
    return (a + 0.5j * a.flip(0)).to(dtype) if dtype.is_complex else a.to(dtype)


# ------------------------------------------------------------------------- one rule, changed after


Changed = Callable[[Tensor, Leaves, Leaves], Any]  # of what was right, cotangents and arguments


def gradient(change: Changed) -> Change:
    """Change the gradient of the first argument."""

    def changed(base: Base) -> Base:
        def vjp(cts: Any, x: Leaves, needs: Any) -> tuple[Tensor | None, ...]:
            first, *others = base.vjp(cts, x, needs)
            assert first is not None
            return change(first, tuple(c for c in cts if c is not None), x), *others

        return replace(base, vjp=vjp)

    return changed


def tangent(change: Changed) -> Change:
    """Change the tangent of what comes out first."""

    def changed(base: Base) -> Base:
        assert base.jvp is not None
        right = base.jvp

        def jvp(tangents: Any, x: Leaves) -> Any:
            out = right(tangents, x)
            given = tuple(t for t in tangents if t is not None)
            if base.outs == 1:
                return change(out, given, x)
            return change(out[0], given, x), *out[1:]

        return replace(base, jvp=jvp)

    return changed


def value(change: Callable[[Tensor, Leaves], Tensor]) -> Change:
    """Change what comes out first."""

    def changed(base: Base) -> Base:
        def value(*x: Tensor) -> Any:
            out = base.value(*x)
            return change(out, x) if base.outs == 1 else (change(out[0], x), *out[1:])

        return replace(base, value=value)

    return changed


def mapped(change: Callable[[Tensor, tuple[int | None, ...]], Tensor]) -> Change:
    """Change what comes out of the batching rule, with the batch in front."""

    def changed(base: Base) -> Base:
        def batch(size: int, dims: tuple[int | None, ...], *x: Tensor) -> tuple[Any, Any]:
            members = [
                tuple(a if d is None else a.select(d, i) for a, d in zip(x, dims, strict=True))
                for i in range(size)
            ]
            outs = [base.value(*m) for m in members]
            if base.outs == 1:
                return change(torch.stack(outs), dims), 0
            stacks = [torch.stack(o) for o in zip(*outs, strict=True)]
            return (change(stacks[0], dims), *stacks[1:]), (0,) * base.outs

        return replace(base, batch=batch)

    return changed


def fresh(make: Callable[[], Change]) -> Change:
    """Give each wrong function a state of its own."""
    return lambda base: make()(base)


# ------------------------------------------------------------------------------- what is asked


def stored_once(a: Tensor) -> bool:
    """Say whether an axis has stride 0."""
    return any(s == 0 and n > 1 for s, n in zip(a.stride(), a.shape, strict=True))


def strided(a: Tensor) -> bool:
    """Say whether entries are stored in another order, or with gaps."""
    return not a.is_contiguous() and not stored_once(a)


def entry(g: Tensor, factor: float) -> Tensor:
    """Multiply the last entry."""
    factors = torch.ones_like(g, memory_format=torch.contiguous_format)
    factors.view(-1)[-1] = factor
    return g * factors


def noise(relative: float) -> Changed:
    """Add noise."""
    return lambda g, cts, x: g * (1 + relative * torch.randn(g.shape, dtype=g.real.dtype))


def every(n: int, factor: float) -> Change:
    """Multiply the gradient with a factor at every n-th call."""

    def make() -> Change:
        calls = itertools.count(1)
        return gradient(lambda g, cts, x: g * (factor if next(calls) % n == 0 else 1))

    return fresh(make)


def accumulated() -> Change:
    """Add up in a buffer that is not cleared."""
    kept: list[Tensor] = []

    def change(g: Tensor, cts: Leaves, x: Leaves) -> Tensor:
        kept.append(g)
        return torch.stack([k for k in kept if k.shape == g.shape]).sum(0)

    return gradient(change)


def halved(base: Base) -> Base:
    """Take half of the gradient for a constant, when it is differentiated again."""

    def vjp(cts: Any, x: Leaves, needs: Any) -> tuple[Tensor | None, ...]:
        whole = base.vjp(cts, x, needs)
        constant = base.vjp(cts, tuple(a.detach() for a in x), needs)
        return tuple((a + b) / 2 for a, b in zip(whole, constant, strict=True) if a is not None)  # type: ignore[operator]

    return replace(base, vjp=vjp)


def constant_alone(base: Base) -> Base:
    """Take arguments for constants in the gradient, where only one argument needs it."""

    def vjp(cts: Any, x: Leaves, needs: Any) -> tuple[Tensor | None, ...]:
        return base.vjp(cts, x if all(needs) else tuple(a.detach() for a in x), needs)

    return replace(base, vjp=vjp)


def second(change: Callable[[Tensor | None, Any], Tensor | None]) -> Change:
    """Change the gradient of the second argument."""

    def changed(base: Base) -> Base:
        def vjp(cts: Any, x: Leaves, needs: Any) -> tuple[Tensor | None, ...]:
            first, second = base.vjp(cts, x, needs)
            return first, change(second, needs)

        return replace(base, vjp=vjp)

    return changed


def tangents(change: Callable[[Any], Any]) -> Change:
    """Change the tangents before the rule sees them."""

    def changed(base: Base) -> Base:
        assert base.jvp is not None
        right = base.jvp
        return replace(base, jvp=lambda tangents, x: right(change(tangents), x))

    return changed


def in_place(tangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Double the tangents after they have been copied."""
    copies = tuple(None if t is None else t.clone() for t in tangents)
    for t in tangents:
        if t is not None:
            t.mul_(2)
    return copies


def saved_changes(g: Tensor, cts: Leaves, x: Leaves) -> Tensor:
    """Change the argument that was saved."""
    g = g.clone()
    x[0].detach().mul_(1.5)
    return g


def cotangent_changes(base: Base) -> Base:
    """Double the cotangents after they have been used."""

    def vjp(cts: Any, x: Leaves, needs: Any) -> tuple[Tensor | None, ...]:
        grads = base.vjp(cts, x, needs)
        with torch.no_grad():
            for c in cts:
                if c is not None:
                    c.detach().mul_(2)
        return grads

    return replace(base, vjp=vjp)


def missing(base: Base) -> Base:
    """Forget the first gradient where an output has no cotangent."""

    def vjp(cts: Any, x: Leaves, needs: Any) -> tuple[Tensor | None, ...]:
        grads = base.vjp(cts, x, needs)
        return grads if all(c is not None for c in cts) else tuple(2 * g for g in grads)  # type: ignore[operator]

    return replace(base, vjp=vjp)


def nan(where: Tensor) -> Tensor:
    """Return NaN where it is asked for, and one elsewhere."""
    return torch.where(where, torch.nan, 1.0)


def with_zero(base: Base) -> Base:
    """Take a point with a zero."""
    first, *others = base.args
    return base.with_args(entry(first, 0.0), *others)


def positive(base: Base) -> Base:
    """Take a point without negative entries."""
    return base.with_args(*(a.abs() for a in base.args))


def four_axes(base: Base) -> Base:
    """Take a point with four axes."""
    return base.with_args(base.args[0].repeat(6).reshape(2, 3, 2, 2) + 0.1)


def no_axis(base: Base) -> Base:
    """Take a single number."""
    return base.with_args(base.args[0][0].clone())


def near(x: Tensor, base: Base, distance: float) -> Tensor:
    """Say whether x is where the checker was asked to look, for each member of a batch."""
    here = base.args[0]
    return ((x - here).abs() <= distance * here.abs()).all()


def only_near(distance: float) -> Change:
    """Double the gradient away from the point."""

    def changed(base: Base) -> Base:
        def wrong(g: Tensor, cts: Leaves, x: Leaves) -> Tensor:
            return torch.where(near(x[0], base, distance), g, 2 * g)

        return gradient(wrong)(base)

    return changed


def channels_last(a: Tensor) -> bool:
    """Say whether the second axis is stored last."""
    return a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last)


def viewed(base: Base) -> Base:
    """Return a view of the cotangent, times one where something is to be computed."""

    def value(*x: Tensor) -> Tensor:
        return x[0].clone()

    return replace(
        base,
        value=value,
        vjp=lambda cts, x, needs: (cts[0].view_as(cts[0]),),
        jvp=lambda tangents, x: tangents[0],
    )


def after(out: Tensor, first: int) -> Tensor:
    """Double the members of a batch from one on."""
    return torch.cat([out[:first], 2 * out[first:]])


def bent_after(out: Tensor, first: int) -> Tensor:
    """Double the derivatives, and not the values, of the members of a batch from one on."""
    return torch.cat([out[:first], 2 * out[first:] - out[first:].detach()])


def itself(base: Base) -> Base:
    """Change nothing."""
    return base


def without_graph(f: Callable[..., Any]) -> Callable[..., Any]:
    """Double what comes out under ``torch.no_grad()``."""
    return lambda *x: f(*x) if torch.is_grad_enabled() else f(*(2 * a for a in x))


def with_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """Double the argument if it requires a gradient, and hide that."""
    return lambda *x: f(*(a + a.detach() if a.requires_grad else a for a in x))


def squares(base: Base) -> Base:
    """Take a function whose gradient in each argument depends on it."""
    return WEIGHED


def in_batches(change: Change) -> Change:
    """Give it a batching rule of its own, which is right and so are its derivatives."""
    return lambda base: mapped(lambda out, dims: out)(change(base))
