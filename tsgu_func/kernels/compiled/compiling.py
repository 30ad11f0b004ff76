"""How the loops in this folder are compiled: at the first call for a dtype, and kept on disk.

Numba judges by the file of a function alone whether what it kept is up to date, older versions of
it by size and time of that file.  But a loop is made of functions, constants and options of several
files.  So each carries a stamp of the contents of all of them in the name that it is kept by: what
is found there was compiled from these sources.

What is kept is machine code, so it carries a checksum too.  Where it cannot be read, or not be
kept, a loop is compiled in each process: that takes seconds, and is no reason to fail.

When a process has compiled for long, a record of the logger ``tsgu_func`` says so, once.  Without
a handler `logging` shows it on standard error, and no filter of warnings makes it an error.
"""

import functools
import hashlib
import logging
import pickle
import time
import warnings
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numba
import numpy as np
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile

__all__ = ["ONE", "compiled", "compiled_as_written"]

# Places are unsigned, and an unsigned number plus a signed one would be a float.
ONE = np.uint64(1)

_said: set[str] = set()  # what was warned of
_LONG = 2.0  # seconds of compiling until it is told


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
        loop: Any = numba.njit(function, **options)
        try:
            loop._cache = _Kept(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _warn(
                "there is no place to keep compiled loops: neither the folder that tsgu_func is "
                "installed in nor a cache folder in your home can be written to",
                "set NUMBA_CACHE_DIR to a folder that can be written to",
            )
        return loop

    return compiled


class _Kept(FunctionCache):
    """What is kept of a loop, if it is sound; what stands in the way is said once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        place, stamp = self._impl.locator.get_cache_path(), self._impl.locator.get_source_stamp()
        self._cache_file = _Checked(place, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load what is kept for a signature; None: nothing, or nothing sound."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling garbage may raise anything
            _warn(
                f"what is kept of compiled loops in {self.cache_path} cannot be read "
                f"({type(error).__name__}: {error})",
                "if it does not end with this, delete that folder",
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, in the place of what cannot be read."""
        try:
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # the index is garbage
                self.flush()
                super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            _warn(
                f"compiled loops cannot be kept in {self.cache_path} ({error})",
                "make room there, or set NUMBA_CACHE_DIR to another folder",
            )


class _Checked(IndexDataCacheFile):
    """Files with a checksum."""

    def _save_data(self, name: str, data: Any) -> None:
        kept = self._dump(data)
        super()._save_data(name, (_checksum(kept), kept))

    def _load_data(self, name: str) -> Any:
        checksum, kept = super()._load_data(name)
        if _checksum(kept) != checksum:
            raise ValueError(f"{name} has been changed")
        return pickle.loads(kept)


def _checksum(kept: bytes) -> bytes:
    return hashlib.sha256(kept).digest()


def _warn(what: str, cure: str) -> None:
    """Warn of something once, in whatever loop it is met first."""
    if cure not in _said:
        _said.add(cure)
        warnings.warn(
            f"{what}.  So they are compiled again, which takes seconds; {cure}",
            RuntimeWarning,
            stacklevel=2,
        )


class _Clock(event.Listener):
    """Seconds that this process has compiled loops of this folder, and what these call."""

    def __init__(self) -> None:
        self._depth, self._began, self._spent = 0, 0.0, 0.0
        self._loop: Any = None  # the one that all others are compiled for
        self._told = False

    def on_start(self, event: Any) -> None:
        """Begin with a loop of this folder, or go on with what it calls."""
        loop = event.data["dispatcher"]
        if self._depth == 0:
            if loop.py_func.__module__.rpartition(".")[0] != __name__.rpartition(".")[0]:
                return
            self._loop, self._began = loop, time.perf_counter()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        """Tell as soon as it has taken long: there are many functions in a loop."""
        if self._depth == 0:
            return
        self._depth -= 1
        spent = self._spent + time.perf_counter() - self._began
        if self._depth == 0:
            self._spent = spent
        if spent > _LONG and not self._told:
            self._told = True
            place = self._loop.stats.cache_path
            how = f"once for this machine: they are kept in {place}" if place else "again each time"
            logging.getLogger("tsgu_func").warning("tsgu_func compiles its loops, %s", how)


event.register("numba:compile", _Clock())


# Sums of products may be reordered, which is what lets them use vector instructions; NaN and
# infinity keep their meaning.
compiled = _compiler(fastmath={"reassoc", "nsz", "contract"})
compiled_as_written = _compiler()
