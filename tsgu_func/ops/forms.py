"""A matrix that is known by its products, as the ops see it: a function without its parameters.

The parameters θ, a pytree, are handed to an op as one vector, so that one op serves them all and
`vmap` finds them.  What the op names by a key is a `Form`: the function, and how the vector holds
the parameters.

Products with ``Aᴴ`` are the vjp of the function with respect to x, which is linear, so anywhere;
or a function of their own, if one was given.  The rules of the ops need these products and their
derivatives, and call them as ops too: `applied`, `pushed` and `pulled`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.matrix_free import MatrixFree
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.ops import keys
from tsgu_func.ops.callback import Callback, callback
from tsgu_func.registration.transforms import is_batched, pytree, unwrapped

__all__ = [
    "CURE",
    "Form",
    "Packed",
    "adjoint_product",
    "applied",
    "columns",
    "form_of",
    "pulled",
    "pushed",
    "varies",
]

CURE = (
    "uses a tensor that is being differentiated or mapped over, and that is not among its "
    "parameters, where no derivative would be seen: pass it in `parameters`"
)


def columns(function: Any, parameters: Any, X: Tensor) -> Tensor:
    """Apply a function of parameters and a vector to the columns of X (n, p)."""
    # Of a product that does not depend on x, vmap knows where to put the columns only in front.
    return torch.func.vmap(lambda x: function(parameters, x), -1)(X).movedim(0, -1)


def adjoint_product(multiply: Callable[[Tensor], Tensor], Y: Tensor, size: int) -> Tensor:
    """Return ``Aᴴ Y``, for a linear function of X with `size` rows, that has the rows of Y."""
    return _vjp_at_zero(multiply, Y, Y.new_zeros(size, *Y.shape[1:]))(Y)[0]


def _vjp_at_zero(multiply: Callable[[Tensor], Tensor], Y: Tensor, zero: Tensor) -> Any:
    pair: Any = torch.func.vjp(multiply, zero)
    product, pull = pair
    if product.shape != Y.shape:
        raise ValueError(
            f"the product with A has shape {tuple(product.shape)} for an argument of shape "
            f"{tuple(zero.shape)}; {tuple(Y.shape)} is expected: a matrix that is not square needs "
            f"shape=(n, m)"
        )
    return pull


# ------------------------------------------------------------------------------- the parameters


class _Leaf(NamedTuple):
    """A tensor among the parameters."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Packed(NamedTuple):
    """How a vector holds the parameters of an operator: their tree, and what each leaf is."""

    tree: Any
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, tree: Any, kinds: Sequence[Any]) -> Packed:
        """Return how what `form_of` describes is held."""
        return cls(tree, tuple(_Leaf(*kind) if len(kind) == 2 else kind[0] for kind in kinds))

    @property
    def sizes(self) -> list[int]:
        """Entries of each tensor."""
        return [math.prod(leaf.shape) for leaf in self.leaves if isinstance(leaf, _Leaf)]

    @property
    def dtype(self) -> torch.dtype:
        """To which the tensors are promoted."""
        dtypes = [leaf.dtype for leaf in self.leaves if isinstance(leaf, _Leaf)]
        return functools.reduce(torch.promote_types, dtypes)

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


def form_of(parameters: Any) -> tuple[Any, tuple[tuple[Any, ...], ...]]:
    """Return the tree of some parameters, and what each leaf is: a shape and a dtype, or itself."""
    leaves, tree = pytree.tree_flatten(parameters)
    kinds = ((tuple(x.shape), x.dtype) if varies(x) else (_constant(x),) for x in leaves)
    return tree, tuple(kinds)


def varies(x: Any) -> bool:
    """Say whether a parameter is one to differentiate with respect to."""
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _constant(x: Any) -> Any:
    if not isinstance(x, Tensor) or torch.compiler.is_compiling():
        return x
    if is_batched(x):
        raise ValueError(
            f"a parameter is {x.dtype}, so a constant, and cannot be mapped over: make it "
            f"floating-point, or solve with one after the other"
        )
    return unwrapped(x)


# ------------------------------------------------------------------------------------- the form


