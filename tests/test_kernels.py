"""Kernels, each path by itself: compiled loops, PyTorch's CSR, threads."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import tsgu_func
from tsgu_func.kernels import openmp, products, threads
from tsgu_func.kernels.compiled import compiling
from tsgu_func.kernels.structure import Structure
from tsgu_func.selfcheck.records.base import matrix, randn

KINDS = [torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.fixture
def large():
    generator = torch.Generator().manual_seed(0)
    row, col = torch.randint(0, 900, (2, 20_000), generator=generator)
    return matrix(row, col, (900, 901), torch.float64)


@pytest.fixture
def four_threads(threads_of_torch):
    threads_of_torch(4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [1, 7])
@pytest.mark.parametrize("batch", [None, 3])
def test_paths_agree(large, four_threads, kind, p, batch):
    A = large.to(kind)
    lead = () if batch is None else (batch,)
    values = randn(*lead, A.nnz, dtype=kind)
    B, X = randn(*lead, 901, p, dtype=kind), randn(*lead, 900, p, dtype=kind)
    s = A.pattern.structure
    D = A.with_values(values).to_dense()
    close = {"rtol": 1e-4, "atol": 1e-3} if kind.itemsize <= 8 and kind != torch.float64 else {}
    for path in (products._spmm_loops, products._spmm_torch):
        assert_close(path(s, values, B), D @ B, **close)
    row, col = A.pattern.row.long(), A.pattern.col.long()
    for path in (products._sddmm_loops, products._sddmm_torch):
        assert_close(path(s, X, B), (X @ B.mT)[..., row, col], **close)


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_what_comes_out_of_csr_tensors_is_a_tensor_of_its_own(large, kind):
    """A view of a CSR tensor can neither be conjugated nor viewed again."""
    s = large.pattern.structure
    for lead in ((), (2,)):
        X, Y = randn(*lead, 900, 2, dtype=kind), randn(*lead, 901, 2, dtype=kind)
        out = products._sddmm_torch(s, X, Y)
        assert not out._is_view() or out._base.layout == torch.strided
        assert_close(out.conj().resolve_conj(), products._sddmm_loops(s, X, Y).conj_physical())


def test_values_of_csr_tensors_are_contiguous(large):
    """Else cuSPARSE gets a copy that is given back before the product has read it."""
    values = torch.stack([large.values, large.values], -1)[:, 0]
    assert products.csr_tensor(large.pattern.structure, values).values().is_contiguous()


def test_shared_member_is_not_copied(large):
    s, B = large.pattern.structure, randn(901, 3, dtype=torch.float64)
    values = randn(4, large.nnz, dtype=torch.float64)
    shared = B.expand(4, 901, 3)
    assert products.batched(shared, 2).shape == (1, 901, 3)
    assert_close(products.spmm(s, values, shared), large.with_values(values).to_dense() @ B)


def test_repeatable(large, four_threads):
    s, B = large.pattern.structure, randn(901, 33, dtype=torch.float64)
    runs = [products.spmm(s, large.values, B, transpose=False) for _ in range(3)]
    assert all(torch.equal(r, runs[0]) for r in runs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("p", [1, 2, 7])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_transposed_product_without_the_transpose(large, dtype, p, batch):
    s = large.pattern.structure
    values, B = randn(*batch, s.nnz, dtype=dtype), randn(*batch, s.rows, p, dtype=dtype)
    scattered = products._spmm_scattered(s, values, B)
    dense = torch.zeros(*batch, s.rows, s.cols, dtype=dtype)
    dense[..., s.row.long(), s.col.long()] = values
    assert_close(scattered, dense.mT @ B)


@pytest.mark.parametrize("p", [1, 33])
def test_threads_share_a_transposed_product(large, four_threads, p, monkeypatch):
    monkeypatch.setattr(products, "_WORTH_A_THREAD", 1)
    B = randn(large.shape[0], p, dtype=torch.float64)
    assert not products._is_scattered(large.pattern.structure, B)
    C = products.spmm(large.pattern.structure, large.values, B, transpose=True)
    assert_close(C, large.to_dense().mT @ B)


def test_transpose_without_scipy(large):
    """Other devices sort; the result is that of the counting sort."""
    s = large.pattern.structure
    order = torch.argsort(s.col, stable=True)
    crow, col, position = s.transpose.structure.crow, s.transpose.structure.col, s.transpose.order
    assert torch.equal(position.long(), order)
    assert torch.equal(col, s.row[order])
    assert torch.equal(crow[1:].long(), torch.bincount(s.col, minlength=901).cumsum(0))


def test_empty_parts(four_threads):
    empty = Structure(torch.zeros(1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), 3)
    assert products.spmm(empty, torch.zeros(0), torch.ones(3, 2)).shape == (0, 2)
    assert products.spmm(empty, torch.zeros(0), torch.ones(0, 2), transpose=True).shape == (3, 2)
    assert products.sddmm(empty, torch.ones(0, 2), torch.ones(3, 2)).shape == (0,)


@pytest.fixture(params=["region", "pool"])
def either(request, monkeypatch, four_threads):
    """Run loops in a region of OpenMP, where there is one, and in the pool."""
    if request.param == "pool":
        monkeypatch.setattr(openmp, "runtime", lambda: None)
    elif openmp.runtime() is None:
        pytest.skip("PyTorch does not run in the OpenMP runtime of GNU here")


@pytest.mark.parametrize("error", [ZeroDivisionError, IndexError, StopIteration])
def test_error_in_a_part_is_raised(either, error):
    def loop(first, last):
        if first == 1:
            raise error

    with pytest.raises(error):
        threads.run_parts(loop, [0, 1, 2, 3])


def test_tasks_run_at_the_same_time(either):
    meeting = threading.Barrier(2, timeout=60)
    threads.run_all([meeting.wait, meeting.wait])


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_each_part_is_run_once(either, count):
    done = []
    threads.run_parts(lambda a, b: done.append((a, b)), range(count + 1))
    assert sorted(done) == [(k, k + 1) for k in range(count)]


def test_regions_are_entered_from_several_threads(either):
    def sums():
        done = []
        for _ in range(50):
            threads.run_parts(lambda a, b: done.append(b - a), [0, 1, 3, 6])
        return sum(done)

    with ThreadPoolExecutor(4) as pool:
        assert [f.result() for f in [pool.submit(sums) for _ in range(8)]] == [300] * 8


@pytest.mark.skipif(sys.platform != "linux", reason="wheels for other systems bring other runtimes")
def test_pytorch_runs_in_the_runtime_that_is_found():
    assert openmp.runtime() is not None


INTERRUPTED = """
import signal, sys, time
import torch
from tsgu_func.kernels import threads

