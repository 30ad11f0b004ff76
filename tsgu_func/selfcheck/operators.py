"""The run of ``python -m tsgu_func check --torch``: PyTorch's own operators, one process each."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console

import tsgu_func
from tsgu_func.console.arguments import near
from tsgu_func.console.ending import CommandError, writing
from tsgu_func.console.processes import start
from tsgu_func.console.progress import bar
from tsgu_func.selfcheck.asked import Asked
from tsgu_func.selfcheck.found import Found
from tsgu_func.selfcheck.operator_output import as_json, as_page, show
from tsgu_func.testing.checker.check_rules import check_rules
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.report import Report

__all__ = ["run_operators"]

# All but those that compile or are about ops of this library's kind.
_CELLS = ("value", "first", "higher", "eager", "vmap")
_LOADING = 300.0  # seconds, on a busy machine


def run_operators(asked: Asked) -> int:
    """Check PyTorch's operators, print what disagrees and write it to the files asked for.

    Parameters
    ----------
    asked : Asked
        What to check.

    Returns
    -------
    int
        The exit code: 0 if no cell disagrees and no process was stopped, else 1.

    Raises
    ------
    CommandError
        If there is no such operator, or a file does not belong to such a run.
    """
    began = time.perf_counter()
    names = _chosen(_names(_dtype(asked)), asked.ops)
    with _kept(asked) as (before, file):
        found = dict(before)
        try:
            for name in _with_progress([name for name in names if name not in before], found):
                found[name] = _examined(name, asked)
                if file is not None:
                    file.write(json.dumps(asdict(found[name]), allow_nan=False) + "\n")
                    file.flush()
        except KeyboardInterrupt:
            there = [found[name] for name in names if name in found]
            show(Console(), asked, there, time.perf_counter() - began)
            raise
    outcome = [found[name] for name in names]
    show(Console(), asked, outcome, time.perf_counter() - began)
    for path, text in ((asked.json_file, as_json), (asked.markdown_file, as_page)):
        if path is not None:
            with writing(path):
                path.write_text(text(asked, outcome), encoding="utf-8")
    return int(any(f.stopped or f.count(Verdict.FAILS) for f in outcome))


def _chosen(names: list[str], asked: tuple[str, ...]) -> list[str]:
    unknown = [op for op in asked if op not in names]
    if unknown:
        those = ", ".join(near(unknown[0], names))
        raise CommandError(
            f"the operator database has no {unknown[0]!r} with a gradient; it has {those}"
        )
    return [name for name in names if not asked or name in asked]


def _with_progress(names: list[str], found: dict[str, Found]) -> Iterator[str]:
    with bar("operators, {task.fields[wrong]} disagree") as progress:
        task = progress.add_task("", total=len(names), wrong=0)
        for name in names:
            wrong = sum(f.count(Verdict.FAILS) > 0 for f in found.values())
            progress.update(task, description=name, wrong=wrong)
            yield name
            progress.advance(task)


# --------------------------------------------------------------------------- what is kept in a file


@contextmanager
def _kept(asked: Asked) -> Iterator[tuple[dict[str, Found], TextIO | None]]:
    """Give what a file holds of an earlier run, and the file, open for more."""
    if asked.resume is None:
        yield {}, None
        return
    head = {
        "tsgu_func": tsgu_func.__version__,
        "torch": torch.__version__,
        **{name: list(getattr(asked, name)) for name in ("cells", "dtypes")},
        **{name: getattr(asked, name) for name in ("order", "seed")},
    }
    before = _read(asked.resume, head)
    with asked.resume.open("a", encoding="utf-8") as file:
        if not asked.resume.stat().st_size:
            file.write(json.dumps(head) + "\n")
        yield before, file


def _read(path: Path, head: dict[str, Any]) -> dict[str, Found]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    *lines, torn = text.split("\n")  # the run may have been killed while it wrote
    try:
        if not lines and not json.dumps(head).startswith(torn):
            raise ValueError("its first line has no end")
        first, *rest = [json.loads(line) for line in lines] or [head]
        found = {line["op"]: Found(**line) for line in rest}
    except (ValueError, TypeError, KeyError) as error:
        raise CommandError(f"{path}: was not written by --torch --resume: {error}") from error
    if first != head:
        raise CommandError(f"{path}: is of another run, {first}; this one is {head}")
    if torn:
        path.write_text(text.removesuffix(torn), encoding="utf-8")
    return found


# --------------------------------------------------------------------------------- the processes


def _names(dtype: str) -> list[str]:
    """Return the names in the database, which takes seconds to import, by another process."""
    answer, stopped = _by_process(_load, (dtype,), _LOADING)
    if stopped:
        raise CommandError(f"the operator database cannot be loaded: {stopped}")
    missing = answer.get("missing")
    if missing is None:
        return answer["names"]
    if missing.partition(".")[0] == "torch":
        raise CommandError(
            f"PyTorch {torch.__version__} has no operator database, or another one: "
            f"{answer['error']}; --torch was written for PyTorch 2.13"
        )
    raise ModuleNotFoundError(
        answer["error"], name=missing
    )  # the command line says how to install it


def _load(dtype: str) -> dict[str, Any]:
    try:
        from tsgu_func.selfcheck import database
    except ModuleNotFoundError as error:  # raised again where it is reported
        return {"missing": error.name, "error": str(error)}
    return {"names": database.names(getattr(torch, dtype))}


def _examined(name: str, asked: Asked) -> Found:
    """Check an operator in a process of its own, for so long."""
    began = time.perf_counter()
    answer, stopped = _by_process(_examine, (name, asked), asked.limit)
    seconds = round(time.perf_counter() - began, 2)
    return Found(name, stopped=stopped, seconds=seconds, **answer)


def _by_process(
    work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], limit: float
) -> tuple[dict[str, Any], str]:
    """Return what a function returns in a process of its own, or why that came to no end."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, work, arguments), daemon=True)
    start(process)
    theirs.close()
    try:
        if ours.poll(limit):
            return json.loads(ours.recv()), ""
        return {}, f"took more than {limit:g} seconds"
    except EOFError:
        process.join()
        return {}, f"its process ended with code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        ours.close()


