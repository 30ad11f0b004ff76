"""Programs that read matrices and refill them, written as a user would from the docs alone."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from scipy.sparse.linalg import spsolve
from torch.func import grad, jacfwd, vmap
from torch.testing import assert_close

from tests.systems import randn
from tsgu_func import SparseMatrix, SparsityPattern, factorize, sparse_lstsq, sparse_solve

N = 80
GENERAL = scipy.sparse.random_array((N, N), density=0.05, rng=np.random.default_rng(0))
GENERAL = (GENERAL + 4 * scipy.sparse.eye_array(N)).tocoo()

FILES = {
    "general": (GENERAL, {}),
    "symmetric": ((GENERAL + GENERAL.T).tocoo(), {"symmetry": "symmetric"}),
    "complex": ((GENERAL + 0.5j * GENERAL.T).tocoo(), {}),
    "hermitian": (
        (GENERAL + GENERAL.T + 0.5j * (GENERAL - GENERAL.T)).tocoo(),
        {"symmetry": "hermitian"},
    ),
}


def written(path, A, **options):
    """Write a Matrix Market file; return its first line."""
    scipy.io.mmwrite(path, A, **options)
    with path.open() as file:
        return file.readline()


def read(path):
    return SparseMatrix.from_scipy(scipy.io.mmread(path))


@pytest.mark.parametrize("kind", FILES)
def test_a_matrix_market_file_is_read_and_solved_with(kind, tmp_path):
    expected, options = FILES[kind]
    assert kind in written(tmp_path / "A.mtx", expected, **options)
    A = read(tmp_path / "A.mtx")
    assert abs(A.to_scipy() - expected).max() == 0
    b = torch.ones(N, dtype=A.dtype)
    x = sparse_solve(A, b)
    assert_close(x, torch.from_numpy(spsolve(expected.tocsc(), b.numpy())))


@pytest.mark.parametrize("kind", FILES)
def test_a_solve_with_a_matrix_market_file_is_differentiated(kind, tmp_path):
    expected, options = FILES[kind]
    written(tmp_path / "A.mtx", expected, **options)
    A = read(tmp_path / "A.mtx")
    b, target = randn(2, N, dtype=A.dtype)

    def loss(A):
        return (sparse_solve(A, b) - target).abs().square().sum()

    gradient = grad(loss)(A)
    as_csr, h = A.to_scipy(), 1e-6
    for direction in randn(2, A.nnz, dtype=A.dtype):
        moved = scipy.sparse.csr_array(as_csr)
        ends = []
        for sign in (1, -1):
            moved.data = as_csr.data + sign * h * direction.numpy()
            x = spsolve(moved.tocsc(), b.numpy())
            ends.append((np.abs(x - target.numpy()) ** 2).sum())
        expected_slope = (ends[0] - ends[1]) / (2 * h)
        slope = (gradient.values.conj() * direction).real.sum()
        assert_close(slope.item(), expected_slope, rtol=1e-5, atol=1e-6)


def test_a_gradient_is_written_to_a_matrix_market_file(tmp_path):
    A = SparseMatrix.from_scipy(GENERAL)
    A.requires_grad_()
    sparse_solve(A, torch.ones(N, dtype=torch.float64)).sum().backward()
    gradient = A.with_values(A.values.grad)
    written(tmp_path / "G.mtx", gradient.to_scipy(), precision=17)
    again = read(tmp_path / "G.mtx")
    assert again.pattern == A.pattern
    assert torch.equal(again.values, A.values.grad)


def test_a_file_of_integers_is_converted_first(tmp_path):
    integers = (10 * GENERAL).astype(np.int64)
    assert "integer" in written(tmp_path / "A.mtx", integers)
    A = read(tmp_path / "A.mtx")
    assert A.dtype == torch.int64
    b = torch.ones(N, dtype=torch.float64)
    for solve in (sparse_solve, sparse_lstsq, lambda A, b: factorize(A).solve(b)):
        with pytest.raises(ValueError, match=r"float64.*got torch.int64"):
            solve(A, b)
    x = sparse_solve(A.to(torch.float64), b)
    assert_close(x, torch.from_numpy(spsolve(integers.astype(float).tocsc(), b.numpy())))


def test_a_file_of_a_pattern_holds_ones(tmp_path):
    assert "pattern" in written(tmp_path / "A.mtx", GENERAL, field="pattern")
    A = read(tmp_path / "A.mtx")
    assert A.pattern == SparseMatrix.from_scipy(GENERAL).pattern
    assert (A.values == 1).all()


def test_a_dense_file_says_how_it_is_read(tmp_path):
    assert "array" in written(tmp_path / "A.mtx", GENERAL.toarray())
    with pytest.raises(TypeError, match=r"from_dense\(torch.from_numpy\(A\)\)"):
        read(tmp_path / "A.mtx")
    A = SparseMatrix.from_dense(torch.from_numpy(scipy.io.mmread(tmp_path / "A.mtx")))
    assert abs(A.to_scipy() - GENERAL).max() == 0


class Truss:
    """Springs between nodes of a line, listed in an order that nobody sorted."""

    def __init__(self, nodes=40):
        i = torch.arange(nodes)[torch.randperm(nodes)]
        j = (i + 1) % nodes
        self.n = nodes
        self.row = torch.cat([j, i, j, i, i])
        self.col = torch.cat([i, j, j, i, i])
        self.order = i

    def entries(self, stiffness):
        """Couplings, then what comes from either end of a spring, then a support of each node."""
        k = stiffness[..., self.order]
        return torch.cat([-k, -2 * k, k, k, torch.ones_like(k)], -1)

    def dense(self, stiffness):
        entries = self.entries(stiffness)
        A = entries.new_zeros(*entries.shape[:-1], self.n, self.n)
        for row, col, entry in zip(self.row, self.col, entries.unbind(-1), strict=True):
            A[..., row, col] += entry
        return A


def test_unsorted_entries_with_duplicates_are_refilled_at_every_step():
    truss = Truss()
    pattern, assemble = SparsityPattern.from_coo(truss.row, truss.col, (truss.n, truss.n))
    assert pattern.nnz < len(truss.row) == assemble.entries
    x = torch.ones(truss.n, dtype=torch.float64)
    expected = x
    for step in range(5):
        stiffness = randn(truss.n, seed=step).exp()
        A = SparseMatrix(pattern, assemble(truss.entries(stiffness)))
        dense = truss.dense(stiffness)
        assert torch.equal(A.to_dense(), dense)
        assert torch.equal(A.T.to_dense(), dense.T)
        assert (A.pattern.row.diff() >= 0).all()
        x, expected = sparse_solve(A, x), torch.linalg.solve(dense, expected)
        x, expected = sparse_solve(A.T, x), torch.linalg.solve(dense.T, expected)
    assert_close(x, expected)


def test_assembled_entries_have_the_gradient_of_their_own_order():
    truss = Truss()
    pattern, assemble = SparsityPattern.from_coo(truss.row, truss.col, (truss.n, truss.n))
    entries, b = truss.entries(randn(truss.n).exp()), randn(truss.n, seed=1)

    def loss(entries):
        return sparse_solve(SparseMatrix(pattern, assemble(entries)).T, b).square().sum()

    def loss_dense(entries):
        A = entries.new_zeros(truss.n, truss.n)
        A = A.index_put((truss.row, truss.col), entries, accumulate=True)
        return torch.linalg.solve(A.T, b).square().sum()

    expected = grad(loss_dense)(entries)
    assert_close(grad(loss)(entries), expected)
    assert_close(jacfwd(loss)(entries), expected)
    many = entries * torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    assert_close(vmap(grad(loss))(many), torch.stack([grad(loss_dense)(e) for e in many]))
    compiled = torch.compile(grad(loss), fullgraph=True, backend="aot_eager")
    assert_close(compiled(entries), expected)


def test_a_batch_is_assembled_at_once():
    truss = Truss()
    pattern, assemble = SparsityPattern.from_coo(truss.row, truss.col, (truss.n, truss.n))
    stiffness = randn(3, truss.n).exp()
    A = SparseMatrix(pattern, assemble(truss.entries(stiffness)))
    assert torch.equal(A.to_dense(), truss.dense(stiffness))
    assert torch.equal(A.mT.to_dense(), truss.dense(stiffness).mT)


def test_values_of_a_transpose_are_in_the_order_of_what_was_transposed():
    row, col = [2, 0, 1, 0, 2, 1], [2, 0, 1, 1, 0, 2]
    given = torch.tensor([9.0, 1.0, 5.0, 2.0, 7.0, 6.0])
    A = SparseMatrix.from_coo(row, col, given, (3, 3))
    dense = torch.tensor([[1.0, 2.0, 0.0], [0.0, 5.0, 6.0], [7.0, 0.0, 9.0]])
    assert torch.equal(A.to_dense(), dense)
    assert torch.equal(A.with_values(A.values).to_dense(), dense)
    assert torch.equal(A.T.with_values(A.values).to_dense(), dense.T)
    assert torch.equal(dense[A.T.pattern.col.long(), A.T.pattern.row.long()], A.T.values)
    pattern, assemble = SparsityPattern.from_coo(row, col, (3, 3))
    assert A.pattern == pattern
    assert torch.equal(A.with_values(assemble(given)).to_dense(), dense)
    assert torch.equal(A.T.with_values(assemble(given)).to_dense(), dense.T)


def test_values_that_were_not_assembled_are_counted():
    truss = Truss()
    pattern, _ = SparsityPattern.from_coo(truss.row, truss.col, (truss.n, truss.n))
    with pytest.raises(ValueError, match=str(pattern.nnz)):
        SparseMatrix(pattern, truss.entries(torch.ones(truss.n)))


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "bsr", "dok", "lil"])
def test_a_scipy_matrix_of_any_format_is_refilled_by_its_places(layout):
    given = GENERAL.asformat(layout)
    A = SparseMatrix.from_scipy(given)
    coo = given.tocoo()
    pattern, assemble = SparsityPattern.from_coo(coo.row, coo.col, given.shape)
    assert pattern.nnz == A.nnz
    again = SparseMatrix(pattern, assemble(2 * torch.from_numpy(coo.data)))
    assert abs(again.to_scipy() - 2 * GENERAL).max() == 0
