"""A matrix that is known by its products alone; derived in `tsgu_func.ops.operators`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tsgu_func.ops import keys
from tsgu_func.ops.operators import Form, columns, form_of, operator_solve, varies
from tsgu_func.registration.transforms import constant_when_traced, is_tracing
from tsgu_func.solvers.protocol import Solution

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


pytree.register_pytree_node(
    LinearOperator,
    lambda A: ([A.parameters], A.function),
    lambda children, function: LinearOperator(function, children[0]),  # pyright: ignore
    serialized_type_name="tsgu_func.LinearOperator",
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


def solve_operator(A: LinearOperator, B: Tensor, solver: str) -> Solution:
    """Solve, for B (n,) or (n, p), by the solver of a key."""
    places, leaves = form_of(A.parameters)
    if torch.compiler.is_compiling():
        return _solve(A, B, _constant_key(A.function, places, leaves), solver)
    form = keys.register_operator(Form(A.function, places, leaves))
    if is_tracing():  # the graph will hold the key, and nothing else of it
        keys.pin(form)
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
    return keys.pin(keys.register_operator(Form(function, places, leaves))).key
