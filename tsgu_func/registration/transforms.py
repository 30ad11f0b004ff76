"""What this library asks of PyTorch's stack of transforms: all private names are in here.

tests/test_canaries.py tests each of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = [
    "CALL_OF_FUNCTION",
    "OPS",
    "DispatchMode",
    "SingleLevelFunction",
    "all_members",
    "as_outside",
    "asks_for_numbers",
    "below_autograd",
    "constant_when_traced",
    "decomposition",
    "depth",
    "destroy",
    "first_member",
    "has_tangent",
    "has_tangent_at",
    "is_batched",
    "is_in_graph",
    "is_outside",
    "is_placeholder",
    "is_recorded",
    "is_tracing",
    "levels",
    "mark_static",
    "never_traced",
    "only_traced",
    "outer_levels_recording",
    "outside_old_vmap",
    "outside_transforms",
    "overloads",
    "parse_schema",
    "placeholders",
    "pytree",
    "record",
    "seen_by_autograd",
    "storage_number",
    "unrecorded",
    "untraced",
    "unwrapped",
    "without_log",
    "without_tangent",
]

P = ParamSpec("P")
T = TypeVar("T")


def _private(module: str, *names: str) -> Any:
    """Import a module of PyTorch that has all the private names that are used in here."""
    try:
        found = importlib.import_module(module)
        for name in names:
            operator.attrgetter(name)(found)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"tsgu_func cannot find what it needs in {module} of PyTorch {torch.__version__}: "
            f"{error}; this is tested with PyTorch 2.13, and meant for 2.12 and newer"
        ) from error
    return found


_LAZY = ("Conjugate", "Negative", "ZeroTensor")
_NESTED = ("DynamicLayerFrontMode", "DynamicLayerBackMode", "GradWrapper")
_AUTOGRAD = ("AutogradFunctionality", "AutogradOther", "ADInplaceOrView")
_NAMES = (*_LAZY, *(f"FuncTorch{key}" for key in _NESTED))
_C = _private(
    "torch._C",
    "_AutoDispatchBelowAutograd",
    "_PreserveDispatchKeyGuard",
    *(f"_TorchDispatchModeKey.{mode}" for mode in ("FAKE", "FUNCTIONAL", "PROXY")),
    "_after_autograd_keyset",
    "_any_requires_grad",
    "_are_functorch_transforms_active",
    "_dispatch_tls_is_dispatch_key_excluded",
    "_dispatch_tls_set_dispatch_key_excluded",
    "_get_dispatch_mode",
    "_set_grad_enabled",
    "_vmapmode_decrement_nesting",
    "_vmapmode_increment_nesting",
    "parse_schema",
    *(f"DispatchKey.{name}" for name in (*_NAMES, *_AUTOGRAD)),
)
_autograd = _private(
    "torch._C._autograd",
    "_pop_saved_tensors_default_hooks",
    "_push_saved_tensors_default_hooks",
    "_top_saved_tensors_default_hooks",
)
_functorch = _private(
    "torch._C._functorch",
    "get_dynamic_layer_stack_depth",
    "get_unwrapped",
    "is_batchedtensor",
    "is_functorch_wrapped_tensor",
    "maybe_get_bdim",
    "maybe_get_level",
    "peek_interpreter_stack",
    "TransformType.Jvp",
)
_functions = _private(
    "torch._functorch.autograd_function",
    "custom_function_call",
    "enable_single_level_autograd_function",
)
_interpreters = _private(
    "torch._functorch.pyfunctorch",
    "temporarily_clear_interpreter_stack",
    "temporarily_pop_interpreter_stack",
)
_forward = _private("torch.autograd.forward_ad", "_current_level", "_set_fwd_grad_enabled")
pytree = _private("torch.utils._pytree", "register_pytree_node")
_function = _private("torch.autograd.function", "_SingleLevelFunction")
_dispatch = _private("torch.utils._python_dispatch", "TorchDispatchMode", "_disable_current_modes")
_private("torch.library", "Library._destroy")
_ops = _private("torch._ops", "OpOverload", "OpOverloadPacket")
_private("torch", "UntypedStorage._cdata")

OPS = (_ops.OpOverload, _ops.OpOverloadPacket)
SingleLevelFunction: Any = _function._SingleLevelFunction
# What a function mode is told of an ``autograd.Function`` that is called under a transform.
CALL_OF_FUNCTION: Any = _functions.custom_function_call
DispatchMode: Any = _dispatch.TorchDispatchMode
parse_schema = _C.parse_schema
_PROXY = _C._TorchDispatchModeKey.PROXY
_FAKE, _FUNCTIONAL = _C._TorchDispatchModeKey.FAKE, _C._TorchDispatchModeKey.FUNCTIONAL
_KEYS = [getattr(_C.DispatchKey, name) for name in _NAMES]
_RECORDING = [getattr(_C.DispatchKey, name) for name in _AUTOGRAD]
_traced = (
    threading.local()
)  # whether this thread runs a kernel only to trace a graph, or in silence


# ------------------------------------------------------------------------ recording and kernels


def is_recorded(args: Sequence[Any]) -> bool:
    """Whether anything watches what is done with these arguments: a transform, or autograd."""
    return (
        _C._are_functorch_transforms_active()
        or _forward._current_level >= 0
        or (torch.is_grad_enabled() and _C._any_requires_grad(*args))
    )


def record(function: Any, *args: Any) -> Any:
    """Apply a single-level autograd function."""
    with _functions.enable_single_level_autograd_function():
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


def is_outside() -> bool:
    """Whether a kernel may run as it is.

    Where a graph is traced, it is called from ``__torch_dispatch__``, with the dispatch keys of
    lazy conjugation and of transforms switched off: ``x.conj() * y`` would silently be ``x * y``.
    """
    return not _C._dispatch_tls_is_dispatch_key_excluded(_KEYS[0])


@contextlib.contextmanager
def as_outside() -> Iterator[None]:
    """Let lazy conjugation, and transforms that a kernel applies, mean what they say inside of it.

    Where `is_outside` says yes, they do.
    """
    with _C._PreserveDispatchKeyGuard():
        for key in _KEYS:
            _C._dispatch_tls_set_dispatch_key_excluded(key, False)
        yield


def unrecorded(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Call a function with the recording of gradients off; ``no_grad`` takes longer to enter."""
    before = torch.is_grad_enabled()
    _C._set_grad_enabled(False)
    try:
        return function(*args)
    finally:
        _C._set_grad_enabled(before)


