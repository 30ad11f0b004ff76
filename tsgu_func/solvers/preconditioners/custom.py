"""An approximate inverse that the caller knows."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsgu_func.registration.transforms import (
    is_batched,
    levels,
    outside_transforms,
    pytree,
    unwrapped,
)
from tsgu_func.solvers.protocol import Settings, SolveError

__all__ = ["Custom"]


@dataclass(frozen=True, repr=False)
class Custom(Settings):
    """A preconditioner that is a function of your own.

    It does not look at the entries of A, so A may be a `LinearOperator`.

    Parameters
    ----------
    inverse : callable
        ``inverse(R) -> M⁻¹ R`` for the columns of R (n, p).  It has to be linear, and should come
        close to ``A⁻¹ R``.

        It may also be a `LinearOperator`.  Then only the values of its parameters are used, without
        derivatives.  So the parameters may be tensors that are being differentiated: a solution
        does not depend on its preconditioner.
    adjoint : callable, optional
        ``adjoint(R) -> M⁻ᴴ R``, for the adjoint systems that derivatives solve.  By default, the
        adjoint of a `LinearOperator`; for a function it is `inverse`, which is right if M is
        Hermitian.

    Raises
    ------
    TypeError
        If `inverse` or `adjoint` is not callable.
    ValueError
        If ``vmap`` maps over a parameter of a `LinearOperator`, or if another function uses a
        tensor that ``torch.func`` differentiates or maps over.

    Notes
    -----
    A bad preconditioner costs iterations, but no accuracy, because the residual decides.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import LinearOperator, sparse_solve
    >>> from tsgu_func.solvers import CG, Custom
    >>> d = torch.tensor([1.0, 10.0, 100.0])
    >>> A = LinearOperator(lambda d, x: d * x, d)
    >>> x, info = sparse_solve(A, torch.ones(3), solver=CG(Custom(lambda R: R / d[:, None])),
    ...                        return_info=True)
    >>> x, int(info.iterations)
    (tensor([1.0000, 0.1000, 0.0100]), 1)
    """

    inverse: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor] | None = None

    takes_operators: ClassVar[bool] = True
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("inverse", "adjoint"):
            given = getattr(self, name)
            if not (callable(given) or (given is None and name == "adjoint")):
                raise TypeError(f"{name} is a function of R (n, p); got {type(given).__name__}")
            _check_closure(given)
            # An operator is a pytree; any other function is a leaf, and left as it is.
            object.__setattr__(self, name, pytree.tree_map(_value, given))
        if self.adjoint is None and hasattr(self.inverse, "mH"):
            operator: Any = self.inverse
            object.__setattr__(self, "adjoint", operator.mH)

    def __repr__(self) -> str:
        called = getattr(self.inverse, "__qualname__", type(self.inverse).__qualname__)
        return f"Custom({called})"

    def init(self, A: Any) -> None:
        """Look at nothing: M is given."""

    def apply(
        self, state: None, R: Tensor, transpose: bool = False, conjugate: bool = False
    ) -> Tensor:
        """Return ``M⁻¹ R`` for the columns of R (n, p)."""
        adjoint = self.inverse if self.adjoint is None else self.adjoint
        function = adjoint if transpose else self.inverse
        # As for a matrix: the transpose is the conjugate of the adjoint.
        lazily = transpose != conjugate
        with torch.no_grad():
            Z = function(R.conj().resolve_conj() if lazily else R)
        if not isinstance(Z, Tensor) or Z.shape != R.shape or Z.dtype != R.dtype:
            got = f"{tuple(Z.shape)}, {Z.dtype}" if isinstance(Z, Tensor) else type(Z).__name__
            raise SolveError(
                f"{self!r} returns a tensor of shape {tuple(R.shape)} and {R.dtype} for R of that "
                f"shape; got {got}"
            )
        return Z.conj().resolve_conj() if lazily else Z


def _value(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if is_batched(x):
        raise ValueError(
            "a preconditioner is one for all that vmap maps over; got a LinearOperator with a "
            "parameter that is mapped over: make it outside"
        )
    with outside_transforms():
        return unwrapped(x).detach()


def _check_closure(function: Any) -> None:
    if any(level > 0 for x in _closed_over(function, 4) for level in levels(x)):
        raise ValueError(
            "the function of a preconditioner is closed over a tensor that is being "
            "differentiated or mapped over: pass Custom(LinearOperator(function, parameters)), "
            "which takes the values of its parameters"
        )


def _closed_over(x: Any, depth: int) -> Iterator[Tensor]:
    """Go through the tensors that a function is closed over, and those that such functions are."""
    if isinstance(x, Tensor):
        yield x
    elif depth and isinstance(x, (types.FunctionType, functools.partial)):
        held = [*getattr(x, "args", ()), getattr(x, "func", None)]
        held += (getattr(x, "keywords", None) or {}).values()
        held += getattr(x, "__defaults__", None) or ()
        held += (getattr(x, "__kwdefaults__", None) or {}).values()
        with contextlib.suppress(ValueError):  # a name that is not bound yet
            held += (cell.cell_contents for cell in getattr(x, "__closure__", None) or ())
        for item in held:
            yield from _closed_over(item, depth - 1)
