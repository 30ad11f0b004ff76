"""Define an op once, and have it right under every transform of PyTorch.

A :class:`Primitive` is a ``torch.library`` op whose autograd kernel is ours.  One definition gives
the op eager reverse and forward mode, all of ``torch.func``, ``vmap``, ``torch.compile``,
``torch.export`` and autocast, to any order of differentiation.  PyTorch's own two ways do not:
``torch.library.custom_op`` with ``register_autograd`` raises under ``torch.func.grad`` and returns
a zero tangent under ``jvp``, and ``autograd.Function`` returns zeros for forward over forward.

How it works.  The kernel on the ``Autograd`` dispatch key applies a *single-level* autograd
function: one that records at exactly one level of the functorch stack and then redispatches to the
next.  Three details make every nesting come out:

1. ``forward`` redispatches with gradient recording and forward mode switched on, so that the outer
   levels record the very op that this level has just seen.
2. ``jvp`` runs its rule under the same switch, for the same reason.
3. ``jvp`` first takes this level's tangent off what was saved; otherwise the rule, which is written
   in differentiable ops, would differentiate itself.

A rule calls only ops that have rules: primitives and PyTorch's.  So every order comes out.
The private names of PyTorch that this takes are in `transforms`.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tsgu_func.registration import transforms
from tsgu_func.registration.batching import Fold
from tsgu_func.registration.rules import GIVEN, ByName, Joint, LinearRule, Rule, parameters_of

__all__ = ["Primitive"]

_libraries: dict[str, torch.library.Library] = {}


class Primitive:
    """An op with a kernel, a shape rule, derivative rules and a batching rule.

    Rules ask for what they use **by name**: arguments of the op, or what is named below.  Only
    that is kept for the derivative, so memory and in-place checks are as tight as in PyTorch.

    ``ct``
        cotangent of the output; ``cts``: a tuple, for several outputs (``None`` is zero)
    ``tangent``
        tangent of the rule's argument; ``tangents``: a tuple, for a rule of several arguments
        (``None`` is zero)
    ``out``
        the output; ``outs``: a tuple, for several outputs
    ``needs``
        for a vjp rule of several arguments: which of them are asked for

    Parameters
    ----------
    schema : str
        ``"namespace::name(Tensor x, ..., int n) -> Tensor"``, in the language of
        ``torch.library``.  The op must be functional: no argument is modified, and no output
        shares memory with an input.
    groups : Mapping[str, Sequence[str]], optional
        Names for several arguments at once.  Wherever a rule, the kernel or the shape rule has a
        parameter of such a name, it gets these arguments as a tuple: with
        ``groups={"S": ("crow", "col", "cols")}`` a rule reads ``spmm(values, ct, *S)``.

    Examples
    --------
    A cube whose rules are written by hand:

    >>> import torch
    >>> from tsgu_func import Primitive
    >>> cube = Primitive("readme::cube(Tensor x) -> Tensor")
    >>> @cube.kernel
    ... def _(x):
    ...     return torch.from_numpy(x.numpy() ** 3)
    >>> @cube.fake
    ... def _(x):
    ...     return torch.empty_like(x)
    >>> @cube.vjp("x")
    ... def _(ct, x):
    ...     return 3 * ct * x * x
    >>> @cube.jvp("x")
    ... def _(tangent, x):
    ...     return 3 * tangent * x * x
    >>> cube.fold(x=0)
    >>> x = torch.tensor([1.0, 2.0])
    >>> torch.func.jacfwd(torch.func.jacfwd(lambda x: cube(x).sum()))(x)
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """

    def __init__(self, schema: str, *, groups: Mapping[str, Sequence[str]] | None = None) -> None:
        namespace, sep, signature = schema.partition("::")
        if not sep or not namespace.isidentifier():
            raise ValueError(
                f"a schema starts with its namespace, as in 'mylib::op(Tensor x) -> Tensor'; "
                f"got {schema!r}"
            )
        name = signature.partition("(")[0].strip()
        self.name = f"{namespace}::{name}"
        parsed = transforms.parse_schema(signature)
        self.arguments: tuple[str, ...] = tuple(a.name for a in parsed.arguments)
        self.groups = {name: tuple(members) for name, members in (groups or {}).items()}
        self._check_names()
        if namespace not in _libraries:
            _libraries[namespace] = torch.library.Library(namespace, "FRAGMENT")
        self._lib = _libraries[namespace]
        self._lib.define(signature)
        self.op = getattr(getattr(torch.ops, namespace), name).default
        self._tensors = tuple(str(a.type).startswith("Tensor") for a in self.op._schema.arguments)
        self._single = len(self.op._schema.returns) == 1
        self._vjps: dict[str, Joint] = {}
        self._jvps: dict[str, Joint] = {}
        self._batch: Callable[..., Any] | None = None
        self._retain: ByName | None = None
        self._fake: Rule = self._no_fake
        self._Arguments = _arguments_type(self.arguments, self.groups)
        self._function = _single_level_function(self)
        self._lib.impl(name, self._autograd, "Autograd", with_keyset=True)
        torch.library.register_vmap(self.name, self._vmap, lib=self._lib)
        self.__doc__ = f"``{schema}``"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the op."""
        return self.op(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Primitive({str(self.op._schema)!r})"

    def _check_names(self) -> None:
        if clash := GIVEN.intersection(self.arguments):
            raise ValueError(f"{self.name}: {sorted(clash)} name what rules are given; rename them")
        for name, members in self.groups.items():
            if name in self.arguments or name in GIVEN or not name.isidentifier():
                raise ValueError(
                    f"{self.name}: a group cannot be called {name!r}; choose an identifier that "
                    f"is neither an argument {self.arguments} nor one of {sorted(GIVEN)}"
                )
            if wrong := [m for m in members if m not in self.arguments]:
                raise ValueError(
                    f"{self.name}: the group {name!r} has the member {wrong[0]!r}, which is not an "
                    f"argument; the arguments are {self.arguments}"
                )

    # ------------------------------------------------------------------ what the op computes

    def kernel(self, function: Rule) -> Rule:
        """Register what computes the value, on every device that has no kernel of its own.

        It gets plain tensors, detached and without lazy conjugation, and must return new ones.
        Arguments are handed over in the order of the schema, so its parameters may have other
        names; if one of them is the name of a group, all are found by name.
        """
        return self._register_kernel("CompositeExplicitAutograd", function)

    def kernel_on(self, device: str) -> Callable[[Rule], Rule]:
        """Register the kernel of one type of device, as in ``@op.kernel_on("cuda")``."""
        return lambda function: self._register_kernel(device.upper(), function)

    def _register_kernel(self, key: str, function: Rule) -> Rule:
        compute = self._called_in_order(function)

        def detached(*args: Any) -> Any:
            plain = [a.detach() if isinstance(a, Tensor) else a for a in args]
            with torch.no_grad(), transforms.as_outside():
                try:
                    return compute(*plain)
                except (ValueError, torch.linalg.LinAlgError):
                    if not transforms.only_traced():
                        raise
                    return self._unknown(plain)

        self._lib.impl(self.op._schema.name, detached, key)
        return function

    def _unknown(self, args: Sequence[Any]) -> Any:
        """Return outputs full of NaN.

        What runs while a graph is traced may be placeholders (``torch.func.linearize`` hands over
        uninitialized memory), and nobody sees what comes out.  A kernel that refuses such values
        must not end the trace; it will judge the real ones when the graph runs.
        """
        outs = self._fake(*args)
        several = (outs,) if self._single else outs
        for out in several:
            out.fill_(torch.nan if out.is_floating_point() or out.is_complex() else 0)
        return outs

    def _called_in_order(self, function: Rule) -> Rule:
        """Let a function that asks for a group be called with the arguments in their order."""
        if not self.groups or self.groups.keys().isdisjoint(parameters_of(function)):
            return function
        named = self._by_name(function, {name: i for i, name in enumerate(self.arguments)})
        return lambda *args: named(args)

    def fake(self, function: Rule) -> Rule:
        """Register the shape rule: outputs with the right shape, dtype and device, without data."""
        self._fake = self._called_in_order(function)
        torch.library.register_fake(self.name, self._fake, lib=self._lib)
        return function

    def _no_fake(self, *args: Any) -> Any:
        raise NotImplementedError(f"{self.name} has no shape rule; register one with `fake`")

    def autocast(self, policy: str) -> None:
        """Say what autocast does with floating-point arguments.

        Parameters
        ----------
        policy : {"lower", "float32"}
            ``"lower"`` casts to the autocast dtype, as for matrix products; ``"float32"`` casts
            up, as for what would lose its accuracy.  float64 and complex tensors stay as they are.
        """
        if policy not in ("lower", "float32"):
            raise ValueError(f"{self.name}: policy is 'lower' or 'float32', got {policy!r}")
        for device in ("cpu", "cuda"):
            key = f"Autocast{device.upper()}"
            self._lib.impl(self.op._schema.name, self._autocast_kernel(device, policy), key)

    def _autocast_kernel(self, device: str, policy: str) -> Rule:
        def cast(a: Any) -> Any:
            if not isinstance(a, Tensor) or not a.is_floating_point() or a.dtype == torch.float64:
                return a
            return a.to(torch.get_autocast_dtype(device) if policy == "lower" else torch.float32)

        def kernel(*args: Any) -> Any:
            with torch.autocast(device, enabled=False):
                return self.op(*map(cast, args))

        return kernel

    # ------------------------------------------------------------------ its derivatives

    def vjp(self, *arguments: str) -> Callable[[Rule], Rule]:
        """Register the cotangent of one argument, or of several that share work.

        The rule of one returns its cotangent; that of several gets ``needs`` and returns a tuple,
        with ``None`` where nothing is needed.
        """
        return self._joint(self._vjps, arguments)

    def jvp(self, *arguments: str) -> Callable[[Rule], Rule]:
        """Register the tangent of the output for one argument, or for several at once.

        The contributions of rules for different arguments are added.
        """
        return self._joint(self._jvps, arguments)

    def linear_in(self, *arguments: str) -> None:
        """Derive the jvp of arguments in each of which the op is linear."""
        for name in arguments:
            self._joint(self._jvps, (name,))(LinearRule(self.op, self.arguments, name))

    def retain(self, function: Rule) -> Rule:
        """Say what must stay alive as long as a derivative may be taken: it asks by name, too."""
        self._retain = self._by_name(function, {name: name for name in self.arguments})
        return function

    def _by_name(self, function: Rule, places: Mapping[str, Any]) -> ByName:
        try:
            return ByName(function, places, self.groups)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _joint(self, table: dict[str, Joint], arguments: Sequence[str]) -> Callable[[Rule], Rule]:
        for name in arguments:
            if name not in self.arguments:
                raise ValueError(f"{self.name} has no argument {name!r}, only {self.arguments}")

        places = {name: name for name in (*self.arguments, *sorted(GIVEN))}

        def register(rule: Rule) -> Rule:
            joint = Joint(tuple(arguments), self._by_name(rule, places))
            table.update(dict.fromkeys(arguments, joint))
            return rule

        return register

    # ------------------------------------------------------------------ its batches

    def batch(self, function: Rule) -> Rule:
        """Register a batching rule, written by hand.

        ``function(size, dims, args)`` gets the size of the mapped axis, where it stands in each
        argument (``dims.x`` is an ``int``, or ``None`` where ``x`` has no such axis) and the
        arguments (``args.x``); groups are there by their names, too.  It returns the output and
        where the axis stands in it, or a tuple of each for several outputs.
        """
        self._batch = function
        return function

    def fold(self, *, columns: str | None = None, **ranks: int) -> None:
        """Derive the batching rule of an op that takes one leading batch axis, or none.

        Parameters
        ----------
        **ranks : int
            For each argument that may be mapped over, its number of axes without a batch.  The op
            must accept these arguments with one more axis in front, in all of them at once, and
            then put one in front of its outputs.  Rank 0 stands for an elementwise op.
        columns : str, optional
            An argument in whose last axis, and in the last axis of the output, entries do not
            interact (right-hand sides).  A batch of it alone becomes more columns of one call.
        """
        self._batch = Fold(self.name, self.op, self.arguments, ranks, columns)

    def _vmap(self, info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        if self._batch is None:
            raise NotImplementedError(
                f"{self.name} has no batching rule, so it does not work under vmap (nor under "
                f"jacrev, jacfwd, hessian); register one with `batch` or `fold`"
            )
        return self._batch(info.batch_size, self._Arguments(*in_dims), self._Arguments(*args))

    # ------------------------------------------------------------------ the registration

    def _autograd(self, keyset: Any, *args: Any) -> Any:
        if not transforms.is_recorded(args):
            return transforms.below_autograd(self.op, keyset, args)
        return transforms.record(self._function, keyset, args)

    def _missing(self, kind: str, argument: str, transforms: str) -> NotImplementedError:
        return NotImplementedError(
            f"{self.name} has no {kind} rule for its argument {argument!r}, so {transforms} with "
            f"respect to it cannot be computed; register one with `@primitive.{kind}({argument!r})`"
        )


def _single_level_function(primitive: Primitive) -> Any:
    """Build the autograd function that records a primitive at one level of the stack."""
    names, tensors = primitive.arguments, primitive._tensors

    def keep(ctx: Any, args: Sequence[Any], outs: Sequence[Tensor]) -> None:
        def used(table: dict[str, Joint], wanted: Sequence[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(n for a in wanted if a in table for n in table[a].rule.uses))

        def tensors_for(uses: Sequence[str]) -> list[Tensor]:
            kept: list[Any] = [given[n] for n in uses if n in tensor_names]
            return kept + list(outs) if "out" in uses or "outs" in uses else kept

        given = dict(zip(names, args, strict=True))
        tensor_names = {n for n, is_tensor in zip(names, tensors, strict=True) if is_tensor}
        ctx.given = {n: a for n, a in given.items() if n not in tensor_names}
        needed = [n for n, need in zip(names, ctx.needs_input_grad[1:], strict=True) if need]
        ctx.vjp_uses, ctx.jvp_uses = used(primitive._vjps, needed), used(primitive._jvps, names)
        ctx.save_for_backward(*tensors_for(ctx.vjp_uses))
        ctx.save_for_forward(*tensors_for(ctx.jvp_uses))
        if primitive._retain is not None:
            ctx.retained = primitive._retain(given)

    def restored(ctx: Any, uses: Sequence[str], saved: Sequence[Any]) -> dict[str, Any]:
        kept = [n for n in uses if n in names and n not in ctx.given]
        given = {**ctx.given, **dict(zip(kept, saved, strict=False))}
        outs = tuple(saved[len(kept) :])
        return {**given, "outs": outs, "out": outs[0] if len(outs) == 1 else outs}

    def forward(ctx: Any, keyset: Any, *args: Any) -> Any:
        with transforms.outer_levels_recording():
            result = transforms.below_autograd(primitive.op, keyset, args)
        outs = (result,) if primitive._single else result
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(
            *(o for o in outs if not (o.is_floating_point() or o.is_complex()))
        )
        keep(ctx, args, outs)
        return result

    def backward(ctx: Any, *cts: Tensor | None) -> Any:
        if all(ct is None for ct in cts):
            return (None,) * (1 + len(names))
        given = restored(ctx, ctx.vjp_uses, ctx.saved_tensors)
        given |= {"cts": cts, "ct": cts[0]}
        needed = dict(zip(names, ctx.needs_input_grad[1:], strict=True))
        results: dict[str, Any] = {}
        for name in (n for n in names if needed[n] and n not in results):
            if name not in primitive._vjps:
                raise primitive._missing("vjp", name, "reverse mode (backward, grad, vjp, jacrev)")
            joint = primitive._vjps[name]
            value = joint.rule(given | {"needs": tuple(needed[a] for a in joint.arguments)})
            several = value if len(joint.arguments) > 1 else (value,)
            results |= dict(zip(joint.arguments, several, strict=True))
        return None, *(results.get(n) if needed[n] else None for n in names)

    def jvp(ctx: Any, _keyset: Any, *tangents: Tensor | None) -> Any:
        primal = [transforms.without_tangent(t) for t in ctx.saved_tensors]
        moving = {n: t for n, t in zip(names, tangents, strict=True) if t is not None}
        if lacking := [n for n in moving if n not in primitive._jvps]:
            raise primitive._missing("jvp", lacking[0], "forward mode (jvp, jacfwd, hessian)")
        given = restored(ctx, ctx.jvp_uses, primal)
        total: tuple[Any, ...] | None = None
        with transforms.outer_levels_recording():
            for joint in dict.fromkeys(primitive._jvps[n] for n in moving):
                parts = tuple(moving.get(n) for n in joint.arguments)
                value = joint.rule(given | {"tangents": parts, "tangent": parts[0]})
                term = (value,) if primitive._single else value
                total = term if total is None else tuple(map(_plus, total, term))
        assert total is not None
        return total[0] if primitive._single else total

    rules = {"forward": forward, "backward": backward, "jvp": jvp}
    members = {key: staticmethod(rule) for key, rule in rules.items()}
    return type(primitive.name.replace("::", "_"), (transforms.SingleLevelFunction,), members)


def _arguments_type(arguments: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Any:
    """Build the type of tuple that batching rules get: fields by name, and groups."""

    def group(members: Sequence[str]) -> property:
        return property(lambda given: tuple([getattr(given, name) for name in members]))

    fields = namedtuple("Arguments", arguments)
    members = {name: group(members) for name, members in groups.items()}
    return type("Arguments", (fields,), {"__slots__": (), **members})


def _plus(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return x if y is None else y if x is None else x + y
