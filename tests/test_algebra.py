"""The algebra of SparseMatrix against that of dense matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, hessian, jvp, vmap
from torch.testing import assert_close

from tests.functions import Calls
from tsgu_func import SparseMatrix
from tsgu_func.kernels import sparse_products
from tsgu_func.selfcheck.records.base import matrix, randn
from tsgu_func.solvers import cache_info, clear_cache
from tsgu_func.testing.strategies import patterns, sparse_matrices

OURS = st.sampled_from(["matrix", "transposed"])
BATCHES = st.sampled_from([(), (2,), (3, 1), (0,)])


def drawn(data, rows, cols, dtype):
    """Draw a matrix of a shape, kept by rows or by columns, maybe a batch."""
    batch = data.draw(BATCHES)
    if data.draw(st.booleans()):
        pattern = data.draw(patterns(rows=cols, cols=rows)).pattern().T
    else:
        pattern = data.draw(patterns(rows=rows, cols=cols)).pattern()
    seed = data.draw(st.integers(0, 99))
    return SparseMatrix(pattern, randn(*batch, pattern.nnz, dtype=dtype, seed=seed))


def broadcasts(*batches):
    try:
        torch.broadcast_shapes(*batches)
    except RuntimeError:
        return False
    return True


def pair(data, dtype, inner=False):
    n, k, m = (data.draw(st.integers(0, 5)) for _ in range(3))
    A = drawn(data, n, k, dtype)
    B = drawn(data, k, m, dtype) if inner else drawn(data, n, k, dtype)
    if not broadcasts(A.shape[:-2], B.shape[:-2]):
        B = B.with_values(B.values.flatten(0, -2).sum(0))
    return A, B


# ------------------------------------------------------------------------------- two matrices


@given(st.data(), st.sampled_from([torch.float64, torch.complex128]))
def test_product_of_sparse_matrices(data, dtype):
    A, B = pair(data, dtype, inner=True)
    C = A @ B
    assert isinstance(C, SparseMatrix)
    assert_close(C.to_dense(), A.to_dense() @ B.to_dense())
    # An entry is stored where one can be, and nowhere else.
    there = [M.with_values(torch.ones(M.nnz)).to_dense() for M in (A, B, C)]
    assert torch.equal((there[0] @ there[1]) > 0, there[2] > 0)


@given(st.data(), st.sampled_from([torch.float64, torch.complex128]))
def test_sum_and_elementwise_product(data, dtype):
    A, B = pair(data, dtype)
    X, Y = A.to_dense(), B.to_dense()
    assert_close((A + B).to_dense(), X + Y)
    assert_close((A - B).to_dense(), X - Y)
    assert_close((A * B).to_dense(), X * Y)
    stored = [M.with_values(torch.ones(M.nnz)).to_dense() > 0 for M in (A, B, A + B, A * B)]
    assert torch.equal(stored[0] | stored[1], stored[2])
    assert torch.equal(stored[0] & stored[1], stored[3])


@given(st.data(), st.sampled_from("ABC"))
def test_other_devices_do_the_same_by_triples(data, of):
    n, k, m = (data.draw(st.integers(0, 5)) for _ in range(3))
    shapes = {"A": (n, k), "B": (k, m), "C": (n, m)}
    structures = [
        data.draw(patterns(rows=rows, cols=cols)).pattern().structure
        for rows, cols in shapes.values()
    ]
    sizes = [s.nnz for s, name in zip(structures, shapes, strict=True) if name != of]
    x, y = (torch.randn(2, size, dtype=torch.float64) for size in sizes)
    assert_close(
        sparse_products._by_triples(*structures, x, y, of),
        sparse_products.trilinear(*structures, x, y, of=of),
    )


def test_sizes_that_do_not_fit_are_refused():
    A, B = SparseMatrix.eye(3), SparseMatrix.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="one dtype"):
        A @ B
    with pytest.raises(ValueError, match="as many columns as B has rows"):
        A @ B.to(torch.float32)
    for done in (lambda: A + B.to(torch.float32), lambda: A * B.to(torch.float32)):
        with pytest.raises(ValueError, match="matrices of one shape"):
            done()
    two, three = (A.with_values(torch.ones(k, 3)) for k in (2, 3))
    with pytest.raises(ValueError, match="batches of A and B broadcast"):
        two @ three
    for done in (lambda: A + 1, lambda: 2.0 - A):
        with pytest.raises(TypeError, match=r"A\.to_dense\(\) \+"):
            done()
    with pytest.raises(TypeError):
        A @ np.ones(3)
    structures = [A.pattern.structure] * 3
    with pytest.raises(ValueError, match="the two values number"):
        sparse_products.trilinear(*structures, A.values, torch.ones(2), of="C")


def test_the_pattern_of_a_pair_is_found_once():
    clear_cache()
    A, B = (
        matrix([0, 1, 2], [1, 2, 0], (3, 3), torch.float64),
        SparseMatrix.eye(3, dtype=torch.float64),
    )
    first = [(A @ B).pattern, (A + B).pattern, (A * A.T).pattern]
    kept = cache_info().kinds["derived patterns"]
    again = [(A * 2 @ (B * 3)).pattern, (A * 2 + B).pattern, (A * A.T).pattern]
    assert first == again
    assert cache_info().kinds["derived patterns"] == kept
    assert kept.bytes > 0
    clear_cache()
    assert cache_info().kinds["derived patterns"].entries == 0
    assert (A @ B).pattern == first[0]


def test_what_was_found_ends_with_its_pattern():
    clear_cache()
    for n in range(5, 200):
        A = SparseMatrix.eye(n)
        A @ A
    assert cache_info().kinds["derived patterns"].entries <= 128


def test_python_sums_matrices():
    A = SparseMatrix.eye(2)
    assert_close(sum([A, A, A]).to_dense(), 3 * torch.eye(2))
    assert_close((0 - A).to_dense(), -torch.eye(2))


# ------------------------------------------------------------------------------- dense operands


@given(sparse_matrices(layout=OURS, batch=BATCHES, dtype=torch.float64), st.data())
def test_dense_operands(A, data):
    shape = [data.draw(st.sampled_from([1, n])) for n in A.shape]
    d = torch.randn(shape[data.draw(st.integers(0, len(shape))) :], dtype=A.dtype)
    D = A.to_dense()
    for ours, theirs in ((A + d, D + d), (d + A, d + D), (A - d, D - d), (d - A, d - D)):
        assert isinstance(ours, torch.Tensor)
        assert_close(ours, theirs)
    rows, cols = (randn(n, dtype=A.dtype) for n in A.shape[-2:])
    assert_close(A.scale_rows(rows).to_dense(), rows[:, None] * D)
    assert_close(A.scale_cols(cols).to_dense(), D * cols)


def test_scales_of_another_size_are_refused():
    A = SparseMatrix.zeros(2, 3)
    with pytest.raises(ValueError, match="one number for each row, 2"):
        A.scale_rows(torch.ones(3))
    with pytest.raises(ValueError, match="one number for each column, 3"):
        A.scale_cols(torch.ones(2))
    for wrong in (2.0, A, torch.ones(2).to_sparse()):
        with pytest.raises(TypeError, match="dense tensor"):
            A.scale_rows(wrong)


# ---------------------------------------------------------------------------------- one matrix


@given(sparse_matrices(layout=OURS, batch=BATCHES), st.booleans(), st.data())
def test_reductions(A, keepdim, data):
    D = A.to_dense()
    axes = data.draw(st.lists(st.integers(0, A.ndim - 1), unique=True, min_size=1))
    ours, theirs = A.sum(axes, keepdim), D.sum(axes, keepdim)
    assert_close(ours.to_dense() if isinstance(ours, SparseMatrix) else ours, theirs)
    assert_close(A.sum(), D.sum())
    assert_close(A.sum(-1, keepdim), D.sum(-1, keepdim))
    assert_close(A.trace(), D.diagonal(dim1=-2, dim2=-1).sum(-1))
    if D.numel():
        assert_close(A.mean((-2, -1), keepdim), D.mean((-2, -1), keepdim))
        for kind in ("fro", 1, float("inf")):
            assert_close(A.norm(kind), torch.linalg.norm(D, kind, dim=(-2, -1)))


@given(sparse_matrices(layout=OURS, batch=BATCHES))
def test_entry_by_entry(A):
    D = A.to_dense()
    assert_close(A.abs().to_dense(), D.abs())
    assert_close(abs(A).to_dense(), D.abs())
    assert_close((A**2).to_dense(), D**2)
    assert_close(A.map(torch.sin).to_dense(), D.sin())
    assert A.allclose(A)
    assert A.allclose(D)
    assert A.nnz == 0 or A.values.numel() == 0 or not A.allclose(A.map(lambda v: v + 1))


def test_what_is_no_elementwise_function_is_refused():
    A = SparseMatrix.eye(3)
    with pytest.raises(ValueError, match=r"elementwise function; of values of shape \(3,\)"):
        A.map(torch.sum)
    with pytest.raises(ValueError, match="positive exponent"):
        A**0
    with pytest.raises(ValueError, match="'fro', 1 or inf"):
        A.norm(2)
    with pytest.raises(IndexError, match="axes -2 to 1"):
        A.sum(2)
    with pytest.raises(ValueError, match="each axis"):
        A.sum((0, -2))
    with pytest.raises(ValueError, match="one of its shape"):
        A.allclose(torch.ones(2, 2))
    assert not A.allclose(SparseMatrix.zeros(3))
    assert SparseMatrix.zeros(3).allclose(A * 0.0)


def test_the_norm_of_nothing_has_a_derivative():
    A = SparseMatrix.eye(3, dtype=torch.float64) * 0.0
    assert_close(grad(lambda A: A.norm())(A).values, torch.zeros(3, dtype=torch.float64))
    assert_close(SparseMatrix.zeros(0, 3).norm(1), torch.tensor(0.0))


# --------------------------------------------------------------- all of it, under every transform

S = matrix([0, 0, 1, 2], [0, 2, 1, 0], (3, 3), torch.float64)
T = matrix([0, 1, 2, 2], [1, 1, 0, 2], (3, 3), torch.float64)


def chain(v, w, d):
    """Go through the algebra; d is a vector."""
    A, B = S.with_values(v), T.with_values(w)
    C = A.T.matmul(B.scale_rows(d)).matmul(A) + SparseMatrix.diag(d) - A * B.abs() * 0.5
    D = (C * C.T).map(torch.tanh).scale_cols(A.sum(-1)) + B**2
    return D.add(d).sum(-2) * D.norm() + D.trace() + D.norm(1) + D.mean() + D.matmul(d)


def chain_dense(v, w, d):
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    A, B = (
        zeros.index_put((M.pattern.row.long(), M.pattern.col.long()), x)
        for M, x in ((S, v), (T, w))
    )
    C = A.T @ (d[:, None] * B) @ A + torch.diag(d) - A * B.abs() * 0.5
    D = (C * C.T).tanh() * A.sum(-1) + B**2
    norm = D.square().sum().sqrt()
    one = D.abs().sum(-2).amax()
    return (D + d).sum(-2) * norm + D.trace() + one + D.mean() + D @ d


ARGS = S.values, T.values, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
PROGRAMS = {
    "value": lambda f: f,
    "grad": lambda f: grad(lambda *x: f(*x).square().sum(), (0, 1, 2)),
    "hessian": lambda f: hessian(lambda *x: f(*x).square().sum(), (0, 1, 2)),
    "jvp": lambda f: lambda *x: jvp(f, x, tuple(torch.cos(y) for y in x)),
    "vmap": lambda f: lambda *x: vmap(f, (0, None, None))(torch.stack([x[0], 2 * x[0]]), *x[1:]),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_chain_of_it(program, mode):
    ours, theirs = PROGRAMS[program](chain), PROGRAMS[program](chain_dense)
    if mode == "compiled":
        ours = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_close(ours(*ARGS), theirs(*ARGS), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_a_chain_is_exported(strict):
    clear_cache()  # so that patterns are found while the graph is made
    program = torch.export.export(Calls(chain), ARGS, strict=strict)
    assert_close(program.module()(*ARGS), chain_dense(*ARGS), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_compiled_product_follows_the_patterns():
    f = torch.compile(
        lambda A, B: (A.matmul(B) + A).to_dense(), fullgraph=True, backend="aot_eager"
    )
    for row in ([0, 1, 2], [0, 0, 1], [2, 1, 0]):
        A = matrix(row, [1, 2, 0], (3, 3), torch.float64)
        assert_close(f(A, A), A.to_dense() @ A.to_dense() + A.to_dense())
        assert_close(f(A.T, A), A.to_dense().T @ A.to_dense() + A.to_dense().T)
    clear_cache()
    assert_close(f(A, A), A.to_dense() @ A.to_dense() + A.to_dense())


def test_gauss_newton_by_sparse_products(dtype):
    J = matrix([0, 0, 1, 2, 3, 3], [0, 1, 1, 2, 0, 2], (4, 3), dtype)
    w = torch.arange(1.0, 5.0, dtype=torch.float64).to(dtype)
    H = J.mH @ J.scale_rows(w)
    assert_close(H.to_dense(), J.to_dense().mH @ torch.diag(w) @ J.to_dense())
    assert_close((J.mH @ SparseMatrix.diag(w) @ J).to_dense(), H.to_dense())


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision(low):
    A = S.to(low)
    C = A @ A
    assert C.dtype == low
    assert_close(
        C.to_dense().float(), A.to_dense().float() @ A.to_dense().float(), rtol=2e-2, atol=2e-2
    )
