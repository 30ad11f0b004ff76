"""Which checkers tell which mistakes: of this library, and of PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import tsgu_func
from tsgu_func.selfcheck.planted.base import custom_op
from tsgu_func.selfcheck.planted.changes import Case, Mistake
from tsgu_func.selfcheck.planted.kinds import KINDS
from tsgu_func.testing.checker.check_rules import check_rules
from tsgu_func.testing.checker.report import Report, markdown

__all__ = ["COLUMNS", "HEAD", "Row", "as_page", "condemned", "entries", "report_of", "rows"]

# What a right function made by ``autograd.Function`` does not pass (see `docs/check-your-op.md`).
_GROUPS = ("value", "first", "eager", "vmap", "jacobian", "precision")
_HIGHER = ("fr", "rf", "rr", "rr of one argument")
_KNOWN = ("ff", "jacfwd(jacfwd)", "second derivatives agree")

_FLAGS = {"check_forward_ad": True, "check_batched_grad": True, "check_undefined_grad": True}

Checker = Callable[[Mistake, Case], bool | None]


class Row(NamedTuple):
    """A mistake, and how many of the functions that have it each checker condemns."""

    kind: str
    mistake: Mistake
    told: tuple[tuple[int, int], ...]

    @property
    def as_it_must(self) -> bool:
        """Whether `check_rules` condemns what it must, and nothing else."""
        told, of = self.told[0]
        return told == (of if self.mistake.cells else 0)


def report_of(mistake: Mistake, function: Callable[..., Any], case: Case) -> Report:
    """Check a function in the cells that must tell, or in all."""
    cells = mistake.cells or (*_GROUPS, *_HIGHER)
    return check_rules(function, case.right_rules.args, transforms=cells, dtypes=(mistake.dtype,))


def condemned(report: Report) -> list[str]:
    """Return the cells that are wrong or raise, without those that no right function passes."""
    return [c.name for c in report.failures if c.name not in _KNOWN]


def _ours(mistake: Mistake, case: Case) -> bool | None:
    return bool(condemned(report_of(mistake, case.wrong, case)))


def _numerical(check: Callable[..., bool], **options: Any) -> Checker:
    def run(mistake: Mistake, case: Case) -> bool | None:
        if mistake.dtype not in (torch.float64, torch.complex128):
            return None  # PyTorch's checks need double precision
        return _fails(lambda: check(case.wrong, _leaves(case), **options))

    return run


def _opcheck(mistake: Mistake, case: Case) -> bool | None:
    if not mistake.in_op:
        return None
    op = custom_op(case.wrong_rules, case.right_rules)
    return _fails(lambda: torch.library.opcheck(op, _leaves(case)))


def _fails(run: Callable[[], Any]) -> bool:
    """Whether a check raises: what it says of a wrong function does not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run()
        except Exception:  # of any kind: the twin of a right function raises none
            return True
    return False


def _leaves(case: Case) -> tuple[Tensor, ...]:
    return tuple(a.detach().clone().requires_grad_() for a in case.right_rules.args)


COLUMNS: dict[str, Checker] = {
    "check_rules": _ours,
    "gradcheck": _numerical(gradcheck),
    "gradcheck, fast": _numerical(gradcheck, fast_mode=True),
    "gradcheck, all flags": _numerical(gradcheck, **_FLAGS),
    "gradgradcheck": _numerical(gradgradcheck),
    "opcheck": _opcheck,
}


def rows(kinds: Sequence[str] = tuple(KINDS)) -> Iterator[Row]:
    """Run all checkers on all mistakes."""
    for kind in kinds:
        for mistake in KINDS[kind]:
            told = tuple(_told(mistake, checker) for checker in COLUMNS.values())
            yield Row(kind, mistake, told)


def _told(mistake: Mistake, checker: Checker) -> tuple[int, int]:
    """Count the functions that are condemned, and those that were checked."""
    verdicts = [v for v in (checker(mistake, case) for case in mistake.cases()) if v is not None]
    return sum(verdicts), len(verdicts)


# ---------------------------------------------------------------------------------- the table


def _entry(told: int, of: int) -> str:
    if not of:
        return "-"
    return {0: "no", of: "yes"}.get(told, f"{told} of {of}")


def entries(row: Row) -> list[str]:
    """Return what stands in the row of a table."""
    cells = ", ".join(f"`{name}`" for name in row.mistake.cells) or row.mistake.why
    return [row.mistake.name, *(_entry(*told) for told in row.told), cells]


HEAD = ["mistake", *COLUMNS, "told by"]
_TEXT = """\
# What checkers tell

Mistakes of usual kinds, planted in the rules of small functions (a cube, a matrix product, a
function with two results), each an `autograd.Function`; and whether checkers condemn them, or in
how many of the functions. The last column says in which cells
[`check_rules`](check-your-op.md) must: a test runs them, and the right twin of each function passes
there. Or it says why nobody can tell, or that nothing is wrong.

`gradcheck` and `gradgradcheck` are those of `torch.autograd`, with their defaults (slow mode), with
`fast_mode=True`, and with forward mode, batches and undefined cotangents as well. `opcheck` is that
of `torch.library`, on an op with the same rules. `-`: such an op cannot have the mistake, or the
checker does not take the dtype.

This page is written by

```bash
{command}
```

with tsgu_func {version} and torch {torch}.
"""


def as_page(found: Sequence[Row], command: str) -> str:
    """Return the page of the documentation."""
    text = _TEXT.format(command=command, version=tsgu_func.__version__, torch=torch.__version__)
    lines = [text.rstrip()]
    for kind in dict.fromkeys(row.kind for row in found):
        table = [entries(row) for row in found if row.kind == kind]
        lines += ["", f"## {kind}", "", *markdown(HEAD, table)]
    return "\n".join(lines) + "\n"
