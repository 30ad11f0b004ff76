"""What detection takes and returns: arguments, pytrees, transforms around it, refusals."""

import io
import pickle
import sys

import pytest
import torch
from torch.func import hessian, jvp, vmap

from tests.detected import check, dense, true_pattern
from tsgu_func import SparseMatrix, hessian_pattern, jacobian_pattern
from tsgu_func.derivatives.detection import progress
from tsgu_func.derivatives.detection.memory import Memory
from tsgu_func.derivatives.detection.nodes import evaluate
from tsgu_func.derivatives.detection.recorder import Recorder

X = torch.arange(1.0, 6.0, dtype=torch.float64)


def test_pytrees_are_numbered_leaf_by_leaf():
    f = lambda d, s: {"a": d["x"] * s, "b": (d["y"].sum(),)}
    d = {"x": torch.ones(3), "y": torch.ones(2, dtype=torch.float64)}
    found = dense(jacobian_pattern(f, d, torch.tensor(2.0)))
    assert found.int().tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1],
    ]
    found = dense(jacobian_pattern(f, d, torch.tensor(2.0), argnums=(1, 0)))
    assert found[:, 0].tolist() == [True, True, True, False]
    assert found[:, 1:].sum() == 5
    assert jacobian_pattern(f, d, torch.tensor(2.0), argnums=-1).shape == (4, 1)


def test_other_arguments_are_not_known():
    """A pattern is right for all of them: also an index that is an argument may be any."""
    f = lambda x, index: x[index]
    index = torch.tensor([1, 3])
    assert dense(jacobian_pattern(f, X, index)).all()
    assert jacobian_pattern(f, X, index, detect="local").nnz == 2
    assert jacobian_pattern(lambda x: f(x, index), X).nnz == 2
    assert jacobian_pattern(lambda x, k: x[k], X, 3).nnz == 1


def test_a_matrix_is_an_argument():
    A = SparseMatrix.from_dense(torch.eye(3) + torch.eye(3).flip(1))
    found = dense(jacobian_pattern(lambda A: A @ torch.ones(3), A))
    assert found.shape == (3, A.pattern.nnz)
    assert torch.equal(found, A.pattern.row == torch.arange(3)[:, None])


def test_only_shapes_are_looked_at():
    nan = torch.full((4,), torch.nan)
    assert jacobian_pattern(lambda x: x[1:] * x[:-1], nan).nnz == 6
    assert jacobian_pattern(lambda x: x[1:] * x[:-1], torch.empty(4, device="meta")).nnz == 6
    assert jacobian_pattern(lambda x: 0 * x, nan).nnz == 4  # a zero that is stored


def test_edges():
    assert jacobian_pattern(lambda x: x * 2, torch.tensor(1.0)).shape == (1, 1)
    assert jacobian_pattern(lambda x: x, torch.zeros(0)).shape == (0, 0)
    assert jacobian_pattern(lambda x: x.sum(), torch.zeros(0)).shape == (1, 0)
    assert jacobian_pattern(lambda x: (), X).shape == (0, 5)
    assert jacobian_pattern(lambda x: (x.argmax(), x[:1]), X).nnz == 1
    assert hessian_pattern(lambda x: x.sum(), X).nnz == 0
    assert hessian_pattern(lambda x: torch.ones(()), X).nnz == 0
    assert hessian_pattern(lambda x: x**2, torch.tensor(1.0)).nnz == 1


def test_aux():
    f = lambda x: (x[1:] * x[:-1], {"anything": "at all"})
    assert jacobian_pattern(f, X, has_aux=True).nnz == 8
    assert hessian_pattern(lambda x: (x.prod(), x), X, has_aux=True).shape == (5, 5)
    with pytest.raises(TypeError, match="returns a pair"):
        jacobian_pattern(lambda x: x, X, has_aux=True)


def test_complex_numbers():
    z = torch.randn(4, dtype=torch.complex128)
    for f in (
        lambda z: z.conj() * z.roll(1),
        lambda z: z.real * z.imag.flip(0),
        lambda z: torch.view_as_complex(torch.view_as_real(z).flip(0)),
        torch.fft.fft,
    ):
        columns = [jvp(f, (z,), ((1 + 0.5j) * e,))[1] != 0 for e in torch.eye(4, dtype=z.dtype)]
        check(jacobian_pattern(f, z), torch.stack(columns, 1))

    def written(z):
        y = torch.zeros(4, dtype=z.dtype)
        torch.view_as_real(y)[:, 1] = z.real.flip(0)
        return y

    assert torch.equal(dense(jacobian_pattern(written, z)), torch.eye(4).flip(0).bool())


