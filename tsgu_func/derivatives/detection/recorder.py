"""Recording what a function does with tensors that are seeded, and which of it depends on them.

Below all transforms, every op is met.  One that touches nothing unknown runs as it is: what is
computed of constants is known.  One that touches the inputs runs on tensors without numbers, so
that nothing that is found depends on them.  One that touches what is seeded is recorded.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from tsgu_func.derivatives.detection import rules
from tsgu_func.derivatives.detection.dense import dense
from tsgu_func.derivatives.detection.memory import Memory
from tsgu_func.derivatives.detection.nodes import Operand
from tsgu_func.derivatives.detection.sets import Sets, nothing
from tsgu_func.registration import transforms
from tsgu_func.registration.transforms import pytree

__all__ = ["Recorder"]


class Recorder(transforms.DispatchMode):
    """A mode in which ops on seeded tensors are recorded.

    Parameters
    ----------
    memory : Memory
        What storages hold; some are seeded.
    unknown : {"error", "dense"}
        What becomes of an op without a rule.
    """

    def __init__(self, memory: Memory, unknown: str) -> None:
        super().__init__()
        self.memory, self.unknown = memory, unknown

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        # What asks for a device or a layout is called where PyTorch cannot raise an error.
        if torch.Tag.inplace_view in func.tags or func.namespace == "prim":
            return func(*args, **kwargs)
        seeded = any(self.memory.read(x) is not None for x in given)
        if not any(map(self.memory.is_numberless, given)) and not _is_random(func):
            return _run(func, args, kwargs, given)
        _check_layouts(func, given)
        seeded = seeded and not rules.is_independent(func)
        simpler = rules.with_positions(func, args, kwargs, self.memory.is_numberless)
        if simpler is None and seeded:
            simpler = rules.simpler(func, args, kwargs)
        if simpler is not None:
            with self:
                done = simpler()
            if done is not NotImplemented:
                return done
        return self._shaped(func, args, kwargs, seeded)

    def _shaped(self, func: Any, args: Any, kwargs: Any, seeded: bool) -> Any:
        """Run an op for the shape of what it returns; record it, if that depends on the seeds."""
        memory, written = self.memory, _written_to(func, args, kwargs)
        for x in written:
            memory.forget_numbers(x)
        given = self._operands(func, args, kwargs) if seeded else {}
        plain, named = pytree.tree_map(memory.current, (args, kwargs))
        try:
            with transforms.without_log(), memory.placeholders:
                out = func(*plain, **named)
        except Exception as error:
            if transforms.asks_for_numbers(error):
                raise _branches(func, seeded) from None
            raise
        _check_layouts(func, _tensors(out))
        if not seeded:
            choices = rules.choices_of(func, _named(func, plain, named), out)
            memory.note_choices(choices, out)
        # What a view shows is found where it lies; an op that says it may return one may copy, too.
        elif not rules.is_view(func) or not memory.share(_tensors(out), _tensors((plain, named))):
            if not written:
                out = memory.apart(out, _tensors((plain, named)))
            self._record(func, given, out, [memory.current(x) for x in written])
        return _returned(func, written, out)

    def _record(self, func: Any, given: dict[str, Any], out: Any, written: list[Tensor]) -> None:
        """Record an op; what it has written to without returning it depends on all arguments."""
        returned = _tensors(_returned(func, written, out))
        others = [x for x in written if not any(x is y for y in returned)]
        outs, rest = ([Operand(tuple(x.shape), x.dtype) for x in xs] for xs in (returned, others))
        inputs, operands = self.memory.inputs, given["operands"]
        given |= {"op": func, "outs": outs, "out": outs[0] if outs else None, "inputs": inputs}
        compute = rules.computation(func, operands, self.unknown)

        def computed() -> list[Sets]:
            for x in operands:
                x.sets = nothing(x.count, inputs) if x.read is None else x.read.sets(inputs)
            found = compute(given) if outs else []
            found += dense({**given, "outs": rest})
            for x in operands:
                x.sets = None
            return found

        node = self.memory.node(computed, [x.read for x in operands if x.read is not None])
        for k, x in enumerate([*returned, *others]):
            self.memory.write(x, node, k)

    def _operands(self, func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        """Return the arguments of an op by name, tensors as operands."""
        operands: list[Operand] = []

        def operand(x: Any) -> Any:
            if isinstance(x, Tensor):
                x = self.memory.operand(x)
                operands.append(x)
            return x

        results = [a.name for a in func._schema.arguments if a.is_out]
        kwargs = {name: x for name, x in kwargs.items() if name not in results}
        named = _named(func, *pytree.tree_map(operand, (args, kwargs)))
        return named | {"operands": operands}


def _run(func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
    """Run an op whose arguments are known."""
    lazy = any(x.is_conj() or x.is_neg() for x in given)
    with transforms.as_outside() if lazy else contextlib.nullcontext():
        return func(*args, **kwargs)


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of an op by name, with defaults."""
    schema = func._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    return given | dict(zip((a.name for a in schema), args, strict=False)) | dict(kwargs)


def _check_layouts(func: Any, given: list[Tensor]) -> None:
    for x in given:
        if x.layout is not torch.strided:
            raise ValueError(  # of a TypeError, operators of Python tell nothing
                f"f hands over a tensor of layout {x.layout} to {func._schema.name}, or takes it "
                f"from there, which has no derivative under transforms: let it use "
                f"SparseMatrix.from_torch of that tensor"
            )


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]


def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _written_to(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the arguments that an op writes to."""
    schema = func._schema.arguments
    places = [(k, a.name) for k, a in enumerate(schema) if a.alias_info and a.alias_info.is_write]
    found = [args[k] if k < len(args) else kwargs.get(name) for k, name in places]
    return _tensors(found)


def _returned(func: Any, written: list[Tensor], out: Any) -> Any:
    """Return what an op returns, but what it has written to as it was handed over."""
    if not written or out is None:
        return out
    rest = iter(written)
    several = isinstance(out, (tuple, list))
    found = [
        next(rest) if value.alias_info is not None and value.alias_info.is_write else x
        for value, x in zip(func._schema.returns, out if several else [out], strict=True)
    ]
    return type(out)(found) if several else found[0]


def _branches(func: Any, recorded: bool) -> ValueError:
    if recorded:
        return ValueError(
            f"the derivative of f depends on its tangent by {func._schema.name}, which is not "
            f"linear; it has no sparsity pattern"
        )
    return ValueError(
        f"f looks at numbers that depend on its inputs or are drawn at random, to branch on them, "
        f"to decide on a shape, or to index with a single one ({func._schema.name}), so no "
        f"sparsity pattern is known to be right for all inputs: use torch.where, masks, or an "
        f'index with an axis in f; or pass detect="local" for the pattern at this input, which '
        f"need not hold for others"
    )
