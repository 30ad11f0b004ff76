"""What a call costs, counted and not timed: ops, loops, and passes over what is as large as A.

A number that grows is a copy, a conversion or an op that came in; one that shrinks is written down.
"""

import math
from collections import Counter

import pytest
import torch

from tests.preconditioning import poisson
from tests.systems import randn
from tsgu_func import SparseMatrix, sparse_mm, sparse_solve, sparse_triangular_solve
from tsgu_func.kernels import compiled
from tsgu_func.solvers import SuperLU

A = SparseMatrix.from_scipy(poisson(40))
L = A.tril()
B, WIDE = randn(A.shape[0], 4), randn(A.shape[0], 64)
b = B[:, :1].contiguous()
LOOPS = {
    "products": ("product", "sampled", "transposed_product"),
    "substitution": ("by_rows", "by_columns"),
}
SAMPLED = {"sddmm": 1, "sampled": 1}
# Views, and what PyTorch knows of a tensor without a pass over its memory.
FREE = {
    "alias", "as_strided", "col_indices", "crow_indices", "dense_dim", "detach", "expand",
    "flatten", "indices", "is_coalesced", "is_same_size", "_nnz", "resolve_conj", "resolve_neg",
    "reshape", "select", "sparse_compressed_tensor",
    "_sparse_compressed_tensor_unsafe", "squeeze", "t", "to", "transpose", "unbind", "unsqueeze",
    "values", "view", "matmul", "addmm",
}  # fmt: skip


@pytest.fixture
def counted(monkeypatch):
    """Count what a second call does."""

    def count(run):
        run()
        found = Counter()
        with monkeypatch.context() as patch:
            for module, names in LOOPS.items():
                for name in names:
                    place = getattr(compiled, module)
                    patch.setattr(place, name, _counting(found, name, getattr(place, name)))
            with torch.autograd.profiler.profile(record_shapes=True, use_kineto=False) as profile:
                run()
        for event in profile.function_events:
            found.update(_named(event))
        return dict(found)

    return count


def _counting(found, name, loop):
    def counting(*args):
        found[name] += 1
        return loop(*args)

    return counting


def _named(event):
    """Name what is counted: an op of ours, or a pass of PyTorch over as many entries as A has."""
    if event.name.startswith("tsgu_func::"):
        return [event.name.removeprefix("tsgu_func::")]
    name = event.name.removeprefix("aten::")
    large = any(math.prod(shape) >= A.nnz for shape in event.input_shapes if shape)
    return [name] if large and name != event.name and name not in FREE else []


def value(f, *x):
    return lambda: f(*x)


def gradient(f, *x):
    x = tuple(a.detach().clone().requires_grad_() for a in x)

    def run():
        y = f(*x)
        torch.autograd.grad(y, x, torch.ones_like(y))

    return run


def multiplied(values, B):
    return sparse_mm(A.with_values(values), B)


def solved(values, B):
    return sparse_solve(A.with_values(values), B, solver=SuperLU())


def substituted(values, B):
    return sparse_triangular_solve(L.with_values(values), B, upper=False)


CASES = {
    "product": (value(sparse_mm, A, B), {"spmm": 1, "mm": 1}),
    "product with a column": (value(sparse_mm, A, b), {"spmm": 1, "product": 1}),
    "product with many": (value(sparse_mm, A, WIDE), {"spmm": 1, "product": 1, "new_empty": 1}),
    "product, CSR": (value(sparse_mm, A.to_csr(), B), {"clone": 1, "copy_": 1, "spmm": 1, "mm": 1}),
    "product, COO": (value(sparse_mm, A.to_coo(), B), {"clone": 1, "copy_": 1, "spmm": 1, "mm": 1}),
    "gradients of a product": (
        gradient(multiplied, A.values, B),
        {"spmm": 2, "mm": 1, "sddmm": 1, "sampled": 1, "transposed_product": 1},
    ),
    "gradients of a product, CSR": (
        gradient(sparse_mm, A.to_csr(), B),
        {"clone": 1, "copy_": 1, "spmm": 2, "mm": 1, "sddmm": 1, "sampled": 1}
        | {"transposed_product": 1},
    ),
    "substitution": (
        value(sparse_triangular_solve, L, B, False),
        {"triangular_solve": 1, "by_rows": 1},
    ),
    "substitution, CSR": (
        value(sparse_triangular_solve, L.to_csr(), b, False),
        {"triangular_solve": 1, "by_rows": 1},
    ),
    "gradients of a substitution": (
        gradient(substituted, L.values, B),
        {"triangular_solve": 2, "by_rows": 1, "by_columns": 1, "triangle": 1} | SAMPLED,
    ),
    # Values are summed to see that all are finite, and compared with those of the factor.
    "solve": (value(solved, A.values, b), {"linear_solve": 1, "sum": 1, "equal": 1}),
    "gradients of a solve": (
        gradient(solved, A.values, b),
        {"linear_solve": 2, "sum": 2, "equal": 2, "index_select": 1} | SAMPLED,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_does_no_more_than_it_must(counted, case):
    run, expected = CASES[case]
    assert counted(run) == expected
