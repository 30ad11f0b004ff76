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

import contextlib
import secrets
import sys
import weakref
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tsgu_func.registration import transforms
from tsgu_func.registration.batching import Fold
from tsgu_func.registration.fresh import check_fresh, memory, storage
from tsgu_func.registration.recording import Plans, single_level_function
from tsgu_func.registration.rules import GIVEN, ByName, Joint, LinearRule, Rule, asks_by_name
from tsgu_func.registration.signature import Signature

__all__ = ["Primitive", "primitive_of"]

_defined: dict[str, Primitive] = {}
_stays: list[torch.library.Library] = []


class Primitive:
    """An op with a kernel, a shape rule, derivative rules and a batching rule.

    A rule says **by the names of its parameters** what it wants to be given.  It may name arguments
    of the op, and what follows.  Only what is named is kept until the derivative is taken, so
    memory and checks of changes in place are as tight as in PyTorch.

    ``ct``
        The cotangent of the output.  For several outputs ``cts``, a tuple with ``None`` for zero.
    ``tangent``
        The tangent of the argument that the rule is for.  For a rule of several arguments
        ``tangents``, a tuple with ``None`` for zero.
    ``out``
        The output.  For several outputs ``outs``, a tuple.
    ``needs``
        For a vjp rule of several arguments: which of their cotangents are wanted.

    Tensors that a rule uses have to be arguments of the op.  A rule that takes one from outside
    cannot be compiled.

    Parameters
    ----------
    schema : str
        ``"namespace::name(Tensor x, ..., int n) -> Tensor"``, in the language of
        ``torch.library``.  The op must be functional: it modifies no argument, and no output
        shares memory with an input.
    groups : Mapping[str, Sequence[str]], optional
        Names that stand for several arguments.  If a rule, the kernel or the shape rule has a
        parameter of such a name, it gets these arguments as a tuple.  With
        ``groups={"S": ("crow", "col", "cols")}`` a rule can read ``spmm(values, ct, *S)``.

    Examples
    --------
    A cube:

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
        self.signature = Signature(self.name, signature)
        self.arguments = self.signature.arguments
        self.groups = {name: tuple(members) for name, members in (groups or {}).items()}
        self._check_names()
        self._module = sys._getframe(1).f_globals.get("__name__")
        self._define(namespace, name, signature)
        self._apply = self.signature.in_order(self.op)
        self._redispatch = self.signature.in_order(self.op.redispatch, before=1)
        self._vjps: dict[str, Joint] = {}
        self._jvps: dict[str, Joint] = {}
        self._plans = Plans(self)
        self._batch: Callable[..., Any] | None = None
        self._retain: ByName | None = None
        self._dependences: dict[str, ByName] = {}
        self._fake: Rule = self._no_fake
        self._Arguments = _arguments_type(self.arguments, self.groups)
        self._function = single_level_function(self)
        self._lib.impl(name, self._autograd, "Autograd", with_keyset=True)
        torch.library.register_vmap(self.name, self._vmap, lib=self._lib)
        self._schema = schema
        self.__doc__ = f"``{schema}``"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the op."""
        return self.op(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Primitive({self._schema!r})"

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

    def _check_current(self) -> None:
        if _defined[self.name] is not self:
            raise RuntimeError(
                f"{self.name} has been defined again: this is its old definition, whose rules and "
                f"recorded results count no more; compute them again with the new one"
            )

    def _define(self, namespace: str, name: str, signature: str) -> None:
        """Define the op; where a notebook's cell is run again, in the place of the one before.

        Whoever holds the old definition calls the new op from now on.  A namesake in another module
        is no such thing, and PyTorch refuses it.
        """
        self._former: weakref.WeakSet[Primitive] = weakref.WeakSet()
        before = _defined.get(self.name)
        if before is not None and before._module == self._module:
            self._former.update((before, *before._former))
            transforms.destroy(before._lib)
            # What the compiler keeps on disk, it finds by the names of ops, whatever their rules.
            torch.compiler.config.cache_key_tag = secrets.token_hex(8)
        self._lib = torch.library.Library(namespace, "FRAGMENT")
        self._lib.define(signature)
        if before is None:
            # Graphs may hold an op while it is defined again, so something of it always stays.
            _stays.append(torch.library.Library(namespace, "IMPL"))
            _stays[-1].impl(name, torch.library.fallthrough_kernel, "AutogradPrivateUse3")
        self.op = getattr(getattr(torch.ops, namespace), name).default
        for former in self._former:
            former.op = self.op
        _defined[self.name] = self

    # ------------------------------------------------------------------ what the op computes

    def kernel(self, function: Rule) -> Rule:
        """Register the function that computes the value, on devices without a kernel of their own.

        It gets plain tensors, detached and without lazy conjugation, and must return new ones.
        It is called with the arguments in the order of the schema, so its parameters may have
        other names.  But if one of them is the name of a group, or is keyword-only, all of them
        are found by name.
        """
        return self._register_kernel("CompositeExplicitAutograd", function)

    def kernel_on(self, device: str) -> Callable[[Rule], Rule]:
        """Register the kernel for one type of device, as in ``@op.kernel_on("cuda")``."""
        return lambda function: self._register_kernel(device.upper(), function)

    def _register_kernel(self, key: str, function: Rule) -> Rule:
        self._check_current()
        compute = self._called_in_order(function)

        def detached(*args: Any, **kwargs: Any) -> Any:
            plain = self.signature.detached(self.signature.complete(args, kwargs))
            whole = transforms.is_outside() and not transforms.only_traced()
            outs = transforms.unrecorded(compute if whole else self._traced(compute), plain)
            self._check_fresh("kernel", plain, outs, memory)
            return outs

        self._lib.impl(self.name, detached, key)
        return function

    def _traced(self, compute: Rule) -> Rule:
        """Compute where a graph is traced, or dispatch keys are switched off."""

        def computed(*args: Any) -> Any:
            with contextlib.nullcontext() if transforms.is_outside() else transforms.as_outside():
                try:
                    return compute(*args)
                except (ValueError, torch.linalg.LinAlgError):
                    if not transforms.only_traced():
                        raise
                    return self._unknown(args)

        return computed

    def _unknown(self, args: Sequence[Any]) -> Any:
        """Return outputs full of NaN.

        What runs while a graph is traced may be placeholders (``torch.func.linearize`` hands over
        uninitialized memory), and nobody sees what comes out.  A kernel that refuses such values
        must not end the trace; it will judge the real ones when the graph runs.
        """
        outs = self._fake(*args)
        for out in self._several(outs):
            out.fill_(torch.nan if out.is_floating_point() or out.is_complex() else 0)
        return outs

    def _several(self, outs: Any) -> Any:
        return (outs,) if self.signature.outputs == 1 else outs

    def _check_fresh(self, what: str, args: Sequence[Any], outs: Any, place: Rule) -> None:
        names, given = self.signature.given(args)
        check_fresh(f"{self.name}: the {what}", names, given, self._several(outs), place)

    def _called_in_order(self, function: Rule) -> Rule:
        """Let a function that asks by name be called with the arguments in their order."""
        if not asks_by_name(function, self.arguments, self.groups):
            return function
        named = self._by_name(function, {name: i for i, name in enumerate(self.arguments)})
        return lambda *args: named(args)

    def fake(self, function: Rule) -> Rule:
        """Register the shape rule, which returns outputs of the right kind, but without values."""
        self._check_current()
        shapes = self._called_in_order(function)

        def fake(*args: Any, **kwargs: Any) -> Any:
            args = tuple(self.signature.complete(args, kwargs))
            outs = shapes(*args)
            self._check_fresh("shape rule", args, outs, storage)
            return outs

        self._fake = fake
        torch.library.register_fake(self.name, fake, lib=self._lib)
        return function

    def _no_fake(self, *args: Any) -> Any:
        raise NotImplementedError(f"{self.name} has no shape rule; register one with `fake`")

    def autocast(self, policy: str) -> None:
        """Say what ``torch.autocast`` does with floating-point arguments.

        Parameters
        ----------
        policy : {"lower", "float32"}
            ``"lower"`` casts them to the dtype of autocast, as for matrix products.  ``"float32"``
            casts them up, as for ops that would lose their accuracy.  float64 and complex tensors
            stay as they are.
        """
        if policy not in ("lower", "float32"):
            raise ValueError(f"{self.name}: policy is 'lower' or 'float32', got {policy!r}")
        for device in ("cpu", "cuda"):
            key = f"Autocast{device.upper()}"
            self._lib.impl(self.name, self._autocast_kernel(device, policy), key)

    def _autocast_kernel(self, device: str, policy: str) -> Rule:
        def cast(a: Any) -> Any:
            if not isinstance(a, Tensor) or not a.is_floating_point() or a.dtype == torch.float64:
                return a
            return a.to(torch.get_autocast_dtype(device) if policy == "lower" else torch.float32)

        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, enabled=False):
                return self.op(*(_each(cast, a) for a in args), **kwargs)

        return kernel

    # ------------------------------------------------------------------ its derivatives

    def vjp(self, *arguments: str) -> Callable[[Rule], Rule]:
        """Register the rule for reverse mode, of one argument or of several that share work.

        The rule of one argument returns its cotangent.  A rule of several arguments can ask for
        ``needs``, and returns a tuple of cotangents, with ``None`` for those that are not needed.
        """
        return self._joint(self._vjps, arguments)

    def jvp(self, *arguments: str) -> Callable[[Rule], Rule]:
        """Register the rule for forward mode, of one argument or of several that share work.

        It returns the tangent of the output.  If there are several rules, for different arguments,
        their results are added.
        """
        return self._joint(self._jvps, arguments)

    def linear_in(self, *arguments: str) -> None:
        """Derive the rule for forward mode, for arguments in each of which the op is linear."""
        for name in arguments:
            is_list = name in self.signature.lists
            rule = LinearRule(self._apply, self.arguments, name, is_list)
            self._joint(self._jvps, (name,))(rule)

    def retain(self, function: Rule) -> Rule:
        """Name, by parameters, what must stay alive as long as a derivative may be taken."""
        self._retain = self._by_name(function, {name: name for name in self.arguments})
        return function

    def dependence(self, argument: str) -> Callable[[Rule], Rule]:
        """Say which elements of the output depend on which of an argument.

        `jacobian_pattern` needs it.  Without such a rule, each element of the output depends on all
        of the argument; but if `fold` says that members of a batch, or columns, do not interact,
        they do not.

        The rule says by the names of its parameters what it wants, as other rules do; ``out`` may
        be among them.  It gets tensors on the "meta" device, without numbers, except that tensors
        of integers and truth values come with their numbers, on the CPU.  It returns two tensors
        that broadcast: positions in the output, and positions in the argument, both counted as
        ``ravel`` does.  Each pair means that this element of the output depends on that element of
        the argument.  For several outputs it returns a tuple of such pairs, with ``None`` for an
        output that depends on all elements.
        """
        if argument not in self.signature.tensors or argument in self.signature.lists:
            raise ValueError(f"{self.name} has no argument {argument!r} that is one tensor")
        places = {name: name for name in (*self.arguments, "out", "outs")}

        def register(rule: Rule) -> Rule:
            self._dependences[argument] = self._by_name(rule, places)
            return rule

        return register

    def _by_name(self, function: Rule, places: Mapping[str, Any]) -> ByName:
        self._check_current()
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
            self._plans.clear()
            return rule

        return register

    # ------------------------------------------------------------------ its batches

    def batch(self, function: Rule) -> Rule:
        """Register a batching rule that is written by hand.

        It is called as ``function(size, dims, args)``.  ``size`` is the size of the axis that is
        mapped over.  ``args.x`` is the argument ``x``, and ``dims.x`` says which of its axes is the
        mapped one, or is ``None`` if it has no such axis.  Groups have their names there, too.  The
        rule returns the output and the position of the mapped axis in it; for several outputs, a
        tuple of outputs and a tuple of positions.
        """
        self._check_current()
        self._batch = function
        return function

    def fold(self, *, columns: str | None = None, **ranks: int) -> None:
        """Derive the batching rule of an op that takes one leading batch axis, or none.

        Parameters
        ----------
        **ranks : int
            For each argument that may be mapped over, how many axes it has without a batch.  The
            op must accept these arguments with one more axis in front, in all of them at once,
            and then return outputs with one more axis in front.  Rank 0 stands for an
            elementwise op.
        columns : str, optional
            An argument whose columns, along its last axis, do not interact, and become the
            columns of the output, as the right-hand sides of a solve do.  If only this argument
            is mapped over, the batch becomes more columns of a single call.
        """
        self.batch(Fold(self.name, self._apply, self.arguments, ranks, columns))

    def _vmap(self, info: Any, in_dims: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if self._batch is None:
            raise NotImplementedError(
                f"{self.name} has no batching rule, so it does not work under vmap (nor under "
                f"jacrev, jacfwd, hessian); register one with `batch` or `fold`"
            )
        args = tuple(self.signature.complete(args, kwargs))
        dims = *in_dims, *(None for _ in args[len(in_dims) :])
        return self._batch(info.batch_size, self._Arguments(*dims), self._Arguments(*args))

    # ------------------------------------------------------------------ the registration

    def _autograd(self, keyset: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(self.signature.complete(args, kwargs))
        flat = self.signature.flat(args)
        if not transforms.is_recorded(flat):
            return transforms.below_autograd(self._redispatch, keyset, args)
        call = keyset, self.signature.lengths(args)
        return transforms.record(self._function, call, *flat)

    def _missing(self, kind: str, argument: str, transforms: str) -> NotImplementedError:
        return NotImplementedError(
            f"{self.name} has no {kind} rule for its argument {argument!r}, so {transforms} with "
            f"respect to it cannot be computed; register one with `@primitive.{kind}({argument!r})`"
        )


def primitive_of(op: Any) -> Primitive | None:
    """Return the primitive whose op this is; None for an op of somebody else."""
    return _defined.get(op._schema.name)


def _arguments_type(arguments: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Any:
    """Build the type of tuple that batching rules get: fields by name, and groups."""

    def group(members: Sequence[str]) -> property:
        return property(lambda given: tuple([getattr(given, name) for name in members]))

    fields = namedtuple("Arguments", arguments)
    members = {name: group(members) for name, members in groups.items()}
    return type("Arguments", (fields,), {"__slots__": (), **members})


def _each(function: Rule, value: Any) -> Any:
    """Apply a function to an argument, or to each tensor of a list."""
    return [*map(function, value)] if isinstance(value, list) else function(value)
