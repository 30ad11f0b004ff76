"""Systems with a matrix that is known by its products alone.

Derivation.  Let ``A(θ) X = B``, where a function computes ``A(θ) x``, linear in x.  As for a stored
matrix, with the cotangent G of X and ``W = A⁻ᴴ G``,

    <G, dX> = <W, dB> - <W, dA X>,

and the last term is what the function's own vjp with respect to θ makes of W, at X.  Where what is
solved is ``Aᴴ Z = B``, with ``W = A⁻¹ G``, it is ``<W, dAᴴ Z> = <dA W, Z>``: the vjp at W, of Z.
Products with Aᴴ are the vjp of the function with respect to x, which is linear, so anywhere.

The parameters θ, a pytree, are handed to the op as one vector, so that one op serves them all and
`vmap` finds them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tsgu_func import check
from tsgu_func.opaque import OpaqueFunction, opaque_call
from tsgu_func.primitive import Primitive, constant_when_traced, is_tracing, outside_transforms
from tsgu_func.solvers import registry
from tsgu_func.solvers.base import Solution
from tsgu_func.solvers.matrix_free import MatrixFree

__all__ = ["Form", "LinearOperator", "operator_solve", "solve_operator"]


class LinearOperator:
    """A square matrix that is known by its products alone, and depends on parameters.

    Parameters
    ----------
    function : callable
        ``function(parameters, x) -> A x``, linear in the vector x (n,), made of differentiable
        operations that work under ``vmap``.
    parameters : pytree
        Tensors with respect to which solutions are to be differentiated, in tuples, lists, dicts; a
        `SparseMatrix` is one too.  What else is in it is constant.

    Notes
    -----
    It is itself a pytree, whose leaves are those of the parameters: ``torch.func.grad`` with
    respect to it gives a `LinearOperator` of gradients.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import LinearOperator, sparse_solve
    >>> def multiply(a, x):
    ...     return a * x + x.roll(1)
    >>> A = LinearOperator(multiply, torch.tensor([2.0, 3.0, 4.0]))
    >>> sparse_solve(A, torch.tensor([3.0, 4.0, 5.0]))
    tensor([1.0000, 1.0000, 1.0000])
    >>> loss = lambda A: sparse_solve(A, torch.tensor([3.0, 4.0, 5.0])).sum()
    >>> torch.func.grad(loss)(A).parameters
    tensor([-0.3600, -0.2800, -0.1600])
    """

    def __init__(self, function: Callable[[Any, Tensor], Tensor], parameters: Any) -> None:
        if not callable(function):
            raise TypeError(f"function is callable; got {type(function).__name__}")
        self.function, self.parameters = function, parameters

    def __matmul__(self, x: Tensor) -> Tensor:
        """Multiply with a vector (n,), or with the columns of a matrix (n, p)."""
        return _columns(self.function, self.parameters, x) if x.ndim > 1 else self(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply with a vector."""
        return self.function(self.parameters, x)

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"LinearOperator({name}, {self.parameters!r})"


pytree.register_pytree_node(
    LinearOperator,
    lambda A: ([A.parameters], A.function),
    lambda children, function: LinearOperator(function, children[0]),  # pyright: ignore
    serialized_type_name="tsgu_func.LinearOperator",
)


def _columns(function: Any, parameters: Any, X: Tensor) -> Tensor:
    return torch.func.vmap(lambda x: function(parameters, x), -1, -1)(X)


# ------------------------------------------------------------------------------- the parameters


class _Leaf(NamedTuple):
    """A tensor among the parameters."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Form:
    """A function and the form of its parameters, without their values."""

    _numbers = itertools.count()

    def __init__(self, function: Any, places: Any, leaves: Sequence[Any]) -> None:
        self.function = function
        self.tree = pytree.tree_flatten(places)[1]
        self.leaves = [_Leaf(*leaf) if len(leaf) == 2 else leaf[0] for leaf in leaves]
        self.sizes = [math.prod(x.shape) for x in self.leaves if isinstance(x, _Leaf)]
        self.key = f"operator:{next(self._numbers)}"
        self._products: dict[Any, OpaqueFunction] = {}

    @classmethod
    def of(cls, function: Any, parameters: Any) -> Form:
        """Return the form of some parameters."""
        return cls(function, *_form_of(parameters))

    def parameters(self, flat: Tensor) -> Any:
        """Return the parameters that a vector holds."""
        parts = iter(flat.split(self.sizes))

        def restored(leaf: Any) -> Any:
            if not isinstance(leaf, _Leaf):
                return leaf
            part = next(parts).reshape(leaf.shape)
            part = part if leaf.dtype.is_complex or not part.is_complex() else part.real
            return part.to(leaf.dtype)

        return pytree.tree_unflatten([restored(x) for x in self.leaves], self.tree)

    def forward(self, flat: Tensor, X: Tensor) -> Tensor:
        """Return A X for the columns of X."""
        return _columns(self.function, self.parameters(flat), X)

    def adjoint(self, flat: Tensor, X: Tensor) -> Tensor:
        """Return Aᴴ X for the columns of X."""
        zero = torch.zeros_like(X)
        return torch.func.vjp(lambda Y: self.forward(flat, Y), zero)[1](X)[0]

    def product(self, adjoint: bool, X: Tensor) -> OpaqueFunction:
        """Return a product as a function of the parameters and the columns of X in one vector."""
        n, p = (int(size) for size in X.shape[-2:])
        if (adjoint, n, p) not in self._products:
            multiply, k = self.adjoint if adjoint else self.forward, sum(self.sizes)

            def function(both: Tensor) -> Tensor:
                return multiply(both[:k], both[k:].reshape(n, p)).reshape(-1)

            self._products[adjoint, n, p] = OpaqueFunction(function, k + n * p, n * p)
        return self._products[adjoint, n, p]


def _form_of(parameters: Any) -> tuple[Any, tuple[tuple[Any, ...], ...]]:
    """Return the parameters with numbers in the place of leaves, and what each leaf is.

    Containers and tuples of Python and PyTorch alone: this is what the compiler can keep.
    """
    leaves, tree = pytree.tree_flatten(parameters)
    kinds = ((tuple(x.shape), x.dtype) if _varies(x) else (x,) for x in leaves)
    return pytree.tree_unflatten(list(range(len(leaves))), tree), tuple(kinds)


def _varies(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _flat(A: LinearOperator, B: Tensor) -> Tensor:
    """Return all parameters in one vector, of B's dtype."""
    leaves = [x for x in pytree.tree_leaves(A.parameters) if _varies(x)]
    for x in leaves:
        if torch.promote_types(x.dtype, B.dtype) != B.dtype or x.device != B.device:
            raise ValueError(
                f"parameters are on the device of B and fit into its dtype; got {x.dtype} on "
                f"{x.device} for B {B.dtype} on {B.device}: convert B, or the parameters"
            )
    return torch.cat([B.new_zeros(0), *(x.to(B.dtype).flatten() for x in leaves)])


