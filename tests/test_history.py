"""What a solve tells of its iterations: residuals, and the iterates."""

import functools

import pytest
import torch
from torch.testing import assert_close

from tests.systems import randn
from tests.textbook import definite, left_by, solved, textbook
from tsgu_func import LinearOperator, SparseMatrix, sparse_lstsq, sparse_solve
from tsgu_func.solvers import CG, DIC, GMRES, ICCG, LSMR, LSQR, MINRES, BiCGStab

N = 12
DTYPES = [torch.float64, torch.complex128]


# --------------------------------------------------------------------------------------- history


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cls", [CG, MINRES])
def test_history_is_that_of_the_textbook(cls, dtype):
    D, B = definite(dtype), randn(N, 2, dtype=dtype)
    _, info = solved(D, B, cls(history=30))
    assert info.history.shape == (2, 30)
    for told, count, b in zip(info.history, info.iterations, B.mT, strict=True):
        assert_close(told[:8], left_by(D, textbook(D, b, 8, cls), b), rtol=1e-6, atol=0)
        assert told.isfinite().sum() == count
        assert told[count:].isnan().all()
    assert info.stride.tolist() == [1, 1]


@pytest.mark.parametrize("cls", [CG, MINRES, ICCG, GMRES, BiCGStab, LSMR, LSQR])
@pytest.mark.parametrize("length", [2, 3, 8])
def test_history_is_bounded_and_says_which_iterations(cls, length):
    D, b = definite(torch.float64), randn(N)
    _, info = solved(D, b, cls(history=length, rtol=1e-12))
    _, whole = solved(D, b, cls(history=1000, rtol=1e-12))
    assert info.history.shape == (length,)
    count, stride = int(info.iterations), int(info.stride)
    assert stride // 2 * length < count <= stride * length
    kept = whole.history[stride - 1 : count : stride]
    assert len(kept) > 0
    assert_close(info.history[: len(kept)], kept)
    assert info.history[len(kept) :].isnan().all()
    assert whole.history.isfinite().sum() == count
    assert whole.history[count - 1] <= 1e-12


def test_there_is_none_unless_it_is_asked_for():
    for solver in (None, CG(), ICCG()):
        _, info = solved(definite(torch.float64), randn(N, 2), solver)
        assert info.history.shape == (2, 0)
        assert info.largest_ritz.isnan().all()
    with pytest.raises(ValueError, match="history must be not negative"):
        CG(history=-1)
    with pytest.raises(TypeError, match="history is a whole number"):
        LSMR(history=1.5)


@pytest.mark.parametrize("cls", [CG, MINRES, ICCG, GMRES])
def test_columns_that_end_at_different_times(cls):
    """Each has its own count, whichever others are solved for, and however often they restart."""
    D = torch.block_diag(2 * torch.eye(5), definite(torch.float64, 5), definite(torch.float64, 30))
    B = torch.ones(40, 4).double()
    B[5:, 1], B[:, 2], B[:5, 3], B[10:, 3] = 0, 0, 0, 0
    solver = cls(history=25, rtol=1e-8)
    _, info = solved(D, B, solver)
    one, few, many = (int(info.iterations[j]) for j in (1, 3, 0))
    assert one < few < many
    for j, b in enumerate(B.mT):
        _, alone = solved(D, b, solver)
        assert info.iterations[j] == alone.iterations
        assert_close(info.history[j], alone.history, rtol=1e-6, atol=1e-12, equal_nan=True)
        assert_close(info.largest_ritz[j], alone.largest_ritz, rtol=1e-6, atol=0, equal_nan=True)
    assert info.history[2].isnan().all()
    assert (info.iterations[2], info.stride[2]) == (0, 1)


