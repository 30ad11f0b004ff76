"""The MKL that is built into PyTorch, for what PyTorch's own operations do not reach.

``torch.bmm`` hands MKL a batch of products of one size.  MKL also takes them of any sizes, in one
call, and shares them out to the threads that it works in.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Operands", "library", "multiplies", "multiply"]

_KINDS = {
    torch.float32: ("cblas_sgemm_batch", np.float32),
    torch.float64: ("cblas_dgemm_batch", np.float64),
    torch.complex64: ("cblas_cgemm_batch", np.complex64),
    torch.complex128: ("cblas_zgemm_batch", np.complex128),
}
# As its header numbers them.
_ROW_MAJOR, _AS_STORED, _TRANSPOSED = 101, 111, 112
_MOST = 2**31 - 1  # sizes and strides are int32


@functools.cache
def library() -> Any:
    """Return the library of PyTorch that holds MKL, or None."""
    if _takes_long_integers():
        return None
    try:
        found = ctypes.CDLL("libtorch_cpu.so", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        found.MKL_Set_Num_Threads_Local.argtypes = [ctypes.c_int]
        for name, _ in _KINDS.values():
            arrays = [ctypes.c_void_p] * 12
            getattr(found, name).argtypes = [ctypes.c_int, *arrays, ctypes.c_void_p,
                                             ctypes.c_int, ctypes.c_void_p]  # fmt: skip
            getattr(found, name).restype = None
    except (OSError, AttributeError):  # not loaded, no such system, or built without it
        return None
    return found


def _takes_long_integers() -> bool:
    """Whether MKL reads sizes as int64: its functions have the same names then."""
    layer = os.environ.get("MKL_INTERFACE_LAYER", "")
    return "ILP64" in layer.upper() or "MKL_ILP64" in torch.__config__.show()


class Operands(NamedTuple):
    """Matrices in the memory of one tensor: rows, or columns, are stored one after the other.

    Attributes
    ----------
    tensor : Tensor
        Whose memory it is.
    addresses : array of int64
        Where each begins.
    leading : int
        From one row to the next, or from one column to the next.
    by_columns : bool
    """

    tensor: Tensor
    addresses: np.ndarray
    leading: int
    by_columns: bool

    @property
    def T(self) -> Operands:
        """The transposes, in the same memory."""
        return self._replace(by_columns=not self.by_columns)

    @classmethod
    def rows_of(cls, x: Tensor, first: np.ndarray) -> Operands:
        """Return those that begin with some rows of a matrix."""
        x, leading, by_columns = _readable(x)
        step = x.element_size() * (1 if by_columns else leading)
        return cls(x, x.data_ptr() + first * step, leading, by_columns)

    @classmethod
    def members_of(cls, x: Tensor, which: np.ndarray) -> Operands:
        """Return some members of a batch of matrices."""
        x, leading, by_columns = _readable(x)
        step = x.element_size() * x.stride(0)
        return cls(x, x.data_ptr() + which * step, leading, by_columns)


def _readable(x: Tensor) -> tuple[Tensor, int, bool]:
    """Return matrices that MKL can read, or a copy of them, and how they are stored."""
    rows, cols = x.shape[-2:]
    down, right = x.stride()[-2:]
    if right == 1 and down >= max(1, cols):
        return x, down, False
    if down == 1 and right >= max(1, rows):
        return x, right, True
    return x.contiguous(), max(1, cols), False


def multiplies(*factors: Tensor) -> bool:
    """Whether MKL is there, and takes such matrices."""
    return library() is not None and all(
        x.device.type == "cpu" and x.dtype in _KINDS and max(*x.shape, *x.stride()[-2:]) <= _MOST
        for x in factors
    )


def multiply(sizes: tuple[Any, Any, Any], left: Operands, right: Operands, out: Operands) -> None:
    """Multiply pairs of matrices, (m, k) with (k, n), into others.

    Parameters
    ----------
    sizes : tuple
        m, k and n: an int, or an array with one for each pair.
    left, right, out : Operands
        As many of each; none of `out` overlaps with another one.  Those are stored by rows.
    """
    name, dtype = _KINDS[out.tensor.dtype]
    count = len(out.addresses)
    codes = (_TRANSPOSED if x.by_columns else _AS_STORED for x in (left, right))
    # Each pair is a group of its own, of size 1: those of a group have one size.
    integers, scalars = np.empty((9, count), np.int32), np.empty((2, count), dtype)
    given = (*codes, *sizes, left.leading, right.leading, out.leading, 1)
    for row, value in zip((*integers, *scalars), (*given, 1, 0), strict=True):
        row[:] = value
    ta, tb, m, k, n, lda, ldb, ldc, size = _addresses_of_rows(integers)
    alpha, beta = _addresses_of_rows(scalars)
    a, b, c = (x.addresses.ctypes.data for x in (left, right, out))
    getattr(library(), name)(
        _ROW_MAJOR, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, count, size
    )


def _addresses_of_rows(x: np.ndarray) -> range:
    start, step = x.ctypes.data, x.strides[0]
    return range(start, start + step * len(x), step)
