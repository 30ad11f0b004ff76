"""A pattern that lacks an entry is caught, wherever it is; one that does not, is not."""

import itertools

import pytest
import torch
from torch.func import grad, vmap
from torch.testing import assert_close

from tests.differentiated import CASES, LOSSES, Doubled
from tests.functions import wave
from tsgu_func import (
    SparseMatrix,
    SparsityPattern,
    check_pattern,
    color,
    hessian_pattern,
    jacobian_pattern,
    sparse_jacobian,
)

X = wave(6)


def chain(x):
    return x[1:] ** 2 * x[:-1]


CHAIN = jacobian_pattern(chain, X)


def without(pattern, k):
    """Take an entry out."""
    keep = torch.arange(pattern.nnz) != k
    return SparsityPattern.from_coo(pattern.row[keep], pattern.col[keep], pattern.shape)[0]


@pytest.mark.parametrize("name", CASES)
def test_what_is_detected_passes(name):
    case = CASES[name]
    pattern = jacobian_pattern(case.f, *case.args, **case.options)
    check_pattern(case.f, case.args, pattern, **case.options)


@pytest.mark.parametrize("name", ["rosenbrock", "pytrees", "argnums"])
def test_hessians_are_checked_as_jacobians_of_gradients(name):
    case = LOSSES[name]
    pattern = hessian_pattern(case.f, *case.args, argnums=case.argnums)
    gradient = grad(case.f, case.argnums)
    check_pattern(gradient, case.args, pattern, argnums=case.argnums)
    with pytest.raises(ValueError, match="lacks entries"):
        check_pattern(gradient, case.args, without(pattern, 1), argnums=case.argnums)


def mutations():
    """Draw matrices with rows of any scale, and an entry of each to take out."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    modes = itertools.cycle(["forward", "reverse", "bidirectional", "auto"])
    while True:
        n, m = (int(torch.randint(2, 9, (), generator=generator)) for _ in range(2))
        dense = torch.randn(n, m, **options) * (torch.rand(n, m, **options) < 0.4)
        dense = dense * 10.0 ** torch.randint(-3, 4, (n, 1), generator=generator)
        A = SparseMatrix.from_dense(dense)
        if A.nnz:
            k = int(torch.randint(A.nnz, (), generator=generator))
            yield A, torch.randn(m, **options), k, next(modes)


@pytest.mark.slow
def test_a_thousand_patterns_without_an_entry_are_caught():
    for A, x, k, mode in itertools.islice(mutations(), 1000):
        dense = A.to_dense()
        f = lambda x, dense=dense: dense @ torch.add(x, x.pow(3), alpha=0.01)
        check_pattern(f, x, A.pattern, mode=mode, seed=k)
        i, j = int(A.pattern.row[k]), int(A.pattern.col[k])
        with pytest.raises(ValueError, match=rf"row {i} lacks column {j}[;.]"):
            check_pattern(f, x, without(A.pattern, k), mode=mode, seed=k)


def test_rows_and_columns_are_named():
    dense = torch.ones(40, 12, dtype=torch.float64)
    few = SparsityPattern.from_coo([0, 1], [0, 1], (40, 12))[0]
    with pytest.raises(ValueError, match=r"row 0 lacks columns 1, 2, .*8 and 3 more; row 1 lacks"):
        check_pattern(lambda x: dense @ x, wave(12), few)
    with pytest.raises(ValueError, match="; and 24 more rows are wrong"):
        check_pattern(lambda x: dense @ x, wave(12), few)


@pytest.mark.slow
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_no_alarm(low):
    """Not that of sums, nor that of what cancels inside of a function."""
    W, scales = wave(30, 30).to(low), torch.logspace(-3, 3, 30).to(low)
    functions = (
        lambda x: W @ torch.tanh(W @ x),
        lambda x: x.cumsum(0).cumsum(0) / 30,
        lambda x: ((100 * x + x**2) - 100 * x) * 3,
        lambda x: (x.half() * 3).to(low) + x,
        lambda x: x * scales,
    )
    x = wave(30, seed=3).to(low)
    for f in functions:
        pattern = jacobian_pattern(f, x)
        for seed in range(20):
            check_pattern(f, x, pattern, seed=seed)


def test_entries_that_are_only_rounding_may_be_left_out():
    empty = SparsityPattern.from_coo([], [], (6, 6))[0]
    check_pattern(lambda x: x * 3.7 / 3.7 - x, X, empty)


def test_a_missing_entry_is_found_beside_larger_rows():
    f = lambda x: torch.stack([1e12 * (x[0] + x[1]), 1e-12 * (x[0] + x[1])])
    pattern = SparsityPattern.from_coo([0, 0, 1], [0, 1, 0], (2, 6))[0]
    with pytest.raises(ValueError, match="row 1 lacks column 1"):
        check_pattern(f, X, pattern)


# ------------------------------------------------------------------------ rules that are not there


def test_without_forward_mode():
    f = lambda x: Doubled.apply(x)[1:] * x[:-1]
    pattern = jacobian_pattern(f, X)
    right = torch.zeros(5, 6, dtype=torch.float64)
    right[range(5), range(5)], right[range(5), range(1, 6)] = 2 * X[1:], 2 * X[:-1]
    assert_close(sparse_jacobian(f)(X).to_dense(), right)
    check_pattern(f, X, pattern, mode="reverse")
    for call in (sparse_jacobian(f, pattern), lambda x: check_pattern(f, x, pattern)):
        with pytest.raises(NotImplementedError, match="jvp"):
            call(X)
    with pytest.raises(ValueError, match="row 2 lacks column 3"):
        check_pattern(f, X, without(pattern, 5), mode="reverse")


@pytest.fixture(scope="module")
def twice():
    """Register an op as PyTorch documents it; forward mode silently takes 0 for its derivative."""

    @torch.library.custom_op("test_check_pattern::twice", mutates_args=())
    def op(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    op.register_fake(torch.empty_like)
    op.register_autograd(lambda ctx, g: 2 * g)
    return op


def test_a_derivative_that_forward_mode_takes_for_zero_is_never_returned(twice):
    pattern = jacobian_pattern(twice, X)
    assert pattern.nnz == 6
    with pytest.raises(RuntimeError, match="setup_context"):  # what PyTorch says in reverse
        sparse_jacobian(twice)(X)
    for mode in ("auto", "forward"):
        with pytest.raises(NotImplementedError, match="test_check_pattern::twice"):
            sparse_jacobian(twice, pattern, mode=mode)(X)
        with pytest.raises(NotImplementedError, match="test_check_pattern::twice"):
            check_pattern(twice, X, pattern, mode=mode)


class Given(torch.autograd.Function):
    """The identity, with a derivative of 2 in forward mode and of 1 in reverse mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, t):
        return 2 * t

    @staticmethod
    def backward(ctx, g):
        return g.clone()