# ------------------------------------------------------------------------------- operator_solve

operator_solve = Primitive(
    "tsgu_func::operator_solve(Tensor parameters, Tensor B, str function, str solver,"
    " bool adjoint) -> "
    "(Tensor value, Tensor code, Tensor iterations, Tensor residual, Tensor method)"
)


@operator_solve.kernel
def _(parameters, B, function, solver, adjoint):
    check.computable(B)
    check.finite("a parameter of A", parameters)
    check.finite("B", B)
    with outside_transforms():
        A = _matrix(registry.handle_of(function), parameters, B)
        solved = registry.handle_of(solver).report(A.T.conj() if adjoint else A, B)
    told = solved.value, solved.code, solved.iterations, solved.residual, solved.method
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in told)


def _matrix(form: Form, parameters: Tensor, B: Tensor) -> MatrixFree:
    forward, adjoint = form.forward, form.adjoint
    if parameters.ndim == 2:
        forward, adjoint = torch.func.vmap(forward), torch.func.vmap(adjoint)
    return MatrixFree(form, parameters, forward, adjoint, B.shape[-2], B.dtype)


@operator_solve.fake
def _(parameters, B, function, solver, adjoint):
    shape = (*B.shape[:-2], B.shape[-1])
    real = B.dtype.to_real()
    dtypes = torch.int64, torch.int64, real, torch.int64
    X = torch.empty_like(B, memory_format=torch.contiguous_format)
    return X, *(B.new_empty(shape, dtype=dtype) for dtype in dtypes)


@operator_solve.vjp("parameters", "B")
def _(needs, ct, outs, parameters, function, solver, adjoint):
    if ct is None:
        return None, None
    W = operator_solve(parameters, ct, function, solver, not adjoint)[0]
    if not needs[0]:
        return None, W
    at, of = (W, outs[0]) if adjoint else (outs[0], W)
    product = registry.handle_of(function).product(False, at)
    pulled = opaque_call(_joined(parameters, at, of), product.vjp.key)
    return -pulled[..., : parameters.shape[-1]], W


@operator_solve.jvp("parameters", "B")
def _(tangents, outs, parameters, function, solver, adjoint):
    moved, right = tangents
    X, *rest = outs
    if moved is not None:
        product = registry.handle_of(function).product(adjoint, X)
        point = _joined(parameters, X, moved, torch.zeros_like(X))
        dA_X = opaque_call(point, product.jvp.key).reshape(X.shape)
        right = -dA_X if right is None else right - dA_X
    dX = operator_solve(parameters, right, function, solver, adjoint)[0]
    return dX, *(torch.zeros_like(x) if x.is_floating_point() else None for x in rest)


def _joined(parameters: Tensor, X: Tensor, *others: Tensor) -> Tensor:
    """Put vectors (*batch, k) and columns (*batch, n, p) into one vector."""
    parts = (x if x.ndim == parameters.ndim else x.reshape(*x.shape[:-2], -1) for x in (X, *others))
    return torch.cat([parameters, *parts], -1)


@operator_solve.retain
def _(function, solver):
    return registry.root_of(function), registry.root_of(solver)


operator_solve.fold(parameters=1, B=2, columns="B")


# ------------------------------------------------------------------------------ for the front door


def solve_operator(A: LinearOperator, B: Tensor, solver: str) -> Solution:
    """Solve, for B (n,) or (n, p), by the solver of a key."""
    places, leaves = _form_of(A.parameters)
    if torch.compiler.is_compiling():
        return _solve(A, B, _constant_key(A.function, places, leaves), solver)
    form = registry.register_operator(Form(A.function, places, leaves))
    if is_tracing():  # the graph will hold the key, and nothing else of it
        registry.pin(form)
    return _solve(A, B, form.key, solver)


def _solve(A: LinearOperator, B: Tensor, function: str, solver: str) -> Solution:
    X = B.unsqueeze(-1) if B.ndim == 1 else B
    value, code, iterations, residual, method = operator_solve(
        _flat(A, B), X, function, solver, False
    )
    residual = residual.detach()
    nothing = torch.full_like(residual, torch.nan), torch.zeros_like(residual)
    solved = Solution(value, code, iterations, residual, *nothing, method)
    return Solution(*(x.squeeze(-1) for x in solved)) if B.ndim == 1 else solved


@constant_when_traced
def _constant_key(function: Any, places: Any, leaves: Sequence[Any]) -> str:
    """Return a key that stays valid: the compiled graph holds it, and nothing else."""
    return registry.pin(registry.register_operator(Form(function, places, leaves))).key
