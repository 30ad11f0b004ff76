"""The benchmark command: every subject runs, names who is missing, and writes what it measured."""

import errno
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tsgu_func.__main__ import main
from tsgu_func.bench import peers, table, timing
from tsgu_func.bench.footprint import FUNCTIONS, Footprint
from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.problems import PROBLEMS, side
from tsgu_func.bench.products import random_matrix
from tsgu_func.bench.report import replaced
from tsgu_func.bench.results import OURS, Comparison, amount
from tsgu_func.bench.scaling import _slopes
from tsgu_func.bench.subjects import SUBJECTS, parsed

IN_THIS_PROCESS = ("mm", "spgemm", "triangular", "indexed", "lstsq", "overhead")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="peaks are reset through /proc")


def bench(*arguments):
    assert main(["bench", *arguments, "--quick", "--threads", "1"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("subject", IN_THIS_PROCESS)
def test_a_subject_measures_in_both_directions(subject, tmp_path, capsys):
    threads, path = torch.get_num_threads(), tmp_path / "found.json"
    bench(subject, "--json", str(path))
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert "; 1 thread" in printed
    assert f"torch {torch.__version__}" in printed
    assert "CPU time" in printed
    found = json.loads(path.read_text())
    assert found["command"].startswith(f"python -m tsgu_func bench {subject} ")
    assert found["command"].endswith("--quick")
    assert found["machine"]["threads"] == 1
    assert found["versions"]["torch"] == torch.__version__
    assert {"forward", "forward+backward"} <= {row["case"]["direction"] for row in found["rows"]}
    cases = [tuple(row["case"].items()) for row in found["rows"]]
    assert len(set(cases)) == len(cases)
    for row in found["rows"]:
        assert not any("failure" in more for more in row["more"].values()), row
        assert all(len(taken) == 2 and min(taken) > 0 for taken in row["measured"].values())
        assert row["measured"].keys() - {OURS} == row["ratios"].keys()


@pytest.mark.slow
@LINUX
def test_the_processes_of_a_table(tmp_path, capsys):
    """The table runs other subjects, memory and scaling here, each in processes of its own."""
    path, page = tmp_path / "found.json", tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- bench table -->\nold\n<!-- /bench table -->\n\nBehind.\n")
    bench("table", "--only", "memory", "scaling", "--json", str(path), "--markdown", str(page))
    found, text = json.loads(path.read_text()), page.read_text()
    assert {row["command"] for row in found["rows"]} == {"memory", "scaling"}
    for row in found["rows"]:
        assert not row["more"], row
        assert row["unit"] in ("s", "B", "power")
    assert "| peak memory to the bound, forward + backward |" in text
    assert "| `bench memory` |" in text
    assert "| time by entries, 1e4 to 1e7: power |" in text
    assert text.startswith("Before.\n")
    assert text.endswith("\nBehind.\n")
    assert "old" not in text
    assert "x the bound" in capsys.readouterr().out


def test_figures_are_drawn(tmp_path):
    path = tmp_path / "ratios.png"
    bench("overhead", "--plot", str(path))
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mm", "--rows", "-5"], "--rows: takes a whole number from 1 to 2147483647, got '-5'"),
        (["mm", "--rows", "0"], "from 1"),
        (["mm", "--repeats", "0"], "from 1"),
        (["mm", "--columns", "4", "0"], "from 1"),
        (["mm", "--threads", "9999999999"], "got '9999999999'"),
        (["mm", "--matrices", "nothing"], "'random', 'plane'"),
        (["lstsq", "--rows", "3", "--unknowns", "7"], "at least as many rows as unknowns"),
        (["solve", "--sizes", "-3"], "got '-3'"),
        (["solve", "--limit", "nan"], "a number of seconds"),
        (["solve", "--peers", "nobody"], "no name begins with 'nobody': "),
        (["mm", "--json", "nowhere/found.json"], "there is no directory nowhere"),
        (["mm", "--plot", "nowhere/a.png"], "there is no directory nowhere"),
        (["mm", "--plot", "a.txt"], "is written as .png, .pdf, .svg"),
        (["mm", "--markdown", "nowhere.md"], "nowhere.md: cannot be read: "),
        (["mm", "--markdown", "README.md"], "README.md: there are no lines <!-- bench mm --> and "),
    ],
)
def test_is_refused_in_one_line_before_anything_is_measured(arguments, message, capsys):
    try:
        code = main(["bench", *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize("subject", [*SUBJECTS, "table"])
def test_help_fits_a_terminal(subject, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main(["bench", subject, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_smallest_systems(name):
    A = PROBLEMS[name].build(side(name, 1))
    assert A.shape == (1, 1)
    assert A.toarray() > 0


def test_a_full_disk_is_one_line(monkeypatch, tmp_path, capsys):
    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["bench", "overhead", "--quick", "--json", str(tmp_path / "found.json")]) == 2
    told = f"{tmp_path / 'found.json'}: cannot be written: No space left on device\n"
    assert capsys.readouterr().err == f"tsgu_func bench: error: {told}"


def test_nothing_optional_is_needed_but_for_figures(monkeypatch, tmp_path, capsys):
    for package in ("rich", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    bench("overhead")
    assert main(["bench", "overhead", "--plot", str(tmp_path / "figure.png")]) == 2
    assert capsys.readouterr().err == (
        'tsgu_func bench: error: matplotlib is not installed: pip install "tsgu_func[demo]"\n'
    )


# ------------------------------------------------------------------------------------- the peers


def test_who_is_missing_is_named(monkeypatch, capsys):
    absent = Peer(lambda *_, **__: 1 / 0, "a_package_nobody_has", "its-name[extra]")
    monkeypatch.setitem(peers.PEERS["spgemm"], "the absent one", absent)
    bench("spgemm")
    assert "not installed: its-name[extra] (the absent one)" in capsys.readouterr().out


def test_a_peer_that_fails_is_told_of(monkeypatch, capsys):
    failing = Peer(lambda *_, **__: lambda: 1 / 0)
    monkeypatch.setitem(peers.PEERS["spgemm"], "the failing one", failing)
    bench("spgemm")
    assert "the failing one: ZeroDivisionError: division by zero" in capsys.readouterr().out


def installed(name, A, B, *, backward):
    contender = peers.prepared("mm", A, B, backward=backward).get(name)
    return contender or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("p", [1, 5])
@pytest.mark.parametrize("name", peers.PEERS["mm"])
def test_products_of_peers_are_right(name, p):
    A = random_matrix(20, 30, 3)
    B = torch.randn(30, p)
    contender = installed(name, A, B, backward=False)
    product = contender()
    if not isinstance(product, torch.Tensor):
        product = torch.from_numpy(np.array(product))
    assert_close(product, A.to_dense() @ B)


@pytest.mark.parametrize("p", [1, 5])
@pytest.mark.parametrize("name", peers.bound.BOUNDS)
def test_gradients_of_the_bound_are_right(name, p):
    A = random_matrix(20, 30, 3)
    B = torch.randn(30, p)
    contender = installed(name, A, B, backward=True)
    values, columns = map(torch.from_numpy, contender())
    ones = torch.ones(20, p)
    assert_close(columns, A.to_dense().T @ ones)
    assert_close(values, (ones @ B.T)[A.pattern.row, A.pattern.col])


@pytest.mark.parametrize("work", ["segment_mm", "gather_mm"])
def test_groups_of_peers_are_right(work):
    a, b, index = torch.randn(7, 4), torch.randn(3, 4, 4), torch.tensor([2, 0, 0, 1, 2, 2, 1])
    if work == "segment_mm":
        index = index.sort().values
    which = torch.bincount(index) if work == "segment_mm" else index
    expected = torch.einsum("nd,nde->ne", a, b[index])
    name = {"segment_mm": "grouped_mm", "gather_mm": "sort + grouped_mm"}[work]
    assert_close(peers.prepared(work, a, b, which, backward=False)[name](), expected)


# -------------------------------------------------------------------------------- what is measured


def test_contenders_take_turns(monkeypatch):
    asked = []
    contenders = {name: lambda turn, name=name: asked.append((name, turn)) for name in "ab"}
    assert timing.in_turn(contenders, 2) == {"a": [None, None], "b": [None, None]}
    assert asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_one_thread_is_measured_by_its_own_time():
    with timing.in_threads(1):
        assert timing.clock() is time.process_time
    with timing.in_threads(2):
        assert timing.clock() is time.perf_counter


def test_ratios_are_of_pairs():
    comparison = Comparison({}, {OURS: [1.0, 2.0, 4.0], "peer": [3.0, 6.0, 4.0]})
    assert comparison.ratio("peer") == 3.0
    assert comparison.ratio("nobody") is None
    assert [amount(x, "s") for x in (2.0, 2e-3, 2e-6)] == ["2.00 s", "2.00 ms", "2.0 us"]


def test_slopes_are_powers():
    points = [
        Comparison({"entries": n, "p": p, "what": "time"}, {OURS: [2.0 * n**1.5 * p]})
        for n in (10, 100, 1000)
        for p in (1, 4)
    ]
    by_entries = [x.median() for x in _slopes(points, "time", "entries", "p")]
    assert by_entries == pytest.approx([1.5, 1.5])
    assert [x.median() for x in _slopes(points, "time", "p", "entries")] == pytest.approx([1] * 3)


@LINUX
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backward", [False, True])
def test_a_footprint_is_of_what_is_differentiated(name, backward):
    given = FUNCTIONS[name](400, 2)
    serve = object.__new__(Footprint)
    serve.backward = backward
    ready = serve.take(given)
    called: Any = serve.call()
    result, gradients = called if backward else (called, ())
    assert result.shape == given.result
    assert [x.shape for x in gradients] == [x.shape for x in given.inputs if backward]
    cotangent = [serve.cotangent] if backward else []
    there = [result, *given.inputs, *gradients, *cotangent]
    assert ready.bytes == given.index_bytes + sum(x.nbytes for x in there)


# ------------------------------------------------------------------------------------- the table


def test_aims_are_of_commands_that_there_are():
    works = [aim.work for aim in table.AIMS if not aim.work.startswith("...")]
    assert len(set(works)) == len(works)
    for aim in table.AIMS:
        options = parsed(aim.command)
        known = {name for work in SUBJECTS[options.subject].works for name in peers.PEERS[work]}
        assert set(aim.peers) <= known | {"dense", "bound"}


def test_rows_are_medians_and_worst_cases():
    aim = table._against("work", "mm", 0.8, 0.7, "peer", by=("COO", "CSR"))
    found = [
        Comparison({"by": by}, {OURS: [1.0], "peer": [x]}, command="mm")
        for by, x in (("COO", 0.9), ("CSR", 0.7), ("CSR", 1.0), ("SparseMatrix", 0.1))
    ]
    assert aim.row(found) == ["work", "0.9 (0.7)", "≥ 0.8 (0.7)", "`bench mm`"]
    times = table._within("work", "mm", 1.5, 2, "peer", by="COO")
    assert times.row(found)[1] == "1.11 x (1.11 x)"
    assert aim.row([])[1] == "not measured"


def test_only_what_is_between_the_marks_is_replaced():
    page = "a\n<!-- bench mm -->\nold\n<!-- /bench mm -->\nb\n"
    assert replaced(page, "mm", ["new"]) == "a\n<!-- bench mm -->\n\nnew\n\n<!-- /bench mm -->\nb\n"
    with pytest.raises(ValueError, match="between which to write"):
        replaced(page, "solve", ["new"])
