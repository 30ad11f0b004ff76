"""The package as a whole: a light import, the command line."""

import json
import re
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch

from tsgu_func.__main__ import main
from tsgu_func.kernels.shapes import broadcast_shapes

OF_COMMANDS = "tsgu_func.__main__"  # which imports tsgu_func, and what its functions are in
HEAVY = [
    "numba",
    "scipy",
    "pyamg",
    "matplotlib",
    "hypothesis",
    "rich",
    "sympy",
    "functorch",
    "torch._dynamo",
]
OF_TESTS = "tsgu_func.testing, tsgu_func.testing.checker.graphs, tsgu_func.selfcheck.records"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tsgu_func", *arguments], capture_output=True, text=True, check=False
    )


def run_here(*arguments: str) -> int:
    """Return the exit code of a command, in the process of the tests."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "absent"), [(OF_COMMANDS, HEAVY), (OF_TESTS, ["functorch", "hypothesis"])]
)
def test_import_is_light(modules, absent):
    program = (
        f"import torch, sys, json; before = set(sys.modules); import {modules};"
        f"print(json.dumps([m for m in {absent} if m in sys.modules and m not in before]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout) == []


CALLS = """
import sys
import torch
from tsgu_func import *
from tsgu_func.solvers import *
sys.modules["sympy"] = None
A, b = SparseMatrix.from_dense(2 * torch.eye(3)), torch.ones(3)
V = A.values.clone().requires_grad_()
own = A.with_values(V)
for x in (A @ b, own @ torch.ones(3, 20), sparse_triangular_solve(own, b), sparse_solve(own, b),
          *(sparse_solve(own, b, solver=s) for s in (CG(IC0()), GMRES(), ICCG(), SuperLU())),
          sparse_lstsq(own, b), (own @ A).values, (own + A).values,
          sparse_mm(torch.eye(3).to_sparse(), V[None].mT),
          sparse_solve(A.with_values(V[None].expand(2, 3)), b)):
    if x.requires_grad:
        x.sum().backward()
"""


@pytest.mark.slow
def test_no_call_imports_what_an_interrupt_would_break():
    """An import of SymPy that is interrupted half-way leaves PyTorch broken for good."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "shapes",
    [
        ((),),
        ((2, 3), (3,)),
        ((2, 1), (1, 3), ()),
        ((0,), (1,)),
        ((0, 1), (4,)),
        ((2,), (3,)),
        ((0,), (2,)),
    ],
)
def test_batches_broadcast_as_pytorch_says(shapes):
    try:
        expected = torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=re.escape(str(error)[:30])):
            broadcast_shapes(*shapes)
    else:
        assert broadcast_shapes(*shapes) == expected


@pytest.mark.slow
def test_the_command_line_starts_where_the_system_is_not_posix():
    """On Windows there are no such modules, and nothing forks."""
    program = (
        "import sys, os, numba, scipy.sparse, torch, hypothesis, rich, matplotlib.pyplot\n"
        "for name in ('resource', 'fcntl', 'pwd', 'grp', 'termios', 'syslog'):\n"
        "    sys.modules[name] = None\n"
        "del os.register_at_fork\n"
        "from tsgu_func.__main__ import main\n"
        "import tsgu_func.bench.worker, tsgu_func.bench.resident\n"
        "import tsgu_func.selfcheck.command, tsgu_func.demo.command\n"
        "sys.exit(main(['bench', '--help']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_type_checkers_read_the_annotations():
    assert files("tsgu_func").joinpath("py.typed").is_file()


@pytest.mark.slow
def test_help():
    done = run("--help")
    assert done.returncode == 0
    for command in ("check", "demo", "info", "bench", "warm"):
        assert command in done.stdout


def test_version_and_a_command_that_does_not_exist(capsys):
    assert run_here("--version") == 0
    assert capsys.readouterr().out.startswith("tsgu_func 0.")
    assert run_here("nonsense") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [("check", "rich", "testing"), ("demo", "rich", "demo"), ("demo", "matplotlib", "demo")],
)
def test_a_missing_package_is_one_line(command, package, extra):
    program = (
        f"import sys; sys.modules[{package!r}] = None; from tsgu_func.__main__ import main;"
        f"sys.exit(main([{command!r}, '--quick']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"tsgu_func {command}: error: {package} is not installed: "
        f'pip install "tsgu_func[{extra}]"\n'
    )


@pytest.mark.slow
def test_info():
    done = run("info")
    assert done.returncode == 0
    for word in ("torch", "numpy", "scipy", "numba", "optree", "CPU"):
        assert word in done.stdout
    assert re.search(r"Poisson, 2-D, 1 column +ICCG\(.*\), then ", done.stdout)
    assert re.search(r"graph Laplacian, 256 columns +(SuperLU|Pardiso)\(\)", done.stdout)


@pytest.mark.slow
def test_demo_writes_its_figure(tmp_path):
    out = tmp_path / "figure.png"
    done = run("demo", "--quick", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 10_000
    assert "PSNR" in done.stdout
    assert "SSIM" in done.stdout


def assert_refused(capsys, *arguments):
    assert run_here("demo", *arguments) == 2
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1
    assert "error" in told


def test_demo_refuses_a_header_that_claims_too_much(tmp_path, capsys):
    path = tmp_path / "huge.npy"
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**24, 2**24)}
        np.lib.format.write_array_header_1_0(file, header)
    assert_refused(capsys, "--input", str(path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--noise", "-1"),
        ("--size", "2"),
        ("--input", "missing.png"),
        ("--input", __file__),
        ("--out", "no/such/folder/figure.png", "--quick"),
    ],
)
def test_demo_refuses_in_one_line(arguments, capsys):
    assert_refused(capsys, *arguments)
