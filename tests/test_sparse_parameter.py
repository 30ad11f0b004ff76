"""A sparse matrix in a module: trained, moved, saved, called functionally, stacked, compiled."""

import copy
import io
import pickle

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.testing import assert_close

from tsgu_func import SparseMatrix, SparseParameter, sparse_solve

D = torch.tensor([[4.0, 1, 0, 0], [0, 3, 1, 0], [0, -1, 5, 2], [1, 0, 0, 6]], dtype=torch.float64)
MASK = (D != 0).double()
X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGET = X.sin()


class Layer(torch.nn.Module):
    """A product, a solve, and a dense parameter beside the sparse one."""

    def __init__(self, A=None):
        super().__init__()
        self.A = SparseParameter(SparseMatrix.from_dense(D) if A is None else A)
        self.bias = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x):
        A = self.A()
        return sparse_solve(A.T, A.matmul(x.mT).sin()).mT + self.bias


class Dense(torch.nn.Module):
    """The same with a dense parameter and a mask: the oracle."""

    def __init__(self):
        super().__init__()
        self.A = torch.nn.Parameter(D.clone())
        self.bias = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x):
        A = self.A * MASK
        return torch.linalg.solve(A.mT, (A @ x.mT).sin()).mT + self.bias


def loss(out):
    return (out - TARGET).square().mean()


def train(model, call, steps=4, kind=torch.optim.Adam):
    optimizer = kind(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(call(X)).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def trained():
    model = Dense()
    return train(model, model)


def assert_trained(layer, trained):
    assert_close(layer.A().to_dense(), trained.A.detach() * MASK, rtol=1e-9, atol=1e-9)
    assert_close(layer.bias.detach(), trained.bias.detach(), rtol=1e-9, atol=1e-9)
    assert (layer.A().to_dense() - D).abs().max() > 0.1


def test_trained(trained):
    layer = Layer()
    assert_trained(train(layer, layer), trained)


def test_trained_compiled(trained):
    layer = Layer()
    assert_trained(train(layer, torch.compile(layer, fullgraph=True, backend="aot_eager")), trained)


def test_trained_by_functional_calls(trained):
    layer = Layer()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    assert sorted(parameters) == ["A.values", "bias"]
    at = lambda parameters: loss(functional_call(layer, parameters, (X,)))
    slopes = grad(at)(parameters)
    dense = Dense()
    loss(dense(X)).backward()
    expected = SparseMatrix(layer.A.pattern, slopes["A.values"]).to_dense()
    assert_close(dense.A.grad, expected)
    assert torch.equal(layer.A.values, SparseMatrix.from_dense(D).values)
    optimizer = torch.optim.Adam([p.requires_grad_() for p in parameters.values()], lr=0.05)
    for _ in range(4):
        for p, slope in zip(parameters.values(), grad(at)(parameters).values(), strict=True):
            p.grad = slope.detach()
        optimizer.step()
    assert_close(functional_call(layer, parameters, (X,)), trained(X))
    with torch.no_grad():
        compiled = torch.compile(grad(at), fullgraph=True, backend="aot_eager")
        for name, slope in grad(at)(parameters).items():
            assert_close(compiled(parameters)[name], slope)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.LBFGS])
def test_other_optimizers(kind):
    layer, dense = Layer(), Dense()
    for model in (layer, dense):
        optimizer = kind(model.parameters(), lr=0.1)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(model(X))
            value.backward()
            return value

        for _ in range(2):
            optimizer.step(closure)
    assert_close(layer.A().to_dense(), dense.A.detach() * MASK, rtol=1e-7, atol=1e-7)


def test_an_ensemble_is_mapped_over():
    layers = [Layer(SparseMatrix.from_dense(D * k)) for k in (1.0, 2.0, 3.0)]
    parameters, buffers = stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")
    call = lambda p, b, x: functional_call(base, (p, b), (x,))
    out = vmap(call, in_dims=(0, 0, None))(parameters, buffers, X)
    assert_close(out, torch.stack([layer(X) for layer in layers]))
    slopes = vmap(grad(lambda p, b: loss(call(p, b, X))))(parameters, buffers)
    for k, layer in enumerate(layers):
        loss(layer(X)).backward()
        assert_close(slopes["A.values"][k], layer.A.values.grad)