class Products(NamedTuple):
    """The functions of an operator.

    Attributes
    ----------
    function : callable
        ``function(parameters, x) -> A x``.
    adjoint : callable, optional
        ``adjoint(parameters, y) -> Aᴴ y``.
    shape : (int, int), optional
        None for a square matrix, of whatever size it is applied to.
    """

    function: Callable[[Any, Tensor], Tensor]
    adjoint: Callable[[Any, Tensor], Tensor] | None = None
    shape: tuple[int, int] | None = None

    def forward(self, layout: Packed, flat: Tensor, X: Tensor) -> Tensor:
        """Return A X for the columns of X."""
        return columns(self.function, layout.parameters(flat), X)

    def backward(self, layout: Packed, flat: Tensor, Y: Tensor) -> Tensor:
        """Return Aᴴ Y for the columns of Y."""
        if self.adjoint is not None:
            return columns(self.adjoint, layout.parameters(flat), Y)
        size = Y.shape[0] if self.shape is None else self.shape[1]
        return adjoint_product(partial(self.forward, layout, flat), Y, size)

    def rows(self, n: int, adjoint: bool) -> int:
        """Return how many rows a product with n rows has."""
        return n if self.shape is None else self.shape[adjoint]


class Form:
    """The functions of an operator, and the layout of its parameters without their values.

    Parameters
    ----------
    products : Products
    recorded : bool
        Whether autograd records: a function that uses another tensor which requires a gradient is
        refused then.
    tree, kinds
        As `form_of` returns them.
    """

    def __init__(self, products: Products, recorded: bool, tree: Any, kinds: Sequence[Any]) -> None:
        self.key = keys.new_name(keys.name_of(products.function))
        self.products, self.recorded = products, recorded
        self.layout = Packed.of(tree, kinds)
        self._callbacks: dict[Any, Callback] = {}
        keys.register(self)

    def product(self, adjoint: bool, batched: bool) -> Callable[[Tensor, Tensor], Tensor]:
        """Return ``(flat, X) -> A X``, or Aᴴ X, as a kernel may call it."""
        # Closed over its parts, and not over this: a cycle would outlive its use.
        products, layout, recorded = self.products, self.layout, self.recorded
        if adjoint and products.adjoint is None:
            return _derived(products, layout, batched)
        function = partial(products.backward if adjoint else products.forward, layout)
        function = torch.func.vmap(function) if batched else function

        def product(flat: Tensor, X: Tensor) -> Tensor:
            Y = function(flat, X)
            if Y.requires_grad and recorded:
                raise ValueError(f"{keys.name_of(products.function)} {CURE}")
            return Y.detach()

        return product

    def callback(self, adjoint: bool, X: Tensor) -> Callback:
        """Return a product as a function of the parameters and the columns of X in one vector."""
        n, p = (int(size) for size in X.shape[-2:])
        if (adjoint, n, p) not in self._callbacks:
            products, layout = self.products, self.layout
            multiply, k = products.backward if adjoint else products.forward, sum(layout.sizes)

            def of_both(both: Tensor) -> Tensor:
                return multiply(layout, both[:k], both[k:].reshape(n, p)).reshape(-1)

            returned = products.rows(n, adjoint) * p
            self._callbacks[adjoint, n, p] = Callback(of_both, k + n * p, returned)
        return self._callbacks[adjoint, n, p]

    def matrix(self, parameters: Tensor, B: Tensor) -> StoredMatrix | MatrixFree:
        """Return what a solver is handed, for B with its rows; call it outside transforms.

        An adjoint that was given is tried on a pair of vectors.
        """
        shape = self.products.shape or (B.shape[-2], B.shape[-2])
        forward, adjoint = (self.product(which, parameters.ndim == 2) for which in (False, True))
        A = MatrixFree(self, parameters, forward, adjoint, shape, B.dtype)
        if self.products.adjoint is not None:
            _check_adjoint(A)
        return A


