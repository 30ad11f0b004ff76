"""What was aimed at, beside what is measured: a row for each aim, with its command.

A result is the median over all cases of a row, and the worst of them in brackets.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tsgu_func.bench.memory import BOUND
from tsgu_func.bench.peers import missing
from tsgu_func.bench.peers.bound import BOUNDS
from tsgu_func.bench.results import Comparison
from tsgu_func.bench.subject import Subject, markdown, page_of_table
from tsgu_func.bench.subjects import SUBJECTS, parsed
from tsgu_func.console.arguments import add_choice
from tsgu_func.console.counting import counted

__all__ = ["AIMS", "SUBJECT", "Aim"]


class Aim(NamedTuple):
    """What is aimed at.

    Attributes
    ----------
    work : str
        What is computed.
    command : str
        What measures it.
    where : mapping
        The cases that count: what stands in them, or a tuple of such.
    measure : callable
        What counts of a case, or None where a peer is missing.
    median, worst : float
        The aim, and what no case shall be beyond.
    peers : tuple of str
        With whom it is compared.
    least : bool
        Whether more is better.
    unit : str
        Behind the figures.
    """

    work: str
    command: str
    where: Mapping[str, Any]
    measure: Callable[[Comparison], float | None]
    median: float
    worst: float
    peers: tuple[str, ...] = ()
    least: bool = True
    unit: str = ""

    def values(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Return what was measured of its cases."""
        there = [self.measure(c) for c in comparisons if self._counts(c)]
        return [value for value in there if value is not None]

    def _counts(self, comparison: Comparison) -> bool:
        return comparison.command == self.command and all(
            comparison.case.get(name) in (value if isinstance(value, tuple) else (value,))
            for name, value in self.where.items()
        )

    def row(self, comparisons: Sequence[Comparison]) -> list[str]:
        """Return the cells of the table."""
        sign = "≥" if self.least else "≤"
        aim = f"{sign} {self.median:g}{self.unit} ({self.worst:g}{self.unit})"
        return [self.work, self._result(self.values(comparisons)), aim, f"`bench {self.command}`"]

    def _result(self, values: Sequence[float]) -> str:
        if values:
            worst = min(values) if self.least else max(values)
            return f"{statistics.median(values):.3g}{self.unit} ({worst:.3g}{self.unit})"
        absent = missing(SUBJECTS[self.command.split()[0]].works)
        needed = [absent[name] for name in self.peers if name in absent]
        return f"not installed: {', '.join(needed)}" if needed else "not measured"


def _against(
    work: str, command: str, median: float, worst: float, *peers: str, **where: Any
) -> Aim:
    """Aim at so many times the speed of the fastest of some peers."""

    def ratio(comparison: Comparison) -> float | None:
        ratios = [comparison.ratio(peer) for peer in peers]
        return min((x for x in ratios if x is not None), default=None)

    return Aim(work, command, where, ratio, median, worst, peers)


def _within(work: str, command: str, median: float, worst: float, peer: str, **where: Any) -> Aim:
    """Aim at so many times of what a peer takes."""

    def times(comparison: Comparison) -> float | None:
        ratio = comparison.ratio(peer)
        return None if ratio is None else 1 / ratio

    return Aim(work, command, where, times, median, worst, (peer,), least=False, unit=" x")


def _microseconds(work: str, command: str, median: float, worst: float, **where: Any) -> Aim:
    return Aim(
        work, command, where, lambda c: 1e6 * c.median(), median, worst, least=False, unit=" us"
    )


def _slope(work: str, **where: Any) -> Aim:
    return Aim(work, "scaling", where, Comparison.median, 1.05, 1.15, least=False)


_FORWARD, _BOTH = {"direction": "forward"}, {"direction": "forward+backward"}
_MM, _BATCHED = (
    "mm --matrices random plane space",
    "mm --matrices plane --rows 10000 --batches 8 64",
)
_INDEXED = "indexed --sizes 32 64 128"
_STATE = ("splineax Pardiso, state", "splineax KLU, state", "splineax KLU")
_INT32, _UPSTREAM = "torch CSR int32", "torchsparsegradutils CSR"
_KINDS, _SMALL = {"by": ("COO", "CSR")}, "sparse_mm(SparseMatrix), 200 x 200, 16 columns: "
_SYSTEMS = {
    "Poisson 300²": ("solve --problems plane --sizes 300 --peers splineax", 8.4),
    "Poisson 40³": ("solve --problems space --sizes 40 --peers splineax", 41.0),
    "convection 300²": ("solve --problems convection --sizes 300 --peers splineax", 3.3),
}

