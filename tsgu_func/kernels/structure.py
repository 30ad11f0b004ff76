"""The index structure of a stored matrix, and what kernels derive from it.

An op is handed plain index tensors.  Its kernel finds the `Structure` that belongs to them, so that
the transpose, the row indices and whatever else is needed are derived once per pattern, at the
first kernel call that asks for them, and never inside a traced region.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Structure",
    "Transpose",
    "index_dtype",
    "register",
    "rows_of",
    "structure_of",
    "unsigned",
]

T = TypeVar("T")
_FITS_INT32 = 2**31 - 1


class Transpose(NamedTuple):
    """Compressed rows of the transpose; its values are ``values[..., order]``."""

    structure: Structure
    order: Tensor


class Structure:
    """Compressed row indices of a stored matrix: sorted, without duplicates, never modified.

    Parameters
    ----------
    crow : Tensor, shape (rows + 1,)
        Where each row starts in `col`.
    col : Tensor, shape (nnz,)
        Column of each entry, increasing within a row; dtype and device of `crow`.
    cols : int
        Number of columns.
    """

    def __init__(self, crow: Tensor, col: Tensor, cols: int) -> None:
        self.crow, self.col = crow, col
        self.rows, self.cols = crow.shape[0] - 1, cols
        self._lock = threading.RLock()
        self._derived: dict[Any, Any] = {}

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.col.shape[0]

    def derive(self, key: Any, make: Callable[[Structure], T]) -> T:
        """Return ``make(self)``, computed at the first call with `key` and kept."""
        # A dict is safe to read while another thread writes; the lock keeps the work single.
        try:
            return self._derived[key]
        except KeyError:
            pass
        # What is kept must be of use outside of an inference mode that happens to be on.
        with self._lock, torch.inference_mode(False):
            if key not in self._derived:
                self._derived[key] = make(self)
            return self._derived[key]

    @property
    def row(self) -> Tensor:
        """Row of each entry."""
        return self.derive("row", rows_of)

    @property
    def transpose(self) -> Transpose:
        """Compressed rows of the transpose.  O(nnz) time on the CPU, O(nnz log nnz) elsewhere."""
        return self.derive("transpose", _transpose)

    def oriented(self, transpose: bool) -> tuple[Structure, Tensor | None]:
        """Return this structure, or its transpose with the order of the values."""
        return self.transpose if transpose else (self, None)


def rows_of(s: Structure) -> Tensor:
    """Expand where rows start to the row of each entry."""
    index = torch.arange(s.rows, dtype=s.crow.dtype, device=s.crow.device)
    return torch.repeat_interleave(index, s.crow.diff(), output_size=s.nnz)


def _transpose(s: Structure) -> Transpose:
    if s.col.device.type == "cpu":
        crow, col, order = _transpose_cpu(s)
    else:
        order = torch.argsort(s.col, stable=True)
        counts = torch.bincount(s.col, minlength=s.cols)
        crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(s.crow.dtype)
        col = s.row[order]
    return Transpose(Structure(crow, col, s.rows), order)


def _transpose_cpu(s: Structure) -> tuple[Tensor, ...]:
    """Transpose by counting sort: SciPy's conversion carries the entries' positions along."""
    from scipy.sparse import csr_array

    position = torch.arange(s.nnz, dtype=s.col.dtype).numpy()
    csr = csr_array((position, s.col.numpy(), s.crow.numpy()), shape=(s.rows, s.cols))
    csc = csr.tocsc()
    parts = (torch.from_numpy(part) for part in (csc.indptr, csc.indices, csc.data))
    return tuple(part.to(s.crow.dtype) for part in parts)


# ------------------------------------------------------------------- from tensors to structures

# Structures of living patterns.  A pattern owns its structure, a structure owns its index tensors,
# so an address that is found here has not been reused.
_living: weakref.WeakValueDictionary[tuple[Any, ...], Structure] = weakref.WeakValueDictionary()
# Structures of index tensors that no pattern owns: constants of an exported program, tensors that
# a user hands to an op.  Few, so that little memory is held.
_recent: OrderedDict[tuple[Any, ...], Structure] = OrderedDict()
_RECENT = 8
_lock = threading.Lock()


def _address(crow: Tensor, col: Tensor, cols: int) -> tuple[Any, ...]:
    version = () if crow.is_inference() else (crow._version, col._version)
    return crow.data_ptr(), col.data_ptr(), *crow.shape, *col.shape, crow.dtype, cols, *version


def register(structure: Structure) -> Structure:
    """Let kernels find `structure` by its index tensors, as long as somebody holds it."""
    address = _address(structure.crow, structure.col, structure.cols)
    return _living.setdefault(address, structure)


def structure_of(crow: Tensor, col: Tensor, cols: int) -> Structure:
    """Return the structure of these index tensors, with all that was derived before."""
    address = _address(crow, col, cols)
    if (found := _living.get(address)) is not None:
        return found
    if crow.is_inference() or col.is_inference():
        # Without a version counter a change in place could not be noticed: keep nothing.
        return Structure(crow, col, cols)
    with _lock:
        found = _recent.pop(address, None) or Structure(crow, col, cols)
        _recent[address] = found
        while len(_recent) > _RECENT:
            _recent.popitem(last=False)
    return found


def unsigned(index: Tensor) -> np.ndarray:
    """View indices as compiled loops read them: without a sign, none is taken from the end."""
    array = index.numpy()
    return array.view(f"u{array.itemsize}")


def index_dtype(rows: int, cols: int, nnz: int) -> torch.dtype:
    """int32 where it fits: with int64, MKL and cuSPARSE convert on every call."""
    return torch.int32 if max(rows, cols, nnz) <= _FITS_INT32 else torch.int64
