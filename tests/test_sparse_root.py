"""Roots of sparse systems, what is told of them, and how they are found."""

import gc
import warnings

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.testing import assert_close

from tests import nonlinear as of
from tests.systems import randn
from tsgu_func import SparsityPattern, color, sparse_root
from tsgu_func import sparse_root as sparse_root_of_package
from tsgu_func.solvers import GMRES, ConvergenceError, IllConditionedWarning, NewtonInfo, cache_info

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
N = 7
U0 = torch.zeros(N, dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)


def by_scipy(F, x0, given):
    """Solve by MINPACK, with differences for derivatives."""

    def function(x):
        return F(torch.from_numpy(x).reshape(x0.shape), given).reshape(-1).numpy()

    found = scipy.optimize.root(function, x0.reshape(-1).numpy(), tol=1e-13)
    return torch.from_numpy(found.x).reshape(x0.shape)


def scalar(x, **options):
    """Return a number as the start, and other options."""
    return {"x0": torch.tensor([x], dtype=torch.float64), **options}


@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_bratu(strength):
    s = torch.tensor(strength, dtype=torch.float64)
    assert_close(sparse_root(of.bratu, U0, s), by_scipy(of.bratu, U0, s), **CLOSE)


def test_bratu_in_two_dimensions():
    u0, s = torch.zeros(6, 6, dtype=torch.float64), torch.tensor(4.0, dtype=torch.float64)
    u, info = sparse_root(of.bratu_2d, u0, s, return_info=True)
    assert_close(u, by_scipy(of.bratu_2d, u0, s), **CLOSE)
    assert_close(u, u.mT, **CLOSE)
    assert info.iterations <= 6


@pytest.mark.parametrize("p", [1.5, 2.0, 4.0])
def test_the_p_laplacian(p):
    u0 = torch.zeros(5, 5, dtype=torch.float64)
    given = {"p": torch.tensor(p, dtype=torch.float64), "f": 1 + randn(5, 5).square()}
    assert_close(
        sparse_root(of.p_laplacian, u0, given), by_scipy(of.p_laplacian, u0, given), **CLOSE
    )


def test_convection():
    given = of.convected(N)
    assert_close(sparse_root(of.convection, U0, given), by_scipy(of.convection, U0, given), **CLOSE)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str
)
def test_dtypes(dtype):
    p = randn(5, dtype=dtype)
    x, info = sparse_root(of.cycle, torch.zeros_like(p), p, return_info=True)
    wide = p.to(torch.complex128 if dtype.is_complex else torch.float64)
    expected = of.dense_root(of.cycle, torch.zeros_like(wide), wide).to(dtype)
    eps = torch.finfo(dtype).eps
    assert_close(x, expected, rtol=100 * eps, atol=100 * eps)
    assert info.residual.dtype == dtype.to_real()
    assert info.residual < 100 * eps


def test_ill_conditioned_in_single_precision():
    """Steps do not get as small as asked, and the residual is as small as rounding allows."""
    u0, s = torch.zeros(200), torch.tensor(1.0)
    u, info = sparse_root(of.bratu, u0, s, return_info=True)
    expected = sparse_root(of.bratu, u0.double(), s.double())
    assert_close(u.double(), expected, rtol=1e-2, atol=1e-4)
    assert info.iterations < 10


def test_without_parameters():
    x = sparse_root(lambda x: x**3 + x - 2, torch.zeros(3, dtype=torch.float64))
    assert_close(x, torch.ones(3, dtype=torch.float64), **CLOSE)


def test_an_empty_system():
    x, info = sparse_root(lambda x: 2 * x, torch.zeros(0, 3), return_info=True)
    assert x.shape == (0, 3)
    assert info.iterations == 0


