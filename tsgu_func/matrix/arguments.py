"""Checks of arguments, made before any kernel runs.

Each message says what was given, what was expected and how to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tsgu_func.matrix.assembly import as_index
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.torch_sparse import dense_axes
from tsgu_func.registration.transforms import levels

if TYPE_CHECKING:
    from tsgu_func.matrix.base import MatrixBase

_SPARSE = (torch.sparse_coo, torch.sparse_csr)
_SOLVABLE = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def is_sparse_matrix(x: Any) -> bool:
    """Say whether x is a `SparseMatrix`: that class stands above this module, and calls it."""
    return isinstance(getattr(x, "pattern", None), SparsityPattern)


def is_scipy(x: Any) -> bool:
    """Say whether x is a sparse matrix of SciPy, without importing it."""
    return type(x).__module__.startswith("scipy.sparse.")


def describe(x: Any) -> str:
    """Name what was given, and the way to a tensor or a matrix where there is one."""
    if isinstance(x, np.ndarray):
        return f"{type(x).__name__}, which torch.from_numpy converts"
    if is_scipy(x):
        return f"{type(x).__name__}, which SparseMatrix.from_scipy converts"
    if isinstance(x, Tensor):
        return f"a {str(x.layout).removeprefix('torch.')} tensor of shape {tuple(x.shape)}"
    if is_sparse_matrix(x):
        return f"a SparseMatrix of shape {tuple(x.shape)}"
    return f"{type(x).__name__}"


def unless_foreign(x: Any) -> Any:
    """Return what an operator returns for an operand that it does not know.

    Arrays of NumPy and SciPy do not know the matrix either, and their messages name no way out.
    """
    if isinstance(x, np.ndarray) or is_scipy(x):
        raise TypeError(f"what a SparseMatrix is combined with is a tensor; got {describe(x)}")
    return NotImplemented


def axis_of(dim: int, ndim: int) -> int:
    """Return an axis counted from the front."""
    if not -ndim <= dim < ndim:
        raise IndexError(f"a matrix of {ndim} axes has axes {-ndim} to {ndim - 1}; got {dim}")
    return dim % ndim


def as_entries(values: Any, **indices: Any) -> list[Tensor]:
    """Return indices as tensors, and check them and the values of a list of entries.

    The last of the indices has one for each entry.
    """
    if not isinstance(values, Tensor) or values.layout != torch.strided:
        raise TypeError(f"values is a dense tensor; got {describe(values)}")
    found = [as_index(name, index, values.device) for name, index in indices.items()]
    last = found[-1]
    if values.ndim == 0 or last.ndim != 1 or values.shape[-1] != last.shape[0]:
        raise ValueError(
            f"there is one value for each index, along the last axis of values; got indices of "
            f"shape {tuple(last.shape)} and values of shape {tuple(values.shape)}"
        )
    for name, index in zip(indices, found, strict=True):
        if index.device != values.device:
            raise ValueError(
                f"{name} and values are on one device; got {index.device} and {values.device}: "
                f"move one with .to"
            )
    return found


def check_dense(name: str, x: Any, error: type[Exception] = ValueError) -> None:
    """Check that x is a dense tensor."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        sparse = isinstance(x, Tensor) or is_sparse_matrix(x)
        cure = f": {name}.to_dense() is one" if sparse else ""
        raise error(f"{name} is a dense tensor; got {describe(x)}{cure}")


def check_sparse(name: str, x: Any, error: type[Exception] = ValueError) -> None:
    """Check that x is a torch sparse tensor of a layout that the specification takes."""
    if not isinstance(x, Tensor):
        raise error(f"{name} is a SparseMatrix or a sparse COO or CSR tensor; got {describe(x)}")
    if x.layout not in _SPARSE:
        hint = (
            "SparseMatrix.from_dense(A) makes a sparse matrix"
            if x.layout == torch.strided
            else "A.to_sparse_csr() or SparseMatrix.from_torch(A) converts it"
        )
        raise error(f"{name} is a SparseMatrix or sparse COO or CSR; got {describe(x)}; {hint}")