# ---------------------------------------------------------------------------- moved, copied, saved


def test_moved_and_converted():
    layer = Layer()
    assert layer.float().A().dtype == torch.float32
    assert layer.double().A().dtype == torch.float64
    pattern = layer.A.pattern
    assert layer.to("meta").A().device == layer.A.values.device == torch.device("meta")
    assert layer.A().pattern.device == layer.A.values.device
    assert layer.to_empty(device="cpu").A().pattern == pattern
    frozen = SparseParameter(SparseMatrix.from_dense(D), requires_grad=False)
    assert not frozen().requires_grad
    assert list(frozen.state_dict()) == ["values", "_extra_state"]


def test_what_it_was_made_from_is_left_alone():
    A = SparseMatrix.from_dense(D).requires_grad_()
    before = A.values.detach().clone()
    layer = Layer(A)
    train(layer, layer, 1)
    assert torch.equal(A.values, before)
    assert A.values.grad is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(copied):
    layer = Layer()
    other = copied(layer)
    assert other.A.pattern == layer.A.pattern
    train(other, other, 1)
    assert torch.equal(layer.A.values, SparseMatrix.from_dense(D).values)
    assert not torch.equal(other.A.values, layer.A.values)


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_saved_and_loaded():
    layer = Layer()
    train(layer, layer, 2)
    state = through_file(layer.state_dict())
    assert list(state) == ["bias", "A.values", "A._extra_state"]
    for assign in (False, True):
        other = Layer()
        other.load_state_dict(state, assign=assign)
        assert_close(other(X), layer(X))
    for skeleton in (Layer().to("meta"), Layer(SparseMatrix.from_dense(D).to("meta"))):
        skeleton.load_state_dict(state, assign=True)
        assert_close(skeleton(X), layer(X))
    other = Layer()
    other.load_state_dict({k: v for k, v in state.items() if "_extra" not in k}, strict=False)
    assert_close(other(X), layer(X))


def test_values_of_another_pattern_are_not_loaded():
    state = through_file(Layer().state_dict())
    other = Layer(SparseMatrix.from_dense(D.flip(0)))
    before = other.A.values.detach().clone()
    assert other.A().nnz == Layer().A().nnz
    with pytest.raises(ValueError, match=r"another pattern: .*id=\w+.*, and this module has .*id="):
        other.load_state_dict(state)
    assert torch.equal(other.A.values, before)
    transposed = Layer(SparseMatrix.from_dense(D.mT).T)
    assert transposed.A().shape == Layer().A().shape
    with pytest.raises(ValueError, match="by columns"):
        transposed.load_state_dict(state)


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    layer = Layer()
    program = torch.export.export(layer, (X,), strict=strict)
    assert "A.values" in program.state_dict
    assert_close(program.module()(X), layer(X))


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("wrong", [D, 3, torch.eye(2).to_sparse_csr()])
def test_only_a_sparse_matrix_is_taken(wrong):
    with pytest.raises(TypeError, match="A is a SparseMatrix; got"):
        SparseParameter(wrong)


def test_a_matrix_is_no_parameter_and_no_buffer():
    A = SparseMatrix.from_dense(D)
    for make in (torch.nn.Parameter, lambda A: torch.nn.Parameter(A, requires_grad=False)):
        with pytest.raises(TypeError, match=r"self\.A = tsgu_func\.SparseParameter\(A\) is"):
            make(A)
    with pytest.raises(TypeError, match=r"SparseParameter\(A, requires_grad=False\)"):
        torch.nn.Buffer(A)
    assert not A.requires_grad
    assert not isinstance(A, torch.nn.Parameter)


def test_it_says_what_it_holds():
    said = repr(Layer())
    assert "SparseParameter(shape=(4, 4), nnz=9, dtype=torch.float64, device='cpu')" in said
