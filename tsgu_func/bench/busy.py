"""The same solves on an idle and on a busy machine, in several threads and in one.

Busy is a machine with twice as many processes that want to run as it has processors: one of ours,
and others that count.  A process of one thread gets half of a processor there.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import torch

from tsgu_func.bench.contenders import Solves
from tsgu_func.bench.results import DIRECTIONS, Comparison
from tsgu_func.bench.solve import QUICK, add_arguments, fitting, systems, turns
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import in_turn
from tsgu_func.bench.worker import Worker
from tsgu_func.console.processes import start

__all__ = ["SUBJECT", "competitors"]

_SETTLE = 1.0  # seconds until the scheduler has spread who is new


@contextlib.contextmanager
def competitors(number: int) -> Iterator[list[Any]]:
    """Keep processors busy with that many processes, until the end, whatever it is."""
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    try:
        for _ in range(number):
            processes.append(context.Process(target=_count, args=(os.getpid(),), daemon=True))
            start(processes[-1])
        time.sleep(_SETTLE if number else 0.0)
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _count(parent: int) -> None:
    """Count as long as the parent lives, who is also told of an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.getppid() == parent:
        for _ in range(100_000):
            pass


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Measure each system when the machine is idle, and again when it is busy."""
    several, others = max(2, torch.get_num_threads()), 2 * (os.cpu_count() or 1) - 1
    for problem, size in systems(options):
        names = fitting(problem, options)
        with contextlib.ExitStack() as stack:
            workers: dict[tuple[str, int], Worker] = {
                (name, threads): stack.enter_context(
                    contextlib.closing(Worker(Solves, name, problem, size, threads))
                )
                for name in names
                for threads in (several, 1)
            }
            n = max(worker.ready.n for worker in workers.values())
            seconds: dict[str, dict[str, list[float]]] = {name: {} for name in DIRECTIONS}
            for state, number in (("idle", 0), ("busy", others)):
                with competitors(number):
                    for direction in DIRECTIONS:
                        asked = {k: turns(w, direction, options.limit) for k, w in workers.items()}
                        for (name, threads), taken in in_turn(asked, options.repeats).items():
                            key = _key(name, threads, state)
                            seconds[direction][key] = [m.seconds for m in taken]
        for direction, measured in seconds.items():
            case = {"problem": problem, "n": n, "direction": direction, "threads": several}
            yield Comparison(case, measured, more={name: {} for name in names})


def _key(name: str, threads: int, state: str) -> str:
    return f"{name}, threads: {threads}, {state}"


def _lines(comparison: Comparison) -> list[str]:
    """Return a table of seconds, and of what is lost to others and won by threads."""
    several = int(comparison.case["threads"])
    heads = f"{several:>9}{1:>9}"
    kinds = ("seconds, idle", "seconds, busy", "busy/idle", f"{several} threads/1")
    lines = [
        f"  {comparison.title}",
        f"  {'':<28}{''.join(f'{kind:>18}' for kind in kinds)}",
        f"  {'in threads':<28}{heads * 3}{'idle':>9}{'busy':>9}",
    ]
    for name in comparison.more:
        a, b, c, d = (
            comparison.median(_key(name, threads, state))
            for state in ("idle", "busy")
            for threads in (several, 1)
        )
        ratios = "".join(f"{x:9.2f}" for x in (c / a, d / b, a / b, c / d))
        lines.append(f"    {name:<26}{a:9.5f}{b:9.5f}{c:9.5f}{d:9.5f}{ratios}")
    return lines


SUBJECT = Subject(
    "the same solves on an idle and on a busy machine",
    add_arguments,
    _compare,
    quick=QUICK,
    works=("solve",),
    repeats=3,
    lines=_lines,
    draw=None,
)