def check_dtypes(
    A: MatrixBase | Tensor, B: MatrixBase | Tensor, names: tuple[str, str] = ("A", "B")
) -> None:
    """Check that both are of one floating or complex dtype, up to what autocast will cast."""
    for name, x in zip(names, (A.dtype, B.dtype), strict=True):
        if x not in (torch.float16, torch.bfloat16, *_SOLVABLE):
            raise ValueError(f"{name} is floating-point or complex; got {x}: {_converted(name, x)}")
    if A.dtype == B.dtype:
        return
    casts = torch.is_autocast_enabled(A.device.type)
    narrow = all(d.is_floating_point and d != torch.float64 for d in (A.dtype, B.dtype))
    if not (casts and narrow):
        both = " and ".join(names)
        raise ValueError(
            f"{both} have one dtype; got {A.dtype} and {B.dtype}: convert one with .to"
        )


def check_whole(A: MatrixBase) -> None:
    """Check that values and pattern belong together: a function of the leaves may have parted them.

    ``tree_map`` applies one to the values alone.
    """
    if not isinstance(A.values, Tensor):
        raise TypeError(_not_values(A.values))
    if A.values.ndim == 0 or A.values.shape[-1] != A.pattern.nnz:
        raise ValueError(
            f"a matrix has one value for each of the {A.pattern.nnz} entries of its pattern, along "
            f"the last axis; got values of shape {tuple(A.values.shape)}: they were replaced"
        )
    if A.values.device != A.pattern.device:
        raise ValueError(
            f"the pattern of a matrix and its values are on one device; got {A.pattern.device} and "
            f"{A.values.device}: A.to(device) moves both, tree_map the values alone"
        )


def _not_values(values: Any) -> str:
    if not is_sparse_matrix(values):
        return f"the values of this matrix are a tensor; got {describe(values)}: they were replaced"
    return (
        "this is no matrix, but a matrix of matrices, as torch.func.hessian(f)(A) is: one for each "
        "entry of the gradient; H.values[k] is that of entry k, and H.values.values, of shape "
        "(nnz, nnz), the Hessian of lambda v: f(A.with_values(v))"
    )


def check_devices(
    A: MatrixBase | Tensor, B: MatrixBase | Tensor, names: tuple[str, str] = ("A", "B")
) -> None:
    """Check that both are on one device, and whole."""
    for x in (A, B):
        if not isinstance(x, Tensor):
            check_whole(x)
    if A.device != B.device:
        both = " and ".join(names)
        raise ValueError(f"{both} are on one device; got {A.device} and {B.device}: move one")


def check_factor(B: Any) -> None:
    """Check that a factor is no torch sparse tensor."""
    if isinstance(B, Tensor) and B.layout != torch.strided:
        raise TypeError(
            f"B is a dense tensor or a SparseMatrix; got {describe(B)}: "
            f"SparseMatrix.from_torch(B) is one"
        )


def check_matmul(A: Any, B: Any) -> None:
    """Check the factors of ``A @ B``."""
    if not is_sparse_matrix(A):
        check_torch_matmul(A, B)
        return
    check_dense("B", B)
    if B.ndim == 0:
        raise ValueError("B is a vector (m,) or a matrix (*batch, m, p); got a number")
    check_dtypes(A, B)
    check_devices(A, B)
    check_inner(A, B)
    if B.ndim > 2:
        check_batches(A, B)


def check_sparse_matmul(A: MatrixBase, B: MatrixBase) -> None:
    """Check the factors of ``A @ B`` for two sparse matrices."""
    check_dtypes(A, B)
    check_devices(A, B)
    check_inner(A, B)
    check_batches(A, B)


def check_batches(A: MatrixBase, B: MatrixBase | Tensor) -> None:
    """Check that the batches of A and B broadcast."""
    if not _broadcast(A.shape[:-2], B.shape[:-2]):
        raise ValueError(
            f"the batches of A and B broadcast; got {tuple(A.shape[:-2])} and "
            f"{tuple(B.shape[:-2])}, from A {tuple(A.shape)} and B {tuple(B.shape)}"
        )


