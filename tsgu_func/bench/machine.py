"""On what it was measured: the machine, and the versions of all that takes part."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import tsgu_func

__all__ = ["describe", "version_or_none", "versions"]

_CPUS = Path("/proc/cpuinfo")


def describe(packages: Iterable[str]) -> dict[str, Any]:
    """Return the machine, its threads, and versions of this package and of others."""
    return {
        "machine": {
            "processor": _processor(),
            "processors": os.cpu_count() or 1,
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
        },
        "versions": versions(("torch", "numpy", "scipy", "numba", *packages)),
    }


def _processor() -> str:
    if _CPUS.exists():
        for line in _CPUS.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each that is installed."""
    found = {name: version_or_none(name) for name in packages}
    return {
        "tsgu_func": tsgu_func.__version__,
        "Python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
    }


def version_or_none(name: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
