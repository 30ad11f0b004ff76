"""What ``python -m tsgu_func check`` is asked for, and the command line that asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEVICES", "DTYPES", "LIMIT", "ORDER", "SEED", "Asked", "spelled"]

DTYPES = ("float64", "complex128", "float32", "float16", "bfloat16")
DEVICES = ("cpu", "cuda")
ORDER, SEED = 2, 0
LIMIT = 120.0  # seconds for an operator of PyTorch


@dataclass(frozen=True)
class Asked:
    """What to check; where a tuple is empty: all there is.

    Examples
    --------
    >>> from tsgu_func.selfcheck.asked import Asked, spelled
    >>> spelled(Asked(ops=("sparse_mm",), order=3))
    'python -m tsgu_func check --op sparse_mm --order 3'
    """

    ops: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    order: int = ORDER
    seed: int = SEED
    compiled: bool = True
    quick: bool = False
    json_file: Path | None = None
    markdown_file: Path | None = None
    torch: bool = False  # its operators, in place of those of this library
    limit: float = LIMIT
    resume: Path | None = None


def spelled(asked: Asked) -> str:
    """Return the command line that asks for this.

    Parameters
    ----------
    asked : Asked
        What to check.

    Returns
    -------
    str
        Without the options that have their defaults.

    Examples
    --------
    >>> from tsgu_func.selfcheck.asked import Asked, spelled
    >>> spelled(Asked(cells=("vmap(vjp)",), compiled=False))
    'python -m tsgu_func check --cell "vmap(vjp)" --no-compile'
    """
    words = ["python", "-m", "tsgu_func", "check", *["--torch"] * asked.torch]
    lists = {"op": asked.ops, "cell": asked.cells, "dtype": asked.dtypes, "device": asked.devices}
    for name, values in lists.items():
        for value in values:
            words += [f"--{name}", _quoted(value)]
    if asked.order != ORDER:
        words += ["--order", str(asked.order)]
    if asked.seed != SEED:
        words += ["--seed", str(asked.seed)]
    if asked.limit != LIMIT:
        words += ["--limit", f"{asked.limit:g}"]
    words += ["--no-compile"] * (not asked.compiled) + ["--quick"] * asked.quick
    files = {"json": asked.json_file, "markdown": asked.markdown_file, "resume": asked.resume}
    for name, path in files.items():
        if path is not None:
            words += [f"--{name}", _quoted(path.as_posix())]
    return " ".join(words)


def _quoted(word: str) -> str:
    # Double quotes, because every shell takes them; no name holds a quote itself.
    plain = all(c.isalnum() or c in "_.-/" for c in word)
    return word if plain and word else f'"{word}"'