def check_torch_matmul(A: Any, B: Any) -> None:
    """Check the factors of ``A @ B`` for a torch sparse tensor A."""
    check_sparse("A", A)
    check_dense("B", B)
    check_same_rank(A, B)
    check_dtypes(A, B)
    check_devices(A, B)
    check_inner(A, B)


def check_flags(**flags: Any) -> None:
    """Check that each is a bool: what is merely true, as 2 is, does not equal True."""
    for name, flag in flags.items():
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"{name} is True or False; got {flag!r}")


def check_triangular(A: Any, B: Any) -> None:
    """Check the matrix and the right-hand side of a triangular system."""
    if is_sparse_matrix(A):
        check_system(A, B, ValueError)
        check_dtypes(A, B)
    else:
        check_torch_matmul(A, B)
    check_square(A)
    check_rows(A, B)
    check_solvable(A, B)


def check_generic_solve(A: Any, B: Any) -> None:
    """Check what `check_solve` does; what is no tensor is a ValueError by the specification."""
    for name, x, kind in (("A", A, "a SparseMatrix or a tensor"), ("B", B, "a tensor")):
        if not (isinstance(x, Tensor) or is_sparse_matrix(x)):
            raise ValueError(f"{name} is {kind}; got {describe(x)}")
    check_solve(A, B)


def check_factorable(A: Any) -> None:
    """Check a matrix that is to be factored."""
    if not is_sparse_matrix(A):
        check_sparse("A", A, TypeError)
        if A.ndim != 2:
            raise ValueError(
                f"A is one matrix; got shape {tuple(A.shape)}: a batch is a SparseMatrix, whose "
                f"members store entries at the same places"
            )
    else:
        check_whole(A)
    check_square(A)
    if A.dtype not in _SOLVABLE:
        raise ValueError(
            f"A is float32, float64 or complex to be factored; got {A.dtype}: "
            f"{_converted('A', A.dtype)}"
        )


def check_solve(A: Any, B: Any) -> None:
    """Check the matrix and the right-hand side of ``A X = B``."""
    check_system(A, B)
    check_square(A)
    check_rows(A, B)


def null_vectors(A: Any, nullspace: Any) -> tuple[Tensor, Tensor] | None:
    """Return what A maps to zero, (n, k), and what its adjoint does; None if nothing is given."""
    if nullspace is None:
        return None
    if isinstance(A, Tensor) and A.ndim > 2:
        raise TypeError("nullspace goes with one matrix for torch tensors: take a SparseMatrix")
    if isinstance(nullspace, str):
        if nullspace != "constant":
            raise ValueError(f"nullspace is 'constant' or vectors (n, k); got {nullspace!r}")
        ones = torch.ones(A.shape[-1], 1, dtype=A.dtype, device=A.device)
        return ones, ones
    pair = nullspace if isinstance(nullspace, tuple) else (nullspace, nullspace)
    if len(pair) != 2:
        raise ValueError(f"nullspace is Z, or a pair (Z, Y); got a tuple of length {len(pair)}")
    right, left = (_null_vectors(A, x) for x in pair)
    if right.shape != left.shape:
        raise ValueError(
            f"nullspace has as many vectors for A as for its adjoint; got shapes "
            f"{tuple(right.shape)} and {tuple(left.shape)}"
        )
    return right, left


def _null_vectors(A: Any, Z: Any) -> Tensor:
    if not isinstance(Z, Tensor):
        raise TypeError(f"nullspace is 'constant' or a Tensor (n, k); got {type(Z).__name__}")
    n, columns = A.shape[-1], Z.unsqueeze(-1) if Z.ndim == 1 else Z
    if columns.ndim != 2 or columns.shape[0] != n or not 1 <= columns.shape[1] < n:
        raise ValueError(
            f"nullspace is a vector ({n},) or vectors ({n}, k), k < {n}; got shape {tuple(Z.shape)}"
        )
    if Z.dtype != A.dtype or Z.device != A.device:
        raise ValueError(
            f"nullspace and A have one dtype and device; got {Z.dtype} on {Z.device} and "
            f"{A.dtype} on {A.device}"
        )
    watched = not torch.compiler.is_compiling() and any(True for _ in levels(Z))
    if Z.requires_grad or watched:
        raise ValueError("nullspace has no derivative, and is not mapped: give it detached")
    return columns


