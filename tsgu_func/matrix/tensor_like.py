"""What a user of tensors types first: copies, conversions, sizes, pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn, Self, overload

import torch
from torch import Tensor

from tsgu_func.matrix import pictures
from tsgu_func.matrix.arguments import axis_of
from tsgu_func.matrix.base import MatrixBase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TensorLike"]

# What tensors have and a SparseMatrix has in another place.
_INSTEAD = {
    "H": "A.mH is the conjugate transpose",
    "apply": "A.map(f) applies f to the stored entries",
    "backward": "call it on a number that was computed with A; then A.values.grad is the gradient",
    "cat": "tsgu_func.vstack([A, B]) and hstack([A, B]) are what torch.cat is for tensors",
    "coalesce": "a SparseMatrix stores each entry once; its places are A.pattern.row and .col",
    "col": "A.pattern.col has the column of each value of A.values",
    "col_indices": "A.pattern.col has the column of each value of A.values",
    "crow": "A.pattern.crow says where rows start",
    "crow_indices": "A.pattern.crow says where rows start",
    "data": "A.values is the tensor of the stored entries; A.detach() is cut off the graph",
    "det": "tsgu_func.factorize(A).logabsdet is the logarithm of its absolute value",
    "grad": "the gradient of a leaf is A.values.grad, and A.with_values(A.values.grad) a matrix",
    "grad_fn": "A.values.grad_fn is what made the values",
    "indices": "A.pattern.row and A.pattern.col are the places of A.values",
    "indptr": "A.pattern.crow says where rows start",
    "inv": "the inverse is dense: tsgu_func.sparse_solve(A, B) solves with A",
    "inverse": "the inverse is dense: tsgu_func.sparse_solve(A, B) solves with A",
    "is_leaf": "A.values.is_leaf says so of the values",
    "is_symmetric": "A.allclose(A.T) compares a matrix with its transpose",
    "item": "A.values is the tensor of the stored entries, A.to_dense() the matrix",
    "kron": "tsgu_func.kron(A, B) is the Kronecker product",
    "logdet": "tsgu_func.factorize(A).logabsdet is the logarithm of |det A|",
    "numpy": "A.to_scipy() makes a SciPy array, A.to_dense().numpy() a dense one",
    "register_hook": "A.values.register_hook sees the gradient of the values",
    "retain_grad": "A.values.retain_grad() lets A.values.grad be filled",
    "row": "A.pattern.row has the row of each value of A.values",
    "slogdet": "tsgu_func.factorize(A).logabsdet is the logarithm of |det A|",
    "solve": "tsgu_func.sparse_solve(A, B) solves with A",
    "sqrt": "A.map(torch.sqrt) takes the root of each stored entry",
    "stack": "tsgu_func.stack([A, B]) makes a batch",
    "toarray": "A.to_dense().numpy() is an array",
    "tocoo": "A.to_coo() makes a torch.sparse tensor, A.to_scipy() a SciPy array",
    "tocsr": "A.to_csr() makes a torch.sparse tensor, A.to_scipy() a SciPy array",
    "todense": "A.to_dense() is a tensor",
    "tolist": "A.to_dense().tolist()",
    "view": "the pattern has two axes; A.with_values(A.values.view(...)) has another batch",
}


class TensorLike(MatrixBase):
    """What a `SparseMatrix` has in common with tensors."""

    # ------------------------------------------------------------------------------------- sizes

    @overload
    def size(self, dim: None = None) -> torch.Size: ...

    @overload
    def size(self, dim: int) -> int: ...

    def size(self, dim: int | None = None) -> torch.Size | int:
        """Return the shape, or the size of one axis."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def numel(self) -> int:
        """Return the number of entries, stored or not.  `nnz` is the number of stored ones."""
        return math.prod(self.shape)

    def is_complex(self) -> bool:
        """Whether the values are complex numbers."""
        return self.dtype.is_complex

    def is_floating_point(self) -> bool:
        """Whether the values are real numbers."""
        return self.dtype.is_floating_point

    @property
    def is_cuda(self) -> bool:
        """Whether values and indices are on a CUDA device."""
        return self.device.type == "cuda"

    # ------------------------------------------------------------------------ copies, conversions

    def clone(self) -> Self:
        """Copy the values.  The pattern, which cannot be changed, is shared."""
        return self._of(self.pattern, self.values.clone())

    def cpu(self) -> Self:
        """Move to the host."""
        return self.to("cpu")

    def cuda(self, device: torch.device | str | int | None = None) -> Self:
        """Move to a CUDA device, by default the current one."""
        if isinstance(device, int):
            device = torch.device("cuda", device)
        return self.to("cuda" if device is None else device)

    def float(self) -> Self:
        """Convert to float32."""
        return self.to(torch.float32)

    def double(self) -> Self:
        """Convert to float64."""
        return self.to(torch.float64)

    def half(self) -> Self:
        """Convert to float16."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """Convert to bfloat16."""
        return self.to(torch.bfloat16)

    def share_memory_(self) -> Self:
        """Move values and indices to memory that several processes share, as for tensors.

        If one process writes to the values, all others see it.  The indices are never written to.
        As for a tensor, no other thread may compute with the matrix or its pattern during the move.
        """
        self.values.share_memory_()
        self.pattern.share_memory_()
        return self

    def is_shared(self) -> bool:
        """Whether the values are in memory that processes share."""
        return self.values.is_shared()

    # ----------------------------------------------------------------------------- transposition

    def t(self) -> Self:
        """Return the transpose of one matrix.  For a batch, `mT` transposes each member."""
        if self.ndim > 2:
            raise ValueError(
                f"t() transposes one matrix; got a batch of shape {tuple(self.shape)}: "
                f"A.mT transposes each member"
            )
        return self.T

    def adjoint(self) -> Self:
        """Return the conjugate transpose of each member."""
        return self.mH

    def transpose(self, dim0: int = -2, dim1: int = -1) -> Self:
        """Exchange rows and columns, or two axes of the batch."""
        first, second = (axis_of(dim, self.ndim) for dim in (dim0, dim1))
        if first == second:
            return self
        in_batch = [axis < self.ndim - 2 for axis in (first, second)]
        if not any(in_batch):
            return self.T
        if not all(in_batch):
            raise ValueError(
                f"an axis of the batch and one of the matrix cannot be exchanged, because members "
                f"share a pattern; got axes {dim0} and {dim1} of shape {tuple(self.shape)}"
            )
        return self._of(self.pattern, self.values.transpose(first, second))

    # ---------------------------------------------------------------------------------- pictures

    def spy(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw where entries are stored; see `SparsityPattern.spy`."""
        return self.pattern.spy(ax, **options)

    def _repr_html_(self) -> str:
        if not isinstance(self.values, Tensor):  # inside a transform's bookkeeping
            return pictures.text(repr(self))
        facts = {
            "shape": " × ".join(map(str, self.shape)),
            "stored entries": self.nnz,
            "density": pictures.density(self.pattern),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device,
        }
        if self.requires_grad:
            facts["requires_grad"] = True
        return pictures.card(type(self).__name__, pictures.thumbnail(self.pattern), facts)

    # ---------------------------------------------------------------- what is in another place

    @property
    def _is_param(self) -> bool:
        """Whether this is a parameter: never.  ``nn.Parameter(A)`` ends by saying it is."""
        return False

    @_is_param.setter
    def _is_param(self, said: bool) -> NoReturn:
        raise TypeError(
            "nn.Parameter takes a tensor, and a module would not find what is inside of a matrix: "
            "self.A = tsgu_func.SparseParameter(A) is a module with the values for a parameter, "
            "and self.A() the matrix"
        )

    @property
    def _is_buffer(self) -> bool:
        """Whether this is a buffer: never.  ``nn.Buffer(A)`` ends by saying it is."""
        return False

    @_is_buffer.setter
    def _is_buffer(self, said: bool) -> NoReturn:
        raise TypeError(
            "nn.Buffer takes a tensor, and a module would not find what is inside of a matrix: "
            "self.A = tsgu_func.SparseParameter(A, requires_grad=False) is a module that moves and "
            "saves it, and self.A() the matrix"
        )

    if not TYPE_CHECKING:  # to a type checker, an attribute that is not there stays an error

        def __getattr__(self, name: str) -> Any:
            if name in _INSTEAD:
                kind = type(self).__name__
                raise AttributeError(f"{kind!r} object has no attribute {name!r}: {_INSTEAD[name]}")
            return object.__getattribute__(self, name)  # raises what Python raises