def test_mixed_dtypes():
    f = lambda x: (x.float() * 2, x.double()[1:].sum(), x > 0, x.half().roll(1))
    pattern = jacobian_pattern(f, X)
    assert pattern.shape == (5 + 1 + 5 + 5, 5)
    assert pattern.nnz == 5 + 4 + 0 + 5


# ------------------------------------------------------------------------ local


def branching(x):
    return x * 2 if x.sum() > 0 else x.sum() + x


@pytest.mark.parametrize(
    "f",
    [
        branching,
        lambda x: x[x > 0],
        lambda x: x * float(x[0]),
        lambda x: x[: int(x.argmax())],
        lambda x: x[x.nonzero()[:, 0]],
        lambda x: torch.stack([x[0] for _ in range(x.long().tolist()[0])]),
    ],
)
def test_branching_is_refused(f):
    with pytest.raises(ValueError, match=r'looks at numbers.*detect="local"'):
        jacobian_pattern(f, X)
    check(jacobian_pattern(f, X, detect="local"), torch.func.jacfwd(f)(X) != 0)


def test_local_is_told():
    pattern = jacobian_pattern(branching, X, detect="local")
    assert "detected locally" in repr(pattern)
    assert "detected locally" in repr(pattern.T)
    same = jacobian_pattern(lambda x: x, X)
    assert "locally" not in repr(same)
    assert same == pattern
    assert "locally" in repr(jacobian_pattern(branching, -X, detect="local"))
    assert jacobian_pattern(branching, -X, detect="local").nnz == 25


def test_local_positions_are_those_of_the_input():
    x = torch.tensor([3.0, 1.0, 2.0])
    f = lambda x: x[x.argsort()]
    found = dense(jacobian_pattern(f, x, detect="local"))
    assert found.int().tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert dense(jacobian_pattern(f, x)).all()
    # Zeros stay, as they do elsewhere.
    assert jacobian_pattern(lambda x: torch.where(x > 2, x, x.flip(0)), x, detect="local").nnz == 3
    assert jacobian_pattern(torch.relu, -x, detect="local").nnz == 3


# ------------------------------------------------------------------------ around it


def test_under_transforms():
    """A function that is closed over what a transform watches has a pattern all the same."""
    seen = []

    def f(c, x):
        seen.append(jacobian_pattern(lambda y: torch.stack([y * c, y.flip(0)]), x))
        return (x * c).sum()

    expected = jacobian_pattern(lambda y: torch.stack([y, y.flip(0)]), X)
    C = torch.randn(3, 5, dtype=torch.float64)
    vmap(f, (0, None))(C, X)
    vmap(vmap(f, (0, None)), (1, None))(torch.stack([C, C], 1), X)
    vmap(f)(C, C)
    vmap(torch.func.grad(f), (1, None))(C.T, X)
    hessian(lambda c: f(c, c))(X)
    f(X.clone().requires_grad_(), X).backward()
    with torch.no_grad():
        f(X, X)
    with torch.inference_mode():
        f(X, X)
    with torch.autocast("cpu"):
        f(X, X)
    assert len(seen) >= 9
    assert set(seen) == {expected}


def test_members_that_differ_are_united():
    index = torch.tensor([[0, 1], [3, 4]])
    seen = []
    vmap(lambda i: seen.append(jacobian_pattern(lambda x: x[i], X)) or i)(index)
    assert dense(seen[0]).int().tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]


def test_local_under_vmap_is_refused():
    with pytest.raises(ValueError, match="detect outside of it"):
        vmap(lambda x: jacobian_pattern(torch.sin, x, detect="local") and x)(X[None])


def test_parameters_keep_their_gradients():
    w = torch.ones(5, dtype=torch.float64, requires_grad=True)
    assert jacobian_pattern(lambda x: x * w, X).nnz == 5
    assert hessian_pattern(lambda x: (x * w).square().sum(), X).nnz == 5
    assert w.grad is None
    assert jacobian_pattern(lambda w: w[1:] * X[1:], w).nnz == 4


def test_detection_draws_no_numbers():
    before = torch.get_rng_state()
    f = lambda x: x * torch.rand(5) + torch.randn_like(x) + torch.nn.functional.dropout(x)
    assert jacobian_pattern(f, X).nnz == 5
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="looks at numbers"):  # no draw is right for all
        jacobian_pattern(lambda x: x * 2 if torch.rand(()) > 0.5 else x.sum() * x, X)


def test_a_compiled_function_is_run_as_it_is():
    f = torch.compile(lambda x: x[1:] * x[:-1], backend="eager")
    assert jacobian_pattern(f, X).nnz == 8


