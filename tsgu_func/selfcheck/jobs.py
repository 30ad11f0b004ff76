"""Which cells of which records are to be run, and how each is run again alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from tsgu_func.console.arguments import near
from tsgu_func.console.ending import CommandError
from tsgu_func.selfcheck.asked import DEVICES, DTYPES, Asked, spelled
from tsgu_func.selfcheck.records import Record, all_records
from tsgu_func.testing.checker.check_rules import GROUPS, Settings, iterate_cells, plan
from tsgu_func.testing.checker.checks import CHECKS, Check
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.precision import PRECISION
from tsgu_func.testing.checker.report import Cell, Counterexample

__all__ = ["Job", "created_on", "devices_of", "jobs_on"]

_WIDE = ("float64", "complex128")
_LETTERS = frozenset("fr")
# What is compiled where time is short: all rules are traced in the second of them.
_QUICKLY_COMPILED = (("compiled value", "float64"), ("compiled fr", "float64"))


class Part(NamedTuple):
    """A record in one dtype."""

    record: Record
    dtype: str
    settings: Settings

    def planned(self) -> list[Cell]:
        """Return the cells, none of them run."""
        if self.dtype in _WIDE:
            known = [(check.name, check.group) for check in plan(self.settings)]
        else:
            known = [(name, "precision") for name in PRECISION]
        return [Cell(*k, self.dtype, Verdict.NOT_RUN) for k in known]


@dataclass(frozen=True)
class Job:
    """A record on a device, in all dtypes."""

    name: str
    device: str
    asked: Asked
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """How many cells there are."""
        return sum(len(part.planned()) for part in self.parts)

    def cells(self) -> Iterator[Cell]:
        """Run the cells one by one; where the device is missing, say so instead."""
        missing = _missing(self.device)
        for part in self.parts:
            if missing is not None:
                yield from (replace(cell, detail=missing) for cell in part.planned())
                continue
            try:
                record = part.record
                record.function(*record.args)  # a record takes its own arguments, or it is broken
                for cell in iterate_cells(
                    record.function, record.args, part.settings, record.reference
                ):
                    yield self._with_command(cell)
            except Exception as error:  # a record that cannot be run at all must not end the others
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                example = Counterexample(program=self._command("value", part.dtype))
                yield Cell("value", "value", part.dtype, Verdict.RAISES, text, example)

    def _with_command(self, cell: Cell) -> Cell:
        if cell.counterexample is None:
            return cell
        name = cell.group if cell.group == "precision" else cell.name
        program = self._command(name, cell.dtype)
        return replace(cell, counterexample=replace(cell.counterexample, program=program))

    def _command(self, cell: str, dtype: str) -> str:
        devices = () if self.device == "cpu" else (self.device,)
        alone = Asked((self.name,), (cell,), (dtype,), devices, self.asked.order)
        return f"{spelled(alone)} --seed {self.asked.seed}"


def devices_of(asked: Asked) -> tuple[str, ...]:
    """Return the devices to check on: those asked for, or all that are there."""
    return asked.devices or tuple(d for d in DEVICES if _missing(d) is None)


def _missing(device: str) -> str | None:
    if device == "cuda" and not torch.cuda.is_available():
        return "there is no CUDA device on this machine"
    return None


@contextmanager
def created_on(device: str) -> Iterator[None]:
    """Create tensors on a device, if it is there and is not the default one."""
    if device == "cpu" or _missing(device) is not None:  # a default device is not free
        yield
        return
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def jobs_on(device: str, asked: Asked) -> list[Job]:
    """Return what is to be run on a device.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Where; to be called, and the jobs run, inside of `created_on`.
    asked : Asked
        What to check.

    Returns
    -------
    list of Job
        One for each record that has a cell to be run.

    Raises
    ------
    CommandError
        If no record has the name, or there is no cell to be run.

    Examples
    --------
    >>> from tsgu_func.selfcheck.jobs import jobs_on
    >>> from tsgu_func.selfcheck.asked import Asked
    >>> [job.name for job in jobs_on("cpu", Asked(ops=("gather_mm",), dtypes=("float64",)))]
    ['gather_mm sorted', 'gather_mm unsorted']
    """
    _refuse_order(asked)
    made = {wide: all_records(getattr(torch, wide)) for wide in _WIDE}
    jobs = []
    for i in _chosen(made["float64"], asked):
        parts = []
        for dtype in asked.dtypes or DTYPES:
            record = made["complex128" if dtype.startswith("complex") else "float64"][i]
            part = Part(record, dtype, _settings(record, dtype, asked))
            if "precision" in part.settings.chosen or dtype in _WIDE:
                parts.append(part)
        jobs.append(Job(made["float64"][i].name, device, asked, tuple(parts)))
    jobs = [job for job in jobs if job.size]
    if not jobs:
        raise CommandError(
            "there is no cell to be run; below double precision there are those of the column "
            "'precision' alone, and a record of torch.sparse tensors is not compiled"
        )
    return jobs


def _refuse_order(asked: Asked) -> None:
    for name in asked.cells:
        if name in CHECKS and CHECKS[name].order > asked.order:
            raise CommandError(
                f"the cell {name!r} takes --order {CHECKS[name].order}, got {asked.order}"
            )


def _chosen(records: Sequence[Record], asked: Asked) -> list[int]:
    """Return the positions of the records asked for."""
    names = [record.name for record in records]
    if not asked.ops:
        return _one_per_function(records) if asked.quick else list(range(len(names)))
    chosen = set[int]()
    for op in asked.ops:
        # A whole name is that record alone: it may be how others start.
        found = [names.index(op)] if op in names else _starting(names, op)
        if not found:
            raise CommandError(
                f"no record is, or starts with, {op!r}; there are {', '.join(near(op, names))}"
            )
        chosen.update(found)
    return sorted(chosen)


def _starting(names: Sequence[str], start: str) -> list[int]:
    return [i for i, name in enumerate(names) if name.startswith(start)] if start else []


def _one_per_function(records: Sequence[Record]) -> list[int]:
    """Return the first record of each public function."""
    first = dict[str, int]()
    for i, record in enumerate(records):
        if record.primitive is None:
            first.setdefault(record.name.partition(" ")[0], i)
    return list(first.values())


def _settings(record: Record, dtype: str, asked: Asked) -> Settings:
    wanted = frozenset(asked.cells or GROUPS)
    chosen = {
        check.name
        for check in CHECKS.values()
        if wanted & {check.name, check.group} and _runs(check, record, dtype, asked)
    }
    return Settings(
        order=asked.order,
        letters=_LETTERS,
        chosen=frozenset(chosen | (wanted & {"precision"})),
        dtypes=(getattr(torch, dtype),),
        rtol=None,
        atol=None,
        seed=asked.seed,
    )


def _runs(check: Check, record: Record, dtype: str, asked: Asked) -> bool:
    if check.name in record.refused:
        return False
    if check.backend is None:
        return True
    if asked.quick and not asked.cells and (check.name, dtype) not in _QUICKLY_COMPILED:
        return False
    return asked.compiled and record.compiles
