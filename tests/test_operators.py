"""``python -m tsgu_func check --torch``: PyTorch's operators, and the defects that are known."""

import contextlib
import io
import json
import os
import re
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tsgu_func.__main__ import main
from tsgu_func.console.ending import CommandError
from tsgu_func.selfcheck import operators
from tsgu_func.selfcheck.asked import Asked, spelled
from tsgu_func.selfcheck.found import Found
from tsgu_func.selfcheck.known import KNOWN, PREAMBLE, known_of
from tsgu_func.selfcheck.operator_output import as_json, as_page, defects
from tsgu_func.selfcheck.operators import run_operators

ROOT = Path(__file__).parents[1]
THREE = ("sin", "mul", "scatter_reduce.prod")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Run three operators, of which the first was run before."""
    pytest.importorskip("expecttest")
    folder = tmp_path_factory.mktemp("operators")
    kept, whole = folder / "kept.jsonl", folder / "all.json"
    sin = Found("sin", (cell("holds"),))
    asked = Asked(torch=True, ops=THREE, cells=("first",), resume=kept, json_file=whole)
    with operators._kept(asked) as (_, file):
        file.write(json.dumps(asdict(sin)) + "\n")
        file.write('{"op": "mul", "cel')  # as it is left by a run that is killed
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(shlex.split(spelled(asked))[3:]) == 1
    return printed.getvalue(), json.loads(whole.read_text()), kept.read_text().splitlines()


def test_what_disagrees_is_told(three):
    text, whole, _ = three
    found = {f["op"]: f for f in whole["operators"]}
    assert sorted(found) == sorted(THREE)
    verdicts = {op: {c["verdict"] for c in f["cells"]} for op, f in found.items()}
    assert verdicts["sin"] == verdicts["mul"] == {"holds"}
    assert "fails" in verdicts["scatter_reduce.prod"]
    assert re.search(r"^scatter_reduce\.prod +\d+ +0 +[1-9]\d* +0 +#196702 *$", text, re.M)
    assert not re.search("^(sin|mul) ", text, re.M)
    assert "scatter_reduce.prod: f (sample 0): WRONG; " in text
    assert "\n  python -m tsgu_func check --torch --op scatter_reduce.prod --cell f\n" in text
    n = whole["counts"]
    assert sum(n.values()) == sum(len(f["cells"]) for f in found.values())
    counts = f"3 operators, 0 of them stopped; {n['holds']} cells hold, 0 raise, {n['fails']} dis"
    assert counts in text


def test_what_was_run_is_not_run_again(three):
    _, whole, lines = three
    assert json.loads(lines[0])["torch"] == torch.__version__
    kept = [json.loads(line) for line in lines[1:]]
    assert len(kept) == 3
    assert kept[0]["cells"] == [cell("holds")]
    assert sorted(kept, key=str) == sorted(whole["operators"], key=str)


# ------------------------------------------------------------------------- without the database


@pytest.fixture
def run(monkeypatch):
    """Run in this process, with the names of operators, and what is found of each, given."""

    def run(asked, **found):
        monkeypatch.setattr(operators, "_names", lambda dtype: list(found))
        monkeypatch.setattr(operators, "_examined", lambda name, asked: found[name])
        return run_operators(asked)

    return run


def cell(verdict):
    return {
        "sample": 0, "name": "r", "verdict": verdict, "detail": "far", "where": "entry [0]",
        "expected": "1", "got": "nan",
    }  # fmt: skip


def test_the_exit_code(run, capsys):
    right, raises = Found("right", (cell("holds"),)), Found("raises", (cell("raises"),))
    assert run(Asked(), right=right, raises=raises) == 0
    assert run(Asked(), right=right, stopped=Found("stopped", stopped="took more than 1 s")) == 1
    assert "not run: stopped: took more than 1 s" in capsys.readouterr().out
    assert run(Asked(), wrong=Found("wrong", (cell("fails"),))) == 1
    assert "entry [0]: expected 1, got nan" in capsys.readouterr().out


def test_a_file_of_another_run_is_refused(run, tmp_path):
    path = tmp_path / "kept.jsonl"
    right = Found("right", (cell("holds"),))
    assert run(Asked(resume=path), right=right) == 0
    assert run(Asked(resume=path), right=None) == 0
    with pytest.raises(CommandError, match="another run"):
        run(Asked(resume=path, seed=1), right=right)
    for text in ("text\n", "text", '{"a": 1}', "{}\n{}\n{"):
        path.write_text(text)
        with pytest.raises(CommandError, match="was not written by"):
            run(Asked(resume=path), right=right)
        assert path.read_text() == text  # whosever it is
    path.write_text('{"tsgu_func": "')  # killed at once
    assert run(Asked(resume=path), right=right) == 0
    assert len(path.read_text().splitlines()) == 2


def test_an_unknown_operator_is_refused(run):
    with pytest.raises(CommandError, match="no 'wro' with a gradient; it has wrong"):
        run(Asked(ops=("wro",)), wrong=None)


def dies():
    os._exit(7)


def test_a_process_for_each():
    by_process = operators._by_process
    assert by_process(time.sleep, (600,), 0.5) == ({}, "took more than 0.5 seconds")
    assert by_process(dies, (), 60.0) == ({}, "its process ended with code 7")
    assert by_process(dict, ({"a": 1},), 60.0) == ({"a": 1}, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resume", "kept.jsonl"), "--resume and --limit go with --torch"),
        (("--limit", "3"), "--resume and --limit go with --torch"),
        (("--torch", "--quick"), "do not go with --torch"),
        (("--torch", "--dtype", "float32"), "float64 or complex128"),
        (("--torch", "--limit", "0"), "a number of seconds"),
    ],
)
def test_refuses_in_one_line(arguments, words, capsys):
    try:
        code = main(["check", *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert words in err


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("expecttest", 'expecttest is not installed: pip install "tsgu_func[testing]"'),
        ("torch.testing._internal.common_methods_invocations", "has no operator database"),
    ],
)
def test_without_the_database_there_is_one_line(missing, words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    answer = operators._load("float64")
    assert answer["missing"] == missing
    monkeypatch.setattr(operators, "_by_process", lambda *arguments: (answer, ""))
    assert main(["check", "--torch", "--op", "sin"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err


# ----------------------------------------------------------------------------- what is known


def test_the_page_in_the_docs_is_of_today():
    page = (ROOT / "docs" / "torch-errors.md").read_text(encoding="utf-8")
    assert page.startswith(defects()), (
        "the defects have changed: python -m tsgu_func check --torch --resume FILE "
        "--markdown docs/torch-errors.md writes the page again"
    )
    numbers = r"\d+ operators, \d+ of them stopped; \d+ cells hold, \d+ raise, \d+ disagree, \d+ "
    assert re.search(numbers, page)


def test_what_is_written_of_a_run():
    asked = Asked(torch=True, ops=("select_scatter", "right"))
    found = [Found("select_scatter", (cell("fails"),)), Found("right", (cell("holds"),))]
    page = as_page(asked, found)
    assert "\n| `select_scatter` | 0 | 0 | 1 | 0 | not reported |\n" in page
    assert "`right`" not in page
    assert "2 operators, 0 of them stopped; 1 cells hold, 0 raise, 1 disagree, 0 cannot" in page
    assert json.loads(as_json(asked, found))["counts"]["fails"] == 1


def test_operators_know_their_defects():
    assert (196695, 196696, 196697) in [k.issues for k in known_of("linalg.det")]
    assert known_of("nn.functional.max_unpool2d")
    assert known_of("linalg.svd")
    assert not known_of("sin")
    assert len({k.title for k in KNOWN}) == len(KNOWN)


def read():
    from tsgu_func.selfcheck import database

    f, x = next(database.samples("mul", torch.float64))
    names = database.names(torch.float64)
    return {"names": names, "right": len(x) == 2 and torch.equal(f(*x), x[0] * x[1])}


def test_the_names_of_the_database():
    """What is read of a private module; and the operators with defects are in it."""
    pytest.importorskip("expecttest")
    answer, stopped = operators._by_process(read, (), 300.0)
    assert stopped == ""
    assert len(answer["names"]) > 400
    assert answer["right"]
    if torch.__version__ >= (2, 13):  # in which the defects were seen; before, some are missing
        found = {id(k) for name in answer["names"] for k in known_of(name)}
        assert [k.title for k in KNOWN if k.ops and id(k) not in found] == []


@pytest.fixture
def double():
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "known",
    [
        pytest.param(
            known,
            id=known.title.replace(" ", "_"),
            marks=pytest.mark.xfail(
                not known.mended or torch.__version__ < known.mended,
                strict=True,
                raises=(AssertionError, RuntimeError),
                reason=known.title,
            ),
        )
        for known in KNOWN
    ],
)
def test_canary(known):
    """They fail when PyTorch mends a defect: say then in which version."""
    if "LinearCrossEntropyOptions" in known.program and torch.__version__ < (2, 13):
        pytest.skip("PyTorch 2.12 has no chunked linear_cross_entropy")
    space = {}
    exec(PREAMBLE + known.program, space)
    got, right = space["got"].detach(), space["right"].detach()
    torch.testing.assert_close(got, right, check_dtype=False)
