"""Conversions of torch sparse tensors, the identity, and stacks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from tsgu_func import SparseMatrix, sparse_mm
from tsgu_func.selfcheck.records.base import randn
from tsgu_func.testing.strategies import DTYPES, entries, numbers, patterns
from tsgu_func.utils import (
    convert_coo_to_csr,
    convert_coo_to_csr_indices_values,
    sparse_eye,
    stack_csr,
)

LAYOUTS = [torch.sparse_coo, torch.sparse_csr]
INDICES = [torch.int32, torch.int64]
SEEDS = st.integers(0, 999)


def validated(A):
    """Rebuild A with PyTorch's checks of its indices on; they raise where one is wrong."""
    if A.layout == torch.sparse_coo:
        B = torch.sparse_coo_tensor(A.indices(), A.values(), A.shape, check_invariants=True)
        assert torch.equal(B.coalesce().indices(), A.indices()), "not sorted, or not distinct"
        return A
    parts = A.crow_indices(), A.col_indices(), A.values()
    return torch.sparse_csr_tensor(*parts, A.shape, check_invariants=True)


@st.composite
def batches(draw):
    """Draw places of equally many entries in each member, in any order, and values."""
    first = draw(patterns(rows=(1, 4), cols=(1, 4), unique=True))
    (n, m), b, nnz = first.shape, draw(st.integers(1, 4)), len(first.row)
    others = patterns(rows=n, cols=m, nnz=nnz, unique=True)
    members = [first, *(draw(others) for _ in range(b - 1))]
    member = torch.arange(b).repeat_interleave(nnz)
    row, col = (torch.cat([getattr(p, axis) for p in members]).long() for axis in ("row", "col"))
    order = torch.tensor(draw(st.permutations(range(b * nnz))), dtype=torch.int64)
    values = numbers((b * nnz,), draw(DTYPES), draw(SEEDS))
    return torch.stack([member, row, col])[:, order], values, (b, n, m)


def scattered(indices, values, shape):
    return values.new_zeros(shape).index_put(tuple(indices), values, accumulate=True)


# --------------------------------------------------------------------------------- conversions


@given(entries())
def test_conversion_keeps_the_matrix(e):
    A = validated(convert_coo_to_csr(e.coo()))
    assert A.layout == torch.sparse_csr
    assert_close(A.to_dense(), e.dense())
    assert_close(validated(convert_coo_to_csr(e.coalesced())).to_dense(), e.dense())


@given(batches())
def test_conversion_of_a_batch(drawn):
    indices, values, shape = drawn
    A = torch.sparse_coo_tensor(indices, values, shape)
    C = validated(convert_coo_to_csr(A))
    assert C.shape == shape
    assert_close(C.to_dense(), scattered(*drawn))
    doubled = torch.sparse_coo_tensor(indices.repeat(1, 2), values.repeat(2), shape)
    assert_close(convert_coo_to_csr(doubled).to_dense(), 2 * scattered(*drawn))


@given(batches(), st.sampled_from(INDICES))
def test_conversion_of_indices(drawn, dtype):
    indices, values, (b, n, m) = drawn
    crow, col, sorted_values = convert_coo_to_csr_indices_values(indices.to(dtype), n, values)
    assert crow.dtype == col.dtype == dtype
    if values.numel():  # without entries, nothing tells how many members there are
        A = torch.sparse_csr_tensor(crow, col, sorted_values, (b, n, m), check_invariants=True)
        assert_close(A.to_dense(), scattered(*drawn))
    else:
        assert crow.shape == (0, n + 1)
    permutation = convert_coo_to_csr_indices_values(indices, n)[2]
    assert torch.equal(values[permutation], sorted_values)


@given(entries())
def test_conversion_of_indices_keeps_duplicates_in_order(e):
    row, col = e.row.tolist(), e.col.tolist()
    crow, found, order = convert_coo_to_csr_indices_values(torch.stack([e.row, e.col]), e.shape[0])
    expected = sorted(range(len(row)), key=lambda k: (row[k], col[k]))
    assert order.tolist() == expected
    assert crow.dtype == found.dtype == e.row.dtype
    assert crow.tolist() == [sum(i < n for i in row) for n in range(e.shape[0] + 1)]
    assert found.tolist() == [col[k] for k in expected]


