"""Other ways to call a transform: by the names of functorch, with arguments inside pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import functorch
import optree
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils import _pytree as torch_pytree

from tests.functions import argnums, bent, scalar, stacked, wave
from tsgu_func import (
    SparseMatrix,
    gather_mm,
    segment_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_triangular_solve,
)
from tsgu_func.selfcheck.records import all_records, record_named
from tsgu_func.selfcheck.records.base import (
    COL,
    ROW,
    SHAPE,
    as_reals,
    dense,
    eliminate,
    matrix,
    randn,
    solvable,
)
from tsgu_func.selfcheck.records.indexed import ANYHOW, IN_PLACE, LENGTHS, products
from tsgu_func.solvers import SuperLU

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
# One record of each public function: behind both names of a transform is one implementation, which
# test_rules.py takes through all of them.
PUBLIC = {r.name.split()[0]: r.name for r in all_records(torch.float64) if r.primitive is None}
pytestmark = pytest.mark.usefixtures("device")

# -------------------------------------------------------------------------------------- functorch


def everywhere(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return stacked(x, (True,) * len(x))


def pulled(api: Any, f: Callable[..., Tensor], x: tuple[Tensor, ...]) -> Any:
    out, pull = api.vjp(bent(f), *x)
    return out, pull(wave(*out.shape))


# functorch has the names of torch.func, and warns that they are old.
RENAMED = {
    "grad": lambda api, f, x: api.grad(scalar(f), argnums(x))(*x),
    "grad_and_value": lambda api, f, x: api.grad_and_value(scalar(f), argnums(x))(*x),
    "vmap": lambda api, f, x: api.vmap(bent(f))(*everywhere(x)),
    "jvp": lambda api, f, x: api.jvp(bent(f), x, tuple(wave(*a.shape) for a in x)),
    "vjp": pulled,
    "jacrev": lambda api, f, x: api.jacrev(bent(f), argnums(x))(*x),
    "jacfwd": lambda api, f, x: api.jacfwd(bent(f), argnums(x))(*x),
    "hessian": lambda api, f, x: api.hessian(scalar(f), argnums(x))(*x),
    "functionalize": lambda api, f, x: api.functionalize(bent(f))(*x),
}


@pytest.mark.parametrize("transform", RENAMED)
@pytest.mark.parametrize("name", PUBLIC.values())
def test_names_of_functorch(name, transform, dtype):
    record = as_reals(record_named(name, dtype))
    run = RENAMED[transform]
    with pytest.warns(FutureWarning, match=f"`functorch.{transform}` is deprecated"):
        legacy = run(functorch, record.function, record.args)
    assert_close(legacy, run(torch.func, record.reference, record.args), **CLOSE)


def test_functorch_has_the_same_make_fx():
    assert functorch.make_fx is make_fx  # of which there are tests in test_rules.py


# --------------------------------------------------------------------------- arguments inside trees


class Right(NamedTuple):
    B: Tensor
    scale: Tensor


class Case(NamedTuple):
    """An op of two arguments, the same of plain tensors by PyTorch's own ops, and the arguments."""

    op: Callable[[Any, Tensor], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor]
    first: Any
    second: Tensor

    @property
    def tree(self) -> dict[str, Any]:
        """The arguments inside a dict, a list and a named tuple, and a scale for the result."""
        n = self.op(self.first, self.second).shape[0]
        return {"rest": [Right(self.second, wave(n, 1)), ()], "first": self.first}

    def of_tree(self, tree: dict[str, Any]) -> Tensor:
        right = tree["rest"][0]
        return torch.sin(self.op(tree["first"], right.B) * right.scale)

    def of_leaves(self, second: Tensor, scale: Tensor, first: Tensor) -> Tensor:
        return torch.sin(self.reference(first, second) * scale)


def cases() -> dict[str, Case]:
    dtype = torch.float64
    A, S = matrix(ROW, COL, SHAPE, dtype), solvable(dtype)
    L = SparseMatrix.from_dense(torch.tril(S.to_dense()))
    T = matrix([0, 1, 1, 2, 3], [0, 0, 1, 1, 0], (4, 2), dtype)
    a, bank = randn(4, 2, dtype=dtype, seed=6), randn(4, 2, 3, dtype=dtype, seed=7)
    index, lengths = torch.tensor(ANYHOW), torch.tensor(LENGTHS)
    B, C = randn(4, 2, dtype=dtype, seed=8), randn(3, 2, dtype=dtype, seed=9)

    def minimizer(v: Tensor, B: Tensor) -> Tensor:
        D = dense(v, T)
        return eliminate(D.mT @ D, D.mT @ B)

    return {
        "sparse_mm": Case(sparse_mm, lambda v, B: dense(v, A) @ B, A, B),
        "sparse_triangular_solve": Case(
            lambda A, B: sparse_triangular_solve(A, B, upper=False),
            lambda v, B: eliminate(dense(v, L), B),
            L,
            C,
        ),
        "sparse_generic_solve": Case(
            lambda A, B: sparse_generic_solve(A, B, solve=SuperLU()),
            lambda v, B: eliminate(dense(v, S), B),
            S,
            C,
        ),
        "sparse_generic_lstsq": Case(sparse_generic_lstsq, minimizer, T, B),
        "gather_mm": Case(lambda a, b: gather_mm(a, b, index), products(ANYHOW), a, bank),
        "segment_mm": Case(lambda a, b: segment_mm(a, b, lengths), products(IN_PLACE), a, bank),
    }


OPS = list(cases())


def flat(tree: Any) -> list[Tensor]:
    """Take a tree apart by hand."""
    right, first = tree["rest"][0], tree["first"]
    return [right.B, right.scale, first.values if isinstance(first, SparseMatrix) else first]


