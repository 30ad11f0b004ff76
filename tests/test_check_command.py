"""``python -m tsgu_func check``: what it runs, prints, writes and returns."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tsgu_func
from tsgu_func.__main__ import main
from tsgu_func.selfcheck import command, jobs
from tsgu_func.selfcheck.asked import DTYPES, Asked, spelled
from tsgu_func.selfcheck.jobs import jobs_on
from tsgu_func.selfcheck.output import Outcome, as_json, as_markdown
from tsgu_func.selfcheck.records import Record, all_records
from tsgu_func.testing import Cell, Counterexample, Report, Verdict
from tsgu_func.testing.checker import check_rules
from tsgu_func.testing.checker.checks import CHECKS

FUNCTIONS = (
    "gather_mm",
    "segment_mm",
    "sparse_generic_lstsq",
    "sparse_generic_solve",
    "sparse_mm",
    "sparse_triangular_solve",
)
NAMES = [record.name for record in all_records(torch.float64)]
OF_PRODUCTS = [name for name in NAMES if name.startswith("sparse_mm ")]
ALONE = ("--dtype", "float64", "--device", "cpu", "--no-compile")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tsgu_func", "check", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Run the products, and return what was printed, the JSON and the Markdown."""
    folder = tmp_path_factory.mktemp("check")
    files = folder / "all.json", folder / "page.md"
    done = check(
        "--quick", "--op", "sparse_mm", "--device", "cpu", "--no-compile",
        "--json", str(files[0]), "--markdown", str(files[1]),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads(files[0].read_text()), files[1].read_text()


@pytest.mark.slow
def test_prints_a_table_and_nothing_else(products):
    done, whole, _ = products
    # A line for each record, where nobody watches; and maybe one of loops that are not kept yet.
    told = [t for t in done.stderr.splitlines() if not t.startswith("tsgu_func compiles its loops")]
    count = len(OF_PRODUCTS)
    for number, (line, name) in enumerate(zip(told, OF_PRODUCTS, strict=True), 1):
        assert re.fullmatch(rf"{number}/{count} cpu: {re.escape(name)}: \d+ cells, 0 failed", line)
    assert "\x1b" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    heads = ["value", "first", "higher", "eager", "jacobian", "vmap", "opcheck", "precision"]
    assert lines[2].split() == ["record", *heads]
    for name in OF_PRODUCTS:
        (row,) = (line for line in lines if line.startswith(name))
        assert row.removeprefix(name).split()[:7] == ["yes"] * 7
    assert max(len(line) for line in lines[: 4 + len(OF_PRODUCTS)]) <= 100
    ran = whole["counts"]["holds"]
    assert re.search(
        rf"^{ran} cells hold, 0 fail, 0 cannot be told, \d+ were not run; \d+ s", done.stdout, re.M
    )


@pytest.mark.slow
def test_the_json_is_complete(products):
    _, whole, _ = products
    assert whole["tsgu_func"] == tsgu_func.__version__
    assert whole["torch"] == torch.__version__
    assert whole["holds"] is True
    assert [r["record"] for r in whole["records"]] == OF_PRODUCTS
    wide = {c.name for c in CHECKS.values() if c.order <= 2 and c.group != "compile"}
    assert len(wide) > 30
    of_several = {c.name for c in CHECKS.values() if c.least > 1}  # arguments
    for record in whole["records"]:
        for dtype in DTYPES:
            names = [c["name"] for c in record["cells"] if c["dtype"] == dtype]
            assert len(names) == len(set(names))
            expected = wide if dtype in ("float64", "complex128") else {"value", "r"}
            assert expected - of_several <= set(names) <= expected
    cells = [c for r in whole["records"] for c in r["cells"]]
    assert sum(whole["counts"].values()) == len(cells)


def test_the_page_says_what_made_it(products):
    _, whole, page = products
    command = re.sub(r' --json ("[^"]*"|\S+)', "", whole["command"])
    assert command in page.splitlines()
    assert f"tsgu_func {tsgu_func.__version__} and torch {torch.__version__}" in page
    assert "\n## CPU: float64, complex128, float32, float16, bfloat16;" in page
    for name in OF_PRODUCTS:
        assert f"\n| `{name}` | yes |" in page


# --------------------------------------------------------------------------- what does not hold


class WrongCube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, ct):
        return 2 * ct * ctx.saved_tensors[0] ** 2  # 3, not 2

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * tangent * ctx.saved_tensors[0] ** 2