def check_least_squares(A: Any, B: Any) -> None:
    """Check the matrix and the right-hand side of a least-squares problem."""
    check_system(A, B)
    check_dtypes(A, B)
    check_rows(A, B)


def check_tall(A: MatrixBase | Tensor) -> None:
    """Check that a matrix is not wide."""
    m, n = A.shape[-2:]
    if m < n:
        raise ValueError(
            f"A has at least as many rows as columns; got shape {tuple(A.shape)}: a wide system "
            f"has no unique least-squares solution; sparse_lstsq returns that of least norm"
        )


def check_damping(damp: Any, batch: tuple[int, ...], device: torch.device) -> None:
    """Check what multiplies the identity below A, of which there is a batch."""
    if not isinstance(damp, Tensor):
        number = isinstance(damp, (int, float)) and not isinstance(damp, bool)
        if not number or not 0 <= damp < float("inf"):
            raise ValueError(f"damp is a number, finite and not negative; got {damp!r}")
        return
    if not damp.is_floating_point():
        raise TypeError(f"damp is real and floating-point; got {damp.dtype}")
    if damp.device != device:
        raise ValueError(f"damp is on the device of A, {device}; got {damp.device}")
    if damp.ndim and not _broadcasts_to(damp.shape, batch):
        raise ValueError(
            f"damp is a number, or has one for each member of the batch of A, {tuple(batch)}; got "
            f"shape {tuple(damp.shape)}"
        )


def _broadcasts_to(shape: Sequence[int], batch: Sequence[int]) -> bool:
    return _broadcast(shape, batch) and torch.broadcast_shapes(shape, batch) == tuple(batch)


def check_system(A: Any, B: Any, error: type[Exception] = TypeError) -> None:
    """Check kinds, ranks, dtypes and devices of a matrix and a right-hand side."""
    if not is_sparse_matrix(A):
        check_sparse("A", A, error)
    else:
        check_whole(A)
    check_dense("B", B, error)
    if A.ndim < 2:
        raise ValueError(f"A is a matrix; got shape {tuple(A.shape)}")
    if B.ndim == 0:
        raise ValueError("B is a vector (n,) or a matrix (*batch, n, p); got a number")
    check_solvable(A, B)
    check_devices(A, B)
    vectors = are_vectors(A, B)
    if not is_sparse_matrix(A):
        if A.ndim > 3 or (not vectors and (A.ndim == 3 or B.ndim > 2)):
            check_same_rank(A, B)
        elif axes := dense_axes(A):
            raise ValueError(f"A has no dense axes; got {axes} in shape {tuple(A.shape)}")
    elif B.ndim > 2 and not vectors:
        check_batches(A, B)


def are_vectors(A: MatrixBase | Tensor, B: Tensor) -> bool:
    """Say whether a right-hand side is a vector, or one for each member of a batch.

    The latter is what a B of shape ``A.shape[:-1]`` is, as for ``torch.linalg.solve``.  One that
    could also be columns for all members is refused.
    """
    if B.ndim == 1:
        return True
    if A.ndim == 2 or B.shape != A.shape[:-1]:
        return False
    if B.shape[-2] == A.shape[-2] and _broadcast(A.shape[:-2], B.shape[:-2]):
        raise ValueError(
            f"B of shape {tuple(B.shape)} is ambiguous for A {tuple(A.shape)}: B.unsqueeze(-1) "
            f"says that it is a vector for each member, "
            f"B.expand({', '.join(map(str, (*A.shape[:-2], *B.shape[-2:])))}) that it is a matrix "
            f"for all of them"
        )
    return True


