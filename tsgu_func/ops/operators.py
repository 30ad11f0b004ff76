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

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.checks import check_computable, check_finite
from tsgu_func.ops import keys
from tsgu_func.ops.callback import Callback, callback
from tsgu_func.ops.handles import handle_of, root_of
from tsgu_func.ops.reporting import OUTPUTS, beside, empty, packed
from tsgu_func.registration.primitive import Primitive
from tsgu_func.registration.transforms import outside_transforms, pytree
from tsgu_func.solvers.matrix_free import MatrixFree

__all__ = ["Form", "columns", "form_of", "operator_solve", "varies"]


def columns(function: Any, parameters: Any, X: Tensor) -> Tensor:
    """Apply a function of parameters and a vector to the columns of X (n, p)."""
    return torch.func.vmap(lambda x: function(parameters, x), -1, -1)(X)


# ------------------------------------------------------------------------------- the parameters


class _Leaf(NamedTuple):
    """A tensor among the parameters."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class _Layout(NamedTuple):
    """How a vector holds the parameters of an operator: their tree, and what each leaf is."""

    tree: Any
    leaves: tuple[Any, ...]

    @property
    def sizes(self) -> list[int]:
        """Entries of each tensor."""
        return [math.prod(leaf.shape) for leaf in self.leaves if isinstance(leaf, _Leaf)]

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


class Form:
    """A function and the layout of its parameters, without their values.

    Parameters
    ----------
    function : callable
        ``function(parameters, x) -> A x``.
    tree, kinds
        As `form_of` returns them.
    """

    def __init__(self, function: Any, tree: Any, kinds: Sequence[Any]) -> None:
        self.key = keys.new_name(keys.name_of(function))
        leaves = tuple(_Leaf(*kind) if len(kind) == 2 else kind[0] for kind in kinds)
        self.function, self._layout = function, _Layout(tree, leaves)
        self._products: dict[Any, Callback] = {}
        keys.register(self)

    def forward(self, flat: Tensor, X: Tensor) -> Tensor:
        """Return A X for the columns of X."""
        return _forward(self.function, self._layout, flat, X)

    def adjoint(self, flat: Tensor, X: Tensor) -> Tensor:
        """Return Aᴴ X for the columns of X."""
        return _adjoint(self.function, self._layout, flat, X)

    def product(self, adjoint: bool, X: Tensor) -> Callback:
        """Return a product as a function of the parameters and the columns of X in one vector."""
        n, p = (int(size) for size in X.shape[-2:])
        if (adjoint, n, p) not in self._products:
            # Closed over its parts, and not over this: a cycle would outlive its use.
            multiply, function, layout = (
                _adjoint if adjoint else _forward,
                self.function,
                self._layout,
            )
            k = sum(layout.sizes)

            def of_both(both: Tensor) -> Tensor:
                columns = both[k:].reshape(n, p)
                return multiply(function, layout, both[:k], columns).reshape(-1)

            self._products[adjoint, n, p] = Callback(of_both, k + n * p, n * p)
        return self._products[adjoint, n, p]


def _forward(function: Any, layout: _Layout, flat: Tensor, X: Tensor) -> Tensor:
    return columns(function, layout.parameters(flat), X)


def _adjoint(function: Any, layout: _Layout, flat: Tensor, X: Tensor) -> Tensor:
    zero = torch.zeros_like(X)
    return torch.func.vjp(lambda Y: _forward(function, layout, flat, Y), zero)[1](X)[0]


def form_of(parameters: Any) -> tuple[Any, tuple[tuple[Any, ...], ...]]:
    """Return the tree of some parameters, and what each leaf is: a shape and a dtype, or itself."""
    leaves, tree = pytree.tree_flatten(parameters)
    kinds = ((tuple(x.shape), x.dtype) if varies(x) else (x,) for x in leaves)
    return tree, tuple(kinds)


def varies(x: Any) -> bool:
    """Say whether a parameter is one to differentiate with respect to."""
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


# ------------------------------------------------------------------------------- operator_solve

operator_solve = Primitive(
    "tsgu_func::operator_solve(Tensor parameters, Tensor B, str function, str solver,"
    f" bool adjoint) -> {OUTPUTS}",
    groups={"by": ("function", "solver")},
)


@operator_solve.kernel
def _(parameters, B, function, solver, adjoint):
    check_computable(B)
    check_finite("a parameter of A", parameters)
    check_finite("B", B)
    with outside_transforms():
        A = _matrix(keys.named(function), parameters, B)
        A = A.T.conj() if adjoint else A
        return packed(handle_of(solver).solve(A, B, condition=False))


def _matrix(form: Form, parameters: Tensor, B: Tensor) -> MatrixFree:
    forward, adjoint = form.forward, form.adjoint
    if parameters.ndim == 2:
        forward, adjoint = torch.func.vmap(forward), torch.func.vmap(adjoint)
    return MatrixFree(form, parameters, forward, adjoint, B.shape[-2], B.dtype)


@operator_solve.fake
def _(parameters, B, by, adjoint):
    return empty(torch.empty_like(B, memory_format=torch.contiguous_format), B)


@operator_solve.vjp("parameters", "B")
def _(needs, ct, outs, parameters, by, adjoint):
    if ct is None:
        return None, None
    W, _ = operator_solve(parameters, ct, *by, not adjoint)
    if not needs[0]:
        return None, W
    at, of = (W, outs[0]) if adjoint else (outs[0], W)
    product = keys.named(by[0]).product(False, at)
    pulled = callback(_joined(parameters, at, of), product.vjp.key)
    return -pulled[..., : parameters.shape[-1]], W


@operator_solve.jvp("parameters", "B")
def _(tangents, outs, parameters, by, adjoint):
    moved, right = tangents
    X, report = outs
    if moved is not None:
        product = keys.named(by[0]).product(adjoint, X)
        point = _joined(parameters, X, moved, torch.zeros_like(X))
        dA_X = callback(point, product.jvp.key).reshape(X.shape)
        right = -dA_X if right is None else right - dA_X
    dX, _ = operator_solve(parameters, right, *by, adjoint)
    return beside(dX, report)


def _joined(parameters: Tensor, X: Tensor, *others: Tensor) -> Tensor:
    """Put vectors (*batch, k) and columns (*batch, n, p) into one vector."""
    parts = (x if x.ndim == parameters.ndim else x.reshape(*x.shape[:-2], -1) for x in (X, *others))
    return torch.cat([parameters, *parts], -1)


@operator_solve.retain
def _(by):
    return keys.named(by[0]), root_of(by[1])


operator_solve.fold(parameters=1, B=2, columns="B")