def test_pytrees():
    def F(x, given):
        u, (v, w) = x["u"], x["rest"]
        scale, shift, name, which = given["scale"], given["shift"], given["name"], given["which"]
        assert name == "kept as it is"
        return [u * v.sum() - shift, (v**3 + scale * w.flatten()[which], w + w**3 - scale)]

    below = lambda *shape: -torch.ones(shape, dtype=torch.float64)
    x0 = {"u": below(), "rest": (below(4), below(2, 2))}
    given = {
        "scale": torch.tensor(-2.0, dtype=torch.float64),
        "shift": torch.tensor(3.0),  # fits into float64
        "name": "kept as it is",
        "which": torch.tensor([3, 0, 1, 2]),
    }
    x = sparse_root(F, x0, given)
    assert x["u"].shape == ()
    assert_close(x["rest"][1], -torch.ones(2, 2, dtype=torch.float64), **CLOSE)
    assert_close(x["rest"][0], -(torch.full((4,), 2.0, dtype=torch.float64) ** (1 / 3)), **CLOSE)
    assert_close(x["u"], 3 / x["rest"][0].sum(), **CLOSE)


def test_a_name_of_the_package():
    assert sparse_root_of_package is sparse_root


# --------------------------------------------------------------------------------- what is told


def test_info():
    s = torch.tensor(3.0, dtype=torch.float64)
    u, info = sparse_root(of.bratu, U0, s, return_info=True)
    assert isinstance(info, NewtonInfo)
    assert_close(info.residual, of.bratu(u, s).norm(), rtol=1e-9, atol=1e-12)
    assert_close(info.initial, of.bratu(U0, s).norm())
    assert 0 < info.step < 1e-9
    assert info.evaluations > info.iterations
    assert not any(x.requires_grad for x in info)


def test_a_warm_start_takes_fewer_steps():
    s = torch.tensor(3.0, dtype=torch.float64)
    u, cold = sparse_root(of.bratu, U0, s, return_info=True)
    near, warm = sparse_root(of.bratu, u, s + 1e-3, return_info=True)
    _, known = sparse_root(of.bratu, u, s, return_info=True)
    assert known.iterations <= 1
    assert warm.iterations < cold.iterations
    assert_close(near, sparse_root(of.bratu, U0, s + 1e-3), **CLOSE)


def test_a_root_to_start_from():
    x, info = sparse_root(lambda x: x * x - 4, **scalar(2.0), return_info=True)
    assert (x, info.iterations, info.evaluations, info.residual, info.step) == (2, 0, 1, 0, 0)


def test_tolerances():
    s = torch.tensor(3.0, dtype=torch.float64)
    runs = [
        sparse_root(of.bratu, U0, s, return_info=True, rtol=rtol)[1] for rtol in (1e-1, 1e-4, 1e-12)
    ]
    steps = [int(info.iterations) for info in runs]
    assert steps == sorted(steps)
    assert steps[0] < steps[2]
    _, info = sparse_root(of.bratu, U0, s, return_info=True, atol=1.0)
    assert info.residual <= 1
    assert info.iterations < steps[2]


def test_a_root_that_is_zero_up_to_rounding():
    """No step is small relative to it; what of F counts as zero has to be told, or F vanishes."""
    x0 = randn(5)
    x = sparse_root(lambda x: x + x**3, x0)
    assert x.abs().max() < 1e-100
    F = lambda x: of.bratu(x, 0 * ONE) + x.exp() - 1
    x, info = sparse_root(F, 0.1 * x0, atol=1e-12, return_info=True)
    assert x.abs().max() < 1e-12
    assert info.residual <= 1e-12


def test_steps_are_shortened():
    """Undamped, Newton's method for this one diverges from 1.4 on."""
    x, info = sparse_root(torch.arctan, **scalar(3.0), atol=1e-200, return_info=True)
    assert abs(x) < 1e-199
    assert info.evaluations > info.iterations + 2


def test_steps_out_of_the_domain_are_shortened():
    F = lambda x: x.log() + 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = sparse_root(F, **scalar(3.0))
    assert_close(x, torch.tensor([-5.0], dtype=torch.float64).exp(), **CLOSE)


