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
    """A small module whose parameter is the values of a sparse matrix.

    Put it into your own module to train the matrix.  A `SparseMatrix` that is a plain attribute of
    a module would not be trained, nor moved, nor saved, because a module looks for its parameters
    only among its tensors and its modules.

    Parameters
    ----------
    A : SparseMatrix
        The matrix to start from.  Its values are copied.
    requires_grad : bool
        Whether the values are trained.  If not, they are still moved, converted and saved.

    Attributes
    ----------
    values : torch.nn.Parameter, shape ``(*batch, nnz)``
        The values, in the order of the pattern.
    pattern : SparsityPattern
        Where entries are stored.  When the values are moved to another device, the pattern goes
        along, except to the meta device.

    Notes
    -----
    Call the module to get the matrix.

    ``state_dict`` contains the values and, as extra state, the pattern.  Values that were saved
    with another pattern are not loaded.

    ``torch.func.functional_call`` replaces only the values.  So modules that are stacked with
    ``torch.func.stack_module_state`` must have the same pattern.

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
