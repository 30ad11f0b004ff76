"""What this library asks of PyTorch's stack of transforms: all private names are in here.

tests/test_canaries.py tests each of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import _C, Tensor
from torch._C import _autograd, _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

__all__ = [
    "SingleLevelFunction",
    "as_outside",
    "below_autograd",
    "constant_when_traced",
    "destroy",
    "is_batched",
    "is_recorded",
    "is_tracing",
    "only_traced",
    "outer_levels_recording",
    "outside_transforms",
    "parse_schema",
    "record",
    "storage_number",
    "unwrapped",
    "without_tangent",
]

SingleLevelFunction = _SingleLevelFunction
parse_schema = _C.parse_schema

_PROXY = _C._TorchDispatchModeKey.PROXY  # pyright: ignore[reportAttributeAccessIssue]
_LAZY = ("Conjugate", "Negative", "ZeroTensor")
_NESTED = ("DynamicLayerFrontMode", "DynamicLayerBackMode", "GradWrapper")
_KEYS = [getattr(_C.DispatchKey, k) for k in (*_LAZY, *(f"FuncTorch{k}" for k in _NESTED))]
_traced = threading.local()  # whether this thread runs a kernel only to trace a graph


# ------------------------------------------------------------------------ recording and kernels


def is_recorded(args: Sequence[Any]) -> bool:
    """Whether anything watches what is done with these arguments: a transform, or autograd."""
    return (
        _C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and _C._any_requires_grad(*args))
    )


def record(function: Any, *args: Any) -> Any:
    """Apply a single-level autograd function."""
    with enable_single_level_autograd_function():
        return function.apply(*args)


def below_autograd(redispatch: Callable[..., Any], keyset: Any, args: Sequence[Any]) -> Any:
    """Call an op, by its ``redispatch``, below the level of autograd that calls this."""
    with _C._AutoDispatchBelowAutograd():
        if _C._get_dispatch_mode(_PROXY) is None:
            return redispatch(keyset & _C._after_autograd_keyset, *args)
        _traced.active = True
        try:
            return redispatch(keyset & _C._after_autograd_keyset, *args)
        finally:
            _traced.active = False


def only_traced() -> bool:
    """Whether a kernel runs in this thread for a graph alone, and nobody sees what it returns."""
    return getattr(_traced, "active", False)


@contextlib.contextmanager
def as_outside() -> Iterator[None]:
    """Let lazy conjugation, and transforms that a kernel applies, mean what they say inside of it.

    Where a graph is traced, a kernel is called from ``__torch_dispatch__``, with the dispatch keys
    that they need switched off: ``x.conj() * y`` would silently be ``x * y``.
    """
    if not _C._dispatch_tls_is_dispatch_key_excluded(_KEYS[0]):
        yield
        return
    with _C._PreserveDispatchKeyGuard():
        for key in _KEYS:
            _C._dispatch_tls_set_dispatch_key_excluded(key, False)
        yield


@contextlib.contextmanager
def outer_levels_recording() -> Iterator[None]:
    """Let the levels below this one see what runs, where there are any."""
    if not _C._are_functorch_transforms_active():
        yield
        return
    with torch.enable_grad(), _set_fwd_grad_enabled(True):
        yield


def without_tangent(x: Any) -> Any:
    """Take the tangent of the current level off."""
    # The level is named because the default is unset when a compiled graph is being traced.
    return forward_ad.unpack_dual(x, level=0).primal if isinstance(x, Tensor) else x


def destroy(library: torch.library.Library) -> None:
    """Take everything back that was registered with a library."""
    library._destroy()


def storage_number(x: Tensor) -> int:
    """Return what tells the storage of a tensor from others; the tensor need not have data."""
    return x.untyped_storage()._cdata


# ---------------------------------------------------------------------- the functorch stack


def outside_transforms() -> contextlib.AbstractContextManager[Any]:
    """Run a block as if no ``torch.func`` transform were active, and nothing traced or inferred.

    What is made in here can be kept: it belongs to no level, graph or mode that may end.
    Reading the parts of a closed-over CSR tensor under a transform raises "Sparse CSR tensors do
    not have strides"; in here it works, and indices can be looked at.  Eager autograd goes on.
    """
    stack = contextlib.ExitStack()
    stack.enter_context(torch.inference_mode(False))
    while (hooks := _autograd._top_saved_tensors_default_hooks(True)) is not None:  # checkpointing
        _autograd._pop_saved_tensors_default_hooks()
        stack.callback(_autograd._push_saved_tensors_default_hooks, *hooks)
    if _C._are_functorch_transforms_active():
        stack.enter_context(temporarily_clear_interpreter_stack())
    if is_tracing():
        # Imported here: it brings SymPy along.
        from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

        stack.enter_context(disable_proxy_modes_tracing())
    return stack


def is_tracing() -> bool:
    """Whether what runs is recorded as a graph: by the compiler, ``make_fx`` or ``linearize``."""
    return torch.compiler.is_compiling() or _C._get_dispatch_mode(_PROXY) is not None


def constant_when_traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the compiler call a function while it traces, and take the result as a constant.

    What ``torch.compiler.assume_constant_result`` does, without importing the compiler (a second).
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def is_batched(x: Tensor) -> bool:
    """Whether ``vmap`` maps over x, at any level."""
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


def unwrapped(x: Tensor) -> Tensor:
    """Return the tensor under all wrappers of ``torch.func``; its derivatives are lost."""
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return x