def test_conversion_of_indices_takes_rows_of_values():
    places = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 1]]).sort(dim=1).values
    with pytest.raises(ValueError, match="equally many"):
        convert_coo_to_csr_indices_values(places, 2)
    values = torch.arange(6.0).reshape(3, 2)
    out = convert_coo_to_csr_indices_values(torch.tensor([[1, 0, 0], [0, 1, 0]]), 2, values)[2]
    assert out.tolist() == [[4.0, 5.0], [2.0, 3.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("indices", "size"),
    [
        (torch.tensor([[0, 1, 0, 1], [1, 0, 1, 1]]), (2, 2)),
        (torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 1]]), (2, 2, 2)),
    ],
    ids=["matrix", "batch"],
)
def test_conversion_is_differentiable(indices, size, dtype):
    def f(values):
        return convert_coo_to_csr(torch.sparse_coo_tensor(indices, values, size)).values()

    values = randn(indices.shape[1], dtype=dtype).requires_grad_()
    if dtype.is_complex:
        with pytest.raises(NotImplementedError, match="complex CSR"):
            f(values)
        assert_close(f(values.detach()).sum(), values.sum().detach())
    else:
        assert gradcheck(f, (values,))
    assert gradcheck(lambda v: convert_coo_to_csr_indices_values(indices, 2, v)[2], (values,))


def test_conversion_refuses():
    with pytest.raises(TypeError, match="sparse COO tensor; got int"):
        convert_coo_to_csr(3)
    for A in (torch.ones(2, 2), torch.ones(2, 2).to_sparse_csr()):
        with pytest.raises(ValueError, match=r"to_sparse_coo\(\) converts"):
            convert_coo_to_csr(A)
    for A in (torch.ones(2).to_sparse(), torch.ones(2, 2, 2, 2).to_sparse()):
        with pytest.raises(ValueError, match="matrix"):
            convert_coo_to_csr(A)
    with pytest.raises(ValueError, match="1 dense axes"):
        convert_coo_to_csr(torch.ones(2, 2, 3).to_sparse(2))
    uneven = torch.tensor([[[1.0, 0.0]], [[1.0, 2.0]]])
    with pytest.raises(ValueError, match="got 1 in one and 2 in another"):
        convert_coo_to_csr(uneven.to_sparse_coo())


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "coo_indices is a tensor", ([[0], [0]], 2)),
        (TypeError, "values is a tensor", (torch.tensor([[0], [0]]), 2, [1.0])),
        (TypeError, "int32 or int64; got torch.float32", (torch.ones(2, 1), 2)),
        (ValueError, r"got shape \(1, 2\)", (torch.zeros(1, 2).long(), 2)),
        (ValueError, r"got shape \(2,\)", (torch.zeros(2).long(), 2)),
        (ValueError, "rows run from 0 to num_rows - 1 = 0; got row 1", (torch.eye(2).long(), 1)),
        (ValueError, "got -1 in coo_indices", (-torch.eye(2).long(), 2)),
        (ValueError, "each of the 2 columns", (torch.eye(2).long(), 2, torch.ones(3))),
        (ValueError, "each of the 2 columns", (torch.eye(2).long(), 2, torch.tensor(1.0))),
    ],
)
def test_conversion_of_indices_refuses(error, match, arguments):
    with pytest.raises(error, match=match):
        convert_coo_to_csr_indices_values(*arguments)


# -------------------------------------------------------------------------------- the identity


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("indices", INDICES)
@pytest.mark.parametrize("size", [(3, 3), (0, 0), (1, 1), (2, 3, 3), (2, 0, 0), (0, 3, 3)])
@pytest.mark.parametrize("values", [torch.float16, torch.float64, torch.complex128])
def test_eye(layout, indices, size, values):
    A = sparse_eye(size, layout=layout, values_dtype=values, indices_dtype=indices)
    assert (A.layout, A.dtype, A.shape, A.requires_grad) == (layout, values, size, False)
    expected = torch.eye(size[-1], dtype=values).expand(size)
    assert torch.equal(validated(A).to_dense(), expected)
    if layout == torch.sparse_csr:
        assert A.crow_indices().dtype == A.col_indices().dtype == indices