def _context() -> Any:
    """Return how to start a process: from one that has the database, where there is such a way."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tsgu_func.selfcheck.operators", "tsgu_func.selfcheck.database"]
    )
    return context


def _serve(pipe: Connection, work: Callable[..., dict[str, Any]], arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, too, and ends this
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pipe.send(json.dumps(work(*arguments), allow_nan=False))


def _examine(name: str, asked: Asked) -> dict[str, Any]:
    from tsgu_func.selfcheck.database import constants, samples

    cells, refused = list[dict[str, Any]](), list[str]()
    dtype = getattr(torch, _dtype(asked))
    for number, (function, args) in enumerate(samples(name, dtype)):
        try:
            report = check_rules(
                function,
                args,
                order=asked.order,
                transforms=asked.cells or _CELLS,
                dtypes=(dtype,),
                seed=asked.seed,
                constant=constants(function, args),
            )
        except Exception as error:  # arguments with infinity, results without derivatives
            refused.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        cells += _plain(report, number)
    if not cells and not refused:
        refused.append("there are no strided arguments of moderate size")
    return {"cells": cells, "refused": refused}


def _dtype(asked: Asked) -> str:
    return (asked.dtypes or ("float64",))[0]


def _plain(report: Report, sample: int) -> Iterator[dict[str, Any]]:
    for cell in report.cells:
        example = cell.counterexample
        yield {
            "sample": sample,
            "name": cell.name,
            "verdict": cell.verdict,
            "detail": cell.detail,
            "where": "" if example is None else example.where,
            "expected": None if example is None else _text(example.expected),
            "got": None if example is None else _text(example.got),
        }


def _text(x: complex | None) -> str | None:
    return None if x is None else f"{x:.8g}"  # JSON has no word for what is not finite
