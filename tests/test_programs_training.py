"""Programs that train, written as a user would from the docs alone, each against a dense one."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import SparseMatrix, SparsityPattern, sparse_solve


class Grid:
    """Nodes, and edges between neighbours, of a grid whose border is grounded."""

    def __init__(self, rows, cols):
        node = torch.arange(rows * cols).reshape(rows, cols)
        across = torch.stack([node[:, :-1].flatten(), node[:, 1:].flatten()])
        down = torch.stack([node[:-1].flatten(), node[1:].flatten()])
        self.n = rows * cols
        self.tail, self.head = torch.cat([across, down], 1)
        self.place = torch.cartesian_prod(
            torch.linspace(0, 1, rows, dtype=torch.float64),
            torch.linspace(0, 1, cols, dtype=torch.float64),
        )
        inner = torch.zeros(rows, cols, dtype=torch.bool)
        inner[1:-1, 1:-1] = True
        self.border = (~inner).flatten().double()

    def midpoints(self, i, j):
        return (self.place[i] + self.place[j]) / 2

    def entries(self, c):
        """List row, column and value of each contribution, as in any textbook."""
        i, j, k = self.tail, self.head, torch.arange(self.n)
        row = torch.cat([i, j, i, j, k])
        col = torch.cat([i, j, j, i, k])
        return row, col, torch.cat([c, c, -c, -c, self.border])


class Conductivity(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, x):
        return self.layers(x).squeeze(-1).exp()


def diffusion_by_from_coo(grid):
    midpoints = grid.midpoints(grid.tail, grid.head)

    def matrix(net):
        row, col, values = grid.entries(net(midpoints))
        return SparseMatrix.from_coo(row, col, values, (grid.n, grid.n))

    return matrix


def diffusion_by_assembly(grid):
    midpoints = grid.midpoints(grid.tail, grid.head)
    row, col, _ = grid.entries(torch.ones(len(midpoints), dtype=torch.float64))
    pattern, assemble = SparsityPattern.from_coo(row, col, (grid.n, grid.n))

    def matrix(net):
        _, _, entries = grid.entries(net(midpoints))
        return SparseMatrix(pattern, assemble(entries))

    return matrix


def diffusion_by_with_values(grid):
    ones = torch.ones(len(grid.tail), dtype=torch.float64)
    A = SparseMatrix.from_coo(*grid.entries(ones), (grid.n, grid.n))
    row, col = A.pattern.row, A.pattern.col
    midpoints = grid.midpoints(row, col)

    def matrix(net):
        off = torch.where(row == col, 0.0, net(midpoints))
        total = grid.border.index_add(0, row, off)
        return A.with_values(torch.where(row == col, total[row], -off))

    return matrix


def diffusion_by_products(grid):
    edges = torch.arange(len(grid.tail)).repeat(2)
    signs = torch.ones(len(grid.tail), dtype=torch.float64)
    D = SparseMatrix.from_coo(
        edges,
        torch.cat([grid.tail, grid.head]),
        torch.cat([signs, -signs]),
        (len(grid.tail), grid.n),
    )
    ground = SparseMatrix.diag(grid.border)
    midpoints = grid.midpoints(grid.tail, grid.head)

    def matrix(net):
        return D.T.matmul(D.scale_rows(net(midpoints))) + ground

    return matrix


def diffusion_dense(grid):
    midpoints = grid.midpoints(grid.tail, grid.head)

    def matrix(net):
        row, col, values = grid.entries(net(midpoints))
        zeros = torch.zeros(grid.n, grid.n, dtype=torch.float64)
        return zeros.index_put((row, col), values, accumulate=True)

    return matrix


def training(matrix, solve, grid, steps=20, compiled=False):
    """Fit the conductivities to a solution that is known; return the losses."""
    torch.manual_seed(0)
    net = Conductivity()
    source = torch.ones(grid.n, dtype=torch.float64)
    with torch.no_grad():
        target = solve(matrix(lambda x: 1 + x.prod(-1)), source)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)

    def loss():
        return (solve(matrix(net), source) - target).square().mean()

    evaluate = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = evaluate()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "way", [diffusion_by_assembly, diffusion_by_with_values, diffusion_by_products]
)
def test_diffusion_is_trained_as_with_a_dense_solve(way, compiled):
    grid = Grid(8, 9)
    expected = training(diffusion_dense(grid), torch.linalg.solve, grid)
    losses = training(way(grid), sparse_solve, grid, compiled=compiled)
    assert losses[-1] < losses[0] / 4
    assert_close(losses, expected, rtol=1e-9, atol=0)


def test_diffusion_assembled_anew_at_each_step():
    grid = Grid(8, 9)
    expected = training(diffusion_dense(grid), torch.linalg.solve, grid)
    losses = training(diffusion_by_from_coo(grid), sparse_solve, grid)
    assert_close(losses, expected, rtol=1e-9, atol=0)


def random_graph(nodes=30):
    """Return two communities as an adjacency matrix, labels and features that hardly tell."""
    labels = torch.arange(nodes) % 2
    chance = torch.where(labels[:, None] == labels, 0.3, 0.05)
    above = (torch.rand(nodes, nodes) < chance).triu(1)
    A = SparseMatrix.from_dense((above + above.T).double())
    features = randn(nodes, 4, seed=1)
    features[:, 0] += labels - 0.5
    return A, labels, features


class GraphConvolution(nn.Module):
    """Two layers; the edges have weights of their own, which are trained."""

    def __init__(self, A):
        super().__init__()
        self.A, self.weights = A, nn.Parameter(A.values.clone())
        self.first = nn.Linear(4, 8, dtype=torch.float64)
        self.second = nn.Linear(8, 2, dtype=torch.float64)

    def propagation(self):
        A = self.A.to(self.weights.device).with_values(self.weights.abs())
        A = A + SparseMatrix.eye(A.shape[-1], dtype=self.weights.dtype)
        return A.scale_rows(1 / A.sum(-1))

    def forward(self, x):
        P = self.propagation()
        return P.matmul(self.second(P.matmul(self.first(x)).relu()))


class DenseGraphConvolution(GraphConvolution):
    """The same, with everything between nodes that are not connected multiplied by zero."""

    def propagation(self):
        places = self.A.pattern.row, self.A.pattern.col
        n = self.A.shape[-1]
        A = torch.eye(n, dtype=torch.float64).index_put(places, self.weights.abs(), accumulate=True)
        return A / A.sum(-1, keepdim=True)


def network(A, kind=GraphConvolution):
    torch.manual_seed(0)
    return kind(A)


def fitted(net, features, labels, loss, steps=30):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(features), labels).backward()
        optimizer.step()
    return net


def test_graph_convolution_learns_and_its_edges_are_trained():
    A, labels, features = random_graph()
    loss = nn.functional.cross_entropy
    net = fitted(network(A), features, labels, loss)
    assert (net(features).argmax(-1) == labels).double().mean() > 0.9
    assert set(net.state_dict()) >= {"weights"}
    assert ((net.weights - A.values).abs() > 1e-3).all()
    assert (A.values == 1).all()
    dense = fitted(network(A, DenseGraphConvolution), features, labels, loss)
    for name, parameter in net.named_parameters():
        assert_close(parameter, dense.get_parameter(name))


def test_graph_convolution_is_moved_to_single_precision_with_its_edges():
    A, _, features = random_graph()
    net = network(A)
    expected = net(features)
    assert_close(net.float()(features.float()), expected.float())


def per_sample(net, labels):
    """Return the gradients for each of many graphs of features."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, features):
        return nn.functional.cross_entropy(functional_call(net, parameters, (features,)), labels)

    return parameters, grad(loss)


