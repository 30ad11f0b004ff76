"""The benchmark of solvers: its problems, what it counts, and what it does with what fails."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tsgu_func.bench import busy, contenders, worker
from tsgu_func.bench.contenders import Solves
from tsgu_func.bench.peers.peer import Peer
from tsgu_func.bench.problems import PROBLEMS, right_hand_side, side
from tsgu_func.bench.solve import judged
from tsgu_func.bench.worker import Measured, Worker

SMALL = {"plane": 6, "space": 4, "anisotropic": 6, "convection": 6, "graph": 60}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_what_they_say(name):
    problem = PROBLEMS[name]
    A = problem.build(SMALL[name])
    D = A.toarray()
    assert A.format == "csr"
    assert A.dtype == np.float64
    assert np.allclose(D, D.T) == problem.symmetric
    smallest = np.linalg.eigvalsh((D + D.T) / 2)[0]
    assert smallest > 0
    n = {"space": SMALL[name] ** 3, "graph": SMALL[name]}.get(name, SMALL[name] ** 2)
    assert D.shape == (n, n)
    assert side(name, n) == SMALL[name]
    assert right_hand_side(n).shape == (n,)


def test_the_laplacian_is_exact_for_what_is_linear():
    line = np.arange(1.0, 7.0)
    D = PROBLEMS["plane"].build(6).toarray()
    plane = (line[:, None] + 2 * line).ravel()
    inner = (D @ plane).reshape(6, 6)[1:-1, 1:-1]
    np.testing.assert_allclose(inner, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("measured", "counts"),
    [
        (Measured(1.0, 1e-9), True),
        (Measured(1.0, 1e-7), False),
        (Measured(1.0, float("nan")), False),
        (Measured(failure="it failed"), False),
    ],
)
def test_what_counts(measured, counts):
    comparison = judged({"n": 4}, {"x": [Measured(2.0, 1e-12), measured]})
    assert ("x" in comparison.measured) is counts
    assert ("failure" in comparison.more["x"]) is not counts


def failing(S, b):
    def solve(backward):
        raise RuntimeError("no solution today\nand more of it")

    return solve


@pytest.mark.parametrize("name", ["scipy splu", "scipy cg/bicgstab", "superlu", "tsgu_func"])
@pytest.mark.parametrize("problem", ["plane", "convection"])
def test_a_solve_is_measured_in_this_process(name, problem):
    serve = Solves(name, problem, 8)
    for backward in (False, True):
        measured = serve(1.5, backward)
        assert measured.seconds > 0
        assert measured.residual < 1e-8
        assert measured.bytes >= 0


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(worker, "_GRACE", 0.0)
    slow = Worker(Solves, "scipy splu", "plane", 100)
    assert not slow.failure
    # A limit of nothing is exceeded by any solve.
    first = slow.measure(1.0, False, limit=1e-6)
    assert "more than" in first.failure
    assert slow.measure(1.0, False).failure == first.failure
    assert not slow._process.is_alive()


@pytest.mark.slow
def test_a_failure_is_reported_in_one_line(monkeypatch):
    monkeypatch.setitem(contenders.OWN, "failing", Peer(failing))
    with pytest.raises(RuntimeError, match="no solution today"):
        Solves("failing", "plane", 4)
    broken = Worker(Solves, "nobody", "plane", 4)
    assert "KeyError" in broken.failure
    assert "\n" not in broken.failure
    assert broken.measure(1.0, False).failure == broken.failure
    broken.close()


@pytest.mark.slow
def test_the_command(tmp_path):
    figure = tmp_path / "figure.png"
    command = [
        *(sys.executable, "-m", "tsgu_func", "bench", "solve", "--no-peers", "--repeats", "1"),
        *("--problems", "space", "convection", "--sizes", "5", "--solvers", "cg+ic0", "superlu"),
        *("--plot", str(figure)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cg+ic0") == 2  # not for the problem that is not symmetric
    assert done.stdout.count("superlu") == 4
    assert "forward+backward, times ours" in done.stdout
    assert figure.stat().st_size > 10_000


# -------------------------------------------------------------------------------- busy machines


def alive(processes):
    return [process.is_alive() for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_competitors_are_ended_whatever_happens(error):
    with contextlib.suppress(*([error] if error else [])), busy.competitors(2) as processes:
        assert alive(processes) == [True, True]
        if error:
            raise error
    assert alive(processes) == [False, False]
    assert not multiprocessing.active_children()


ABANDONED = """
import multiprocessing, os, signal, sys
from tsgu_func.bench import busy
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have ignored
    with busy.competitors(1) as (process,):
        print(process.pid, flush=True)
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), 9)
        sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("end", ["killed", "interrupted"])
def test_competitors_do_not_outlive_the_benchmark(end, tmp_path):
    program = tmp_path / "abandoned.py"
    program.write_text(ABANDONED)
    command = [sys.executable, str(program), end]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(busy.__file__).parents[2])},
    ) as process:
        competitor = int(process.stdout.readline())
        if end == "interrupted":
            process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    end = time.monotonic() + 60
    while Path(f"/proc/{competitor}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{competitor}").exists()


@pytest.mark.slow
def test_the_command_on_a_busy_machine():
    command = [
        *(sys.executable, "-m", "tsgu_func", "bench", "busy", "--no-peers"),
        *("--repeats", "1", "--problems", "plane", "--sizes", "12", "--solvers", "iccg"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.lstrip().startswith("iccg")]
    assert [len(row) for row in rows] == [9, 9]
    for row in rows:
        a, b, c, d, *ratios = map(float, row[1:])
        assert min(a, b, c, d) > 0
        assert ratios == pytest.approx([c / a, d / b, a / b, c / d], rel=0.2, abs=0.02)
