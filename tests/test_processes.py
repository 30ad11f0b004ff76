"""Each public function compiled, exported and pickled, and used in a fresh process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import FUNCTIONS, OF_USERS

ROOT = Path(__file__).parent.parent


def run(command: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes", command, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def right(lines: list[str]) -> list[str]:
    return [line.removeprefix("right: ") for line in lines if line.startswith("right")]


@pytest.mark.slow
def test_exported(tmp_path):
    run("export", tmp_path)
    lines = run("load", tmp_path)
    assert right(lines) == list(FUNCTIONS)
    assert not [line for line in lines if line.startswith("wrong")]
    errors = [line for line in lines if line.startswith("error")]
    assert len(errors) == len(OF_USERS)
    for error, called in zip(errors, ("dense_solve", "dense_solve", "CG", "multiply"), strict=True):
        assert f"{called} of the process that made it" in error


@pytest.mark.slow
def test_pickled(tmp_path):
    run("save-pickles", tmp_path)
    assert right(run("load-pickles", tmp_path)) == [*FUNCTIONS, *OF_USERS]


@pytest.mark.slow
def test_compiled(tmp_path):
    assert right(run("compile", tmp_path)) == [*FUNCTIONS, *OF_USERS]
