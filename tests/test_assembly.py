"""Entries in their own order become values of a pattern, by a map that is made once."""

import copy
import pickle

import pytest
import scipy.sparse
import torch
from torch.func import grad, jacfwd, jacrev, vmap
from torch.testing import assert_close

from tests.functions import Calls
from tsgu_func import SparseMatrix, SparsityPattern, sparse_solve
from tsgu_func.cache import clear_cache
from tsgu_func.testing import check_rules
from tsgu_func.utils import block_diag

CASES = {
    "unsorted": ([2, 0, 1, 0, 2, 1], [2, 0, 1, 1, 0, 2]),
    "with duplicates": ([2, 0, 2, 0, 2, 1, 0], [2, 0, 2, 1, 0, 2, 0]),
    "sorted": ([0, 0, 1, 2], [0, 2, 1, 2]),
    "sorted, with duplicates": ([0, 0, 1, 1], [1, 1, 0, 2]),
    "empty": ([], []),
}
SHAPE = (3, 3)


def dense(row, col, entries):
    out = entries.new_zeros(*entries.shape[:-1], 9)
    place = torch.tensor(row, dtype=torch.long) * 3 + torch.tensor(col, dtype=torch.long)
    return out.index_add(-1, place, entries).unflatten(-1, SHAPE)


@pytest.mark.parametrize("places", CASES.values(), ids=CASES)
def test_entries_keep_their_places(places, dtype):
    row, col = places
    pattern, assemble = SparsityPattern.from_coo(row, col, SHAPE)
    assert pattern == assemble.pattern
    assert assemble.entries == len(row)
    for size in ((), (2,), (2, 3)):
        entries = torch.randn(*size, len(row), dtype=dtype)
        A = SparseMatrix(pattern, assemble(entries))
        assert_close(A.to_dense(), dense(row, col, entries))
        assert_close(A.with_values(assemble(2 * entries)).to_dense(), 2 * dense(row, col, entries))


def test_compressed_rows_that_are_not_sorted(dtype):
    pattern, assemble = SparsityPattern.from_csr([0, 3, 3, 5], [2, 0, 2, 1, 0], SHAPE)
    entries = torch.randn(5, dtype=dtype)
    expected = dense([0, 0, 0, 2, 2], [2, 0, 2, 1, 0], entries)
    assert_close(SparseMatrix(pattern, assemble(entries)).to_dense(), expected)
    pattern, assemble = SparsityPattern.from_csr([0, 1, 1, 2], [2, 0], SHAPE)
    assert assemble(entries[:2]) is not None
    assert assemble.in_order


def test_entries_of_a_scipy_matrix_in_its_own_order():
    C = scipy.sparse.random_array((3, 3), density=0.8, format="csc", rng=0)
    coo = C.tocoo()
    pattern, assemble = SparsityPattern.from_coo(*map(torch.from_numpy, (coo.row, coo.col)), SHAPE)
    A = SparseMatrix.from_scipy(C)
    assert A.pattern == pattern
    assert_close(A.with_values(assemble(torch.from_numpy(C.data))).to_dense(), A.to_dense())


@pytest.mark.parametrize("places", CASES.values(), ids=CASES)
def test_every_rule(places, dtype):
    _, assemble = SparsityPattern.from_coo(*places, SHAPE)
    entries = torch.randn(len(places[0]), dtype=dtype)
    if len(entries):
        transforms = ["first", "higher", "eager", "vmap"]
        check_rules(lambda e: 2 * assemble(e), (entries,), transforms=transforms).raise_if_failed()
    for jacobian in (jacrev, jacfwd):
        assert_close(
            jacobian(assemble)(entries.real),
            assemble(torch.eye(len(entries))).mT,
            check_dtype=False,
        )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_step_of_an_optimization_compiles(backend, dtype):
    row, col = CASES["with duplicates"]
    pattern, assemble = SparsityPattern.from_coo(row, col, SHAPE)
    b = torch.ones(3, dtype=dtype)

    def loss(entries):
        A = SparseMatrix(pattern, assemble(entries))
        A = A + SparseMatrix(pattern, assemble(torch.ones_like(entries)))
        return sparse_solve(A, b).abs().square().sum() + A.matmul(b).abs().square().sum()

    entries = torch.randn(7, dtype=dtype) + 2
    for function in (loss, grad(loss)):
        compiled = torch.compile(function, backend=backend, fullgraph=True)
        assert_close(compiled(entries), function(entries))
    batch = torch.stack([entries, 2 * entries])
    assert_close(vmap(grad(loss))(batch), torch.stack([grad(loss)(e) for e in batch]))


def test_it_is_a_value():
    pattern, assemble = SparsityPattern.from_coo(*CASES["with duplicates"], SHAPE)
    entries = torch.randn(7)
    again = pickle.loads(pickle.dumps(assemble))
    assert again.pattern == pattern
    assert_close(again(entries), assemble(entries))
    assert_close(copy.deepcopy(assemble)(entries), assemble(entries))
    assert {assemble: 1}[assemble] == 1
    with pytest.raises(AttributeError):
        assemble.pattern = pattern.T
    assert "7 entries to 5 values" in repr(assemble)
    assert assemble.to("meta")(entries.to("meta")).shape == (5,)


