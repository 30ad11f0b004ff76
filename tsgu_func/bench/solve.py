"""Solutions of sparse systems, with gradients.

Every repetition has new values (those of A, times a number) in new tensors, as in training or time
stepping: no contender finds a factor from before, but what it keeps for a pattern.  The first
forward solve finds nothing.  One measurement of each contender in turn; each is alone in its
process.  The residual is computed by SciPy, from the solution: only what reaches 1e-8 is compared.
Memory is the growth of the largest resident size.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tsgu_func.bench.contenders import OWN, Solves, contender
from tsgu_func.bench.peers import PEERS
from tsgu_func.bench.problems import PROBLEMS
from tsgu_func.bench.results import DIRECTIONS, OURS, Comparison
from tsgu_func.bench.subject import Subject
from tsgu_func.bench.timing import in_turn
from tsgu_func.bench.worker import Measured, Worker
from tsgu_func.console.arguments import add_choice, seconds, whole
from tsgu_func.console.counting import counted

__all__ = ["GOAL", "QUICK", "SUBJECT", "add_arguments", "fitting", "judged", "systems", "turns"]

GOAL = 1e-8  # the relative residual of a solution that is compared
QUICK = {"problems": ["plane"], "sizes": [8], "peers": ["scipy"], "limit": 20.0}
# Threads of OpenMP spin for a fifth of a second after their work, on the cores of who is next.
_PAUSE = 0.4
_GROUPS = ("torchsparsegradutils", "torch-sla", "factorization", "splineax", "splineax, state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_choice(parser, "--problems", list(PROBLEMS))
    add = parser.add_argument
    add(
        "--sizes",
        type=whole(),
        nargs="+",
        metavar="N",
        help="unknowns along an axis, or of the graph (default: each problem's own)",
    )
    add_choice(parser, "--solvers", list(OWN), [])
    add(
        "--peers",
        type=_peers,
        nargs="+",
        default=[""],
        metavar="NAME",
        help="those whose names begin so (default: all)",
    )
    add("--no-peers", action="store_true", help="leave other packages out")
    add(
        "--limit",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="for a solve (default: %(default)g)",
    )


def _peers(start: str) -> str:
    names = list(PEERS["solve"])
    if not any(name.startswith(start) for name in names):
        raise argparse.ArgumentTypeError(f"no name begins with {start!r}: {', '.join(names)}")
    return start


def systems(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Go through the problems and sizes that are asked for."""
    cases = [(p, size) for p in options.problems for size in options.sizes or PROBLEMS[p].sizes]
    yield from counted(cases, "systems")


def fitting(problem: str, options: argparse.Namespace) -> list[str]:
    """Return the names of all that are asked for, installed, and for this problem."""
    peers = [
        name
        for name, peer in PEERS["solve"].items()
        if peer.installed and name.startswith(tuple(options.peers)) and not options.no_peers
    ]
    names = [OURS, *options.solvers, *peers]
    return [n for n in names if PROBLEMS[problem].symmetric or not contender(n).symmetric]


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Measure all contenders for each system, in both directions."""
    for problem, size in systems(options):
        with contextlib.ExitStack() as stack:
            workers = {
                name: stack.enter_context(contextlib.closing(Worker(Solves, name, problem, size)))
                for name in fitting(problem, options)
            }
            n, nnz = max(worker.ready[:2] for worker in workers.values())
            for direction in DIRECTIONS:
                taken = in_turn(
                    {name: turns(w, direction, options.limit) for name, w in workers.items()},
                    options.repeats,
                )
                case = {"problem": problem, "n": n, "entries": nnz, "direction": direction}
                yield judged(case, taken)


def turns(worker: Worker, direction: str, limit: float) -> Callable[[int], Measured]:
    """Return what measures a turn, each with values of its own."""
    backward = DIRECTIONS[direction]

    def measure(turn: int) -> Measured:
        if not worker.failure:
            time.sleep(_PAUSE)
        return worker.measure(1 + 0.125 * turn + 0.5 * backward, backward, limit=limit)

    return measure


def judged(case: dict[str, str | int], taken: dict[str, list[Measured]]) -> Comparison:
    """Compare those whose solutions are all good enough, and say of others what they are."""
    seconds: dict[str, list[float]] = {}
    more: dict[str, dict[str, Any]] = {}
    for name, measured in taken.items():
        last, worst = measured[-1], max(m.residual for m in measured)
        more[name] = {"residual": worst, "bytes": last.bytes, "told": last.told}
        if last.failure:
            more[name] = {"failure": last.failure}
        elif all(m.residual <= GOAL for m in measured):
            seconds[name] = [m.seconds for m in measured]
        else:
            more[name]["failure"] = f"residual {worst:.1e} after {last.seconds:.4f} s"
    return Comparison(case, seconds, more=more)


def _lines(comparison: Comparison) -> list[str]:
    """Return a table of a system in one direction."""
    heads = f"{'seconds':>9} {'first':>9} {'ratio':>7} {'MB':>6} {'residual':>9}"
    lines = [f"{comparison.title}", f"    {'':<32} {heads}"]
    for name, more in comparison.more.items():
        if "failure" in more:
            lines.append(f"    {name:<32} {'-':>9}  {more['failure'][:60]}")
            continue
        ratio = comparison.ratio(name)
        lines.append(
            f"    {name:<32} {comparison.median(name):9.4f} {comparison.measured[name][0]:9.4f} "
            f"{f'{ratio:7.2f}' if ratio else '      -'} {more['bytes'] / 1e6:6.0f} "
            f"{more['residual']:9.1e}  {more['told']}"
        )
    return lines


def _summarize(comparisons: Sequence[Comparison]) -> list[str]:
    """Say how often our time goes into that of the best of each group, with the backward."""
    lines = ["forward+backward, times ours:"]
    for comparison in comparisons:
        if comparison.case["direction"] == "forward+backward":
            best = (f"{group} {_best(comparison, group)}" for group in _GROUPS)
            title = PROBLEMS[str(comparison.case["problem"])].title
            lines.append(f"  {title:<25} n = {comparison.case['n']:<8} {'   '.join(best)}")
    return lines


def _best(comparison: Comparison, group: str) -> str:
    names = [name for name in comparison.peers if contender(name).group == group]
    ratios = [ratio for ratio in map(comparison.ratio, names) if ratio is not None]
    return f"{min(ratios):.2f}" if ratios else "-"


def _draw(comparisons: Sequence[Comparison], path: Path) -> None:
    from tsgu_func.bench.plot import draw_systems

    draw_systems(comparisons, path)


SUBJECT = Subject(
    "solutions of sparse systems, with gradients",
    add_arguments,
    _compare,
    quick=QUICK,
    works=("solve",),
    repeats=3,
    lines=_lines,
    summarize=_summarize,
    draw=_draw,
)
