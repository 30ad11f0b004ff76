"""PyTorch's own database of operators, with arguments to call each with.

The module it is in is private, and is imported here alone.  To import this one takes seconds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optree
import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import SEED, set_rng_seed

__all__ = ["constants", "names", "samples"]

_SAMPLES = 2
_ENTRIES = 200  # of all arguments together: the whole derivative is no longer a matter of seconds

Sample = tuple[Callable[..., Any], tuple[Tensor, ...]]


def names(dtype: torch.dtype) -> list[str]:
    """Return the operators with a backward in a dtype, in the order of the database."""
    return list(
        dict.fromkeys(
            _name(op)
            for op in op_db
            if op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        )
    )


def samples(name: str, dtype: torch.dtype) -> Iterator[Sample]:
    """Yield functions of the tensors that an operator is differentiated by, and such tensors.

    The first of moderate size, wrapped as in PyTorch's own tests of gradients.
    """
    op = next(op for op in op_db if _name(op) == name)
    torch.manual_seed(0)
    random.seed(0)
    yield from itertools.islice(
        filter(_moderate, (_sample(op, s) for s in _drawn(op, dtype))), _SAMPLES
    )


def constants(function: Callable[..., Any], args: Sequence[Tensor]) -> list[str]:
    """Name the results without a gradient, as the mean of a layer norm, if others have one."""
    out = function(*(a.clone().requires_grad_() for a in args))
    names = [accessor.codify("out") for accessor in optree.tree_accessors(out)]
    leaves = zip(names, optree.tree_leaves(out), strict=True)
    moves = {name: a.requires_grad for name, a in leaves if isinstance(a, Tensor)}
    return [name for name in moves if not moves[name]] if any(moves.values()) else []


def _drawn(op: Any, dtype: torch.dtype) -> Iterator[Any]:
    """Draw what ``op.sample_inputs`` does, which at each call looks for a unittest on the stack."""
    drawn = op.sample_inputs_func(op, "cpu", dtype, requires_grad=True, small_inputs_only=True)
    set_rng_seed(SEED)
    for sample in drawn:
        yield sample
        set_rng_seed(SEED)


def _name(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def _moderate(sample: Sample) -> bool:
    x = sample[1]
    strided = all(a.layout == torch.strided for a in x)
    return bool(x) and strided and 0 < sum(a.numel() for a in x) <= _ENTRIES


def _sample(op: Any, sample: Any) -> Sample:
    whole: Any = (sample.input, list(sample.args), dict(sample.kwargs))
    leaves, tree = optree.tree_flatten(whole)
    moving = [i for i, a in enumerate(leaves) if isinstance(a, Tensor) and a.requires_grad]

    def function(*x: Tensor) -> Any:
        every = list(leaves)
        for i, a in zip(moving, x, strict=True):
            every[i] = a
        first, args, kwargs = optree.tree_unflatten(tree, every)
        out = op.gradcheck_wrapper(op.get_op(), first, *args, **kwargs)
        return sample.output_process_fn_grad(out)

    function.__qualname__ = _name(op)
    return function, tuple(leaves[i].detach() for i in moving)  # pyright: ignore
