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
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tsgu_func.bench.contenders import contender
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.bench.rows import DIRECTIONS
from tsgu_func.bench.worker import Worker

__all__ = ["competitors", "run"]

_SETTLE = 1.0  # seconds until the scheduler has spread who is new


@contextlib.contextmanager
def competitors(number: int) -> Iterator[list[Any]]:
    """Keep processors busy with that many processes, until the end, whatever it is."""
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    try:
        for _ in range(number):
            processes.append(context.Process(target=_count, args=(os.getpid(),), daemon=True))
            processes[-1].start()
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


def run(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Measure, and print seconds and ratios for each system."""
    processors, several = os.cpu_count() or 1, max(2, torch.get_num_threads())
    others = 2 * processors - 1
    print(
        f"float64, median of {options.repeats}, in {several} threads and in one; idle, and with "
        f"{others} processes that count on {processors} processors"
    )
    for problem in options.problems:
        for size in options.sizes or PROBLEMS[problem].sizes:
            _measure(problem, size, names, several, others, options)


def _measure(
    problem: str,
    size: int,
    names: Sequence[str],
    several: int,
    others: int,
    options: argparse.Namespace,
) -> None:
    family = PROBLEMS[problem]
    fit = [name for name in names if family.symmetric or not contender(name).symmetric]
    with contextlib.ExitStack() as stack:
        workers = {
            (name, threads): stack.enter_context(
                contextlib.closing(Worker(name, problem, size, threads=threads))
            )
            for name in fit
            for threads in (several, 1)
        }
        print(f"\n{family.title}: n = {max(worker.n for worker in workers.values())}", flush=True)
        seconds: dict[tuple[str, bool], dict[tuple[str, int], float]] = {}
        for busy in (False, True):
            with competitors(others if busy else 0):
                for direction in DIRECTIONS:
                    seconds[direction, busy] = _medians(workers, direction, options)
    for direction in DIRECTIONS:
        _show(direction, fit, several, seconds[direction, False], seconds[direction, True])


def _medians(
    workers: dict[tuple[str, int], Worker], direction: str, options: argparse.Namespace
) -> dict[tuple[str, int], float]:
    """Measure all in turn, over and over."""
    backward = DIRECTIONS[direction]
    taken: dict[tuple[str, int], list[float]] = {key: [] for key in workers}
    for turn in range(options.repeats):
        for key, worker in workers.items():
            scale = 1 + 0.125 * turn + 0.5 * backward
            taken[key].append(worker.measure(scale, backward, options.limit).seconds)
    return {key: statistics.median(times) for key, times in taken.items()}


def _show(
    direction: str,
    names: Sequence[str],
    several: int,
    idle: dict[tuple[str, int], float],
    busy: dict[tuple[str, int], float],
) -> None:
    print(f"  {direction:<28}{'seconds, idle':>18}{'seconds, busy':>18}{'busy/idle':>18}", end="")
    print(f"{f'{several} threads/1':>18}")
    heads = f"{several:>9}{1:>9}"
    print(f"  {'in threads':<28}{heads * 3}{'idle':>9}{'busy':>9}")
    for name in names:
        (a, b), (c, d) = ((x[name, several], x[name, 1]) for x in (idle, busy))
        ratios = "".join(f"{x:9.2f}" for x in (c / a, d / b, a / b, c / d))
        print(f"    {name:<26}{a:9.5f}{b:9.5f}{c:9.5f}{d:9.5f}{ratios}", flush=True)
