"""The line of Python that reproduces a failing cell."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tsgu_func.matrix.sparse_matrix import SparseMatrix

__all__ = ["name_of", "program"]

_MOST = 64  # entries that are written out


def name_of(fn: Callable[..., Any]) -> str:
    """Return what to call a function in a report."""
    owner, name = getattr(fn, "__self__", None), getattr(fn, "__name__", None)
    if isinstance(owner, type) and name:  # the `apply` of a Function is its parent's
        return f"{owner.__name__}.{name}"
    whole = getattr(fn, "__qualname__", None) or getattr(fn, "name", None) or fn
    return str(name if name and str(whole).startswith("_") else whole)


def program(fn: Callable[..., Any], args: Any, **options: Any) -> str:
    """Return a line that runs a cell again: a whole program, where fn and args can be written.

    Otherwise a call with ``fn`` and ``args``, which the reader has.
    """
    settings = "".join(f", {name}={_option(value)}" for name, value in options.items())
    place, written = _importable(fn), _literal(args)
    if place is None or written is None:
        return f"check_rules(fn, args{settings}).raise_if_failed()"
    module, name = place
    line = (
        f"import torch; import tsgu_func; from {module} import {name.split('.')[0]}; "
        f"from tsgu_func.testing import check_rules; "
        f"check_rules({name}, {written}{settings}).raise_if_failed()"
    )
    return f"python -c {_quoted(line)}"


def _option(value: Any) -> str:
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, tuple):
        inside = ", ".join(map(_option, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)


def _quoted(line: str) -> str:
    return '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _importable(fn: Any) -> tuple[str, str] | None:
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        return None
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return (module, name) if found is fn else None


def _literal(tree: Any) -> str | None:
    """Write an argument as Python, if that is short."""
    if isinstance(tree, Tensor):
        return _tensor(tree)
    if isinstance(tree, SparseMatrix):
        values = _tensor(tree.values)
        if values is None:
            return None
        row, col = tree.pattern.row.tolist(), tree.pattern.col.tolist()
        return (
            f"tsgu_func.SparseMatrix.from_coo({row}, {col}, {values}, {tuple(tree.pattern.shape)})"
        )
    if type(tree) in (tuple, list):
        parts = _literals(tree)
        if parts is None:
            return None
        inside = ", ".join(parts)
        if type(tree) is list:
            return f"[{inside}]"
        return f"({inside},)" if len(parts) == 1 else f"({inside})"
    if type(tree) is dict:
        parts = _literals(list(tree.values()))
        if parts is None or not all(isinstance(k, (str, int)) for k in tree):
            return None
        return "{" + ", ".join(f"{k!r}: {v}" for k, v in zip(tree, parts, strict=True)) + "}"
    if isinstance(tree, (bool, int, str, torch.dtype, type(None))):
        return str(tree) if isinstance(tree, torch.dtype) else repr(tree)
    if isinstance(tree, float) and math.isfinite(tree):
        return repr(tree)
    return None


def _literals(trees: Sequence[Any]) -> list[str] | None:
    parts = [_literal(t) for t in trees]
    return None if None in parts else [p for p in parts if p is not None]


def _tensor(a: Tensor) -> str | None:
    if a.numel() > _MOST or a.layout != torch.strided:
        return None
    a = a.detach().cpu()
    moving = a.is_floating_point() or a.is_complex()
    if moving and not bool(torch.isfinite(a).all()):
        return None
    numbers = f"{a.tolist()}" if a.numel() else f"torch.empty({tuple(a.shape)}).tolist()"
    return f"torch.tensor({numbers}, dtype={a.dtype})"
