"""How the loops in this folder are compiled: at the first call for a dtype, and kept on disk.

Numba judges by the file of a function alone whether what it kept is up to date, older versions of
it by size and time of that file.  But a loop is made of functions, constants and options of several
files.  So each carries a stamp of the contents of all of them in the name that it is kept by: what
is found there was compiled from these sources.
"""

import functools
import hashlib
import warnings
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numba
import numpy as np

__all__ = ["ONE", "compiled", "compiled_as_written"]

# Places are unsigned, and an unsigned number plus a signed one would be a float.
ONE = np.uint64(1)


@functools.cache
def _stamp() -> str:
    """Return a stamp of all sources in this folder; an application that is frozen has none."""
    folder = files(__name__.rpartition(".")[0])
    sources = [x for x in folder.iterdir() if x.name.endswith(".py")] if folder.is_dir() else []
    contents = [x.read_bytes() for x in sorted(sources, key=lambda x: x.name)]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]


def _compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles with these options, beside those that all loops have."""
    options |= {"nogil": True, "error_model": "numpy"}

    def compiled(function: Callable[..., Any]) -> Any:
        function.__qualname__ += f"_{_stamp()}"
        try:
            return numba.njit(function, cache=True, **options)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _warn_of_no_place()
            return numba.njit(function, **options)

    return compiled


@functools.cache
def _warn_of_no_place() -> None:
    warnings.warn(
        "there is no place to keep compiled loops: neither the folder that tsgu_func is installed "
        "in nor a cache folder in your home can be written to.  So each process compiles them "
        "again, which takes seconds; set NUMBA_CACHE_DIR to a folder that can be written to",
        RuntimeWarning,
        stacklevel=1,
    )


# Sums of products may be reordered, which is what lets them use vector instructions; NaN and
# infinity keep their meaning.
compiled = _compiler(fastmath={"reassoc", "nsz", "contract"})
compiled_as_written = _compiler()
