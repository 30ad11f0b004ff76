"""The memory of this process that is resident, and its peak.

It counts what all libraries take, where PyTorch's profiler knows of its own tensors alone.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

__all__ = ["peak", "return_at_once", "since_reset", "still"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_THRESHOLD, _OF_MAPPING = 1 << 16, -3  # of an allocation that is given back on its own (mallopt)


def peak() -> int:
    """Return the largest resident size so far; 0 where the system does not tell, as Windows."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def return_at_once() -> None:
    """Have memory that is freed given back to the system, so that resident is what is in use.

    The allocator keeps up to 32 MB an allocation otherwise, for the next.
    """
    if not _RESET.exists():
        raise NotImplementedError(
            "peak memory is measured by /proc/self/clear_refs, which Linux has and "
            f"{sys.platform} has not"
        )
    ctypes.CDLL(None).mallopt(_OF_MAPPING, _THRESHOLD)


def still() -> int:
    """Forget the peak, and return the size that is resident now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")
    return _told("VmRSS")


def since_reset() -> int:
    """Return the largest resident size since the peak was forgotten."""
    return _told("VmHWM")


def _told(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise NotImplementedError(f"{_STATUS} does not tell {name}")