AIMS = (
    _microseconds(f"{_SMALL}forward", "overhead", 20, 25, call="sparse_mm", **_FORWARD),
    _within(
        f"{_SMALL}forward + backward to dense", "overhead", 1.3, 1.6, "dense",
        call="sparse_mm", **_BOTH,
    ),
    _within(
        f"{_SMALL}torch.func.grad to dense", "overhead", 1.2, 1.5, "dense",
        call="sparse_mm", direction="torch.func.grad",
    ),
    _microseconds(
        "sparse_solve, n = 50, the factor found", "overhead", 100, 120,
        call="sparse_solve", **_FORWARD,
    ),
    _against("torch COO / CSR argument, forward, p = 1, to torch's CSR int32", _MM, 0.8, 0.7,
             _INT32, p=1, **_KINDS, **_FORWARD),
    _against("... p = 16", _MM, 0.9, 0.75, _INT32, p=16, **_KINDS, **_FORWARD),
    *(
        _against(f"SparseMatrix, forward, p = {p}, to torch's CSR int32", _MM, aim, 0.85, _INT32,
                 p=p, by="SparseMatrix", **_FORWARD)
        for p, aim in ((1, 0.95), (16, 1.1), (64, 1.3))
    ),
    _against("forward + backward to the bound", _MM, 1.1, 0.95, *BOUNDS,
             by="SparseMatrix", **_BOTH),
    _against("... to JAX BCOO (jit), p = 1", _MM, 1.2, 1.0, "JAX BCOO",
             p=1, by="SparseMatrix", **_BOTH),
    _against("batched (b = 8, 64), torch CSR, forward, to torchsparsegradutils", _BATCHED, 1.5, 1.2,
             _UPSTREAM, b=(8, 64), by="CSR", **_FORWARD),
    _against("triangular, torch CSR, forward, p = 1, to torchsparsegradutils", "triangular", 1.1,
             0.95, _UPSTREAM, p=1, by="CSR", **_FORWARD),
    _against("segment_mm to grouped_mm, forward", _INDEXED, 0.98, 0.9, "grouped_mm",
             function="segment_mm", **_FORWARD),
    _against("... forward + backward", _INDEXED, 0.98, 0.9, "grouped_mm",
             function="segment_mm", **_BOTH),
    _against("gather_mm to sort + grouped_mm", _INDEXED, 1.2, 1.0, "sort + grouped_mm",
             function="gather_mm"),
    _against("lstsq 20 000 x 5 000, p = 1, same tolerance, to SciPy's lsmr", "lstsq", 1.1, 0.9,
             "SciPy lsmr at 1e-6", p=1, by="at 1e-6", **_FORWARD),
    *(
        _against(f"sparse_solve to splineax[pardiso], forward + backward, {name}", command, aim,
                 1.0, "splineax Pardiso", **_BOTH)
        for name, (command, aim) in _SYSTEMS.items()
    ),
    *(
        _against(f"... its state handed on, and splineax-klujax, {name}", command, 1.5, 1.0,
                 *_STATE, **_BOTH)
        for name, (command, _) in _SYSTEMS.items()
    ),
    _within("peak memory to the bound, forward + backward", "memory", 1.5, 1.5, BOUND,
            call="known pattern", **_BOTH),
    _slope("time by entries, 1e4 to 1e7: power", what="time by entries"),
    _slope("time by columns, 1 to 64: power", what="time by p"),
    _slope("memory by entries: power", what="memory by entries"),
    _slope("memory by columns: power", what="memory by p"),
)  # fmt: skip


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_choice(parser, "--only", list(SUBJECTS))


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Run each command once."""
    commands = dict.fromkeys(aim.command for aim in AIMS)
    for command in counted([c for c in commands if _asked(c, options)], "commands"):
        own = parsed(command)
        subject = SUBJECTS[own.subject]
        if options.quick:
            vars(own).update({"repeats": 2, **subject.quick})
        for comparison in subject.compare(own):
            yield comparison._replace(command=command)


def _asked(command: str, options: argparse.Namespace) -> bool:
    return not options.only or command.split()[0] in options.only


def _lines(comparison: Comparison) -> list[str]:
    own = SUBJECTS[comparison.command.split()[0]].lines(comparison)
    return [f"{comparison.command.split()[0]:<12}{line}" for line in own]


def _summarize(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the table in Markdown."""
    there = {c.command for c in comparisons}
    heads = ["work", "result", "aim", "command"]
    rows = [aim.row(comparisons) for aim in AIMS if aim.command in there]
    return markdown([heads, *rows])


SUBJECT = Subject(
    "all that was aimed at, beside what is measured",
    _add_arguments,
    _compare,
    quick={},
    threads=1,
    works=tuple(dict.fromkeys(work for subject in SUBJECTS.values() for work in subject.works)),
    lines=_lines,
    summarize=_summarize,
    draw=None,
    page=page_of_table,
)