def _derived(
    products: Products, layout: Packed, batched: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ``(flat, Y) -> Aᴴ Y``, which multiplies with A once, for all that follow."""
    last: list[Any] = [None, None, None]

    def pull(flat: Tensor, Y: Tensor) -> Any:
        forward = partial(products.forward, layout)
        forward = torch.func.vmap(forward) if batched else forward
        size = Y.shape[-2] if products.shape is None else products.shape[1]
        zero = Y.new_zeros(*Y.shape[:-2], size, Y.shape[-1])
        return _vjp_at_zero(partial(forward, flat), Y, zero)

    def product(flat: Tensor, Y: Tensor) -> Tensor:
        with torch.no_grad():
            if last[0] is not flat or last[1] != Y.shape:
                last[:] = flat, Y.shape, pull(flat, Y)
            return last[2](Y)[0].detach()

    return product


def _check_adjoint(A: MatrixFree) -> None:
    """Raise if <y, A x> is not <Aᴴ y, x>."""
    kind = {"dtype": A.dtype.to_real(), "device": A.values.device}
    sizes = (torch.arange(1, 1 + size, **kind) for size in A.shape)
    rows, cols = (x.unsqueeze(-1).to(A.dtype) for x in sizes)
    batch = A.values.shape[:-1]
    x, y = cols.cos().expand(*batch, -1, -1), rows.sin().expand(*batch, -1, -1)
    Ax, Ahy = A @ x, A.mH @ y
    if Ax.shape != y.shape or Ahy.shape != x.shape:
        raise ValueError(
            f"A of shape {A.shape} maps vectors ({A.shape[1]},) to ({A.shape[0]},), and its "
            f"adjoint back; got {(Ax.shape[-2],)} and {(Ahy.shape[-2],)}"
        )
    left, right = (y.conj() * Ax).sum(-2), (Ahy.conj() * x).sum(-2)
    size = (y.abs() * Ax.abs()).sum(-2) + (Ahy.abs() * x.abs()).sum(-2)
    if bool(((left - right).abs() > torch.finfo(A.dtype).eps ** 0.5 * size).any()):
        raise ValueError(
            "adjoint(parameters, y) is the product with the conjugate transpose of A; but for some "
            "x and y, <y, A x> and <adjoint y, x> differ: leave it out to have it derived"
        )


# ---------------------------------------------------------------------------------- for the rules


def applied(key: str, adjoint: bool, parameters: Tensor, X: Tensor) -> Tensor:
    """Return A X, or Aᴴ X."""
    form: Form = keys.named(key)
    product = callback(_joined(parameters, X), form.callback(adjoint, X).key)
    return _as_columns(form, adjoint, product, X)


def pushed(key: str, adjoint: bool, parameters: Tensor, moved: Tensor, X: Tensor) -> Tensor:
    """Return dA X, or dAᴴ X, where the parameters move."""
    form: Form = keys.named(key)
    point = _joined(parameters, X, moved, torch.zeros_like(X))
    return _as_columns(form, adjoint, callback(point, form.callback(adjoint, X).jvp.key), X)


def pulled(key: str, parameters: Tensor, at: Tensor, of: Tensor) -> Tensor:
    """Return the cotangent of the parameters that <of, dA at> stands for."""
    product = keys.named(key).callback(False, at)
    return callback(_joined(parameters, at, of), product.vjp.key)[..., : parameters.shape[-1]]


def _as_columns(form: Form, adjoint: bool, product: Tensor, X: Tensor) -> Tensor:
    n, p = X.shape[-2:]
    return product.reshape(*product.shape[:-1], form.products.rows(n, adjoint), p)


def _as_row(x: Tensor) -> Tensor:
    # Not by `flatten`, for which the vmap of ``is_grads_batched`` has no rule, nor by a size of -1,
    # which is ambiguous where there is nothing.
    *batch, rows, columns = x.shape
    return x.reshape(*batch, rows * columns)


def _joined(parameters: Tensor, X: Tensor, *others: Tensor) -> Tensor:
    """Put vectors (*batch, k) and columns (*batch, n, p) into one vector."""
    parts = (x if x.ndim == parameters.ndim else _as_row(x) for x in (X, *others))
    return torch.cat([parameters, *parts], -1)
