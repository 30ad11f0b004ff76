"""The autograd function that records a `Primitive` at one level of the stack of transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from tsgu_func.registration import transforms
from tsgu_func.registration.rules import Joint
from tsgu_func.registration.signature import grouped

if TYPE_CHECKING:
    from tsgu_func.registration.primitive import Primitive

__all__ = ["Plan", "single_level_function"]


class Plan(NamedTuple):
    """What the rules of a primitive ask for, where certain derivatives are needed."""

    needed: tuple[str, ...]
    vjp_uses: tuple[str, ...]
    jvp_uses: tuple[str, ...]


def _plan_of(primitive: Primitive, needs: tuple[Any, ...]) -> Plan:
    if needs not in primitive._plans:

        def uses(table: dict[str, Joint], wanted: Sequence[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(n for a in wanted if a in table for n in table[a].rule.uses))

        names = primitive.arguments
        needed = tuple(n for n, need in zip(names, needs, strict=True) if need)
        plan = Plan(needed, uses(primitive._vjps, needed), uses(primitive._jvps, names))
        primitive._plans[needs] = plan
    return primitive._plans[needs]


def single_level_function(primitive: Primitive) -> Any:
    """Build the autograd function of a primitive."""
    names, signature = primitive.arguments, primitive.signature

    def needs_of(ctx: Any) -> tuple[bool, ...]:
        needs = signature.grouped(ctx.needs_input_grad[1:], ctx.lengths)
        return tuple(any(n) if isinstance(n, tuple) else n for n in needs)

    def keep(ctx: Any, args: Sequence[Any], outs: Sequence[Tensor]) -> None:
        def tensors_for(uses: Sequence[str]) -> list[Any]:
            kept = [n for n in uses if n in given and n not in ctx.given]
            tensors = signature.flat([given[n] for n in kept], kept)
            return [*tensors, *outs] if "out" in uses or "outs" in uses else [*tensors]

        given = dict(zip(names, args, strict=True))
        ctx.given = {n: a for n, a in given.items() if a is None or n not in signature.tensors}
        plan = ctx.plan = _plan_of(primitive, needs_of(ctx))
        ctx.shapes = {n: _shape(given[n]) for n in plan.needed}
        ctx.save_for_backward(*tensors_for(plan.vjp_uses))
        ctx.save_for_forward(*tensors_for(plan.jvp_uses))
        if primitive._retain is not None:
            ctx.retained = primitive._retain(given)

    def restored(ctx: Any, uses: Sequence[str], saved: Sequence[Any]) -> dict[str, Any]:
        kept = [n for n in uses if n in names and n not in ctx.given]
        rest = iter(saved)
        given = {**ctx.given, **dict(zip(kept, grouped(rest, kept, ctx.lengths), strict=True))}
        outs = tuple(rest)
        return {**given, "outs": outs, "out": outs[0] if len(outs) == 1 else outs}

    def forward(ctx: Any, call: Any, *flat: Any) -> Any:
        keyset, ctx.lengths = call
        args = signature.grouped(flat, ctx.lengths)
        with transforms.outer_levels_recording():
            result = transforms.below_autograd(primitive._redispatch, keyset, args)
        outs = primitive._several(result)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(
            *(o for o in outs if not (o.is_floating_point() or o.is_complex()))
        )
        ctx.out_shapes = tuple(o.shape for o in outs)
        keep(ctx, args, outs)
        return result

    def backward(ctx: Any, *cts: Tensor | None) -> Any:
        if all(ct is None for ct in cts):
            return (None,) * len(ctx.needs_input_grad)
        primitive._check_current()
        needed = ctx.plan.needed
        given = restored(ctx, ctx.plan.vjp_uses, ctx.saved_tensors)
        given |= {"cts": cts, "ct": cts[0]}
        results: dict[str, Any] = {n: (None,) * length for n, length in ctx.lengths.items()}
        done: set[str] = set()
        for name in (n for n in needed if n not in done):
            if name not in primitive._vjps:
                raise primitive._missing("vjp", name, "reverse mode (backward, grad, vjp, jacrev)")
            served, rule = primitive._vjps[name]
            value = rule(given | {"needs": tuple(a in needed for a in served)})
            several = value if len(served) > 1 else (value,)
            who = f"{primitive.name}: the vjp rule of {served}"
            _check_parts(who, several, [ctx.shapes.get(a) for a in served])
            done.update(served)
            pairs = zip(served, several, strict=True)
            results |= {a: part for a, part in pairs if part is not None and a in needed}
        return None, *signature.flat([results.get(n) for n in names])

    def jvp(ctx: Any, _call: Any, *flat: Tensor | None) -> Any:
        primal = [transforms.without_tangent(t) for t in ctx.saved_tensors]
        tangents = zip(names, signature.grouped(flat, ctx.lengths), strict=True)
        moving = {n: t for n, t in tangents if _moves(t)}
        if lacking := [n for n in moving if n not in primitive._jvps]:
            raise primitive._missing("jvp", lacking[0], "forward mode (jvp, jacfwd, hessian)")
        given = restored(ctx, ctx.plan.jvp_uses, primal)
        total: tuple[Any, ...] | None = None
        with transforms.outer_levels_recording():
            for served, rule in dict.fromkeys(primitive._jvps[n] for n in moving):
                parts = tuple(moving.get(n) for n in served)
                value = rule(given | {"tangents": parts, "tangent": parts[0]})
                term = primitive._several(value)
                _check_parts(f"{primitive.name}: the jvp rule of {served}", term, ctx.out_shapes)
                total = term if total is None else tuple(map(_plus, total, term))
        assert total is not None
        return total[0] if signature.outputs == 1 else total

    rules = {"forward": forward, "backward": backward, "jvp": jvp}
    members = {key: staticmethod(rule) for key, rule in rules.items()}
    return type(primitive.name.replace("::", "_"), (transforms.SingleLevelFunction,), members)


def _plus(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return x if y is None else y if x is None else x + y


def _moves(tangent: Any) -> bool:
    if isinstance(tangent, tuple):
        return any(t is not None for t in tangent)
    return tangent is not None


# --------------------------------------------------------------- what a rule may return


def _shape(value: Any) -> Any:
    """Return the shape of a tensor, or a list of the shapes of several."""
    return value.shape if isinstance(value, Tensor) else [x.shape for x in value]


def _check_parts(who: str, parts: Any, shapes: Sequence[Any]) -> None:
    """Refuse what is not one tensor, or None, of each shape; without a shape anything goes."""
    if not isinstance(parts, (tuple, list)) or len(parts) != len(shapes):
        got = (
            f"a tuple of {len(parts)}" if isinstance(parts, (tuple, list)) else type(parts).__name__
        )
        raise ValueError(f"{who} returns a tuple of {len(shapes)}, with None for zero; got {got}")
    for part, shape in zip(parts, shapes, strict=True):
        if part is None or shape is None:
            continue
        if isinstance(shape, list):
            _check_parts(f"{who}, for a list of tensors,", part, shape)
        elif not isinstance(part, Tensor):
            raise ValueError(f"{who} returns a tensor or None; got {type(part).__name__}")
        elif _differ(part.shape, shape):
            raise ValueError(
                f"{who} returns the shape {tuple(shape)}; got {tuple(part.shape)} (along an axis "
                f"that was broadcast, a rule sums)"
            )


def _differ(got: Sequence[Any], expected: Sequence[Any]) -> bool:
    # A size that is still unknown, when a graph is traced, is left to PyTorch to judge.
    pairs = zip(got, expected, strict=False)
    return len(got) != len(expected) or any(
        m != n for m, n in pairs if type(m) is int and type(n) is int
    )
