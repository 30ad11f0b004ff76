"""Solutions of sparse systems, with gradients.

Every repetition has new values (those of A, times a number) in new tensors, as in training or time
stepping: no contender finds a factor from before, but what it keeps for a pattern.  The first
forward solve finds nothing.  One measurement of each contender in turn; each is alone in its
process.  The residual is computed by SciPy, from the solution: only what reaches 1e-8 is compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tsgu_func.bench import busy
from tsgu_func.bench.contenders import OURS, OWN, PEERS, contender
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.bench.rows import DIRECTIONS, GOAL, Row
from tsgu_func.bench.worker import Measured, Worker

__all__ = ["REPEATS", "add_arguments", "run"]

REPEATS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--sizes", type=int, nargs="+", help="in the place of each problem's own")
    parser.add_argument("--solvers", nargs="+", choices=OWN, default=[], help="ours, by name")
    parser.add_argument("--no-peers", action="store_true", help="leave other packages out")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a solve (%(default)s)")
    view = parser.add_mutually_exclusive_group()
    view.add_argument("--plot", type=Path, help="where to draw time against n")
    view.add_argument(
        "--busy", action="store_true", help="also among processes that want the processors"
    )


def run(options: argparse.Namespace) -> None:
    """Measure, print a table for each system, and the ratios that matter."""
    names = [OURS, *options.solvers, *([] if options.no_peers else _present())]
    if options.busy:
        busy.run(options, names)
        return
    print(
        f"float64, {torch.get_num_threads()} threads, median of {options.repeats}; a solve counts "
        f"if |b - A x| / |b| <= {GOAL:g}; memory is the growth of the largest resident size"
    )
    rows: list[Row] = []
    for problem in options.problems:
        for size in options.sizes or PROBLEMS[problem].sizes:
            rows += _measured(problem, size, names, options)
    _summarize(rows)
    if options.plot:
        from tsgu_func.bench.plot import draw

        draw(rows, options.plot)
        print(f"time against n: {options.plot}")


def _present() -> list[str]:
    missing = sorted({peer.package for peer in PEERS.values() if not peer.installed})
    for package in missing:
        print(f"{package} is not installed, so it is not compared with")
    return [name for name, peer in PEERS.items() if peer.installed]


def _measured(
    problem: str, size: int, names: Sequence[str], options: argparse.Namespace
) -> Iterator[Row]:
    family = PROBLEMS[problem]
    fit = [name for name in names if family.symmetric or not contender(name).symmetric]
    workers = {name: Worker(name, problem, size) for name in fit}
    n, nnz = max((worker.n, worker.nnz) for worker in workers.values())
    print(f"\n{family.title}: n = {n}, {nnz} entries", flush=True)
    try:
        for direction, backward in DIRECTIONS.items():
            taken: dict[str, list[Measured]] = {name: [] for name in fit}
            for turn in range(options.repeats):
                for name, worker in workers.items():
                    scale = 1 + 0.125 * turn + 0.5 * backward
                    taken[name].append(worker.measure(scale, backward, options.limit))
            rows = [Row(name, problem, n, direction, tuple(m)) for name, m in taken.items()]
            _show(rows)
            yield from rows
    finally:
        for worker in workers.values():
            worker.close()


def _show(rows: Sequence[Row]) -> None:
    ours = rows[0].seconds
    heads = f"{'seconds':>9} {'first':>9} {'ratio':>7} {'MB':>6} {'residual':>9}"
    print(f"  {rows[0].direction:<34} {heads}")
    for row in rows:
        if row.last.failure:
            print(f"    {row.contender:<32} {'-':>9}  {row.last.failure[:60]}")
            continue
        ratio = f"{row.seconds / ours:7.2f}" if row.counts else "   (no)"
        print(
            f"    {row.contender:<32} {row.seconds:9.4f} {row.measured[0].seconds:9.4f} {ratio} "
            f"{row.last.bytes / 1e6:6.0f} {max(m.residual for m in row.measured):9.1e}  "
            f"{row.last.told}",
            flush=True,
        )


def _summarize(rows: Sequence[Row]) -> None:
    """Print how often our time goes into that of the best of each group, with the backward."""
    print("\nforward+backward, times ours:")
    for problem, n in dict.fromkeys((row.problem, row.n) for row in rows):
        here = [
            row
            for row in rows
            if (row.problem, row.n, row.direction) == (problem, n, "forward+backward")
        ]
        ours, *others = here
        parts = []
        for group in ("torchsparsegradutils", "torch-sla", "factorization"):
            times = [
                r.seconds for r in others if contender(r.contender).group == group and r.counts
            ]
            parts.append(f"{group} {min(times) / ours.seconds:.2f}" if times else f"{group} -")
        print(f"  {PROBLEMS[problem].title:<25} n = {n:<8} {'   '.join(parts)}")