def test_more_passes_go_on_in_the_history():
    D, b = definite(torch.float64), randn(N)
    _, info = solved(D, b, GMRES(restart=3, history=500))
    assert info.iterations > 6
    assert info.history.isfinite().sum() == info.iterations
    assert (info.history[: info.iterations].diff() <= 1e-12).all()
    uneven = torch.where(torch.arange(N) == 0, 1e8, b)
    D = torch.diag(torch.linspace(1, 9, N).double()) + torch.diag(torch.ones(N - 1).double(), 1) / 3
    D = D + D.mT
    loose, strict = (CG(history=500, rtol=1e-4, componentwise=c) for c in (None, 1e-12))
    (_, loose), (_, strict) = solved(D, uneven, loose), solved(D, uneven, strict)
    assert strict.iterations > loose.iterations
    assert strict.history.isfinite().sum() == strict.iterations
    assert_close(strict.history[: loose.iterations], loose.history[: loose.iterations])
    assert_close(strict.largest_ritz, loose.largest_ritz)


def test_history_of_least_squares():
    A, B = randn(20, 5), randn(20, 2)
    _, info = sparse_lstsq(SparseMatrix.from_dense(A), B, solver=LSQR(history=50), return_info=True)
    least = torch.linalg.vector_norm(B - A @ (torch.linalg.pinv(A) @ B), dim=0)
    last = [h[n - 1] for h, n in zip(info.history, info.iterations, strict=True)]
    assert_close(torch.stack(last), least / torch.linalg.vector_norm(B, dim=0))
    assert info.history.isfinite().sum(-1).tolist() == info.iterations.tolist()
    operator = LinearOperator(lambda p, x: p @ x, A, (20, 5))
    for cls in (LSMR, LSQR):
        _, info = sparse_lstsq(operator, B, solver=cls(history=7), return_info=True)
        assert info.history.shape == (2, 7)


class Own:
    """A solver of somebody's own, that hands over to another."""

    def __init__(self, solver, history):
        self.solver, self.history = solver, history

    def init(self, A):
        return self.solver.init(A)

    def compute(self, state, A, B, X0=None):
        return self.solver.compute(state, A, B, X0)


def test_a_solver_of_ones_own_says_how_long_its_history_is():
    D, b = definite(torch.float64), randn(N)
    _, info = solved(D, b, Own(CG(history=9), 9))
    assert info.history.isfinite().any()
    _, longer = solved(D, b, Own(CG(history=9), 30))
    assert_close(longer.history[:9], info.history, equal_nan=True)
    assert longer.history[9:].isnan().all()
    assert solved(D, b, Own(CG(), []))[1].history.shape == (0,)
    for said in ([], 3):
        with pytest.raises(TypeError, match="returns a history of 9 residuals; its attribute"):
            solved(D, b, Own(CG(history=9), said))


def test_what_is_empty_has_a_history_of_its_length():
    A = SparseMatrix.from_dense(definite(torch.float64))
    _, info = sparse_solve(A, torch.zeros(N, 0).double(), solver=CG(history=5), return_info=True)
    assert info.history.shape == (0, 5)


# ------------------------------------------------------------------------------------ transforms


@pytest.mark.parametrize("cls", [CG, MINRES, ICCG])
def test_history_leaves_transforms(cls):
    D = torch.stack([definite(torch.float64, seed=s, high=4.0 + s) for s in range(3)])
    A, B, solver = SparseMatrix.from_dense(D), randn(3, N, 2), cls(history=6)

    def of(A, B):
        return sparse_solve(A, B, solver=solver, return_info=True)[1]

    each = [of(SparseMatrix.from_dense(d), b) for d, b in zip(D, B, strict=True)]
    whole, mapped = of(A, B), torch.func.vmap(of)(A, B)
    over_B = torch.func.vmap(of, in_dims=(None, 0))(SparseMatrix.from_dense(D[0]), B)
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")(A, B)
    for name in ("history", "stride", "smallest_ritz", "largest_ritz", "iterations"):
        expected = torch.stack([getattr(info, name) for info in each])
        for info in (whole, mapped, compiled):
            assert_close(getattr(info, name), expected, rtol=1e-6, atol=1e-12, equal_nan=True)
        first = getattr(over_B, name)[0]
        assert_close(first, expected[0], rtol=1e-6, atol=1e-12, equal_nan=True)