def test_entries_that_do_not_fit_are_refused():
    for places in CASES.values():
        _, assemble = SparsityPattern.from_coo(*places, SHAPE)
        for wrong in (torch.ones(()), torch.ones(9), torch.ones(len(places[0]), 2)):
            with pytest.raises(ValueError, match="one value for each of the"):
                assemble(wrong)
        with pytest.raises(ValueError, match=r"assemble\.to\('meta'\)"):
            assemble(torch.ones(len(places[0]), device="meta"))


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_what_cannot_be_compiled_says_what_to_do():
    A = SparseMatrix.from_dense(torch.eye(2))
    index = torch.tensor([0, 1])
    inside = {
        "from_coo": lambda v: SparseMatrix.from_coo(index, [1, 0], v, (2, 2)).values,
        "from_csr": lambda v: SparseMatrix.from_csr([0, 1, 2], index, v, (2, 2)).values,
        "from_dense": lambda v: SparseMatrix.from_dense(v.diag()).values,
        "a pattern": lambda v: SparsityPattern.from_coo(index, index, (2, 2))[1](v),
    }
    v, said = torch.ones(2), r"SparsityPattern\.from_coo\(row, col, shape\)"
    for function in inside.values():
        with pytest.raises(Exception, match=said):
            torch.compile(function, backend="eager", fullgraph=True)(v)
        for strict in (True, False):
            with pytest.raises(Exception, match=said):
                torch.export.export(Calls(function), (v,), strict=strict)
    for name in ("to_coo", "to_csr", "to_scipy"):
        convert = lambda v, name=name: getattr(A.with_values(v), name)()
        with pytest.raises(Exception, match=f"{name} cannot be called in a compiled function"):
            torch.compile(convert, backend="eager", fullgraph=True)(torch.ones(2))


CONSTANT = ([2, 0, 2, 0], (2, 1, 2, 0))
WIDE = SparseMatrix.diag(torch.ones(2, dtype=torch.float64), 1)
OTHER = SparseMatrix.from_coo([2, 0, 1], [0, 2, 1], torch.tensor([3.0, 1, 2]).double(), SHAPE)


def with_slope(function):
    return lambda v: (function(v), grad(lambda v: function(v).square().sum())(v))


MADE_INSIDE = {
    "from_coo": lambda v: SparseMatrix.from_coo(*CONSTANT, v, SHAPE).to_dense(),
    "from_csr": lambda v: SparseMatrix.from_csr([0, 2, 2, 4], [2, 0, 1, 1], v, SHAPE).to_dense(),
    "a sum": lambda v: (OTHER.with_values(v[1:]) + WIDE).to_dense(),
    "a product": lambda v: OTHER.with_values(v[1:]).matmul(WIDE.T).to_dense(),
    "a product by entries": lambda v: OTHER.with_values(v[1:]).mul(OTHER.T + WIDE).to_dense(),
    "block_diag": lambda v: block_diag([OTHER.with_values(v[1:]), WIDE]).to_dense(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE_INSIDE)
def test_patterns_known_to_the_compiler_are_made_inside(name):
    function = MADE_INSIDE[name]
    v = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    dense_one = {
        "from_coo": dense(*CONSTANT, v),
        "from_csr": dense([0, 0, 2, 2], [2, 0, 1, 1], v),
        "a sum": OTHER.with_values(v[1:]).to_dense() + WIDE.to_dense(),
        "a product": OTHER.with_values(v[1:]).to_dense() @ WIDE.to_dense().mT,
        "a product by entries": OTHER.with_values(v[1:]).to_dense()
        * (OTHER.to_dense().mT + WIDE.to_dense()),
        "block_diag": torch.block_diag(OTHER.with_values(v[1:]).to_dense(), WIDE.to_dense()),
    }
    clear_cache()  # nothing that was found before: not in eager mode, not by another way to compile
    for strict in (False, True):
        program = torch.export.export(Calls(function), (v,), strict=strict)
        assert_close(program.module()(v), dense_one[name])
        clear_cache()
    compiled = torch.compile(with_slope(function), backend="aot_eager", fullgraph=True)
    assert_close(compiled(v), with_slope(function)(v))
    assert_close(vmap(function)(torch.stack([v, 2 * v]))[0], dense_one[name])


def test_the_compiler_notices_other_places():
    rows = [0, 1]

    def function(v, n):
        return SparseMatrix.from_coo(rows, [n, 0], v, SHAPE).to_dense()

    compiled, v = torch.compile(function, backend="eager", fullgraph=True), torch.ones(2)
    for n in range(3):
        rows[0] = 2 - n
        assert_close(compiled(v, n), dense(rows, [n, 0], v))
    rows[0] = 7
    with pytest.raises(Exception, match=r"row\[0\] = 7 is out of range"):
        compiled(v, 0)
    rows[:] = [0, 1, 2]
    with pytest.raises(Exception, match="same length"):
        compiled(v, 0)


@pytest.mark.slow
def test_methods_for_the_compiler(dtype):
    A = SparseMatrix.from_dense(torch.tensor([[2.0, 1], [0, 3]], dtype=dtype))
    x, d = torch.ones(2, dtype=dtype), torch.tensor([2.0, 3.0], dtype=dtype)
    functions = {
        "matmul": (lambda A, x: A.matmul(x), lambda D, x: D @ x),
        "mv": (lambda A, x: A.mv(x), lambda D, x: D @ x),
        "mm": (lambda A, x: A.mm(x[:, None]), lambda D, x: D @ x[:, None]),
        "of the transpose": (lambda A, x: A.T.matmul(x), lambda D, x: D.mT @ x),
        "columns": (lambda A, x: A.mul(x).to_dense(), lambda D, x: D * x),
        "rows": (lambda A, x: A.div(x[:, None]).to_dense(), lambda D, x: D / x[:, None]),
        "number": (lambda A, x: (2 * A / 3.0).to_dense(), lambda D, x: 2 * D / 3.0),
    }
    for sparse, expected in functions.values():
        compiled = torch.compile(sparse, backend="aot_eager", fullgraph=True)
        for vector in (x, d):
            assert_close(compiled(A, vector), expected(A.to_dense(), vector))
