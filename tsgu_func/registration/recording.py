"""The autograd function that records a `Primitive` at one level of the stack of transforms.

What is saved, and which rules run, depends on which derivatives are needed, which tensors are there
and how long lists are, and is planned once for these.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from tsgu_func.registration import transforms
from tsgu_func.registration.rules import ByName, Joint

if TYPE_CHECKING:
    from tsgu_func.registration.primitive import Primitive

__all__ = ["Plans", "single_level_function"]

_MOST = 256  # plans of a primitive
# An argument, by name, and where it stands among all, the tensors of a list one by one: a list has
# a slice of them.
Slot = tuple[str, Any]


class Kept(NamedTuple):
    """Tensors that rules ask for: where they stand among all, and among those that are saved."""

    places: tuple[int, ...]
    slots: tuple[Slot, ...]
    outs: bool

    def of(self, flat: Sequence[Any], outs: Sequence[Tensor]) -> list[Any]:
        """Choose what is saved."""
        tensors = [flat[i] for i in self.places]
        return [*tensors, *outs] if self.outs else tensors

    def restored(self, constants: dict[str, Any], saved: tuple[Any, ...]) -> dict[str, Any]:
        """Return what rules may ask for, by name."""
        given = constants.copy()
        for name, at in self.slots:
            given[name] = saved[at]
        if self.outs:
            outs = given["outs"] = saved[len(self.places) :]
            given["out"] = outs[0] if len(outs) == 1 else outs
        return given


class Plan(NamedTuple):
    """What is saved where certain derivatives are needed."""

    key: Hashable
    constants: tuple[Slot, ...]  # what is no tensor
    backward: Kept
    forward: Kept
    needed: tuple[Slot, ...]


class Pullback(NamedTuple):
    """A vjp rule: which arguments are asked for, and where the parts that it returns belong."""

    arguments: tuple[str, ...]
    rule: ByName
    needs: tuple[bool, ...]
    places: tuple[Any, ...]  # None for a part that is not asked for


class Plans:
    """The plans of a primitive, and the rules that run for them: until another rule is registered.

    Lists of ever other lengths are no reason to keep ever more.
    """

    def __init__(self, primitive: Primitive) -> None:
        self.primitive = primitive
        self._plans: dict[Hashable, Plan] = {}
        self._pullbacks: dict[Hashable, list[Pullback]] = {}

    def clear(self) -> None:
        """Forget what was planned."""
        self._plans.clear()
        self._pullbacks.clear()

    def plan(self, needs: Sequence[bool], flat: Sequence[Any], lengths: dict[str, int]) -> Plan:
        """Return what is saved for these arguments, the tensors of lists one by one."""
        if lengths:
            needs = [_any(needs, at) for _, at in _slots(self.primitive.arguments, lengths)]
        key = (*needs, None, *[a is None for a in flat], *lengths.values())
        if (plan := self._plans.get(key)) is None:
            if len(self._plans) >= _MOST:
                self.clear()
            plan = self._plans[key] = self._made(key, needs, flat, lengths)
        return plan

    def _made(
        self, key: Hashable, needs: Sequence[bool], flat: Sequence[Any], lengths: dict[str, int]
    ) -> Plan:
        p = self.primitive
        slots = dict(_slots(p.arguments, lengths))
        tensors = {
            name: at
            for name, at in slots.items()
            if name in lengths or (name in p.signature.tensors and flat[at] is not None)
        }
        needed = [name for name, need in zip(p.arguments, needs, strict=True) if need]
        vjps = [p._vjps[name] for name in needed if name in p._vjps]
        return Plan(
            key,
            tuple(slot for slot in slots.items() if slot[0] not in tensors),
            _kept(vjps, tensors),
            _kept(p._jvps.values(), tensors),
            tuple((name, slots[name]) for name in needed),
        )

    def pullbacks(self, plan: Plan) -> list[Pullback]:
        """Return the vjp rules that run."""
        if (found := self._pullbacks.get(plan.key)) is None:
            found = self._pullbacks[plan.key] = self._rules(dict(plan.needed))
        return found

    def _rules(self, needed: dict[str, Any]) -> list[Pullback]:
        p = self.primitive
        for name in needed:
            if name not in p._vjps:
                raise p._missing("vjp", name, "reverse mode (backward, grad, vjp, jacrev)")
        joints = dict.fromkeys(p._vjps[name] for name in needed)
        # An argument may have a rule of its own that was registered after that of several.
        places = [
            tuple(needed.get(n) if p._vjps[n] is joint else None for n in joint.arguments)
            for joint in joints
        ]
        return [
            Pullback(*joint, tuple(at is not None for at in own), own)
            for joint, own in zip(joints, places, strict=True)
        ]


def _any(needs: Sequence[bool], place: Any) -> bool:
    return any(needs[place]) if isinstance(place, slice) else needs[place]


def _slots(names: Iterable[str], lengths: Mapping[str, int]) -> Iterator[Slot]:
    first = 0
    for name in names:
        last = first + lengths.get(name, 1)
        yield name, slice(first, last) if name in lengths else first
        first = last


def _kept(joints: Iterable[Joint], tensors: Mapping[str, Any]) -> Kept:
    uses = dict.fromkeys(name for joint in joints for name in joint.rule.uses)
    places: list[int] = []
    slots: list[Slot] = []
    for name in (name for name in uses if name in tensors):
        at, first = tensors[name], len(places)
        places += range(at.start, at.stop) if isinstance(at, slice) else [at]
        slots.append((name, slice(first, len(places)) if isinstance(at, slice) else first))
    return Kept(tuple(places), tuple(slots), "out" in uses or "outs" in uses)


def single_level_function(primitive: Primitive) -> Any:
    """Build the autograd function of a primitive."""
    names, signature, plans = primitive.arguments, primitive.signature, primitive._plans

    def forward(ctx: Any, call: Any, *flat: Any) -> Any:
        keyset, ctx.lengths = call
        args = signature.grouped(flat, ctx.lengths)
        with transforms.outer_levels_recording():
            result = transforms.below_autograd(primitive._redispatch, keyset, args)
        outs = primitive._several(result)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(
            *[o for o in outs if not (o.is_floating_point() or o.is_complex())]
        )
        plan = ctx.plan = plans.plan(ctx.needs_input_grad[1:], flat, ctx.lengths)
        ctx.constants = {name: flat[at] for name, at in plan.constants}
        ctx.shapes = {name: _shape(flat[at]) for name, at in plan.needed}
        ctx.out_shapes = [o.shape for o in outs]
        ctx.save_for_backward(*plan.backward.of(flat, outs))
        ctx.save_for_forward(*plan.forward.of(flat, outs))
        if primitive._retain is not None:
            ctx.retained = primitive._retain(dict(zip(names, args, strict=True)))
        return result

    def backward(ctx: Any, *cts: Tensor | None) -> Any:
        grads: list[Any] = [None] * (len(ctx.needs_input_grad) - 1)
        if all(ct is None for ct in cts):
            return None, *grads
        primitive._check_current()
        pullbacks = plans.pullbacks(ctx.plan)
        given = ctx.plan.backward.restored(ctx.constants, ctx.saved_tensors)
        given["cts"], given["ct"] = cts, cts[0]
        for served, rule, needs, places in pullbacks:
            given["needs"] = needs
            value = rule(given)
            parts = value if len(served) > 1 else (value,)
            who = f"{primitive.name}: the vjp rule of {served}"
            _check_parts(who, parts, [ctx.shapes.get(name) for name in served])
            for part, at in zip(parts, places, strict=True):
                if part is not None and at is not None:
                    grads[at] = part
        return None, *grads

    def jvp(ctx: Any, _call: Any, *flat: Tensor | None) -> Any:
        primal = tuple(transforms.without_tangent(t) for t in ctx.saved_tensors)
        tangents = zip(names, signature.grouped(flat, ctx.lengths), strict=True)
        moving = {n: t for n, t in tangents if _moves(t)}
        if lacking := [n for n in moving if n not in primitive._jvps]:
            raise primitive._missing("jvp", lacking[0], "forward mode (jvp, jacfwd, hessian)")
        given = ctx.plan.forward.restored(ctx.constants, primal)
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
    if len(got) != len(expected):
        return True
    for m, n in zip(got, expected, strict=True):
        if type(m) is int and type(n) is int and m != n:
            return True
    return False