def _broadcast(a: Sequence[int], b: Sequence[int]) -> bool:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return all(m == n or 1 in (m, n) for m, n in pairs)


def check_solvable(A: MatrixBase | Tensor, B: Tensor) -> None:
    """Check that the dtypes are ones that systems are solved in."""
    for name, x in (("A", A.dtype), ("B", B.dtype)):
        if x not in _SOLVABLE and not torch.is_autocast_enabled(A.device.type):
            raise ValueError(
                f"{name} is float32, float64 or complex to be solved with; got {x}: "
                f"{_converted(name, x)}"
            )
    if B.dtype.is_complex and not A.dtype.is_complex:
        raise ValueError(f"B is {B.dtype} but A is {A.dtype}: convert A with .to({B.dtype})")


def _converted(name: str, dtype: torch.dtype) -> str:
    """Say how what is of a dtype that is not computed with is brought to one that is."""
    return f"{name}.to({torch.float32 if dtype.is_floating_point else torch.float64}) converts it"


def check_operator(shape: tuple[int, int] | None, B: Any) -> None:
    """Check the right-hand side of a system that is known by products, perhaps without a shape."""
    check_dense("B", B, TypeError)
    if B.ndim not in (1, 2):
        raise ValueError(
            f"B has shape (n,) or (n, p) for a LinearOperator; got {tuple(B.shape)}: map over a "
            f"batch with torch.func.vmap"
        )
    if B.dtype not in _SOLVABLE:
        raise ValueError(
            f"B is float32, float64 or complex to be solved for; got {B.dtype}: "
            f"{_converted('B', B.dtype)}"
        )
    if shape is not None and B.shape[0] != shape[0]:
        raise ValueError(f"A and B have as many rows; got A {shape} and B {tuple(B.shape)}")


def check_square(A: MatrixBase | Tensor) -> None:
    """Check that A is square."""
    if A.shape[-2] != A.shape[-1]:
        raise ValueError(f"A is square; got shape {tuple(A.shape)}")


def check_inner(A: MatrixBase | Tensor, B: MatrixBase | Tensor) -> None:
    """Check that A has as many columns as B has rows, as in ``torch.matmul``."""
    if B.shape[0 if B.ndim == 1 else -2] != A.shape[-1]:
        batch = B.ndim > 1 and B.shape == (*A.shape[:-2], A.shape[-1])
        hint = ": a vector for each member is B.unsqueeze(-1)" if batch else ""
        raise ValueError(
            f"A has as many columns as B has rows; got A {tuple(A.shape)} and B {tuple(B.shape)}"
            + hint
        )


def check_rows(A: MatrixBase | Tensor, B: Tensor) -> None:
    """Check that a matrix and a right-hand side have as many rows."""
    if B.shape[-1 if are_vectors(A, B) else -2] != A.shape[-2]:
        batch = A.ndim > 2 and B.ndim == A.ndim - 1
        hint = f": vectors for all members have shape {tuple(A.shape[:-1])}" if batch else ""
        raise ValueError(
            f"A and B have as many rows; got A {tuple(A.shape)} and B {tuple(B.shape)}" + hint
        )


def check_same_rank(A: Tensor, B: Tensor) -> None:
    """Check that torch sparse A and dense B are both matrices, or batches of one size."""
    if A.ndim not in (2, 3) or A.ndim != B.ndim:
        raise ValueError(
            f"A and B are both matrices or both batches of matrices (three axes); got A "
            f"{tuple(A.shape)} and B {tuple(B.shape)}"
            + (": a vector is B.unsqueeze(-1)" if B.ndim == A.ndim - 1 else "")
        )
    if axes := dense_axes(A):
        raise ValueError(f"A has no dense axes; got {axes} in shape {tuple(A.shape)}")
    if A.ndim == 3 and A.shape[0] != B.shape[0]:
        raise ValueError(f"A and B have one batch size; got {A.shape[0]} and {B.shape[0]}")