def test_inside_of_a_compiled_function_it_is_refused():
    with pytest.raises(Exception, match="cannot be detected inside of a compiled function"):
        torch.compile(lambda x: jacobian_pattern(torch.sin, x), backend="eager", fullgraph=True)(X)


def test_a_checkpoint():
    from torch.utils.checkpoint import checkpoint

    g = lambda z: z[1:] * z[:-1].sin()
    f = lambda x: checkpoint(g, x, use_reentrant=False)
    assert jacobian_pattern(f, X) == jacobian_pattern(g, X)
    loss = lambda x: g(x).sum()
    assert hessian_pattern(lambda x: f(x).sum(), X) == hessian_pattern(loss, X)


def test_a_pattern_is_pickled():
    pattern = jacobian_pattern(lambda x: x[1:] * x[:-1], X)
    assert pickle.loads(pickle.dumps(pattern)) == pattern


def test_default_device_and_dtype(monkeypatch):
    with torch.device("meta"):
        assert jacobian_pattern(lambda x: x.roll(1)[INDEX] + x.unfold(0, 2, 3)[:, 0], X).nnz == 4


INDEX = torch.tensor([0, 2])
EYE = torch.eye(5, dtype=torch.float64).to_sparse()


def test_an_op_that_may_return_a_view_or_a_copy():
    """Below autograd such ops are met whole: ``reshape`` says that it returns a view."""
    memory = Memory(6)
    with torch.inference_mode(), Recorder(memory, "error"):
        x = memory.seeded(torch.empty(2, 3), 0)
        out = [
            x.T.reshape(-1),
            x.T.contiguous().view(-1),
            x.T.flatten(),
            x.reshape(3, 2),
            x.double(),
        ]
        reads = [memory.read(y) for y in out]
    evaluate(reads, memory.nodes)
    turned, plain = [0, 3, 1, 4, 2, 5], [0, 1, 2, 3, 4, 5]
    columns = [read.sets(6).pairs()[1].tolist() for read in reads]
    assert columns == [turned, turned, turned, plain, plain]


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: jacobian_pattern(lambda x: 3.0, X),
            TypeError,
            "what f returns is a tensor.*float",
        ),
        (lambda: jacobian_pattern(torch.sin, torch.arange(3)), TypeError, "got torch.int64"),
        (lambda: jacobian_pattern(torch.sin, [1.0]), TypeError, "pytree of tensors; got float"),
        (lambda: jacobian_pattern(torch.sin, torch.eye(2).to_sparse()), TypeError, "dense tensor"),
        (lambda: jacobian_pattern(torch.sin, X, argnums=1), ValueError, "given 1 arguments"),
        (lambda: jacobian_pattern(torch.sin, X, argnums=(0, -1)), ValueError, "each argument once"),
        (lambda: jacobian_pattern(torch.sin, X, argnums=True), TypeError, "argnums is an int"),
        (lambda: jacobian_pattern(torch.sin, X, argnums=()), TypeError, "argnums is an int"),
        (lambda: jacobian_pattern(torch.sin, X, detect="probe"), ValueError, "'global' or 'local'"),
        (lambda: jacobian_pattern(torch.sin, X, unknown="zero"), ValueError, "'error' or 'dense'"),
        (lambda: hessian_pattern(torch.sin, X), ValueError, "one number for output.*Jacobian"),
        (lambda: jacobian_pattern(lambda x: x[1:] + x[:3], X), RuntimeError, "dimension"),
        (lambda: jacobian_pattern(lambda x: EYE @ x, X), ValueError, "SparseMatrix.from_torch"),
        (lambda: jacobian_pattern(lambda x: x.missing, X), AttributeError, "missing"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_goes_wrong_in_f_is_not_logged(caplog):
    with pytest.raises(RuntimeError):
        jacobian_pattern(lambda x: x @ torch.ones(4), X)
    assert caplog.records == []


@pytest.mark.parametrize("seen", [True, False])
def test_progress_is_shown_where_somebody_looks(monkeypatch, seen):
    class Screen(io.StringIO):
        def isatty(self):
            return seen

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(progress.shown([1, 2, 3])) == [1, 2, 3]
    assert screen.getvalue() == ""
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    assert list(progress.shown([1, 2, 3])) == [1, 2, 3]
    assert ("detecting where" in screen.getvalue()) == seen


def test_an_unused_argument():
    check(
        jacobian_pattern(lambda x, y: x.sin(), X, X, argnums=(0, 1)),
        torch.cat([torch.eye(5), torch.zeros(5, 5)], 1).bool(),
    )
    check(jacobian_pattern(lambda x: x.detach().sin(), X), torch.zeros(5, 5).bool())
    check(jacobian_pattern(lambda x: x.sin(), X), true_pattern(torch.sin, X))
