"""Mistakes of all kinds: each is told in the cells named for it, where its right twin passes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tsgu_func.__main__ import main
from tsgu_func.selfcheck.planted import command, table
from tsgu_func.selfcheck.planted.kinds import KINDS
from tsgu_func.selfcheck.planted.table import condemned, report_of

ALL = [mistake for kind in KINDS.values() for mistake in kind]
CAUGHT = {m.name: m for m in ALL if m.cells}
BY_DESIGN = {m.name: m for m in ALL if not m.cells}
CASES = [(name, base) for name, m in CAUGHT.items() for base in m.bases]


def case_of(mistake, base):
    return next(c for c, name in zip(mistake.cases(), mistake.bases, strict=True) if name == base)


def told(report):
    cells = {c.name: c.verdict for c in report.failures}
    return cells | {c.group: c.verdict for c in report.failures if c.group == "precision"}


@pytest.mark.parametrize(("name", "base"), CASES)
def test_a_mistake_is_told_and_its_right_twin_passes(name, base):
    mistake = CAUGHT[name]
    case = case_of(mistake, base)
    wrong = report_of(mistake, case.wrong, case)
    assert set(mistake.cells) <= set(told(wrong)), str(wrong)
    right = report_of(mistake, case.right, case)
    assert right.holds, str(right)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_DESIGN)
def test_what_nobody_can_tell_is_told_by_nobody(name):
    mistake = BY_DESIGN[name]
    case = case_of(mistake, mistake.bases[0])
    assert mistake.why
    report = report_of(mistake, case.wrong, case)
    assert condemned(report) == []
    assert any(c.verdict == "holds" for c in report.cells)


def test_names_are_names():
    assert len({m.name for m in ALL}) == len(ALL)


# -------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_prints_and_writes_the_table(monkeypatch, capsys, tmp_path):
    some = {"Precision": KINDS["Precision"][:2]}
    monkeypatch.setattr(command, "KINDS", some)
    monkeypatch.setattr(table, "KINDS", some)
    page = tmp_path / "page.md"
    assert main(["check", "--planted", "--markdown", str(page)]) == 0
    printed, written = capsys.readouterr().out, page.read_text()
    assert "2 rows; not as it must be: none" in printed
    for mistake in some["Precision"]:
        assert re.search(rf"^{mistake.name} +yes ", printed, re.M)
        assert f"| {mistake.name} | yes |" in written
    assert f"python -m tsgu_func check --planted --markdown {page.as_posix()}" in written


def test_a_mistake_that_is_not_told_is_an_error(monkeypatch, capsys):
    hidden = replace(BY_DESIGN["relative error of 1e-9"], cells=("r",), bases=("cube",))
    for module in (command, table):
        monkeypatch.setattr(module, "KINDS", {"Precision": (hidden,)})
    assert main(["check", "--planted"]) == 1
    assert "not as it must be: relative error of 1e-9" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--op", "spmm"), ("--no-compile",), ("--seed", "3")])
def test_nothing_else_is_asked_for_beside(options, capsys):
    assert main(["check", "--planted", *options]) == 2
    assert "--planted takes --markdown alone beside it" in capsys.readouterr().err


def test_the_page_in_the_docs_has_every_mistake():
    page = Path(__file__).parents[1].joinpath("docs", "planted.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (.+?) \| (yes|no) \|", page, re.M)
    assert found == [(m.name, "yes" if m.cells else "no") for m in ALL]
    assert "\npython -m tsgu_func check --planted --markdown docs/planted.md\n" in page
