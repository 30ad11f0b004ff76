"""What an ahead-of-time compiled function is made of: its ops, in both directions.

An op that is registered as one opaque node must stay one node, and a rule that shares its work must
not do it twice.  Both are numbers in the graphs that ``functorch.compile.aot_function`` builds, so
they can be tested exactly, without measuring time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

__all__ = ["Graphs", "count_all_ops", "count_ops"]

# Where PyTorch keeps its own ops.
_OF_PYTORCH = frozenset({"aten", "prims", "prim"})


class Graphs(NamedTuple):
    """How often each op occurs in the forward and in the backward graph.

    Parameters
    ----------
    forward, backward : Counter of str
        The keys are names of ops, such as ``"tsgu_func::spmm"``.  An op that does not occur has the
        count zero.

    Examples
    --------
    >>> from collections import Counter
    >>> from tsgu_func.testing.checker.graphs import Graphs
    >>> graphs = Graphs(Counter({"mylib::op": 2}), Counter())
    >>> graphs.forward["mylib::op"], graphs.backward["mylib::op"]
    (2, 0)
    """

    forward: Counter[str]
    backward: Counter[str]


def count_ops(
    fn: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int] | None = None
) -> Graphs:
    """Count the custom ops in the forward and in the backward graph of ``fn(*args)``.

    Parameters
    ----------
    fn : callable
        A function that returns a pytree of tensors.
    args : tuple or list
        Pytrees of dense tensors of any dtype; a `SparseMatrix` is one.  Leaves of other kinds are
        constants.
    argnums : int or sequence of int, optional
        The arguments with respect to which the backward graph differentiates, as in
        ``torch.func.grad``.  Default: all, apart from leaves that are neither floating-point nor
        complex.

    Returns
    -------
    Graphs
        The names of the ops and how often they are called.  PyTorch's own ops are left out;
        `count_all_ops` has them too.

    Raises
    ------
    TypeError
        If fn is not callable, if args is not a tuple or list, or if it contains a sparse tensor.
    ValueError
        If there is no tensor among the arguments or in the output, or argnums names no argument.

    Notes
    -----
    The function is first traced by ``make_fx`` with the given numbers, because ``aot_function``
    refuses functions that use tensors from outside, such as the pattern of a matrix.  So the
    derivatives are those of the ops that were traced.  ``detach`` inside of fn counts, but
    ``torch.no_grad`` and ``torch.autograd.Function`` do not.  The forward graph is then run once;
    the backward graph is not run.

    Nothing that the forward graph has computed is computed again in the backward graph.  What a
    rule computes and nobody uses is in neither of them, although eager mode would compute it.

    Examples
    --------
    The product of a sparse matrix is one op, and so is each of its cotangents:

    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_mm
    >>> from tsgu_func.testing.checker.graphs import count_ops
    >>> A, B = SparseMatrix.from_dense(torch.eye(3)), torch.ones(3, 2)
    >>> graphs = count_ops(sparse_mm, (A, B))
    >>> graphs.forward
    Counter({'tsgu_func::spmm': 1})
    >>> sorted(graphs.backward.items())
    [('tsgu_func::sddmm', 1), ('tsgu_func::spmm', 1)]

    With respect to one argument:

    >>> count_ops(sparse_mm, (A, B), argnums=1).backward
    Counter({'tsgu_func::spmm': 1})
    """
    return Graphs(*map(_of_libraries, count_all_ops(fn, args, argnums)))


def count_all_ops(
    fn: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int] | None = None
) -> Graphs:
    """Count all ops in the forward and in the backward graph of ``fn(*args)``.

    It is `count_ops` with the ops of PyTorch.  Their names contain the overload, as in
    ``"aten::add.Tensor"``.  What is not an op, such as ``getitem``, has the name of its function.

    Parameters
    ----------
    fn, args, argnums
        As for `count_ops`.

    Returns
    -------
    Graphs

    Raises
    ------
    TypeError, ValueError
        As `count_ops`.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.checker.graphs import count_all_ops
    >>> graphs = count_all_ops(torch.sin, (torch.ones(2),))
    >>> graphs.forward
    Counter({'aten::sin': 1})
    >>> sorted(graphs.backward.items())
    [('aten::cos', 1), ('aten::mul.Tensor', 1)]
    """
    tree: Any = _checked(fn, args)
    leaves, treespec = optree.tree_flatten(tree, namespace="tsgu_func")
    paths = optree.tree_paths(tree, namespace="tsgu_func")
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if not places:
        raise ValueError(f"args holds at least one tensor; got leaves {leaves!r}")
    chosen = _chosen(argnums, len(tree))
    inputs = [_input(leaves[i], paths[i][0] in chosen) for i in places]

    def of_tensors(*tensors: Tensor) -> list[Tensor]:
        given = dict(zip(places, tensors, strict=True))
        filled = [given.get(i, leaf) for i, leaf in enumerate(leaves)]
        out = fn(*optree.tree_unflatten(treespec, filled))
        outs = optree.tree_leaves(out, namespace="tsgu_func")
        return [o for o in outs if isinstance(o, Tensor)]

    return _compiled(of_tensors, inputs)


def _compiled(function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> Graphs:
    """Compile a function of tensors ahead of time, and count."""
    # Imported here: they bring the compiler and SymPy along, and functorch is only a name for it.
    from functorch.compile import aot_function, default_partition, make_boxed_func
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(function)(*(x.detach() for x in inputs))
    constants = {name: c.detach() for name, c in traced.named_parameters()}
    constants |= {name: c.detach() for name, c in traced.named_buffers()}
    graphs = Graphs(Counter(), Counter())

    def part(*args: Any, **kwargs: Any) -> Any:
        # Counted here, because a compiler of the backward graph may be called late, or never.
        forward, backward = default_partition(*args, **kwargs)
        graphs.backward.update(_targets(backward))
        return forward, backward

    def forward_compiler(gm: torch.fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        graphs.forward.update(_targets(gm))
        return make_boxed_func(gm.forward)

    def lifted(constants: dict[str, Tensor], *inputs: Tensor) -> list[Tensor]:
        return torch.func.functional_call(traced, constants, inputs)

    with torch.enable_grad():
        outs = aot_function(lifted, forward_compiler, partition_fn=part)(constants, *inputs)
    if not outs:
        raise ValueError("fn returns a pytree of tensors; there is none in its output")
    return graphs


def _targets(graph: torch.fx.GraphModule) -> Counter[str]:
    """Count what the nodes of a graph call."""
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    return Counter(t.name() if hasattr(t, "namespace") else t.__name__ for t in targets)


def _of_libraries(ops: Counter[str]) -> Counter[str]:
    kept = {n: k for n, k in ops.items() if "::" in n and n.split("::")[0] not in _OF_PYTORCH}
    return Counter(kept)


def _input(x: Tensor, wanted: bool) -> Tensor:
    """Return a leaf for the graph, which requires grad if it is wanted and can."""
    return x.detach().requires_grad_(wanted and (x.is_floating_point() or x.is_complex()))


def _chosen(argnums: int | Sequence[int] | None, size: int) -> set[int]:
    if argnums is None:
        return set(range(size))
    several = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if wrong := [n for n in several if not -size <= n < size]:
        raise ValueError(
            f"argnums names arguments by their place, from {-size} to {size - 1} here; "
            f"got {wrong[0]}"
        )
    return {n % size for n in several}


def _checked(fn: Any, args: Any) -> tuple[Any, ...]:
    if not callable(fn):
        raise TypeError(f"fn is a function; got {type(fn).__name__}")
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"args is a tuple of all arguments; got {type(args).__name__}: write (x,) for one"
        )
    tree: Any = tuple(args)
    for leaf in optree.tree_leaves(tree, namespace="tsgu_func"):
        if isinstance(leaf, Tensor) and leaf.layout != torch.strided:
            raise TypeError(
                f"the inputs of a graph are dense tensors; got one of layout {leaf.layout}: "
                f"take SparseMatrix.from_torch, or close the function over it"
            )
    return tree