def test_rules_that_disagree_are_told():
    """One row is evaluated in reverse mode, and checked in forward mode."""
    f = lambda x: Given.apply(x).sum()
    row = SparseMatrix.from_dense(torch.ones(1, 6)).pattern
    check_pattern(f, X, row, mode="forward")
    with pytest.raises(ValueError, match="rules of f for forward and for reverse mode differ"):
        check_pattern(f, X, row)
    with pytest.raises(ValueError, match=r"in columns 0, 1, .* for reverse mode differ"):
        check_pattern(lambda x: Given.apply(x), X, SparseMatrix.eye(6).pattern)


# ------------------------------------------------------------------------------------- no answer


def test_what_is_not_finite_is_no_pass():
    x = torch.tensor([1.0, 0.0, 4.0])
    with pytest.raises(ValueError, match=r"nothing can be said of row 1, .*check at another one"):
        check_pattern(torch.sqrt, x, SparseMatrix.eye(3).pattern)


def test_shapes_places_and_options():
    with pytest.raises(ValueError, match="3 columns, but there are 6"):
        check_pattern(chain, X, SparseMatrix.eye(3).pattern)
    with pytest.raises(RuntimeError, match="call it outside"):
        vmap(lambda x: check_pattern(chain, x, CHAIN))(X[None])
    check_pattern(lambda x, k: x * k, (X, 2), SparseMatrix.eye(6).pattern)
    check_pattern(lambda x: (x.diff(), "aux"), X, jacobian_pattern(torch.diff, X), has_aux=True)
    before = torch.get_rng_state()
    check_pattern(chain, X, color(CHAIN, "reverse"))
    assert torch.equal(torch.get_rng_state(), before)