class Rung(Exception):
    pass

def ring(*_):
    raise Rung

signal.signal(signal.SIGALRM, ring)
lost = []
sys.unraisablehook = lambda ignored: lost.append(ignored)
torch.set_num_threads(2)
done = bytearray(3)

def loop(first, last):
    done[first:last] = bytes([1]) * (last - first)

rung = 0
for k in range(400):
    done[:] = bytes(3)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1e-6 * k)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            threads.run_parts(loop, range(4))
            assert sum(done) == 3, "a half-done loop"
            done[:] = bytes(3)
    except Rung:
        rung += 1
threads.run_parts(loop, range(4))
print(rung, len(lost), sum(done), torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no alarm")
@pytest.mark.parametrize("most", [None, "1"], ids=["several", "one"])
def test_what_a_signal_handler_raises_is_never_lost(most):
    """At whatever instant it comes, and also where the region has one thread."""
    environment = os.environ | ({} if most is None else {"OMP_THREAD_LIMIT": most})
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == ["400", "0", "3"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pool_works_after_a_fork(large, four_threads):
    s, B = large.pattern.structure, randn(901, 33, dtype=torch.float64)
    products.spmm(s, large.values, B)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # PyTorch's own pool does not survive a fork either
        done = []
        threads.run_parts(lambda a, b: done.append(a), [0, 1, 2])
        os._exit(0 if sorted(done) == [0, 1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---------------------------------------------------------------------------- compiled loops

ONCE = """
import warnings
warnings.simplefilter("always")
import torch
from tsgu_func import SparseMatrix, sparse_mm, sparse_triangular_solve
A, B = SparseMatrix.from_dense(2 * torch.eye(3)), torch.ones(3, 20)
torch.testing.assert_close(sparse_mm(A, B), 2 * B)
torch.testing.assert_close(sparse_triangular_solve(A, B), B / 2)
"""


@pytest.fixture
def without_a_place(tmp_path):
    """Return a run of a program where no folder can be written to, even by root."""
    shutil.copytree(
        Path(tsgu_func.__file__).parent,
        tmp_path / "tsgu_func",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    # A file is where a folder would have to be made.
    (tmp_path / "tsgu_func" / "kernels" / "compiled" / "__pycache__").touch()
    (tmp_path / "home").touch()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_"))}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}

    def run(*arguments, **changes):
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment | changes,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="HOME is not where Windows looks")
def test_without_a_place_for_compiled_loops_they_work_and_it_is_said_once(without_a_place):
    done = without_a_place("-c", ONCE)
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1
    assert done.stderr.count("RuntimeWarning") == 1
    info = without_a_place("-m", "tsgu_func", "info")
    assert "not kept, compiled again by each process: NUMBA_CACHE_DIR" in info.stdout


@pytest.mark.slow
def test_the_place_that_is_named_is_where_compiled_loops_are(without_a_place, tmp_path):
    place = tmp_path / "place"
    done = without_a_place("-m", "tsgu_func", "info", NUMBA_CACHE_DIR=str(place))
    assert f"kept in {place}" in done.stdout
    assert "Warning" not in done.stderr
    assert [path.name for path in place.iterdir()] == [
        Path(done.stdout.partition(str(place))[2].splitlines()[0]).name
    ]


@pytest.mark.slow
def test_a_change_of_what_a_loop_calls_is_seen(tmp_path):
    """Even if size and time of all files stay, and the one with the loop has not changed."""
    place = tmp_path / "loops"
    place.mkdir()
    (place / "__init__.py").touch()
    shutil.copy(compiling.__file__, place)
    for name, body in (
        ("inner", "def inner(x):\n    return x + 1\n"),
        ("outer", "from loops.inner import inner\n@compiled\ndef outer(x):\n    return inner(x)\n"),
    ):
        head = "from loops.compiling import compiled\n" + ("@compiled\n" if name == "inner" else "")
        (place / f"{name}.py").write_text(head + body)

    def run():
        program = "from loops.outer import outer; print(outer(1), *outer.stats.cache_hits.values())"
        return subprocess.run(
            [sys.executable, "-B", "-c", program],
            env=os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    assert run() == ["2"]
    assert run() == ["2", "1"]  # found
    file, when = place / "inner.py", (place / "inner.py").stat()
    file.write_text(file.read_text().replace("x + 1", "x + 7"))
    os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert run() == ["8"]


LOOPS = [
    "whole",
    *(f"{way}_{kind}" for way in ("cut", "empty", "changed") for kind in ("nbi", "nbc")),
]
USE = """
import sys, warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import loops.few as few
    full = len(sys.argv) > 1
    if full:
        import os
        def replace(*_):
            raise OSError(28, "No space left on device")
        os.replace = replace
    for name, loop in vars(few).items():
        if hasattr(loop, "stats"):
            print(name, loop(20), sum(loop.stats.cache_hits.values()))
for warning in told:
    print(warning.category.__name__, warning.message)
"""


def damage(path, way):
    kept = path.read_bytes()
    middle = len(kept) // 2
    path.write_bytes(
        {
            "cut": kept[:middle],
            "empty": b"",
            "changed": kept[:middle] + bytes([kept[middle] ^ 4]) + kept[middle + 1 :],
        }[way]
    )


@pytest.mark.slow
def test_what_is_kept_of_loops_may_be_damaged_or_not_fit(tmp_path):
    """All kinds of damage at once: results are right, it is said once, and the next finds all."""
    place, kept = tmp_path / "loops", tmp_path / "kept"
    place.mkdir()
    (place / "__init__.py").touch()
    shutil.copy(compiling.__file__, place)
    head = "from loops.compiling import compiled\n"
    bodies = [f"@compiled\ndef {name}(x):\n    return x + {k}\n" for k, name in enumerate(LOOPS)]
    (place / "few.py").write_text(head + "\n".join(bodies))

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-B", "-c", USE, *arguments],
            env=os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(kept)},
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.split() for line in done.stdout.splitlines()]
        found = {line[0]: int(line[2]) for line in lines if line[0] in LOOPS}
        assert [line[:2] for line in lines if line[0] in LOOPS] == [
            [name, str(20 + k)] for k, name in enumerate(LOOPS)
        ]
        return found, [" ".join(line) for line in lines if line[0] not in LOOPS]

    found, told = run("full")
    assert set(found.values()) == {0}
    assert len(told) == 1
    for part in ("RuntimeWarning", str(kept), "No space left", "NUMBA_CACHE_DIR"):
        assert part in told[0]
    assert run() == (dict.fromkeys(LOOPS, 0), [])
    assert run() == (dict.fromkeys(LOOPS, 1), [])
    for name in LOOPS[1:]:
        way, kind = name.split("_")
        (file,) = kept.rglob(f"*{name}_*.{kind}")
        damage(file, way)
    found, told = run()
    assert found == dict.fromkeys(LOOPS, 0) | {"whole": 1}
    assert len(told) == 1
    for part in ("RuntimeWarning", str(kept), "cannot be read", "delete that folder"):
        assert part in told[0]
    assert run() == (dict.fromkeys(LOOPS, 1), [])
