"""Matrices put together from others are those that the dense ones make."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.testing import assert_close

import tsgu_func
from tsgu_func import SparseMatrix, block, block_diag, hstack, kron, stack, utils, vstack
from tsgu_func.cache import cache_info, clear_cache
from tsgu_func.testing import check_rules
from tsgu_func.testing.strategies import entries

BATCHES = st.sampled_from([(), (3,), (2, 1)])
DTYPES = st.sampled_from([torch.float64, torch.complex128])
SIZES = st.integers(0, 3)


def drawn(data, n, m, dtype):
    """Draw a matrix (n, m), compressed by rows or by columns, and the dense one beside it."""
    e = data.draw(entries(rows=n, cols=m, batch=BATCHES, dtype=dtype))
    return (e.transposed() if data.draw(st.booleans()) else e.matrix()), e.dense()


def expanded(*dense):
    batch = torch.broadcast_shapes(*(D.shape[:-2] for D in dense))
    return [D.expand(*batch, *D.shape[-2:]) for D in dense]


@given(st.data(), DTYPES, SIZES, st.lists(SIZES, min_size=1, max_size=3))
def test_stacks_are_those_of_dense_matrices(data, dtype, n, sizes):
    A, D = zip(*(drawn(data, n, m, dtype) for m in sizes), strict=True)
    assert_close(hstack(A).to_dense(), torch.cat(expanded(*D), -1))
    A, D = zip(*(drawn(data, m, n, dtype) for m in sizes), strict=True)
    assert_close(vstack(A).to_dense(), torch.cat(expanded(*D), -2))
    A, D = zip(*(drawn(data, n, sizes[0], dtype) for _ in sizes), strict=True)
    for dim in (0, -3):
        assert_close(stack(A, dim).to_dense(), torch.stack(expanded(*D), dim))


@given(st.data(), DTYPES, st.lists(SIZES, min_size=1, max_size=3))
def test_blocks_are_those_of_dense_matrices(data, dtype, sizes):
    rows, cols = sizes, sizes[::-1]
    pairs = [[drawn(data, n, m, dtype) for m in cols] for n in rows]
    given, dense = ([[pair[k] for pair in row] for row in pairs] for k in (0, 1))
    flat = expanded(*(D for row in dense for D in row))
    whole = [torch.cat(flat[i * len(cols) : (i + 1) * len(cols)], -1) for i in range(len(rows))]
    assert_close(block(given).to_dense(), torch.cat(whole, -2))
    on = [row[i] for i, row in enumerate(given)]
    zero = [[A if i == j else None for j, A in enumerate(row)] for i, row in enumerate(given)]
    expected = block_of_diagonal(expanded(*(row[i] for i, row in enumerate(dense))))
    assert_close(block(zero).to_dense(), expected)
    assert_close(block_diag(on).to_dense(), expected)
    assert block(zero).pattern == block_diag(on).pattern


def block_of_diagonal(dense):
    """Put batches on the diagonal, a member at a time."""
    batch = dense[0].shape[:-2]
    members = zip(*(D.reshape(math.prod(batch), *D.shape[-2:]) for D in dense), strict=True)
    whole = torch.stack([torch.block_diag(*parts) for parts in members])
    return whole.reshape(*batch, *whole.shape[-2:])


@given(st.data(), DTYPES, SIZES, SIZES, SIZES, SIZES)
def test_kron_is_that_of_dense_matrices(data, dtype, n, m, p, q):
    (A, D), (B, E) = drawn(data, n, m, dtype), drawn(data, p, q, dtype)
    C = kron(A, B)
    expected = torch.einsum("...ij,...kl->...ikjl", D, E).reshape(C.shape)
    assert_close(C.to_dense(), expected)
    assert C.nnz == A.nnz * B.nnz
    if D.ndim == E.ndim == 2:
        assert_close(C.to_dense(), torch.kron(D, E))


# -------------------------------------------------------------------------- derivatives, graphs


def examples(dtype):
    D = torch.tensor([[1, 0, 2], [0, 3, 0]], dtype=dtype)
    E = torch.tensor([[0, 4], [5, 0]], dtype=dtype)
    F = torch.tensor([[0, 6, 0], [7, 0, 8]], dtype=dtype)
    return [SparseMatrix.from_dense(D), SparseMatrix.from_dense(E.mT).T, SparseMatrix.from_dense(F)]


ARRANGEMENTS = {
    "vstack": (lambda A, B, C: vstack([A, C]), lambda A, B, C: torch.cat([A, C])),
    "block": (
        lambda A, B, C: block([[A, B], [None, 2 * B]]),
        lambda A, B, C: torch.cat([torch.cat([A, B], 1), torch.cat([0 * A, 2 * B], 1)]),
    ),
    "block_diag": (lambda A, B, C: block_diag([A, B, C]), torch.block_diag),
    "kron": (lambda A, B, C: kron(A, B), lambda A, B, C: torch.kron(A, B)),
    "stack": (lambda A, B, C: stack([A, C, A]), lambda A, B, C: torch.stack([A, C, A])),
}


@pytest.mark.parametrize(("ours", "dense"), ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_derivatives_are_those_of_dense_matrices(ours, dense, dtype):
    given = examples(dtype)
    loss = lambda D: (torch.sin(D).abs().square() * torch.arange(D.shape[-1])).sum()
    found = grad(lambda G: loss(ours(*G).to_dense()))(given)
    expected = grad(lambda G: loss(dense(*G)))([A.to_dense() for A in given])
    for A, G, E in zip(given, found, expected, strict=True):
        row, col = (x.long() for x in A.pattern.places())
        assert_close(G.values, E[row, col])


@pytest.mark.parametrize("name", ["block", "kron", "stack"])
def test_every_rule(name, dtype):
    check_rules(
        lambda *given: ARRANGEMENTS[name][0](*given).values,
        tuple(examples(dtype)),
        dtypes=(dtype,),
        transforms=["first", "higher", "vmap"],
    ).raise_if_failed()


def test_members_may_be_mapped_over(dtype):
    A, B, C = examples(dtype)
    batch = A.with_values(torch.randn(3, A.nnz, dtype=dtype))
    for ours, dense in ARRANGEMENTS.values():
        found = vmap(lambda A, ours=ours: ours(A, B, C).to_dense())(batch)
        expected = [dense(D, B.to_dense(), C.to_dense()) for D in batch.to_dense()]
        assert_close(found, torch.stack(expected))


def all_of_them(A, B, C):
    return [ours(A, B, C).values for ours, _ in ARRANGEMENTS.values()]


@pytest.mark.slow
def test_they_compile():
    given = examples(torch.float64)
    run = torch.compile(all_of_them, fullgraph=True, backend="aot_eager")
    assert_close(run(*given), all_of_them(*given))
    loss = lambda G: sum(v.square().sum() for v in all_of_them(*G))
    found = torch.compile(grad(loss), fullgraph=True, backend="aot_eager")(given)
    assert_close([G.values for G in found], [G.values for G in grad(loss)(given)])
    # Other patterns are another graph.
    other = [A[:, ::-1] for A in given]
    assert_close(run(*other), all_of_them(*other))


def test_export():
    class Module(torch.nn.Module):
        def forward(self, A, B, C):
            return all_of_them(A, B, C)

    given = tuple(examples(torch.float64))
    program = torch.export.export(Module(), given)
    twice = [2 * A for A in given]
    assert_close(program.module()(*twice), all_of_them(*twice))


def test_a_pattern_is_made_once():
    clear_cache()
    A, B, C = examples(torch.float64)
    made = [ours(A, B, C).pattern for ours, _ in ARRANGEMENTS.values()]
    kept = cache_info().kinds["derived patterns"]
    assert kept.entries == len(made)
    again = [ours(2 * A, B, C).pattern for ours, _ in ARRANGEMENTS.values()]
    assert all(p is q for p, q in zip(made, again, strict=True))
    assert cache_info().kinds["derived patterns"] == kept
    assert stack([A, 2 * A]).pattern is A.pattern


# ------------------------------------------------------------------------------- wrong, and utils


A, B = SparseMatrix.eye(2, 3), SparseMatrix.eye(3)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ValueError, lambda: vstack([]), "vstack takes one matrix or more; got none"),
        (ValueError, lambda: block([]), "equally many blocks in each row.*got none"),
        (ValueError, lambda: block([[None]]), "block takes one matrix or more"),
        (TypeError, lambda: hstack(A), "hstack takes a list of matrices; got a SparseMatrix"),
        (TypeError, lambda: block([A]), "block takes a list of lists"),
        (TypeError, lambda: kron(A, torch.eye(2)), r"kron takes .*SparseMatrix\.from_dense\(A\)"),
        (TypeError, lambda: vstack([A, torch.eye(3).to_sparse()]), r"SparseMatrix\.from_torch"),
        (TypeError, lambda: block([[A, 0]]), "got int"),
        (
            ValueError,
            lambda: vstack([A, A.T]),
            r"column 0 of the blocks have one number of columns",
        ),
        (
            ValueError,
            lambda: hstack([A, B]),
            r"row 0 of the blocks have one number of rows.*\[2, 3\]",
        ),
        (ValueError, lambda: block([[A], [A, A]]), r"in each row.*got \[1, 2\]"),
        (ValueError, lambda: block([[A, None], [B, None]]), r"column 1 of the blocks are None"),
        (ValueError, lambda: vstack([A, A.to(torch.float64)]), "one dtype; got .*float32.*float64"),
        (ValueError, lambda: vstack([A, A.to("meta")]), "one device; got"),
        (ValueError, lambda: stack([A, B]), "one size; got .*block_diag"),
        (IndexError, lambda: stack([A, A], 1), "dim is an axis of the batch, 0 to 0"),
        (IndexError, lambda: stack([A, A], -1), "rows and columns come last; got -1"),
        (
            ValueError,
            lambda: kron(A.expand(2, 2, 3), B.expand(3, 3, 3)),
            r"batches broadcast; got \[\(2,\), \(3,\)\]",
        ),
        (TypeError, lambda: utils.stack_csr([A]), r"tsgu_func\.stack takes these"),
    ],
)
def test_what_does_not_fit_is_refused(error, call, message):
    with pytest.raises(error, match=message):
        call()


def test_there_is_one_block_diag():
    assert utils.block_diag is tsgu_func.block_diag
    batch = A.expand(2, 2, 3)
    parts = utils.block_split(block_diag([batch, B]) @ torch.ones(6, 1), [batch, B])
    assert [tuple(part.shape) for part in parts] == [(2, 2, 1), (2, 3, 1)]
