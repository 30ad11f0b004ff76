"""A matrix that is known by its products alone; derived in `tsgu_func.ops.operators`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsgu_func.matrix.pytree import register
from tsgu_func.ops import keys
from tsgu_func.ops.operators import Form, columns, form_of, operator_solve, varies
from tsgu_func.registration.transforms import pytree

__all__ = ["LinearOperator", "solve_operator"]


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
        return columns(self.function, self.parameters, x) if x.ndim > 1 else self(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply with a vector."""
        return self.function(self.parameters, x)

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"LinearOperator({name}, {self.parameters!r})"


register(
    LinearOperator,
    "parameters",
    "function",
    lambda parameters, function: LinearOperator(function, parameters),
    "tsgu_func.LinearOperator",
)


def _flat(A: LinearOperator, B: Tensor) -> Tensor:
    """Return all parameters in one vector, of B's dtype."""
    leaves = [x for x in pytree.tree_leaves(A.parameters) if varies(x)]
    for x in leaves:
        if torch.promote_types(x.dtype, B.dtype) != B.dtype or x.device != B.device:
            raise ValueError(
                f"parameters are on the device of B and fit into its dtype; got {x.dtype} on "
                f"{x.device} for B {B.dtype} on {B.device}: convert B, or the parameters"
            )
    return torch.cat([B.new_zeros(0), *(x.to(B.dtype).flatten() for x in leaves)])


def solve_operator(A: LinearOperator, B: Tensor, solver: str) -> tuple[Tensor, Tensor]:
    """Solve by the solver of a key, for B (n,) or (n, p); return what the op does."""
    key, _held = keys.key_of(Form, A.function, *form_of(A.parameters))
    X = B.unsqueeze(-1) if B.ndim == 1 else B
    value, report = operator_solve(_flat(A, B), X, key, solver, False)
    return (value.squeeze(-1), report.squeeze(-1)) if B.ndim == 1 else (value, report)
