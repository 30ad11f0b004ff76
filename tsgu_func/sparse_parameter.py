"""A sparse matrix in a module: the values are a parameter, the pattern moves along."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix

__all__ = ["SparseParameter"]


class SparseParameter(torch.nn.Module):
    """A sparse matrix whose values are trained, as a module inside of another.

    A module finds parameters among tensors and modules; what is inside of a `SparseMatrix` that is
    a plain attribute, it does not find: that is neither trained, nor moved, nor saved.

    Parameters
    ----------
    A : SparseMatrix
        Where entries are stored, and their first values, which are copied.
    requires_grad : bool
        Whether the values are trained.  If not, they are still moved, converted and saved.

    Attributes
    ----------
    values : torch.nn.Parameter, shape ``(*batch, nnz)``
        In the order of the pattern.
    pattern : SparsityPattern
        It follows the values to their device, but for the meta device.

    Notes
    -----
    Calling the module returns the matrix.  ``state_dict`` has the values and, as extra state, the
    pattern: values of another pattern are not loaded.

    ``torch.func.functional_call`` replaces the values and no pattern: what is stacked by
    ``torch.func.stack_module_state`` must have one.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, SparseParameter
    >>> class Layer(torch.nn.Module):
    ...     def __init__(self, A):
    ...         super().__init__()
    ...         self.A = SparseParameter(A)
    ...
    ...     def forward(self, x):
    ...         return self.A().matmul(x)  # as A @ x, also when compiled
    >>> layer = Layer(SparseMatrix.eye(2))
    >>> layer(torch.ones(2)).sum().backward()
    >>> layer.A.values.grad
    tensor([1., 1.])
    >>> layer.double().A()
    SparseMatrix(shape=(2, 2), nnz=2, dtype=torch.float64, device='cpu', requires_grad=True)
    """

    pattern: SparsityPattern
    values: torch.nn.Parameter

    def __init__(self, A: SparseMatrix, requires_grad: bool = True) -> None:
        super().__init__()
        if not isinstance(A, SparseMatrix):
            raise TypeError(f"A is a SparseMatrix; got {describe(A)}")
        self.pattern = A.pattern
        self.values = torch.nn.Parameter(A.values.detach().clone(), requires_grad)

    def forward(self) -> SparseMatrix:
        """Return the matrix."""
        return SparseMatrix(self.pattern.to(self.values.device), self.values)

    if TYPE_CHECKING:

        def __call__(self) -> SparseMatrix:
            """Return the matrix."""
            ...

    def extra_repr(self) -> str:
        """Say what the matrix is like."""
        A = self()
        return f"shape={tuple(A.shape)}, nnz={A.nnz}, dtype={A.dtype}, device='{A.device}'"

    def get_extra_state(self) -> SparsityPattern:
        """Return what is saved besides the values."""
        return self.pattern

    def set_extra_state(self, state: SparsityPattern) -> None:
        """Take the pattern that was saved, which has been compared, to where the values are."""
        self.pattern = state if self.values.is_meta else state.to(self.values.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `to`, `cuda`, `double` and their like call.
        super()._apply(fn, recurse)
        if not self.values.is_meta:  # where a pattern would be forgotten
            self.pattern = self.pattern.to(self.values.device)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kw: Any) -> None:
        # What `load_state_dict` calls for each module; the pattern is looked at before any value.
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None and self.pattern.device.type != "meta":
            saved = saved.to(self.pattern.device)
            if saved != self.pattern:
                raise ValueError(
                    f"the values were saved for another pattern: {saved}, and this module has "
                    f"{self.pattern}; SparseParameter(SparseMatrix(saved_pattern, saved_values)) "
                    f"has the one that was saved"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kw)