def cube(x):
    return x**3


def noisy(x):
    # Noise that no derivative sees and finite differences do: nothing can be told.
    return x**3 + 1e-3 * torch.sin(x.detach() * 1e9)


def refuses(x):
    raise RuntimeError("nothing is computed")


def patch(monkeypatch, **functions):
    """Put records of functions, with a cube as their reference, in the place of all others."""

    def made(dtype):
        x = torch.tensor([1.0, 2.0, -1.5], dtype=dtype)
        return [Record(name, f, cube, (x,)) for name, f in functions.items()]

    monkeypatch.setattr(jobs, "all_records", made)


def reproductions(text: str) -> list[list[str]]:
    lines = (line.strip() for line in text.splitlines())
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m tsgu_func ")]


def test_a_wrong_rule_is_shown_and_shown_again(monkeypatch, capsys):
    patch(monkeypatch, right=cube, wrong=WrongCube.apply)
    assert main(["check", "--cell", "first", "--seed", "3", *ALONE]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^right\s+yes\s*$", text, re.M)
    assert re.search(r"^wrong\s+WRONG\s*$", text, re.M)
    assert "wrong: r (float64): WRONG; " in text
    assert ", 0 cannot be told" in text
    again = next(words for words in reproductions(text) if "r" in words)
    assert again == ["check", "--op", "wrong", "--cell", "r", "--dtype", "float64", "--seed", "3"]
    assert main(again) == 1
    assert "wrong: r (float64): WRONG; " in capsys.readouterr().out
    patch(monkeypatch, wrong=cube)
    assert main(again) == 0


def test_a_wrong_value_is_shown_in_each_dtype(monkeypatch, capsys):
    patch(monkeypatch, wrong=lambda x: x**3 * 1.001)
    assert main(["check", "--cell", "value", "--dtype", "complex128", "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert "wrong: value (complex128): WRONG; " in text
    assert "from the reference" in text


def test_a_wrong_precision_is_shown_again(monkeypatch, capsys):
    # Right in double precision.
    patch(monkeypatch, wrong=lambda x: x**3 * (1 + 1000 * torch.finfo(x.dtype).eps))
    assert main(["check", "--dtype", "float32", "--device", "cpu"]) == 1
    again = reproductions(capsys.readouterr().out)[0]
    assert again[1:5] == ["--op", "wrong", "--cell", "precision"]
    assert main(again) == 1


def test_what_raises_ends_nothing_else(monkeypatch, capsys):
    patch(monkeypatch, bad=refuses, good=cube)
    assert main(["check", "--cell", "value", *ALONE]) == 1
    text = capsys.readouterr().out
    assert "bad: value (float64): RAISES; RuntimeError: nothing is computed" in text
    assert re.search(r"^good\s+yes", text, re.M)
    assert main(reproductions(text)[0]) == 1


def test_what_cannot_be_told_is_no_success(monkeypatch, capsys):
    patch(monkeypatch, noisy=noisy)
    assert main(["check", "--cell", "f", *ALONE]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^noisy\s+can't tell\s*$", text, re.M)
    assert "0 cells hold, 0 fail, 1 cannot be told, 0 were not run" in text
    assert len(reproductions(text)) == 1


def test_an_interrupted_check_shows_what_it_has_checked(monkeypatch, capsys):
    def interrupts(x):
        raise KeyboardInterrupt

    patch(monkeypatch, good=cube, wrong=WrongCube.apply, interrupts=interrupts, never=cube)
    threads = torch.get_num_threads()
    assert main(["check", "--cell", "first", *ALONE]) == 130
    out, err = capsys.readouterr()
    assert re.search(r"^good\s+yes\s*$", out, re.M)
    assert "wrong: r (float64): WRONG; " in out
    assert "interrupts" not in out
    assert "never" not in out
    assert err.splitlines()[-1] == "interrupted"
    assert torch.get_num_threads() == threads


def test_says_what_was_not_run(monkeypatch, capsys):
    def in_single_and_double(x):
        if x.dtype.itemsize < 4:
            raise TypeError("not in half precision")
        return cube(x)

    patch(monkeypatch, picky=in_single_and_double)
    arguments = ["check", "--cell", "precision", "--device", "cpu"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert re.search(r"^picky\s+partly\s*$", text, re.M)
    reason = "not taken: TypeError: not in half precision"
    assert f"not run: 4 cells of 1 record (float16, bfloat16): {reason}" in text
    assert "2 cells hold, 0 fail, 0 cannot be told, 4 were not run" in text
    assert main([*arguments, "--dtype", "float16"]) == 1  # nothing at all was run
    assert re.search(r"^picky\s+not run\s*$", capsys.readouterr().out, re.M)


def test_numbers_that_are_not_finite_are_valid_json():
    example = Counterexample("", complex("nan+infj"), float("-inf"), "python")
    cell = Cell("r", "first", "float64", Verdict.FAILS, "far", example)
    outcome = Outcome(Asked(), {"cpu": [Report("op", (cell,))]}, 1.0)

    def refuse(constant):
        raise AssertionError(constant)

    whole = json.loads(as_json(outcome), parse_constant=refuse)
    (found,) = whole["records"][0]["cells"]
    assert found["counterexample"]["expected"] == ["nan", "inf"]
    assert found["counterexample"]["got"] == "-inf"
    assert whole["holds"] is False
    assert "op: r (float64): WRONG; far" in as_markdown(outcome)


# ------------------------------------------------------------------------------- what is missing


def test_without_cuda(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    one = ("--op", "sparse_mm COO", "--cell", "f")
    assert main(["check", *one, "--device", "cuda"]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^sparse_mm COO not run", text, re.M)
    assert "not run: 2 cells of 1 record (float64, complex128): there is no CUDA device" in text
    assert "0 cells hold, 0 fail, 0 cannot be told, 2 were not run" in text
    assert main(["check", *one]) == 0
    assert "CUDA was not run: there is no CUDA device on this machine" in capsys.readouterr().out
    assert main(["check", *one, "--device", "cpu"]) == 0
    assert "CUDA" not in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_with_cuda(capsys):
    assert main(["check", "--quick", "--device", "cuda", "--no-compile"]) == 0
    assert capsys.readouterr().out.startswith("CUDA (")
    assert torch.get_default_device().type == "cpu"


def test_without_a_compiler(monkeypatch, capsys):
    reason = "torch.compile does not run here: no compiler"
    monkeypatch.setattr(check_rules, "compiler_missing", lambda backend: reason)
    one = ("--op", "sparse_mm matrix", "--dtype", "float64", "--device", "cpu")
    assert main(["check", *one, "--cell", "compiled f"]) == 1
    text = capsys.readouterr().out
    assert f"not run: 1 cell of 1 record (float64): {reason}" in text
    assert main(["check", *one, "--cell", "compiled f", "--cell", "f"]) == 0
    row = next(t for t in capsys.readouterr().out.splitlines() if t.startswith("sparse_mm matrix"))
    assert row.removeprefix("sparse_mm matrix").split() == ["yes", "not", "run"]


# ------------------------------------------------------------------------------ what is selected


def test_one_cell(tmp_path, capsys):
    file = tmp_path / "one.json"
    arguments = ["--op", "spmm", "--cell", "vmap(vjp)", "--dtype", "complex128", "--device", "cpu"]
    assert main(["check", *arguments, "--json", str(file)]) == 0
    (record,) = json.loads(file.read_text())["records"]
    assert record["record"] == "spmm"  # alone, although it is how another name starts
    assert [(c["name"], c["dtype"]) for c in record["cells"]] == [("vmap(vjp)", "complex128")]
    assert "1 cell holds, 0 fail" in capsys.readouterr().out


def test_one_compiled_cell(capsys):
    arguments = ["--op", "sparse_mm matrix", "--cell", "compiled f", "--dtype", "float64"]
    assert main(["check", *arguments, "--device", "cpu"]) == 0
    assert re.search(r"^sparse_mm matrix yes", capsys.readouterr().out, re.M)


def test_quick_takes_one_record_of_each_function():
    jobs = jobs_on("cpu", Asked(quick=True))
    started = [job.name.partition(" ")[0] for job in jobs]
    for function in FUNCTIONS:
        assert started.count(function) == 1
    assert not any(part.record.primitive for job in jobs for part in job.parts)
    cells = [cell for part in jobs[0].parts for cell in part.planned()]
    assert sum(cell.group == "compile" for cell in cells) == 2
    assert {cell.dtype for cell in cells} == set(DTYPES)


def test_everything_is_every_record_in_every_dtype():
    jobs = jobs_on("cpu", Asked(order=3))
    assert [job.name for job in jobs] == NAMES
    for job in jobs:
        for part in job.parts:
            found = {cell.name for cell in part.planned()}
            if part.dtype in ("float64", "complex128"):
                assert part.record.args[0].dtype == getattr(torch, part.dtype)
                compiled = {c.name for c in CHECKS.values() if c.group == "compile"}
                left_out = set() if part.record.compiles else compiled
                assert found == set(CHECKS) - left_out - part.record.refused
            else:
                assert found == {"value", "r"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--op", "nonsense"), ("'nonsense'", "sparse_mm COO", "gather_mm sorted")),
        (("--op", ""), ("''", "sparse_mm COO")),
        (("--op", "solve_info"), ("'solve_info'; there are", "sparse_solve info")),
        (("--cell", "nonsense"), ("'nonsense'", "'vmap(vjp)'", "'jacobian'")),
        (("--cell", "vmap(vjq)"), ("'vmap(vjq)'; there are", "'vmap(vjp)'")),
        (("--cell", "fff"), ("'fff'", "--order 3")),
        (("--cell", "f", "--dtype", "float16"), ("no cell", "precision")),
        (("--op", "sparse_mm COO", "--cell", "compile"), ("no cell", "torch.sparse")),
        (("--dtype", "int8"), ("'int8'", "float64")),
        (("--seed", "-1"), ("'-1'",)),
        (("--json", "no/such/folder/all.json"), ("no directory",)),
        (("--markdown", "."), ("is a directory",)),
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
    for word in ("tsgu_func check: error: ", *words):
        assert word in err


@pytest.mark.slow
def test_refuses_an_unknown_op_from_a_shell():
    done = check("--op", "nonsense")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(("sparse_mm matrix", "spmm"), ("vmap, chunked", "fr"), ("float64",), order=3),
        Asked(devices=("cuda", "cpu"), seed=7, compiled=False, quick=True),
        Asked(json_file=Path("a b.json"), markdown_file=Path("page.md")),
    ],
    ids=["default", "selected", "extent", "files"],
)
def test_the_command_line_asks_for_the_same(asked, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "run_check", lambda asked: seen.append(asked) or 0)
    words = shlex.split(spelled(asked))
    assert words[:3] == ["python", "-m", "tsgu_func"]
    assert main(words[3:]) == 0
    assert seen == [asked]


# ------------------------------------------------------------------------------------- the docs


def test_the_page_in_the_docs_has_every_record():
    page = Path(__file__).parents[1].joinpath("docs", "checked.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert rows == NAMES
    (head,) = re.findall(r"^\| record \| (.+) \|$", page, re.M)
    assert head.split(" | ") == list(check_rules.GROUPS)
    assert re.search(r"^\d+ cells hold, 0 fail, 0 cannot be told, \d+ were not run\.$", page, re.M)
    assert "\npython -m tsgu_func check --markdown docs/checked.md\n" in page