def test_vectors_of_a_batch():
    D = torch.stack([definite(torch.float64, seed=s) for s in range(2)])
    _, info = solved(D, randn(2, N), CG(history=6))
    assert info.history.shape == (2, 6)
    assert info.history.isfinite().any(-1).all()


def test_derivatives_are_those_without_a_history():
    D, b = definite(torch.float64), randn(N)

    def loss(D, b, solver):
        return sparse_solve(SparseMatrix.from_dense(D), b, solver=solver, return_info=True)[0].sin()

    for derivative in (torch.func.jacrev, torch.func.jacfwd):
        got, expected = (
            derivative(lambda D, b, s=s: loss(D, b, s), (0, 1))(D, b) for s in (CG(history=9), CG())
        )
        assert_close(got, expected, rtol=1e-9, atol=0)


# ------------------------------------------------------------------------------------- callbacks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cls", [CG, MINRES])
def test_a_callback_gets_the_iterates(cls, dtype):
    D, b, seen = 1e90 * definite(dtype), 1e3 * randn(N, dtype=dtype), []
    x, _ = solved(D, b, cls(callback=lambda k, residual, x: seen.append((k, residual, x))))
    expected = textbook(D, b, 8, cls)
    for (_, residual, iterate), textbooks in zip(seen, expected, strict=False):
        assert_close(iterate[:, 0], torch.from_numpy(textbooks), rtol=1e-6, atol=1e-100)
        left = torch.linalg.vector_norm(b - D @ iterate[:, 0]) / torch.linalg.vector_norm(b)
        assert_close(residual, float(left), rtol=1e-6, atol=1e-12)
    assert [k for k, *_ in seen] == list(range(1, len(seen) + 1))
    assert torch.equal(seen[-1][2][:, 0], x)


@pytest.mark.slow
def test_the_compiled_loop_has_the_iterates_of_the_other():
    D, B = definite(torch.complex128, 20), randn(20, 3, dtype=torch.complex128)
    ours, theirs = [], []
    for solver, seen in ((ICCG, ours), (functools.partial(CG, DIC()), theirs)):
        solved(D, B, solver(rtol=1e-6, callback=lambda k, r, x, seen=seen: seen.append((r, x))))
    for (residual, x), (expected, y) in zip(ours, theirs, strict=True):
        assert_close(x, y, rtol=1e-6, atol=1e-9)
        assert 0.5 < residual / expected < 2  # the norm is not measured in each iteration


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("cls", [CG, MINRES, ICCG, GMRES, BiCGStab])
def test_the_last_iterate_is_the_solution(cls, warm):
    """Also where columns end early and are narrowed away, of a batch, and from another start."""
    D = torch.stack([definite(torch.complex128, 30, seed=s, high=90.0) for s in range(2)])
    _, V = torch.linalg.eigh(D)
    B = torch.cat([V[..., :1], randn(2, 30, 1, dtype=D.dtype), 0 * V[..., :1], V[..., 1:2]], -1)
    A, seen = SparseMatrix.from_dense(D), []
    solver = cls(rtol=1e-9, warm_start=warm, callback=lambda k, _, x: seen.append(x))
    for scale in (1, 1 + 1e-5):
        seen.clear()
        X = sparse_solve(A, scale * B, solver=solver)
        assert all(x.shape == B.shape for x in seen)
        assert torch.equal(seen[-1], X)
        assert not torch.equal(seen[0], X)


def test_callbacks_of_two_arguments_are_handed_two():
    class Listener:
        def __call__(self, k, residual):
            told.append((k, residual))

        def method(self, k, residual, x):
            told.append((k, residual, x))

    told, D, b = [], definite(torch.float64), randn(N)
    two = (lambda *a: told.append(a), lambda k, r, told=told: told.append((k, r)), Listener())
    for callback in (*two, Listener().method):
        told.clear()
        solved(D, b, CG(callback=callback))
        assert {len(arguments) for arguments in told} == {2 if callback in two else 3}


def test_print_is_a_callback(capsys):
    solved(definite(torch.float64), randn(N), CG(callback=print))
    assert len(capsys.readouterr().out.splitlines()[0].split()) == 2
