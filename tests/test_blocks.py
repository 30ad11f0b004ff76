"""Block-diagonal torch sparse tensors, and their parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from tests.test_utils import CSR, INDICES, LAYOUTS, validated
from tsgu_func import sparse_mm
from tsgu_func.selfcheck.records.base import randn
from tsgu_func.testing.strategies import entries
from tsgu_func.utils import sparse_block_diag, sparse_block_diag_split, sparse_eye, stack_csr

MANY = st.lists(entries(), min_size=1, max_size=4)


@given(MANY)
def test_block_diagonal_coo_and_back(several):
    whole = validated(sparse_block_diag(*(e.coo() for e in several)))
    assert whole.is_coalesced()
    assert_close(whole.to_dense(), torch.block_diag(*(e.dense() for e in several)))
    for part, e in zip(
        sparse_block_diag_split(whole, *(e.shape for e in several)), several, strict=True
    ):
        assert_close(validated(part).to_dense(), e.dense().to(whole.dtype))


@given(st.sampled_from(INDICES), st.data())
def test_block_diagonal_csr_and_back(dtype, data):
    several = data.draw(st.lists(entries(index_dtype=dtype), min_size=1, max_size=4))
    whole = validated(sparse_block_diag(*(e.csr() for e in several)))
    assert whole.crow_indices().dtype == whole.col_indices().dtype == dtype
    assert_close(whole.to_dense(), torch.block_diag(*(e.dense() for e in several)))
    for part, e in zip(
        sparse_block_diag_split(whole, *(e.shape for e in several)), several, strict=True
    ):
        assert part.crow_indices().dtype == part.col_indices().dtype == dtype
        assert_close(validated(part).to_dense(), e.dense().to(whole.dtype))


def test_block_diagonal_of_an_uncoalesced_whole():
    indices = torch.tensor([[2, 0, 2], [1, 0, 1]])
    A = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, 3.0]), (3, 2))
    top, bottom = sparse_block_diag_split(A, (1, 1), (2, 1))
    assert top.to_dense().tolist() == [[2.0]]
    assert bottom.to_dense().tolist() == [[0.0], [4.0]]


def test_block_diagonal_keeps_unsorted_rows():
    crow, col = torch.tensor([0, 2]), torch.tensor([1, 0])
    A = torch.sparse_csr_tensor(crow, col, torch.tensor([1.0, 2.0]), (1, 2), check_invariants=False)
    whole = sparse_block_diag(A, A)
    assert whole.to_dense().tolist() == [[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 1.0]]
    assert sparse_block_diag_split(whole, (1, 2), (1, 2))[1].values().tolist() == [1.0, 2.0]


def test_block_diagonal_promotes():
    A = sparse_block_diag(torch.eye(2).to_sparse(), torch.eye(1).cfloat().to_sparse())
    assert A.dtype == torch.complex64
    narrow, wide = (sparse_eye((1, 1), layout=torch.sparse_csr, indices_dtype=i) for i in INDICES)
    assert sparse_block_diag(narrow, wide).col_indices().dtype == torch.int64
    huge = torch.sparse_csr_tensor(
        torch.tensor([0, 1]).int(), torch.tensor([7]).int(), torch.ones(1), (1, 2**31 - 1)
    )
    assert sparse_block_diag(huge, huge).col_indices().tolist() == [7, 2**31 + 6]


def test_parts_have_memory_of_their_own():
    for layout in LAYOUTS:
        A = sparse_eye((2, 2), layout=layout)
        for part in sparse_block_diag_split(A, (1, 1), (1, 1)):
            part.values().zero_()
        assert torch.equal(A.to_dense(), torch.eye(2).double())


SHAPES = [(2, 2), (1, 3), (2, 0)]
PLACES = [([0, 1, 1], [1, 0, 0]), ([0, 0], [0, 2]), ([], [])]
ROWS = [([0, 1, 3], [1, 0, 1]), ([0, 2], [0, 2]), ([0, 0, 0], [])]


def make(layout, values):
    """Build blocks from values; the first COO one is not coalesced."""
    parts = values.split([3, 2, 0])
    if layout == torch.sparse_coo:
        indices = [torch.tensor(place).long() for place in PLACES]
        return [torch.sparse_coo_tensor(*of) for of in zip(indices, parts, SHAPES, strict=True)]
    return [
        torch.sparse_csr_tensor(torch.tensor(crow), torch.tensor(col).long(), v, shape)
        for (crow, col), v, shape in zip(ROWS, parts, SHAPES, strict=True)
    ]


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (torch.sparse_coo, torch.float64),
        (torch.sparse_coo, torch.complex128),
        (torch.sparse_csr, torch.float64),
    ],
)
def test_block_diagonal_is_differentiable(layout, dtype):
    values = randn(5, dtype=dtype, seed=3).requires_grad_()

    def split(values):
        whole = sparse_block_diag(*make(layout, values))
        return tuple(part.values() for part in sparse_block_diag_split(whole, *SHAPES)[:2])

    assert gradcheck(lambda v: sparse_block_diag(*make(layout, v)).values(), (values,))
    assert gradcheck(split, (values,))


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (torch.sparse_coo, torch.float64),
        (torch.sparse_coo, torch.complex128),
        (torch.sparse_csr, torch.float64),
    ],
)
def test_blocks_get_their_part_of_the_gradient(layout, dtype):
    D = [torch.tensor([[1, 0], [2, 3]], dtype=dtype), torch.tensor([[4, 0, 5]], dtype=dtype)]
    A = [d.to_sparse(layout=layout).requires_grad_() for d in D]
    B, G = randn(5, 2, dtype=dtype, seed=1), randn(3, 2, dtype=dtype, seed=2)
    sparse_mm(sparse_block_diag(*A), B).backward(G)
    full = G @ B.mH
    assert_close(A[0].grad.to_dense(), full[:2, :2] * (D[0] != 0))
    assert_close(A[1].grad.to_dense(), full[2:, 2:] * (D[1] != 0))


def test_complex_csr_has_no_gradient_and_says_so():
    A = torch.eye(2).cdouble().to_sparse_csr().requires_grad_()
    for f in (sparse_block_diag, lambda A: stack_csr([A]), lambda A: split_whole(A)):
        with pytest.raises(NotImplementedError, match=r"A.detach\(\)"):
            f(A)
        with torch.no_grad():
            f(A)


def split_whole(A):
    return sparse_block_diag_split(A, tuple(A.shape))


COO = torch.eye(2).to_sparse()


@pytest.mark.parametrize(
    ("error", "match", "blocks"),
    [
        (TypeError, "got str", ("no", COO)),
        (TypeError, "got list", ([COO, COO],)),
        (ValueError, "got none", ()),
        (ValueError, "torch.sparse_coo', 'torch.sparse_csr", (COO, CSR)),
        (ValueError, "got torch.strided", (torch.eye(2),)),
        (ValueError, "got 3 axes, 3 of them sparse and 0 dense", (torch.stack([COO]),)),
        (ValueError, "got 3 axes, 2 of them sparse", (stack_csr([CSR]),)),
        (ValueError, "1 dense", (torch.ones(2, 2).to_sparse(1),)),
        (ValueError, "cpu', 'meta", (COO, COO.to("meta"))),
    ],
)
def test_block_diagonal_refuses(error, match, blocks):
    with pytest.raises(error, match=match):
        sparse_block_diag(*blocks)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("match", "shapes"),
    [
        (r"got \(\)", ()),
        (r"that of the tensor, \(3, 3\); got \(2, 2\)", ((2, 2),)),
        (r"\(2, 2, 1\)", ((2, 2, 1),)),
        ("none negative", ((4, 4), (-1, -1))),
        (r"entry at \(2, 1\) lies outside .* block 1 has columns 2 to 2", ((2, 2), (1, 1))),
        (r"entry at \(0, 0\) lies outside .* block 1 has columns 1 to 2", ((0, 1), (3, 2))),
    ],
)
def test_split_refuses(layout, match, shapes):
    A = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 3, 4]]).to_sparse(layout=layout)
    with pytest.raises(ValueError, match=match):
        sparse_block_diag_split(A, *shapes)


def test_split_refuses_other_kinds():
    with pytest.raises(TypeError, match="got int"):
        sparse_block_diag_split(3, (1, 1))
    with pytest.raises(ValueError, match=r"got torch\.strided"):
        sparse_block_diag_split(torch.eye(2), (2, 2))
    with pytest.raises(ValueError, match="got 3 axes"):
        sparse_block_diag_split(torch.stack([COO]), (2, 2))