@pytest.mark.parametrize("size", [(3, 3), (0, 0), (2, 3, 3), (2, 0, 0), (0, 3, 3)])
def test_eye_as_a_matrix_of_this_library(size):
    A = sparse_eye(size, layout=SparseMatrix, requires_grad=True)
    assert type(A) is SparseMatrix
    assert A.values.is_leaf
    assert A.requires_grad
    assert A.pattern == SparseMatrix.from_dense(torch.eye(size[-1])).pattern
    assert torch.equal(A.to_dense(), torch.eye(size[-1], dtype=torch.float64).expand(size))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eye_defaults_and_gradient(layout):
    assert sparse_eye((2, 2)).layout == torch.sparse_coo
    A = sparse_eye((2, 2), layout=layout, requires_grad=True)
    assert A.dtype == torch.float64
    assert A.is_leaf
    B = randn(2, 2, dtype=torch.float64)
    sparse_mm(A, B).sum().backward()
    assert_close(A.grad.to_dense(), torch.diag(B.sum(1)))


@pytest.mark.parametrize(
    ("error", "match", "size", "kinds"),
    [
        (ValueError, "square", (2, 3), {}),
        (ValueError, "none negative", (-1, -1), {}),
        (ValueError, "none negative", (2,), {}),
        (ValueError, "none negative", (2, 2, 2, 2), {}),
        (TypeError, "got int", 2, {}),
        (TypeError, "interpreted as an integer", (2.0, 2.0), {}),
        (ValueError, "Unsupported layout torch.strided", (2, 2), {"layout": torch.strided}),
        (ValueError, "got torch.int64", (2, 2), {"values_dtype": torch.int64}),
        (ValueError, "got torch.int16", (2, 2), {"indices_dtype": torch.int16}),
    ],
)
def test_eye_refuses(error, match, size, kinds):
    with pytest.raises(error, match=match):
        sparse_eye(size, **kinds)


# ----------------------------------------------------------------------------------- the stack


@given(batches(), st.sampled_from(INDICES))
def test_stack(drawn, dtype):
    indices, values, (b, n, m) = drawn
    members = []
    for k in range(b):
        of = indices[0] == k
        A = torch.sparse_coo_tensor(indices[1:, of], values[of], (n, m)).to_sparse_csr()
        crow, col = A.crow_indices().to(dtype), A.col_indices().to(dtype)
        members.append(torch.sparse_csr_tensor(crow, col, A.values(), (n, m)))
    stacked = validated(stack_csr(tuple(members)))
    assert stacked.crow_indices().dtype == stacked.col_indices().dtype == dtype
    assert_close(stacked.to_dense(), scattered(*drawn))
    assert torch.equal(stack_csr(members, dim=-3).to_dense(), stacked.to_dense())


def test_stack_hands_each_matrix_its_gradient():
    D = [torch.tensor([[1.0, 0], [2, 3]]).double(), torch.tensor([[4.0, 5], [0, 6]]).double()]
    A = [d.to_sparse_csr().requires_grad_() for d in D]
    B, G = randn(2, 2, 3, dtype=torch.float64), randn(2, 2, 3, dtype=torch.float64, seed=2)
    sparse_mm(stack_csr(A), B).backward(G)
    for d, a, b, g in zip(D, A, B, G, strict=True):
        assert_close(a.grad.to_dense(), (g @ b.mH) * (d != 0))


CSR = torch.eye(2).to_sparse_csr()


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "a list of CSR matrices; got a sparse_csr", (CSR,)),
        (TypeError, "got int among them", ([CSR, 3],)),
        (ValueError, "got 0 with dim=0", ([],)),
        (ValueError, "with dim=1", ([CSR], 1)),
        (ValueError, "got a sparse_coo", ([CSR, torch.eye(2).to_sparse()],)),
        (ValueError, "got a strided", ([CSR, torch.eye(2)],)),
        (ValueError, r"shape \(1, 2, 2\)", ([stack_csr([CSR])],)),
        (ValueError, r"\(3, 3\), 3", ([CSR, torch.eye(3).to_sparse_csr()],)),
        (ValueError, r"\(2, 2\), 4", ([CSR, torch.ones(2, 2).to_sparse_csr()],)),
        (ValueError, "float64", ([CSR, torch.eye(2).double().to_sparse_csr()],)),
    ],
)
def test_stack_refuses(error, match, arguments):
    with pytest.raises(error, match=match):
        stack_csr(*arguments)
