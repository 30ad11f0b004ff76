"""How commands end, whatever ends them, and what shows how far they are."""

import argparse
import io
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from tsgu_func import warm
from tsgu_func.__main__ import main
from tsgu_func.console import progress
from tsgu_func.console.arguments import near, output, seconds, whole
from tsgu_func.console.ending import CommandError, ended, writing
from tsgu_func.kernels.compiled import compiling as compiler

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and devices of POSIX systems")


def start(stdout, ready=False):
    """Start a command; `info`, when it is ready, waits for an interrupt before its first line."""
    wait = (
        "from tsgu_func import __main__ as command\n"
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
        "def versions():\n"
        "    print('ready', file=sys.stderr, flush=True)\n"
        "    exec('time.sleep(60)')\n"
        "command._versions = versions\n"
        "sys.exit(command.main(['info']))\n"
    )
    program = ["-c", wait] if ready else ["-m", "tsgu_func", "--help"]
    return subprocess.Popen([sys.executable, *program], stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.slow
@POSIX
def test_an_interrupt_is_one_line():
    process = start(subprocess.DEVNULL, ready=True)
    assert process.stderr is not None
    assert process.stderr.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == b"interrupted\n"
    assert process.returncode == 130


@pytest.mark.slow
@POSIX
def test_a_reader_that_has_gone_is_told_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    process = start(writer)
    os.close(writer)
    assert process.communicate()[1] == b""
    assert process.returncode == 141


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full:
        process = start(full)
        told = process.communicate()[1].decode()
    assert told == "tsgu_func: error: the output cannot be written: No space left on device\n"
    assert process.returncode == 2


class Broken(io.StringIO):
    """A stream whose reader is gone after a while."""

    encoding = "utf-8"

    def write(self, text):
        if self.tell() + len(text) > 100:
            raise BrokenPipeError
        return super().write(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["info"],
        ["check", "--op", "spmm", "--dtype", "float64", "--device", "cpu", "--no-compile"],
        ["bench", "overhead", "--quick", "--threads", "1"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_ends_quietly_with_its_reader(arguments, monkeypatch, capsys):
    stream = Broken()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(arguments) == 141
    assert sys.stdout is stream
    assert "Error" not in capsys.readouterr().err


def test_errors_of_others_are_raised():
    def opens():
        return len(os.listdir("/nonexistent/folder"))

    with pytest.raises(FileNotFoundError):
        ended(opens)
    with pytest.raises(ZeroDivisionError):
        ended(lambda: 1 // 0)


def test_a_file_that_cannot_be_written(tmp_path):
    with (
        pytest.raises(CommandError, match=r": cannot be written: Is a directory"),
        writing(tmp_path),
    ):
        raise OSError(21, "Is a directory")


# ------------------------------------------------------------------------------ compiled loops


def test_loops_are_compiled_ahead_of_time(capsys):
    assert main(["warm", "--quick"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"float64 +\d+\.\d s", first)
    assert last.endswith(f"compiled loops are kept in {warm.place()}")


def test_loops_that_cannot_be_kept_are_not_compiled_ahead_of_time(monkeypatch, capsys):
    monkeypatch.setattr(warm, "place", lambda: None)
    assert main(["warm"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "NUMBA_CACHE_DIR" in err


def compiling(clock, seconds, module, place: str | None = "/kept", inner=0.0):
    """Pretend that a loop is compiled, and meanwhile another that it calls."""
    now = [0.0]
    loop = SimpleNamespace(
        py_func=SimpleNamespace(__module__=module), stats=SimpleNamespace(cache_path=place)
    )
    other = SimpleNamespace(py_func=SimpleNamespace(__module__="numba.np"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler.time, "perf_counter", lambda: now[0])
        clock.on_start(SimpleNamespace(data={"dispatcher": loop}))
        clock.on_start(SimpleNamespace(data={"dispatcher": other}))
        now[0] = inner
        clock.on_end(SimpleNamespace(data={"dispatcher": other}))
        now[0] = seconds
        clock.on_end(SimpleNamespace(data={"dispatcher": loop}))


def test_who_compiles_for_long_says_so_once(caplog):
    clock, here = compiler._Clock(), "tsgu_func.kernels.compiled.products"
    compiling(clock, 60.0, "of.somebody.else")
    compiling(clock, 1.5, here)
    assert caplog.records == []
    compiling(clock, 0.4, here)
    assert caplog.records == []
    compiling(clock, 9.0, here, inner=1.0)
    compiling(clock, 9.0, here)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tsgu_func", "WARNING")
    told = "tsgu_func compiles its loops, once for this machine: they are kept in /kept"
    assert record.getMessage() == told
    compiling(compiler._Clock(), 3.0, here, place=None)
    assert caplog.records[1].getMessage() == "tsgu_func compiles its loops, again each time"


# -------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "", "8"])
def test_a_whole_number_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number from 1 to 7"):
        whole(1, 7)(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf"])
def test_a_time_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="a number of seconds"):
        seconds(text)


def test_names_that_may_be_meant():
    names = ["sparse_mm COO", "sparse_mm CSR", "sparse_solve", "spmm"]
    assert near("mm C", names) == ["sparse_mm COO", "sparse_mm CSR"]
    assert near("sparse_sovle", names)[0] == "sparse_solve"
    assert near("nonsense", names) == near("", names) == names


def test_what_is_taken(tmp_path):
    assert whole(1, 7)("7") == 7
    assert seconds("0.5") == 0.5
    assert output(".png")(str(tmp_path / "a.PNG")) == tmp_path / "a.PNG"
    with pytest.raises(argparse.ArgumentTypeError, match="is a directory"):
        output()(str(tmp_path))


# ------------------------------------------------------------------------------------- progress


def shown(width):
    """Return the lines that a bar has on a terminal of some width."""
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True)
    shown = progress.bar("cells, {task.fields[wrong]} failed", terminal)
    shown.add_task("cpu: a record with quite a long name, complex128", total=8123, wrong=12)
    screen = io.StringIO()
    Console(file=screen, width=width).print(shown.get_renderable())
    return shown, screen.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_shortens_the_name(width):
    bar, (line,) = shown(width)
    assert not bar.disable
    assert "0/8123 cells, 12 failed 0:00:00" in line
    assert line.startswith("cpu: a rec")
    assert len(line) <= width


def test_where_nobody_watches_there_are_lines(monkeypatch, capsys):
    bar = progress.bar("cells")
    assert bar.disable
    progress.instead(bar, "1/2 cpu: [name] done")
    assert capsys.readouterr().err == "1/2 cpu: [name] done\n"
    monkeypatch.setenv("TERM", "dumb")
    assert shown(80)[0].disable