def test_a_pole_is_no_root():
    """Next to it steps are as small as next to a root."""
    x0 = scalar(np.pi / 2)["x0"]
    assert torch.tan(x0) > 1e16
    with pytest.raises(ConvergenceError, match=r"\|F\(x\)\| = 1.6e\+16 .*no step reduces"):
        sparse_root(torch.tan, x0)
    x = sparse_root(torch.tan, x0 - 1e-13, max_iterations=200, atol=1e-13)
    assert torch.tan(x).abs() < 1e-12
    x = sparse_root(lambda x: 1 / (x - 1) - 1, **scalar(1 + 1e-13), max_iterations=200)
    assert_close(x, torch.full((1,), 2.0, dtype=torch.float64), **CLOSE)


def test_a_double_root_is_told():
    with pytest.warns(IllConditionedWarning, match="close to singular at the root"):
        x = sparse_root(lambda x: (x - 1) ** 2, **scalar(3.0))
    assert_close(x, torch.ones(1, dtype=torch.float64), rtol=1e-9, atol=0)


# ---------------------------------------------------------------------------------- how it is done


@pytest.fixture
def detections(monkeypatch):
    """Count how often a pattern is detected."""
    from tsgu_func import sparse_root as module_function

    namespace, found = module_function.__globals__, []
    detected = namespace["detected"]

    def counting(*args, **options):
        found.append(options)  # not what would keep the function alive
        return detected(*args, **options)

    monkeypatch.setitem(namespace, "detected", counting)
    return found


def test_a_pattern_is_detected_once_for_a_function(detections):
    def F(u, s):
        return of.bratu(u, s)

    for s in (ONE, 2 * ONE, 3 * ONE):
        sparse_root(F, U0, s)
    assert len(detections) == 1
    sparse_root(F, torch.zeros(9, dtype=torch.float64), ONE)
    assert len(detections) == 2
    sparse_root(lambda u: F(u, ONE), U0)
    assert len(detections) == 3


def test_what_was_detected_ends_with_its_function(detections):
    before = cache_info().kinds["colorings of roots"].entries

    def run():
        sparse_root(lambda u: of.bratu(u, ONE), U0)

    run()
    gc.collect()
    assert len(detections) == 1
    assert cache_info().kinds["colorings of roots"].entries == before


def test_indices_are_part_of_what_is_detected(detections):
    def F(x, given):
        return x + x[given["which"]] ** 3 - 1

    for which in ([1, 2, 0], [2, 0, 1], [0, 0, 0]):
        given = {"which": torch.tensor(which)}
        x = sparse_root(F, torch.zeros(3, dtype=torch.float64), given)
        assert F(x, given).abs().max() < 1e-12
    assert len(detections) == 3


def test_a_pattern_that_is_given(detections):
    i = torch.arange(N)
    row, col = torch.cat([i, i[1:], i[:-1]]), torch.cat([i, i[:-1], i[1:]])
    pattern, _ = SparsityPattern.from_coo(row, col, (N, N))
    expected = by_scipy(of.bratu, U0, ONE)
    for given in (pattern, pattern.T, color(pattern), color(pattern, "reverse")):
        assert_close(sparse_root(of.bratu, U0, ONE, pattern=given), expected, **CLOSE)
    assert not detections


def test_a_solver_that_is_given():
    asked = []

    def solver(A, b):
        asked.append(b.shape)
        return torch.linalg.solve(A.to_dense(), b)

    u, info = sparse_root(of.bratu, U0, ONE, solver=solver, return_info=True)
    assert asked == [(N,)] * int(info.iterations)
    assert_close(u, sparse_root(of.bratu, U0, ONE, solver=GMRES(rtol=1e-12)), **CLOSE)


def test_evaluations_do_not_grow_with_the_size():
    """One for each step, one where it starts, and one or two to see that it is at the end."""
    for n in (20, 80):
        u0 = torch.zeros(n, dtype=torch.float64)
        _, info = sparse_root(of.bratu, u0, ONE, return_info=True)
        assert info.iterations <= 5
        assert info.evaluations <= info.iterations + 3
