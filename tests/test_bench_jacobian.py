"""The benchmark of sparse derivatives: its functions, who is judged, and what is printed."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tsgu_func.__main__ import main
from tsgu_func.bench import peers
from tsgu_func.bench.functions import FUNCTIONS, Function, point
from tsgu_func.bench.jacobian import judged
from tsgu_func.bench.peers import derivatives
from tsgu_func.bench.peers.derivatives import Derivative
from tsgu_func.bench.peers.peer import Peer

AT_REST = {"brusselator-1d": (1.0, 3.0), "brusselator-2d": (1.0, 3.4)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_the_same_for_all_arrays(name):
    function = FUNCTIONS[name]
    x = point(function.size(50))
    expected = function.of_vector(np, x)
    computed = function.of_vector(torch, torch.from_numpy(x))
    np.testing.assert_allclose(computed.numpy(), expected, rtol=1e-13, atol=1e-13)
    assert np.shape(expected) == (x.shape if function.derivative == "jacobian" else ())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes_are_about_what_is_asked_for(name):
    assert FUNCTIONS[name].size(10_000) == pytest.approx(10_000, rel=0.02)


@pytest.mark.parametrize("name", AT_REST)
def test_the_brusselator_rests(name):
    half = np.ones(FUNCTIONS[name].size(50) // 2)
    u, v = AT_REST[name]
    rates = FUNCTIONS[name].of_vector(np, np.concatenate([u * half, v * half]))
    np.testing.assert_allclose(rates, 0, atol=1e-13)


def test_no_heat_is_lost():
    x = point(49)
    rates = FUNCTIONS["heat"].of_vector(np, x)
    assert abs(rates).max() > 1
    assert abs(rates.sum()) < 1e-12
    np.testing.assert_array_equal(FUNCTIONS["heat"].of_vector(np, np.ones(49)), 0)


def test_the_valley_of_rosenbrock():
    f = FUNCTIONS["rosenbrock"].of_vector
    assert f(np, np.ones(9)) == 0
    assert f(np, np.array([2.0, 3.0])) == 100 * (3 - 4) ** 2 + (1 - 2) ** 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_asdex_differentiates_the_same(name):
    pytest.importorskip("asdex")
    function = FUNCTIONS[name]
    n = function.size(50)
    theirs = peers.PEERS["jacobian"]["asdex"].prepare(function, n)
    dense = peers.PEERS["jacobian"]["dense"].prepare(function, n)
    assert judged(dense, theirs) is theirs
    assert theirs.told["entries"] == theirs.matrix.nnz


def test_another_matrix_is_not_timed():
    ours = Derivative({}, {}, np.diag([1.0, 2.0]))
    same = Derivative({"entries": 2}, {"eager": int}, np.diag([1.0, 2.0 + 1e-13]))
    assert judged(ours, same) is same
    for entry in (2.1, float("nan")):
        other = judged(ours, same._replace(matrix=np.diag([1.0, entry])))
        assert "its entries differ from ours" in str(other.told["failure"])
        assert other.measured == same.measured


def bench(*arguments):
    assert main(["bench", "jacobian", *arguments]) == 0


def stranger(function, n):
    matrix = peers.PEERS["jacobian"]["dense"].prepare(function, 8).matrix
    return Derivative({"entries": 99, "colors": 7}, {"detection": int, "compiled": int}, matrix)


@pytest.mark.slow
def test_the_command(monkeypatch, tmp_path, capsys):
    """It names who is missing, who does not fit, and who computes something else."""
    monkeypatch.setitem(peers.PEERS["jacobian"], "asdex", Peer(stranger))
    absent = Peer(lambda *_: 1 / 0, "a_package_nobody_has", "its-name", beside="numpy")
    monkeypatch.setitem(peers.PEERS["jacobian"], "the absent one", absent)
    found, page, figure = (tmp_path / name for name in ("a.json", "page.md", "a.png"))
    page.write_text("<!-- bench jacobian -->\n<!-- /bench jacobian -->\n")
    files = ("--json", str(found), "--markdown", str(page), "--plot", str(figure))
    bench("--problems", "rosenbrock", "--sizes", "8", "--repeats", "1", *files)
    printed = capsys.readouterr().out
    assert "not installed: its-name (the absent one)" in printed
    row = "| chained Rosenbrock | 8 | 22 (99) | 3 (7) | "
    assert row in printed
    assert row in page.read_text()
    assert "python -m tsgu_func bench jacobian --problems rosenbrock --sizes 8" in page.read_text()
    assert figure.stat().st_size > 10_000
    rows = {row["case"]["what"]: row for row in json.loads(found.read_text())["rows"]}
    assert [set(rows[what]["ratios"]) for what in ("detection", "eager", "compiled")] == [
        {"asdex"},
        {"dense"},
        {"asdex"},
    ]
    for row in rows.values():
        assert all(min(taken) > 0 for taken in row["measured"].values())
        assert row["more"]["tsgu_func"] == {"entries": 22, "colors": 3}


@pytest.mark.slow
def test_what_does_not_fit_is_not_run(capsys):
    dense = peers.PEERS["jacobian"]["dense"].prepare(FUNCTIONS["heat"], 100_000)
    assert dense.told["failure"] == "does not fit into 4 GB: about 800 GB"
    bench("--problems", "heat", "--sizes", "10000", "--repeats", "1")
    printed = capsys.readouterr().out
    assert "dense: does not fit into 4 GB: about 8 GB" in printed
    assert " (does not fit into 4 GB) |" in printed


def test_what_asdex_returns_is_read(monkeypatch):
    """Without it: a matrix of its values, in its places."""
    found = SimpleNamespace(rows=np.arange(3), cols=np.arange(3), nnz=3)
    asdex = SimpleNamespace(
        jacobian_coloring=lambda f, x: SimpleNamespace(sparsity=found, num_colors=1),
        jacobian_from_coloring=lambda f, coloring: lambda x: SimpleNamespace(data=2 * x),
    )
    monkeypatch.setitem(sys.modules, "asdex", asdex)
    jax = SimpleNamespace(numpy=np, jit=lambda f: f)
    monkeypatch.setattr(derivatives, "jax", lambda: jax)
    square = Function("square", lambda xp, x: x * x, lambda n: n)
    ready = derivatives.DERIVATIVE["asdex"].prepare(square, 3)
    assert ready.told == {"entries": 3, "colors": 1}
    np.testing.assert_array_equal(ready.matrix.toarray(), np.diag(2 * point(3)))