def assert_structure(tree: Any, like: Any) -> None:
    """Check every node by hand, and what both libraries of trees say."""
    assert type(tree) is dict
    assert list(tree) == list(like)
    assert type(tree["rest"]) is list
    assert type(tree["rest"][0]) is Right
    assert tree["rest"][1] == ()
    assert type(tree["first"]) is type(like["first"])
    if isinstance(like["first"], SparseMatrix):
        assert tree["first"].pattern is like["first"].pattern
    assert torch_pytree.tree_structure(tree) == torch_pytree.tree_structure(like)
    specs = [optree.tree_structure(t, namespace="tsgu_func") for t in (tree, like)]
    assert specs[0] == specs[1]


def weighed(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *x: (f(*x) * wave(*f(*x).shape)).sum()


@pytest.mark.parametrize("name", OPS)
def test_gradient_has_the_structure_of_the_argument(name):
    case = cases()[name]
    tree = case.tree
    gradient = torch.func.grad(weighed(case.of_tree))(tree)
    assert_structure(gradient, tree)
    expected = torch.func.grad(weighed(case.of_leaves), (0, 1, 2))(*flat(tree))
    assert_close(flat(gradient), list(expected), **CLOSE)


@pytest.mark.parametrize("name", OPS)
def test_gradient_of_one_of_several_trees(name):
    case = cases()[name]
    tree = case.tree
    loss = lambda first, rest: weighed(case.of_tree)({"rest": rest, "first": first})
    first, rest = torch.func.grad(loss, (0, 1))(tree["first"], tree["rest"])
    assert_structure({"rest": rest, "first": first}, tree)
    alone = torch.func.grad(loss)(tree["first"], tree["rest"])
    assert_structure({"rest": rest, "first": alone}, tree)
    expected = torch.func.grad(weighed(case.of_leaves), (0, 1, 2))(*flat(tree))
    assert_close(flat({"rest": rest, "first": first}), list(expected), **CLOSE)
    assert_close(flat({"rest": rest, "first": alone}), list(expected), **CLOSE)


@pytest.mark.parametrize("name", OPS)
def test_jvp_along_a_tree(name):
    case = cases()[name]
    tree = case.tree
    direction = optree.tree_map(lambda x: wave(*x.shape, seed=1), tree, namespace="tsgu_func")
    result = torch.func.jvp(case.of_tree, (tree,), (direction,))
    expected = torch.func.jvp(case.of_leaves, tuple(flat(tree)), tuple(flat(direction)))
    assert_close(result, expected, **CLOSE)


@pytest.mark.parametrize("mapped", ["all", "first", "rest"])
@pytest.mark.parametrize("name", OPS)
def test_vmap_over_trees(name, mapped):
    case = cases()[name]
    tree = case.tree
    grown = optree.tree_map(lambda x: stacked((x,), (True,))[0], tree, namespace="tsgu_func")
    dims: Any = {
        "all": 0,
        "first": {"rest": None, "first": 0},
        "rest": {"rest": [Right(0, 0), ()], "first": None},
    }[mapped]
    batched = {key: grown[key] if mapped in ("all", key) else tree[key] for key in tree}

    def function(tree: Any) -> Any:
        out = case.of_tree(tree)
        return {"out": out, "gradient": torch.func.grad(weighed(case.of_tree))(tree)}

    result = torch.func.vmap(function, (dims,))(batched)
    assert_structure(result["gradient"], tree)
    wanted = {"all": (0, 0, 0), "first": (None, None, 0), "rest": (0, 0, None)}[mapped]
    gradient = torch.func.grad(weighed(case.of_leaves), (0, 1, 2))
    members = [
        [x if d is None else x[i] for x, d in zip(flat(batched), wanted, strict=True)]
        for i in range(3)
    ]
    assert_close(result["out"], torch.stack([case.of_leaves(*m) for m in members]), **CLOSE)
    expected = [torch.stack(g) for g in zip(*(gradient(*m) for m in members), strict=True)]
    assert_close(flat(result["gradient"]), expected, **CLOSE)


@pytest.mark.parametrize("name", OPS)
def test_optree_maps_the_values_in_our_namespace(name):
    case = cases()[name]
    tree = case.tree
    bigger = optree.tree_map(lambda x: 1.5 * x + 0.5, tree, namespace="tsgu_func")
    assert_structure(bigger, tree)
    expected = [1.5 * x + 0.5 for x in flat(tree)]
    assert_close(flat(bigger), expected, rtol=0, atol=0)
    assert_close(case.of_tree(bigger), case.of_leaves(*expected), **CLOSE)
    step = optree.tree_map(
        lambda x, g: x - 0.01 * g,
        tree,
        torch.func.grad(weighed(case.of_tree))(tree),
        namespace="tsgu_func",
    )
    assert_structure(step, tree)
    gradient = torch.func.grad(weighed(case.of_leaves), (0, 1, 2))(*flat(tree))
    stepped = [x - 0.01 * g for x, g in zip(flat(tree), gradient, strict=True)]
    assert_close(flat(step), stepped, **CLOSE)


@pytest.mark.parametrize("name", OPS)
def test_optree_without_a_namespace_maps_whole_matrices(name):
    case = cases()[name]
    tree = case.tree
    assert optree.tree_leaves(tree)[0] is tree["first"]
    bigger = optree.tree_map(lambda x: x * 1.5, tree)
    assert_structure(bigger, tree)
    expected = [1.5 * x for x in flat(tree)]
    assert_close(flat(bigger), expected, rtol=0, atol=0)
    assert_close(case.of_tree(bigger), case.of_leaves(*expected), **CLOSE)