@contextlib.contextmanager
def seen_by_autograd(recorded: bool) -> Iterator[None]:
    """Let eager autograd see what runs inside of a kernel, which is called below it."""
    with (
        _C._PreserveDispatchKeyGuard(),
        torch.set_grad_enabled(recorded),
        _forward._set_fwd_grad_enabled(True),
    ):
        for key in _RECORDING:
            _C._dispatch_tls_set_dispatch_key_excluded(key, False)
        yield


def outer_levels_recording() -> contextlib.AbstractContextManager[Any]:
    """Let the levels below this one see what runs, where there are any."""
    return _recording() if _C._are_functorch_transforms_active() else _NOTHING


_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    with torch.enable_grad(), _forward._set_fwd_grad_enabled(True):
        yield


def without_tangent(x: Any) -> Any:
    """Take the tangent of the current level off."""
    # The level is named because the default is unset when a compiled graph is being traced.
    return _forward.unpack_dual(x, level=0).primal if isinstance(x, Tensor) else x


def destroy(library: torch.library.Library) -> None:
    """Take back everything that was registered with a library."""
    library._destroy()


def storage_number(x: Tensor) -> int:
    """Return what tells the storage of a tensor from others; the tensor need not have data."""
    return x.untyped_storage()._cdata


# ------------------------------------------------------- tensors without numbers, and their ops


def placeholders() -> Any:
    """Return a mode in which tensors have shape, dtype, strides and device, and no numbers.

    Tensors that are made in it are such; outside of it, so is what is computed of them, with
    others or alone.
    """
    module = _private("torch._subclasses.fake_tensor", "FakeTensorMode")
    return module.FakeTensorMode(allow_non_fake_inputs=True)


