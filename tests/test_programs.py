"""Programs written as a user would from the docs alone, each against one that is dense."""

from functools import partial

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import SparseMatrix, SparsityPattern, sparse_lstsq, sparse_solve, vstack


class PoseGraph:
    """Places and headings along a loop, measured from each other; the first pose is known."""

    def __init__(self, poses=8):
        turn = torch.linspace(0, 2 * torch.pi, poses + 1, dtype=torch.float64)[:-1]
        self.truth = torch.stack([turn.cos(), turn.sin(), turn + torch.pi / 2], 1)
        i = torch.arange(poses)
        self.start = torch.cat([i[:-1], i, torch.tensor([0, 2])])
        self.end = torch.cat([i[1:], (i + 2) % poses, torch.tensor([4, 7])])
        exact = vmap(between)(self.truth[self.start], self.truth[self.end])
        self.measured = exact + 0.02 * torch.randn_like(exact)
        self.weights = torch.tensor([5.0, 5.0, 10.0], dtype=torch.float64).repeat(len(exact))
        self.keep = torch.arange(3, 3 * poses)
        edges, pose = torch.arange(len(exact)), torch.stack([self.start, self.end], 1)
        # Rows 3 e + k and columns 3 p + l of the blocks (edge, which end, k, l).
        k = torch.arange(3)
        row = (3 * edges[:, None, None, None] + k[:, None]).expand(-1, 2, 3, 3)
        col = (3 * pose[:, :, None, None] + k).expand(-1, 2, 3, 3)
        self.shape = (3 * len(exact), 3 * poses)
        self.pattern, self.assemble = SparsityPattern.from_coo(
            row.flatten(), col.flatten(), self.shape
        )

    def residual(self, x, measured):
        poses = torch.cat([self.truth[0], x]).reshape(-1, 3)
        return (vmap(between)(poses[self.start], poses[self.end]) - measured).flatten()

    def jacobian(self, x):
        poses = torch.cat([self.truth[0], x]).reshape(-1, 3)
        blocks = vmap(jacrev(between, argnums=(0, 1)))(poses[self.start], poses[self.end])
        entries = torch.stack(blocks, 1).flatten()
        return SparseMatrix(self.pattern, self.assemble(entries))[:, self.keep]


def between(a, b):
    """Return where b is, as seen from a."""
    c, s = a[2].cos(), a[2].sin()
    dx, dy = b[0] - a[0], b[1] - a[1]
    return torch.stack([c * dx + s * dy, c * dy - s * dx, b[2] - a[2]])


def step_by_least_squares(graph, damping, x, measured):
    J, r, w = graph.jacobian(x), graph.residual(x, measured), graph.weights
    eye = SparseMatrix.eye(len(x), dtype=torch.float64)
    stacked = vstack([J.scale_rows(w), eye.mul(damping.sqrt())])
    return x - sparse_lstsq(stacked, torch.cat([w * r, torch.zeros_like(x)]))


def step_by_normal_matrix(graph, damping, x, measured):
    J, r, w = graph.jacobian(x), graph.residual(x, measured), graph.weights
    eye = SparseMatrix.eye(len(x), dtype=torch.float64)
    H = J.T.matmul(J.scale_rows(w**2)) + eye.mul(damping)
    return x - sparse_solve(H, J.T.matmul(w**2 * r))


def step_dense(graph, damping, x, measured):
    J, r, w = jacfwd(graph.residual)(x, measured), graph.residual(x, measured), graph.weights
    H = J.T @ (w[:, None] ** 2 * J) + damping * torch.eye(len(x), dtype=torch.float64)
    return x - torch.linalg.solve(H, J.T @ (w**2 * r))


def solved(step, graph):
    x = graph.truth[1:].flatten() + 0.1 * randn(21, seed=1)
    for _ in range(12):
        x = step(graph, DAMPING, x, graph.measured)
    return x


DAMPING = torch.tensor(0.1, dtype=torch.float64)
WAYS_OF_STEPPING = [step_by_least_squares, step_by_normal_matrix]


@pytest.mark.parametrize("step", WAYS_OF_STEPPING)
def test_poses_converge_as_with_a_dense_solve(step):
    graph = PoseGraph()
    x = solved(step, graph)
    gradient = grad(lambda x: (graph.weights * graph.residual(x, graph.measured)).square().sum())
    assert gradient(x).norm() < 1e-8 * gradient(graph.truth[1:].flatten()).norm()
    assert_close(x, solved(step_dense, graph))


@pytest.mark.parametrize("step", WAYS_OF_STEPPING)
def test_a_step_of_the_poses_is_differentiated_as_a_dense_one(step):
    graph = PoseGraph()
    primals = DAMPING, graph.truth[1:].flatten() + 0.1 * randn(21, seed=1), graph.measured
    tangents = tuple(map(torch.randn_like, primals))
    f, dense = partial(step, graph), partial(step_dense, graph)
    assert_close(jvp(f, primals, tangents), jvp(dense, primals, tangents))
    cotangent = randn(21, seed=4)
    assert_close(vjp(f, *primals)[1](cotangent), vjp(dense, *primals)[1](cotangent))


@pytest.mark.slow
def test_a_step_of_the_poses_is_compiled():
    graph = PoseGraph()
    graph.keep = graph.keep.tolist()
    x = graph.truth[1:].flatten() + 0.1 * randn(21, seed=1)
    compiled = torch.compile(
        partial(step_by_least_squares, graph), fullgraph=True, backend="aot_eager"
    )
    expected = step_dense(graph, DAMPING, x, graph.measured)
    assert_close(compiled(DAMPING, x, graph.measured), expected)
