"""What the library makes has the dtype and the device that it names, not those of the day.

`torch.set_default_dtype` and `torch.set_default_device` are the caller's.  While `watching`, a
factory of torch that the library calls without naming what a default would decide is an error.  The
functions are replaced, because a `TorchFunctionMode` does not see what the kernel of an op calls.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

LIBRARY = Path(__file__).resolve().parent.parent / "tsgu_func"
USERS = tuple(str(LIBRARY / name) for name in ("testing", "demo", "bench", "selfcheck"))

FLOATING = ("empty", "eye", "linspace", "logspace", "ones", "rand", "randn", "zeros")
WHOLE = ("randint", "randperm", "tril_indices", "triu_indices")
BY_DATA = ("arange", "as_tensor", "asarray", "full", "scalar_tensor", "tensor")
SPARSE = tuple(f"sparse_{layout}_tensor" for layout in ("coo", "csr", "csc", "compressed"))


def _holds_floats(data: Any) -> bool:
    """Return whether PyTorch would ask the default for the dtype of some Python data."""
    if isinstance(data, list | tuple):
        return any(map(_holds_floats, data))
    return isinstance(data, float | complex)


def _missing(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> list[str]:
    missing = [] if named.get("device") is not None else ["device"]
    needs_dtype = name in FLOATING or (name in BY_DATA and _holds_floats(args))
    return missing + ["dtype"] * (needs_dtype and named.get("dtype") is None)


def _watched(name: str, factory: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        if not torch.compiler.is_compiling():
            frame = sys._getframe(1)
            path = frame.f_code.co_filename
            if path.startswith(str(LIBRARY)) and not path.startswith(USERS):
                missing = _missing(name, args, named)
                assert not missing, (
                    f"{path}:{frame.f_lineno}: torch.{name} names no {' and no '.join(missing)}"
                )
        return factory(*args, **named)

    call.__name__ = name
    return call


@contextmanager
def watching() -> Iterator[None]:
    """Watch the factories of torch."""
    # At the first jvp PyTorch compiles rules of its own, which call the factories.
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))
    names = (*FLOATING, *WHOLE, *BY_DATA, *SPARSE)
    kept = {name: getattr(torch, name) for name in names}
    for name, factory in kept.items():
        setattr(torch, name, _watched(name, factory))
    try:
        yield
    finally:
        for name, factory in kept.items():
            setattr(torch, name, factory)