@contextlib.contextmanager
def without_log() -> Iterator[None]:
    """Let ops that fail on placeholders raise, and nothing else: PyTorch logs each of them."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    if _unlogged not in log.filters:
        log.addFilter(_unlogged)
    before, _traced.silent = getattr(_traced, "silent", False), True
    try:
        yield
    finally:
        _traced.silent = before


def _unlogged(record: logging.LogRecord) -> bool:
    return not getattr(_traced, "silent", False)


def is_placeholder(x: Tensor) -> bool:
    """Whether a tensor has no numbers."""
    return isinstance(x, _private("torch._subclasses.fake_tensor", "FakeTensor").FakeTensor)


def asks_for_numbers(error: Exception) -> bool:
    """Whether an op failed because what it returns depends on the numbers that are not there."""
    names = ("DataDependentOutputException", "DynamicOutputShapeException")
    module = _private("torch._subclasses.fake_tensor", *names)
    return isinstance(error, tuple(getattr(module, name) for name in names))


def overloads(function: Any) -> list[Any]:
    """Return the ops that a function of ``torch.ops``, one of `OPS`, may call."""
    if isinstance(function, _ops.OpOverload):
        return [function]
    return [getattr(function, name) for name in function.overloads()]


def decomposition(op: Any) -> Callable[..., Any] | None:
    """Return what computes the same as an op of PyTorch by simpler ones, where there is one."""
    tables = _private("torch._decomp", "core_aten_decompositions", "decomposition_table")
    found = _core_decompositions(tables).get(op) or tables.decomposition_table.get(op)
    if found is None and op._can_decompose():
        return op.decompose
    return found


@functools.cache
def _core_decompositions(tables: Any) -> dict[Any, Callable[..., Any]]:
    return dict(tables.core_aten_decompositions())


# ---------------------------------------------------------------------- the functorch stack


def outside_transforms() -> contextlib.AbstractContextManager[Any]:
    """Run a block as if no ``torch.func`` transform were active, and nothing traced or inferred.

    What is made in here can be kept: it belongs to no level, graph or mode that may end.
    Reading the parts of a closed-over CSR tensor under a transform raises "Sparse CSR tensors do
    not have strides"; in here it works, and indices can be looked at.  Eager autograd goes on.
    """
    stack = _untraced()
    if _C._are_functorch_transforms_active():
        stack.enter_context(_interpreters.temporarily_clear_interpreter_stack())
    return stack


@contextlib.contextmanager
def outside_old_vmap() -> Iterator[None]:
    """Run a block as if there were no ``is_grads_batched``, in which nothing is drawn at random."""
    count = _C._vmapmode_increment_nesting() - 1
    for _ in range(count + 1):
        _C._vmapmode_decrement_nesting()
    try:
        yield
    finally:
        for _ in range(count):
            _C._vmapmode_increment_nesting()


def untraced() -> contextlib.AbstractContextManager[Any]:
    """Run a block as if nothing were traced or inferred; transforms go on."""
    return _untraced()


def _untraced() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(torch.inference_mode(False))
    while (hooks := _autograd._top_saved_tensors_default_hooks(True)) is not None:  # checkpointing
        _autograd._pop_saved_tensors_default_hooks()
        stack.callback(_autograd._push_saved_tensors_default_hooks, *hooks)
    if any(_C._get_dispatch_mode(mode) is not None for mode in (_PROXY, _FAKE, _FUNCTIONAL)):
        stack.enter_context(_dispatch._disable_current_modes())
    return stack


def is_tracing() -> bool:
    """Whether what runs is recorded as a graph: by the compiler, ``make_fx`` or ``linearize``."""
    return torch.compiler.is_compiling() or _C._get_dispatch_mode(_PROXY) is not None


def is_in_graph(x: Tensor) -> bool:
    """Whether x is part of a graph that is traced, which may meet other numbers when it runs."""
    mode = _C._get_dispatch_mode(_PROXY)
    if mode is None:
        return False
    proxies = _private("torch.fx.experimental.proxy_tensor", "get_proxy_slot")
    return proxies.get_proxy_slot(unwrapped(x), mode.tracer, None) is not None


def constant_when_traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the compiler call a function while it traces, and take the result as a constant.

    What ``torch.compiler.assume_constant_result`` does, without importing the compiler (a second).
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def never_traced(function: Callable[P, T]) -> Callable[P, T]:
    """Let the compiler call a function as it is, wherever it meets it: a graph ends there."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            as_it_is: Any = torch.compiler.disable(function)
            return as_it_is(*args, **kwargs)
        return function(*args, **kwargs)

    return called


def mark_static(x: Tensor) -> None:
    """Tell the compiler that the shape of a tensor is constant, in whatever graph it is met.

    What ``torch._dynamo.mark_static`` does, without importing the compiler.  A graph that was
    compiled with dynamic sizes leaves a mark on what it keeps for its backward pass, and later
    graphs would take these for dynamic sizes of their own.
    """
    x._dynamo_static_indices = {*range(x.ndim)}  # pyright: ignore[reportAttributeAccessIssue]


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


def depth() -> int:
    """Return how many transforms are active."""
    return _functorch.get_dynamic_layer_stack_depth()


def levels(x: Tensor) -> Iterator[int]:
    """Go through the levels at which a tensor is wrapped; one that has ended is negative."""
    while _functorch.is_functorch_wrapped_tensor(x):
        yield _functorch.maybe_get_level(x)
        x = _functorch.get_unwrapped(x)


def first_member(x: Any) -> Any:
    """Return a tensor without wrappers and derivatives: of what `vmap` maps over, the first one."""
    if not isinstance(x, Tensor):
        return x
    axes = []
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            axes.append(_functorch.maybe_get_bdim(x))
        x = _functorch.get_unwrapped(x)
    with outside_transforms():
        for axis in reversed(axes):
            x = x.select(axis, 0)
        return x.detach()


def all_members(x: Tensor) -> Tensor:
    """Return a tensor without wrappers; what `vmap` maps over are its first axes."""
    axes = []
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            axes.append(_functorch.maybe_get_bdim(x))
        x = _functorch.get_unwrapped(x)
    # The innermost level was wrapped around last, and its axis counts among those that are left.
    with outside_transforms():
        for k, axis in enumerate(reversed(axes)):
            x = x.movedim(axis + k, k)
    return x


def has_tangent(x: Tensor | None) -> bool:
    """Whether eager forward mode moves x; for None, whether it is active."""
    if _forward._current_level < 0 or x is None:
        return _forward._current_level >= 0
    return _forward.unpack_dual(x, level=0).tangent is not None


def has_tangent_at(x: Tensor, level: int) -> bool:
    """Whether a level, which is active, is that of a ``jvp`` that moves x."""
    with contextlib.ExitStack() as stack:
        while depth() > level:
            stack.enter_context(_interpreters.temporarily_pop_interpreter_stack())
        if _functorch.peek_interpreter_stack().key() != _functorch.TransformType.Jvp:
            return False
        while _functorch.maybe_get_level(x) > level:
            x = _functorch.get_unwrapped(x)
        return _forward.unpack_dual(x, level=0).tangent is not None