def test_graph_convolution_has_gradients_for_each_sample():
    A, labels, features = random_graph()
    samples = features + randn(5, *features.shape, seed=2)
    parameters, gradient = per_sample(network(A), labels)
    all_at_once = vmap(gradient, in_dims=(None, 0))(parameters, samples)
    _, dense = per_sample(network(A, DenseGraphConvolution), labels)
    for gradient_of in (gradient, dense):
        one_by_one = [gradient_of(parameters, sample) for sample in samples]
        for name, value in all_at_once.items():
            assert_close(value, torch.stack([g[name] for g in one_by_one]))


def test_graph_convolution_has_gradients_for_each_node():
    A, labels, features = random_graph()

    def gradients(net):
        def loss(parameters, node):
            out = functional_call(net, parameters, (features,))
            return nn.functional.cross_entropy(out[node[None]], labels[node[None]])

        parameters = {name: p.detach() for name, p in net.named_parameters()}
        return vmap(grad(loss), in_dims=(None, 0))(parameters, torch.arange(len(labels)))

    assert_close(gradients(network(A)), gradients(network(A, DenseGraphConvolution)))


@pytest.mark.slow
def test_graph_convolution_is_compiled():
    A, labels, features = random_graph()
    net = network(A)
    step = torch.compile(nn.functional.cross_entropy, fullgraph=True, backend="aot_eager")
    forward = torch.compile(net, fullgraph=True, backend="aot_eager")
    compiled = fitted(forward, features, labels, step, steps=5)
    expected = fitted(network(A), features, labels, nn.functional.cross_entropy, steps=5)
    assert_close(compiled(features), expected(features))
